"""Work that nobody waits for: when it is done, when it is dropped, and that it is counted."""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from server import spare_work
from server.spare_work import MOST_BYTES, MOST_UNITS, SpareWork
from tests.in_thread import until

LOOPS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
AGES = 10**12


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Both kinds of loop, whose turns are not alike."""
    return LOOPS[request.param]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does, the loop is not late."""
    monkeypatch.setattr(spare_work, "LATE_NS", AGES)


class Idle:
    """A runner, which is idle or not."""

    def __init__(self) -> None:
        self.is_idle = True


class Some:
    """A task that notes what is done with it.

    Attributes:
        done: threads in which units were done, by name.
        taken: what they gave.
        ends: how often it has ended.
    """

    kind = "selftest"

    def __init__(self, units: int = 1, *, n_bytes: int = 1, is_long: bool = False) -> None:
        self.units = units
        self.n_bytes = n_bytes
        self.wanted = True
        self.raising: set[int] = set()
        self.done: list[str] = []
        self.taken: list[Any] = []
        self.ends = 0
        self._is_long = is_long

    def is_wanted(self) -> bool:
        return self.wanted

    def is_long(self) -> bool:
        return self._is_long

    def do(self) -> int:
        self.done.append(threading.current_thread().name)
        if len(self.done) - 1 in self.raising:
            raise ValueError("this unit")
        return len(self.done)

    def take(self, outcome: int) -> None:
        self.taken.append(outcome)

    def end(self) -> None:
        self.ends += 1


