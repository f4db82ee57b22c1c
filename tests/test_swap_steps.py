"""What is left when a process ends or stops at any step of a swap: the old state, or the new one.

A few rows of the table here; `make trials` goes through all of them.
"""

import itertools
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.facts import read_facts
from server.ops.desk import Desk
from tests.in_thread import server_over
from tests.stepped import CALLERS, SWAPS, Outcome, Row, Stepped, seconds_since
from tests.stepping import Act
from tests.three import pack_versions
from tests.workers import Record, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc"),
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]

# The steps in their order; after the one in the middle the change holds.
BEFORE_WORKERS = ("verify", "copy written", "copy renamed", "region made", "prepared")
IN_THE_VERIFIER = ("replayed", "copying")
HANDED_OUT = ("table made", "hold sent", "all hold it")
IN_WORKERS_OPENING = ("opening", "opened")
IN_WORKERS = ("held", "acknowledged")
KEPT = ("facts aside", "facts replaced", "facts kept")
IN_FORCE = ("word stored", "published", "event written", "answered")
IN_WORKERS_RELEASING = ("settling", "released")
OF_UNLOAD = ("settled", "swept")

OPENED = (*BEFORE_WORKERS, *IN_THE_VERIFIER, *HANDED_OUT, *IN_WORKERS_OPENING, *IN_WORKERS)
OLD = {*OPENED, "facts aside"}
OF_WORKERS = (*HANDED_OUT, *IN_WORKERS_OPENING, *IN_WORKERS, *IN_WORKERS_RELEASING)
ONLY_WORKERS = {*OF_WORKERS, "region made", "word stored"}
DEADLY = "hold sent"
"""The step of a load at which workers that all end may have died of the bundle."""
ENDS_WORKERS = ("kill worker", "stop worker", "kill workers")
MOST_ROWS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "1000"))
"""Of the table, spread over it."""
REFUSED_BY_THE_GATE = "it was killed, perhaps by the machine for its memory"


def steps_of(swap: str) -> Iterator[str]:
    """Those of the server and its workers."""
    if swap == "load":
        yield from (*BEFORE_WORKERS, *IN_WORKERS_OPENING)
    yield from (*HANDED_OUT, *IN_WORKERS, *KEPT, *IN_FORCE, *IN_WORKERS_RELEASING)
    if swap == "unload":
        yield from OF_UNLOAD


def table(workers: int) -> Iterator[Row]:
    """All of it, so that each row but few begins where the one before it ended."""
    acts: tuple[Act, ...] = ("kill server",)
    if workers > 1:
        acts = ("kill worker", "stop worker", "kill server")
    for act, step in itertools.product(acts, sorted({s for w in SWAPS for s in steps_of(w)})):
        for swap in SWAPS:
            if step in steps_of(swap) and (workers > 1 or step not in ONLY_WORKERS):
                yield swap, step, act
    for swap, step in itertools.product(SWAPS if workers > 1 else (), (*HANDED_OUT, *IN_FORCE)):
        yield swap, step, "kill workers"
    for step in IN_THE_VERIFIER:
        yield "load", step, "kill server"
        yield "load", step, "kill verifier"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, of which the first is wished live."""
    return pack_versions(tmp_path_factory.mktemp("store"), 2)


@pytest.fixture(scope="module")
def with_workers(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stepped]:
    with Stepped(packed, tmp_path_factory.mktemp("two"), 2) as server:
        yield server


@pytest.fixture(scope="module")
def in_one_process(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stepped]:
    with Stepped(packed, tmp_path_factory.mktemp("one"), 1) as server:
        yield server


def go_through(server: Stepped, swap: str, step: str, act: Act) -> None:
    """One row of the table."""
    _, before, after = SWAPS[swap]
    server.bring_to(before)
    pids, broken, away = server.pids(), server.callers.broken, server.callers.away
    outcome = server.happens(swap, step, act)
    expected = before if is_undone(swap, step, act) else after
    if act == "kill verifier":
        assert_refused(outcome, REFUSED_BY_THE_GATE)
    elif act == "kill workers" and expected == before:
        assert_refused(outcome, "workers ended while they opened it")
    elif act == "kill server":
        assert outcome.done or "broke before the answer came" in str(outcome.broken), outcome
        server.restart()
    else:
        assert (outcome.done or {}).get("changed"), outcome
    if act in ENDS_WORKERS:
        wait_until(lambda: server.pids() != pids)  # one that was stopped is there a while longer
    server.callers.now = frozenset({int(expected.live or 0)})
    server.wait_until_whole(expected)
    if act == "kill server":
        return
    assert server.callers.away == away
    assert server.callers.broken - broken <= (0 if act == "kill verifier" else CALLERS)


def is_undone(swap: str, step: str, act: Act) -> bool:
    """Whether it is as before: refused, or broken off before it was on the disk.

    Two workers that end while they open a bundle have died of it, as far as the server can know.
    """
    if act == "kill workers":
        return swap == "load" and step == DEADLY
    return act == "kill verifier" or (act == "kill server" and step in OLD)


def assert_refused(outcome: Outcome, words: str) -> None:
    assert outcome.refused is not None, outcome
    assert (outcome.refused.status, outcome.refused.code) == (422, "bundle_refused")
    assert words in str(outcome.refused)


SOME: list[Row] = [
    ("load", "copying", "kill verifier"),
    ("load", "opening", "kill worker"),
    ("rollback", "acknowledged", "stop worker"),
    ("load", "hold sent", "kill workers"),
    ("load", "facts aside", "kill server"),
]
SOME_IN_ONE_PROCESS: list[Row] = [
    ("load", "facts replaced", "kill server"),
    ("unload", "published", "kill server"),
]


@pytest.mark.parametrize(("swap", "step", "act"), SOME)
def test_a_swap_that_is_broken_off_is_done_or_not_done(
    with_workers: Stepped, swap: str, step: str, act: Act
):
    go_through(with_workers, swap, step, act)


@pytest.mark.parametrize(("swap", "step", "act"), SOME_IN_ONE_PROCESS)
def test_the_same_in_one_process(in_one_process: Stepped, swap: str, step: str, act: Act):
    go_through(in_one_process, swap, step, act)


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
def test_generations_of_a_start_are_on_the_disk_before_they_are_used(
    packed: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
):
    """Else a server that is killed while it starts would use them twice."""
    found: list[tuple[int, int]] = []
    opened = Desk.open

    async def looked(self: Desk) -> None:
        used = self._runtime.routes.generation
        found.append((read_facts(tmp_path).generation, used))
        await opened(self)

    monkeypatch.setattr(Desk, "open", looked)
    with server_over(packed, tmp_path, workers=workers):
        pass
    ((kept, used),) = found
    assert kept >= used > 0


@pytest.mark.trial
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
def test_every_step_of_every_swap(
    packed: Path, tmp_path: Path, workers: int, record_property: Record
):
    """All failing rows are told at the end, with how long the longest call took."""
    failed: dict[str, Any] = {}
    took: dict[str, float] = {}
    every = list(table(workers))
    left = every[:: max(1, len(every) // MOST_ROWS)]
    while left:
        with Stepped(packed, tmp_path / str(len(left)), workers) as server:
            while left:
                row, began = left.pop(0), time.monotonic()
                try:
                    go_through(server, *row)
                except Exception as error:  # noqa: BLE001  (the other rows are to be seen too)
                    failed[str(row)] = error
                    break
                took[str(row)] = seconds_since(began)
    record_property("rows", len(took))
    record_property("longest", max(took.items(), key=lambda item: item[1]))
    assert not failed, failed
