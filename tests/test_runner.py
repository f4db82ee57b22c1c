"""The runner's thread: order, deadlines, what is abandoned, what dies, and how it stops."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server import runner as runner_module
from server.asked import Asked
from server.placing import HERE
from server.runner import SKIPPED, Job, Runner, ThreadDied

MS = 1_000_000
LATER = 3_600_000 * MS


@dataclass
class Trial:
    """A runner whose jobs do what their name says, and what came back of them."""

    runner: Runner
    done: list[tuple[str, Any]] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)

    def submit(self, name: str, in_ns: int = LATER, predicted_ns: float = MS) -> Job:
        asked = cast("Asked", SimpleNamespace(name=name, route=ROUTE))
        job = Job(asked, HERE, predicted_ns, time.perf_counter_ns() + in_ns)
        self.runner.submit(job)
        return job

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  (many things are waited for here)
                await asyncio.sleep(0.001)


ROUTE: Any = object()


def in_trial(test: Callable[[Trial], Awaitable[None]], capacity: int = 8) -> Trial:
    """Runs a test on a loop, with a runner that is stopped afterwards."""

    def name_of(job: Job) -> str:
        return cast("Any", job.asked).name

    def work(job: Job) -> str:
        name = name_of(job)
        if name == "hold":
            trial.has_begun.set()
            assert trial.go_on.wait(10)
        elif name == "raise":
            raise ZeroDivisionError
        elif name == "die":
            raise SystemExit
        return name.upper()

    async def run() -> None:
        trial.runner.start()
        await test(trial)
        trial.go_on.set()
        assert await trial.runner.stop()

    runner = Runner(
        work,
        lambda job, outcome: trial.done.append((name_of(job), outcome)),
        lambda job: trial.overdue.append(name_of(job)),
        capacity=capacity,
    )
    trial = Trial(runner)
    asyncio.run(run())
    return trial


def test_jobs_come_back_once_each_in_their_order():
    async def test(trial: Trial) -> None:
        for number in range(50):
            trial.submit(f"job {number}")
        await trial.until(lambda: len(trial.done) == 50)

    trial = in_trial(test)
    assert trial.done == [(f"job {n}", f"JOB {n}") for n in range(50)]
    assert trial.overdue == []
    assert trial.runner.is_idle


def test_what_a_job_raises_is_its_outcome():
    async def test(trial: Trial) -> None:
        trial.submit("raise")
        trial.submit("next")
        await trial.until(lambda: len(trial.done) == 2)

    (_, error), following = in_trial(test).done
    assert isinstance(error, ZeroDivisionError)
    assert following == ("next", "NEXT")


def test_an_abandoned_run_is_counted_until_it_has_ended():
    async def test(trial: Trial) -> None:
        runner = trial.runner
        job = trial.submit("hold", in_ns=20 * MS)
        await trial.until(lambda: trial.overdue == ["hold"])
        assert (job.is_counted, runner.abandoned, runner.abandoned_total) == (True, 1, 1)
        assert (runner.is_idle, trial.done) == (False, [])
        before = runner.busy_seconds
        await asyncio.sleep(0.01)
        assert runner.busy_seconds >= before + 0.009
        trial.go_on.set()
        await trial.until(lambda: runner.is_idle)
        assert (runner.abandoned, runner.abandoned_total) == (0, 1)

    assert in_trial(test).done == [("hold", "HOLD")]


def test_a_job_that_is_abandoned_before_it_begins_is_skipped():
    async def test(trial: Trial) -> None:
        trial.submit("hold")
        trial.submit("waits", in_ns=10 * MS)
        trial.submit("last")
        assert trial.runner.queued(ROUTE) >= 2
        await trial.until(lambda: trial.overdue == ["waits"])
        assert trial.runner.abandoned == 0
        assert trial.runner.queued(ROUTE) == 1
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    assert in_trial(test).done == [("hold", "HOLD"), ("waits", SKIPPED), ("last", "LAST")]


def test_it_says_when_it_is_full():
    async def test(trial: Trial) -> None:
        trial.submit("hold")
        assert not trial.runner.is_full
        trial.submit("second")
        assert trial.runner.is_full
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)
        assert not trial.runner.is_full

    in_trial(test, capacity=2)


def test_the_wait_is_what_is_left_of_the_first_and_all_behind_it():
    async def test(trial: Trial) -> None:
        runner = trial.runner
        assert runner.wait_ns(time.perf_counter_ns()) == 0
        first = trial.submit("hold", predicted_ns=50 * MS)
        trial.submit("second", predicted_ns=20 * MS)
        trial.submit("third", in_ns=30 * MS, predicted_ns=10 * MS)
        await asyncio.to_thread(trial.has_begun.wait)
        assert runner.wait_ns(first.began_ns + 10 * MS) == pytest.approx(70 * MS)
        assert runner.wait_ns(first.began_ns + 300 * MS) == pytest.approx(330 * MS)
        await trial.until(lambda: trial.overdue == ["third"])
        assert runner.wait_ns(first.began_ns + 10 * MS) == pytest.approx(60 * MS)
        trial.go_on.set()
        await trial.until(lambda: runner.is_idle)
        assert runner.wait_ns(time.perf_counter_ns()) == 0

    in_trial(test)


def test_where_the_thread_dies_its_job_comes_back_and_another_thread_goes_on():
    async def test(trial: Trial) -> None:
        for name in ("first", "die", "third", "die", "last"):
            trial.submit(name)
        await trial.until(lambda: len(trial.done) == 5)
        assert trial.runner.deaths == 2

    trial = in_trial(test)
    outcomes = dict(trial.done)
    assert isinstance(outcomes.pop("die"), ThreadDied)
    assert outcomes == {"first": "FIRST", "third": "THIRD", "last": "LAST"}


def test_stopping_finishes_the_queue():
    async def test(trial: Trial) -> None:
        trial.submit("hold")
        for number in range(5):
            trial.submit(f"job {number}")
        trial.go_on.set()

    trial = in_trial(test)
    assert [name for name, _ in trial.done] == ["hold", *(f"job {n}" for n in range(5))]


def test_stopping_answers_who_would_wait_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_module, "STOP_SECONDS", 0.05)

    async def test(trial: Trial) -> None:
        trial.submit("hold")
        trial.submit("waits")
        await asyncio.to_thread(trial.has_begun.wait)
        assert not await trial.runner.stop()
        assert trial.overdue == ["hold", "waits"]
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    in_trial(test)