async def come_to(is_so: Callable[[], bool]) -> None:
    """Turns of the loop, until something is so."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  (each turn of the loop is what is waited for)
            await asyncio.sleep(0)


class Bench:
    """Spare work with its surroundings; on a loop."""

    def __init__(self) -> None:
        self.runner = Idle()
        self.requests: deque[int] = deque()
        self.counts: Counter[str] = Counter()
        self.spare = SpareWork(self.runner, [self.requests], self._count)

    def _count(self, kind: str, result: str, units: int) -> None:
        assert kind == "selftest"
        self.counts[result] += units

    async def settled(self) -> None:
        """Until nothing waits."""
        await come_to(lambda: not self.spare.waiting and self.counts.total() >= self.offered)

    offered = 0

    def offer(self, task: Some) -> bool:
        self.offered += task.units
        return self.spare.offer(task)


def test_units_are_done_one_a_turn_of_the_loop(run: Any, patient: None):
    """Between any two of them everything else has its turn."""
    turns: list[int] = []

    class Noting(Some):
        def do(self) -> int:
            turns.append(turn)
            return super().do()

    turn = 0

    def tick(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal turn
        turn += 1
        if turn < 100:
            loop.call_soon(tick, loop)

    async def main() -> None:
        bench = Bench()
        asyncio.get_running_loop().call_soon(tick, asyncio.get_running_loop())
        tasks = Noting(3), Noting(2)
        assert all(map(bench.offer, tasks))
        assert tasks[0].done == []
        await bench.settled()
        assert [task.taken for task in tasks] == [[1, 2, 3], [1, 2]]
        assert [task.ends for task in tasks] == [1, 1]
        assert bench.counts == {"done": 5}

    run(main())
    assert len(set(turns)) == 5


def test_nothing_is_done_while_a_request_waits_or_the_runner_is_busy(run: Any, patient: None):
    async def main() -> None:
        bench, task = Bench(), Some()
        bench.requests.append(1)
        bench.offer(task)
        for _ in range(20):
            await asyncio.sleep(0)
        assert task.done == []
        bench.requests.clear()
        await bench.settled()
        assert task.taken == [1]

        bench.runner.is_idle, task = False, Some()
        bench.offer(task)
        await asyncio.sleep(0.02)
        assert task.done == []
        bench.runner.is_idle = True
        await bench.settled()
        assert task.taken == [1]

    run(main())


def test_a_late_loop_drops_what_waits(run: Any):
    async def main() -> None:
        bench, task = Bench(), Some(5)
        bench.offer(task)
        time.sleep(0.005)  # noqa: ASYNC251  (what makes it late)
        await bench.settled()
        assert (task.done, task.ends, bench.counts) == ([], 1, {"dropped": 5})

    run(main())


def test_what_waits_is_bounded(run: Any, patient: None):
    async def main() -> None:
        bench = Bench()
        bench.requests.append(1)
        assert bench.offer(Some(MOST_UNITS - 1))
        refused = Some(2)
        assert not bench.offer(refused)
        assert (refused.ends, bench.counts) == (1, {"dropped": 2})
        assert bench.offer(Some(1))
        bench.requests.clear()
        await bench.settled()
        assert bench.counts == {"dropped": 2, "done": MOST_UNITS}
        assert not bench.offer(Some(n_bytes=MOST_BYTES + 1))
        assert bench.offer(Some(n_bytes=MOST_BYTES))
        assert not bench.offer(Some())
        await bench.settled()
        assert bench.offer(Some(n_bytes=MOST_BYTES))

    run(main())


@pytest.mark.parametrize("is_long", [False, True])
def test_a_unit_that_raises_is_counted_and_costs_nothing_else(
    run: Any, patient: None, is_long: bool
):
    async def main() -> None:
        bench, task = Bench(), Some(3, is_long=is_long)
        task.raising = {1}
        bench.offer(task)
        await bench.settled()
        assert (task.taken, task.ends) == ([1, 3], 1)
        assert bench.counts == {"done": 2, "failed": 1}
        assert await bench.spare.stop()

    run(main())


def test_a_long_unit_is_done_in_a_thread_and_holds_up_nobody(run: Any, patient: None):
    go_on = threading.Event()

    class Held(Some):
        def do(self) -> int:
            go_on.wait(20)
            return super().do()

    async def main() -> None:
        bench = Bench()
        long, other, short = Held(2, is_long=True), Some(is_long=True), Some()
        for task in (long, other, short):
            bench.offer(task)
        await come_to(lambda: bool(short.taken))
        assert (long.taken, other.taken, bench.counts) == ([], [], {"done": 1})
        go_on.set()
        await bench.settled()
        assert set(long.done + other.done) == {"keelmark-spare"}
        assert short.done != other.done
        assert [task.ends for task in (long, other, short)] == [1, 1, 1]
        assert await bench.spare.stop()

    run(main())


def test_the_units_of_a_task_are_done_one_after_the_other(run: Any, patient: None):
    """Also where the next is short that would be done on the loop while one is in the thread."""
    go_on = threading.Event()

    class Quicker(Some):
        def is_long(self) -> bool:
            return not self.done

        def do(self) -> int:
            given = super().do()
            if given == 1:
                go_on.wait(20)
            return given

    async def main() -> None:
        bench, task, other = Bench(), Quicker(2), Some()
        bench.offer(task)
        await come_to(lambda: bool(task.done))
        bench.offer(other)
        await come_to(lambda: bool(other.taken))
        assert (len(task.done), task.taken) == (1, [])
        go_on.set()
        await bench.settled()
        assert (task.taken, task.done[0], task.ends) == ([1, 2], "keelmark-spare", 1)
        assert task.done[1] != task.done[0]
        assert await bench.spare.stop()

    run(main())


def test_what_is_not_wanted_any_more_is_dropped(run: Any, patient: None):
    async def main() -> None:
        bench, task = Bench(), Some(4)
        bench.runner.is_idle = False
        bench.offer(task)
        task.wanted = False
        await bench.settled()
        assert (task.done, task.ends, bench.counts) == ([], 1, {"dropped": 4})

    run(main())


def test_stopping_drops_what_waits_and_takes_nothing_more(run: Any, patient: None):
    async def main() -> None:
        bench, task = Bench(), Some(2)
        bench.offer(task)
        assert await bench.spare.stop()
        assert not bench.offer(Some(3))
        assert (task.done, bench.counts) == ([], {"dropped": 5})

    run(main())


def test_a_thread_that_goes_on_is_told_of_when_it_stops(
    run: Any, patient: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spare_work, "STOP_SECONDS", 0.05)
    go_on = threading.Event()

    class Held(Some):
        def do(self) -> int:
            go_on.wait(20)
            return super().do()

    async def main() -> None:
        bench, task = Bench(), Held(2, is_long=True)
        bench.offer(task)
        await come_to(lambda: bench.spare.waiting == 1)
        assert not await bench.spare.stop()
        go_on.set()
        await come_to(lambda: bool(task.ends))
        assert bench.counts == {"dropped": 1, "done": 1}

    run(main())
    assert until(lambda: all(t.name != "keelmark-spare" for t in threading.enumerate()))


def test_every_unit_is_counted_once_however_busy_the_loop_is(run: Any):
    """Offered is done, dropped and failed together, to the unit."""

    async def main() -> None:
        bench = Bench()
        tasks: list[Some] = []
        for turn in range(200):
            task = Some(1 + turn % 7, is_long=turn % 5 == 0)
            task.raising = {2} if turn % 3 == 0 else set()
            tasks.append(task)
            bench.offer(task)
            if turn % 20 == 0:
                time.sleep(0.002)  # noqa: ASYNC251  (now and then it is late)
            bench.runner.is_idle = turn % 4 > 0
            await asyncio.sleep(0)
        bench.runner.is_idle = True
        await bench.settled()
        assert await bench.spare.stop()
        assert bench.counts.total() == bench.offered == sum(task.units for task in tasks)
        assert bench.counts["done"] == sum(len(task.taken) for task in tasks)
        assert min(bench.counts["dropped"], bench.counts["failed"]) > 0
        assert {task.ends for task in tasks} == {1}

    run(main())
