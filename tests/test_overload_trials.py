"""Twice what a server can do, for a minute: how quickly it answers and refuses, and what it keeps.

A server process as it is shipped, models that are really slow, and a client process. On a machine
that does nothing else: `make trials`.
"""

import functools
import time
from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from server.settings import SHIPPED_STORE
from tests import readme
from tests.memory import Memory
from tests.open_loop import Sent, open_loop
from tests.serving import Server, serving
from tests.test_overload import FLIGHT
from tests.workers import Record

pytestmark = pytest.mark.trial

NAME: Final = "slow"
TREES: Final = 24_000
DEADLINE_MS: Final = 150
CONNECTIONS: Final = 256
SECONDS: Final = 60
ROWS: Final = 4
"""Of a request: its run is some nine tenths of what it costs, not HTTP."""
RECORDS: Final = [{f"x{i:02}": 0.25 for i in range(24)}] * ROWS


def publish(store: Path, *, slow_below: bool) -> None:
    """A model of many trees; its baseline, if it has one, is as slow as itself."""
    heavy = import_module("_heavy")  # found beside the other benchmarks
    below = heavy.trees(TREES, depth=5) if slow_below else None
    heavy.publish(store, NAME, heavy.trees(TREES), below)


def capacity(server: Server) -> float:
    """Requests a second that the model answers of more than it can, with the machine as it is."""
    return max(kept_of(server, rate) for rate in (500, 1_000, 2_000, 4_000))


def kept_of(server: Server, rate: float) -> float:
    """Requests a second that the model answers of so many."""
    sent = open_loop(
        server.port,
        rate=rate,
        seconds=3,
        deadline_ms=DEADLINE_MS,
        connections=CONNECTIONS,
        model=NAME,
        value=RECORDS,
    )
    return sum(one.served_by == "model" for one in sent) / 3


def waited(sent: Sent) -> float:
    """Seconds from sending to the answer: what the generator was late itself is left out."""
    return sent.seconds - sent.unsent_seconds


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def taken(ask: Callable[[], Any]) -> list[float]:
    """Seconds that each of some requests takes."""
    seconds: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        assert ask().status == 200
        seconds.append(time.perf_counter() - began)
    return seconds


@pytest.fixture(params=[False, True], ids=["answered from below", "refused"])
def slow(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[tuple[Server, bool]]:
    monkeypatch.syspath_prepend(str(readme.ROOT / "benchmarks"))
    publish(tmp_path / "store", slow_below=request.param)
    with serving(tmp_path / "store", tmp_path) as server:
        yield server, request.param


def test_twice_its_capacity_for_a_minute_is_answered_in_time(
    slow: tuple[Server, bool], record_property: Record
):
    server, is_refused = slow
    can = capacity(server)
    ask = functools.partial(server.predict, NAME, RECORDS, Keelmark_Deadline_Ms="5000")
    usual = taken(ask)
    with Memory(server.process.pid) as memory:
        sent = open_loop(
            server.port,
            rate=2 * can,
            seconds=SECONDS,
            deadline_ms=DEADLINE_MS,
            connections=CONNECTIONS,
            model=NAME,
            value=RECORDS,
        )
        time.sleep(2)
        after = taken(ask)
    late = [waited(one) for one in sent if waited(one) > DEADLINE_MS / 1e3 + 0.010]
    refused = [waited(one) for one in sent if one.status == 503]
    kept = sum(one.served_by == "model" for one in sent) / SECONDS
    record_property("capacity, requests/s", round(can))
    record_property("kept by the model, requests/s", round(kept))
    record_property("late", f"{len(late)} of {len(sent)}, slowest {max(map(waited, sent)):.3f} s")
    record_property("refused", f"{len(refused)}, p99 {at(refused or [0.0], 0.99):.4f} s")
    record_property("growth, MiB", memory.growth_mib)
    record_property("median before and after, s", (at(usual, 0.5), at(after, 0.5)))
    assert len(sent) == int(2 * can * SECONDS)
    assert len(late) <= len(sent) / 1000
    if is_refused:
        assert len(refused) > len(sent) / 4
        assert at(refused, 0.99) <= 0.020
    else:
        assert {one.status for one in sent} == {200}
    assert kept > 0.7 * can
    assert memory.growth_mib < 100
    assert at(after, 0.5) < 2 * at(usual, 0.5)


def test_more_requests_than_http_can_take_are_all_answered(tmp_path: Path, record_property: Record):
    with serving(SHIPPED_STORE, tmp_path) as server:
        ask = functools.partial(server.predict, "flights", FLIGHT)
        usual = taken(ask)
        with Memory(server.process.pid) as memory:
            sent = open_loop(
                server.port,
                rate=20_000,
                seconds=SECONDS,
                deadline_ms=240,
                connections=CONNECTIONS,
                model="flights",
                value=FLIGHT,
            )
            in_time, answered = shares_in_time(server)
            time.sleep(2)
            after = taken(ask)
    record_property("in time", f"{in_time:.0f} of {answered:.0f}")
    record_property("growth, MiB", memory.growth_mib)
    record_property("median before and after, s", (at(usual, 0.5), at(after, 0.5)))
    assert len(sent) == 20_000 * SECONDS
    assert {one.status for one in sent} == {200}
    assert answered == len(sent) + len(usual)
    assert in_time >= 0.999 * answered
    assert memory.growth_mib < 100
    assert at(after, 0.5) < 2 * at(usual, 0.5)


def shares_in_time(server: Server) -> tuple[float, float]:
    """Requests whose answer was handed over within 250 ms of their first byte, and all."""
    family, own = "keelmark_request_duration_seconds", {("model", "flights"), ("version", "1")}
    samples = server.samples()
    return (
        samples[f"{family}_bucket", frozenset({*own, ("le", "0.25")})],
        samples[f"{family}_count", frozenset(own)],
    )
