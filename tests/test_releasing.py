"""Letting go of bundles: in a pause of the traffic in one process, by successors with workers."""

import asyncio
import dataclasses
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import ServingError
from models.gate import GateReport
from server import releasing, room
from server.catalogue import RELEASE_STALL
from server.release_counters import ReleaseCounters
from server.releasing import Releases
from server.room import NoRoom, check_before, check_measured


@dataclasses.dataclass(frozen=True, slots=True, weakref_slot=True)
class Held:
    """As a bundle: parts that are taken apart when it goes."""

    part: Any


class Part:
    """Something that can be seen to go."""


def let_go(traffic: Callable[[], int | None], *, seconds: float, max_stall: float = 0.002) -> Any:
    """Lets a bundle go on a loop of its own; gives what was told and whether its part had gone."""
    told: list[float] = []

    async def run() -> bool:
        part = Part()
        gone = weakref.ref(part)
        held = Held(part)
        del part
        is_told = asyncio.Event()

        def tell(stall: float) -> None:
            told.append(stall)
            is_told.set()

        Releases(max_stall, traffic).let_go(held, seconds, tell)
        await asyncio.sleep(0.01)
        assert gone() is not None  # somebody holds it: the request that picked it
        del held
        await asyncio.wait_for(is_told.wait(), 60)
        return gone() is None

    gc.disable()
    try:
        return asyncio.run(run()), told
    finally:
        gc.enable()


def test_what_is_quick_goes_as_soon_as_nobody_holds_it():
    asked: list[int] = []
    has_gone, told = let_go(lambda: asked.append(0), seconds=0.001)
    assert has_gone
    assert len(told) == 1
    assert asked == []


def test_what_stalls_waits_until_nothing_has_come_for_a_moment():
    looks = iter([None, None, 1, 2, 3, 4, 4])
    seen: list[int | None] = []

    def traffic() -> int | None:
        seen.append(next(looks, 4))
        return seen[-1]

    has_gone, told = let_go(traffic, seconds=0.1)
    assert has_gone
    assert len(told) == 1
    assert len(seen) >= 7


def test_what_stalls_is_held_until_then_though_its_last_request_has_been_answered():
    is_busy = [True]
    told: list[float] = []

    async def run() -> None:
        part = Part()
        gone = weakref.ref(part)
        Releases(0.002, lambda: None if is_busy[0] else 1).let_go(Held(part), 0.1, told.append)
        del part
        await asyncio.sleep(0.1)
        assert gone() is not None
        is_busy[0] = False
        while gone() is not None:  # noqa: ASYNC110  (nobody else tells)
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert len(told) == 1


def test_what_stalls_goes_at_last_where_there_is_no_pause(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(releasing, "PATIENCE_SECONDS", 0.05)
    looks = iter(range(10**9))
    has_gone, told = let_go(lambda: next(looks), seconds=0.1)
    assert has_gone
    assert len(told) == 1


def test_stalls_are_counted_and_the_longest_of_a_call_is_known():
    counters = ReleaseCounters()
    counters.stalled(0.5)
    before = counters.now
    assert counters.longest(before) is None
    counters.stalled(0.001)
    counters.stalled(0.02)
    assert counters.longest(before) == 0.02
    counters.successors += 2
    assert counters.now.successors - before.successors == 2
    page = counters.page()[RELEASE_STALL.name]
    assert 'keelmark_release_stall_seconds_bucket{le="0.001"} 1\n' in page
    assert 'keelmark_release_stall_seconds_bucket{le="0.025"} 2\n' in page
    assert "keelmark_release_stall_seconds_count 3\n" in page


# room


REPORT = GateReport(
    digest="ab",
    rows=1,
    features_off_by_one=0,
    batch_exact=True,
    open_seconds=0.1,
    resident_bytes=200 << 20,
    peak_bytes=0,
    run_seconds={},
    max_batch=1,
    network="isolated",
    onnxruntime="1",
)


def test_what_was_measured_has_to_fit_into_every_worker(monkeypatch: pytest.MonkeyPatch):
    free = [500 << 20]
    monkeypatch.setattr(room, "free_bytes", lambda: free[0])
    check_measured(REPORT, "three/2", 2)
    free[0] = 400 << 20
    check_measured(REPORT, "three/2", 1)
    with pytest.raises(NoRoom) as refused:
        check_measured(REPORT, "three/2", 2)
    said = str(refused.value)
    assert "three/2 takes 400 MB" in said
    assert "200 MB in each of 2 workers" in said
    assert "400 MB are free" in said
    assert "unload what is not needed" in said
    monkeypatch.setattr(room, "free_bytes", lambda: None)
    check_measured(REPORT, "three/2", 2)


def test_what_has_clearly_no_room_is_not_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.onnx").write_bytes(b"x" * (1 << 20))
    monkeypatch.setattr(room, "free_bytes", lambda: 89 << 20)
    check_before(tmp_path, "three/2")
    monkeypatch.setattr(room, "free_bytes", lambda: 88 << 20)
    with pytest.raises(ServingError, match="may take 89 MB of memory, and 88 MB are free"):
        check_before(tmp_path, "three/2")
