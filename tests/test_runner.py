"""The runner's thread: order, deadlines, what is abandoned, what dies, and how it stops."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server import runner as runner_module
from server.asked import Asked
from server.cost import RunCost, curve
from server.jobs import Job
from server.pace import Pace
from server.placing import IN_THREAD
from server.runner import SKIPPED, Runner, ThreadDied
from server.standing import Queued
from server.waiting import Bounds

MS = 1_000_000
LATER = 3_600_000 * MS


@dataclass
class Trial:
    """A runner whose jobs do what their name says, and what came back of them."""

    runner: Runner
    done: list[tuple[str, Any]] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)
    runs: list[list[str]] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)

    def submit(
        self,
        name: str,
        in_ns: int = LATER,
        predicted_ns: float = MS,
        route: Any = None,
        rows: int = 0,
    ) -> Job:
        """Adds a job; one with rows may share its run."""
        asked = asked_of(name, route or ROUTE, rows or 1)
        overdue_ns = time.perf_counter_ns() + in_ns
        job = Job(asked, IN_THREAD, rows or 1, predicted_ns, overdue_ns, is_alone=not rows)
        self.runner.submit(job)
        return job

    async def hold(self) -> Job:
        """Keeps the thread busy until `go_on`; gives what it is busy with."""
        job = self.submit("hold", predicted_ns=50 * MS)
        await asyncio.to_thread(self.has_begun.wait)
        return job

    def ends_in(self, now_ns: int, ns: float = 0, route: Any = None, rows: int = 0) -> float:
        """Nanoseconds in which a job would be done that is added now."""
        asked = asked_of("next", route or ROUTE, rows or 1)
        return self.runner.ends_in_ns(asked, now_ns, ns, is_alone=not rows)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  (many things are waited for here)
                await asyncio.sleep(0.001)


@dataclass(eq=False)
class Model:
    """What the queue knows of a model."""

    cost: RunCost
    pace: Pace = field(default_factory=Pace)
    counter: Any = field(default_factory=lambda: SimpleNamespace(capacity=4096))


def asked_of(name: str, route: Any, rows: int, body: bytes = b"") -> Asked:
    request = SimpleNamespace(body=body)
    given: dict[str, Any] = {"records": [{}] * rows, "request": request, "is_decoded": True}
    return cast("Asked", SimpleNamespace(name=name, route=route, **given))


ROUTE: Any = Model(curve({1: 1e-3, 2: 1.1e-3, 4: 1.2e-3}))
"""A model of which four rows in a run cost little more than one."""


def in_trial(test: Callable[[Trial], Awaitable[None]], **bounds: Any) -> Trial:
    """Runs a test on a loop, with a runner that is stopped afterwards."""

    def name_of(job: Job) -> str:
        return cast("Any", job.asked).name

    def work(jobs: list[Job]) -> str:
        trial.runs.append([name_of(job) for job in jobs])
        name = name_of(jobs[0])
        if name == "hold":
            trial.has_begun.set()
            assert trial.go_on.wait(10)
        elif name == "raise":
            raise ZeroDivisionError
        elif name == "die":
            raise SystemExit
        return "+".join(trial.runs[-1]).upper()

    def done(jobs: list[Job], outcome: Any) -> Iterator[None]:
        for job in jobs:
            trial.done.append((name_of(job), outcome))
            yield

    async def run() -> None:
        trial.runner.start()
        await test(trial)
        trial.go_on.set()
        assert await trial.runner.stop()

    runner = Runner(
        work,
        done,
        lambda job: trial.overdue.append(name_of(job)),
        Bounds(**({"requests": 8, "rows": 100, "n_bytes": 1000} | bounds)),
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
        before = runner.busy_ns
        await asyncio.sleep(0.01)
        assert runner.busy_ns >= before + 9 * MS
        trial.go_on.set()
        await trial.until(lambda: runner.is_idle)
        assert (runner.abandoned, runner.abandoned_total) == (0, 1)

    assert in_trial(test).done == [("hold", "HOLD")]


def test_a_job_that_is_abandoned_before_it_begins_is_skipped():
    async def test(trial: Trial) -> None:
        trial.submit("hold")
        trial.submit("waits", in_ns=10 * MS)
        trial.submit("last")
        assert trial.runner.queued(ROUTE).requests >= 2
        await trial.until(lambda: trial.overdue == ["waits"])
        assert trial.runner.abandoned == 0
        assert trial.runner.queued(ROUTE) == Queued(1, 1)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    trial = in_trial(test)
    assert trial.done == [("waits", SKIPPED), ("hold", "HOLD"), ("last", "LAST")]
    assert trial.runs == [["hold"], ["last"]]


@pytest.mark.parametrize("bounds", [{"requests": 2}, {"rows": 2}, {"n_bytes": 20}])
def test_it_says_when_it_is_full(bounds: dict[str, int]):
    next_one = asked_of("next", ROUTE, 1, b"x" * 10)

    def submit(trial: Trial, name: str) -> None:
        asked = asked_of(name, ROUTE, 1, b"x" * 10)
        trial.runner.submit(Job(asked, IN_THREAD, 1, MS, time.perf_counter_ns() + LATER))

    async def test(trial: Trial) -> None:
        submit(trial, "hold")
        assert trial.runner.has_room(next_one)
        submit(trial, "second")
        assert not trial.runner.has_room(next_one)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)
        assert trial.runner.has_room(next_one)

    in_trial(test, **bounds)


def test_what_is_larger_than_the_queue_is_taken_while_nothing_else_waits():
    async def test(trial: Trial) -> None:
        large = asked_of("large", ROUTE, 500, b"x" * 5_000)
        assert trial.runner.has_room(large)
        trial.submit("hold")
        assert not trial.runner.has_room(large)
        trial.go_on.set()

    in_trial(test)


def test_the_wait_is_what_is_left_of_the_first_and_all_behind_it():
    async def test(trial: Trial) -> None:
        assert trial.ends_in(time.perf_counter_ns()) == 0
        first = trial.submit("hold", predicted_ns=50 * MS)
        trial.submit("second", predicted_ns=20 * MS)
        trial.submit("third", in_ns=30 * MS, predicted_ns=10 * MS)
        await asyncio.to_thread(trial.has_begun.wait)
        assert trial.ends_in(first.began_ns + 10 * MS) == pytest.approx(70 * MS)
        assert trial.ends_in(first.began_ns + 10 * MS, 5 * MS) == pytest.approx(75 * MS)
        assert trial.ends_in(first.began_ns + 300 * MS) == pytest.approx(330 * MS)
        await trial.until(lambda: trial.overdue == ["third"])
        assert trial.ends_in(first.began_ns + 10 * MS) == pytest.approx(60 * MS)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)
        assert trial.ends_in(time.perf_counter_ns()) == 0

    in_trial(test)


# runs that several jobs share


def test_what_gathers_during_a_run_is_taken_together_up_to_where_it_is_cheaper():
    async def test(trial: Trial) -> None:
        await trial.hold()
        for name in "abcdef":
            trial.submit(name, rows=1)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    trial = in_trial(test)
    assert trial.runs == [["hold"], ["a", "b", "c", "d"], ["e", "f"]]
    assert trial.done[1:5] == [(name, "A+B+C+D") for name in "abcd"]


@pytest.mark.parametrize(("most", "runs"), [(2, ["ab", "cd"]), (1, ["a", "b", "c", "d"])])
def test_a_setting_may_make_runs_smaller(most: int, runs: list[str]):
    async def test(trial: Trial) -> None:
        await trial.hold()
        for name in "abcd":
            trial.submit(name, rows=1)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    assert in_trial(test, batch_rows=most).runs == [["hold"], *map(list, runs)]


def test_a_run_holds_as_many_rows_as_requests_have_that_fit_into_it():
    async def test(trial: Trial) -> None:
        await trial.hold()
        for name, rows in ("a", 2), ("b", 1), ("c", 3), ("d", 1):
            trial.submit(name, rows=rows)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    assert in_trial(test).runs == [["hold"], ["a", "b"], ["c", "d"]]


def test_rows_of_two_bundles_are_in_no_run_and_bundles_take_turns():
    async def test(trial: Trial) -> None:
        other = Model(curve({1: 1e-3, 2: 1.1e-3}))
        await trial.hold()
        for name in "abcdefgh":
            trial.submit(name, rows=1)
        for name in "xyz":
            trial.submit(name, rows=1, route=other)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    runs = in_trial(test, requests=20).runs
    assert runs == [["hold"], ["a", "b", "c", "d"], ["x", "y"], ["e", "f", "g", "h"], ["z"]]


def test_who_must_be_alone_shares_with_nobody():
    async def test(trial: Trial) -> None:
        await trial.hold()
        for name, rows in ("a", 1), ("alone", 0), ("b", 1), ("c", 1):
            trial.submit(name, rows=rows)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    assert in_trial(test).runs == [["hold"], ["a"], ["alone"], ["b", "c"]]


def test_company_makes_nobody_late():
    slow = Model(curve({1: 1.0, 2: 1.5, 4: 2.0}))

    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.submit("urgent", rows=1, route=slow, in_ns=1_400 * MS)
        trial.submit("patient", rows=1, route=slow)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    assert in_trial(test).runs == [["hold"], ["urgent"], ["patient"]]


OF_MANY: Any = Model(curve({1: 100.0, 2: 110.0, 4: 120.0, 256: 1_000.0}))
"""So slow that the pauses of a machine do not count; four rows cost little more than one."""


def runs_of_those_who_can_wait(rows: int = 1, **seconds: float) -> list[str]:
    """What is run together of jobs that have to be answered within so many seconds.

    Those in capitals have so many rows, the others one.
    """

    async def test(trial: Trial) -> None:
        await trial.hold()
        for name, wait in seconds.items():
            given = {"route": OF_MANY, "rows": rows if name.isupper() else 1}
            trial.submit(name, round(wait * 1e9), 100_000 * MS, **given)
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    bounds = {"rows": 1_000, "requests": 100}
    return ["".join(run) for run in in_trial(test, batch_rows=4, **bounds).runs[1:]]


def test_of_too_many_a_full_run_goes_before_those_with_hardly_any_time():
    urgent = {"a": 105, "b": 106}
    runs = ["cdef"]  # the others are told so at once
    assert runs_of_those_who_can_wait(**urgent, c=900, d=900, e=900, f=900) == runs
    more = runs_of_those_who_can_wait(**urgent, c=900, d=800, e=700, f=600, g=500)
    assert more == [*runs, "g"]


def test_who_can_wait_is_not_kept_by_a_job_that_is_larger_than_a_run():
    runs = runs_of_those_who_can_wait(8, a=105, b=106, c=900, d=900, e=900, f=900, G=950)
    assert runs == ["cdef", "G"]


def test_a_run_for_which_others_are_given_up_is_a_full_one():
    runs = runs_of_those_who_can_wait(4, a=105, b=106, c=900, D=950)
    assert runs[0] == "D"


def test_who_cannot_be_in_time_keeps_nobody_from_a_run():
    """The last of four rows would make the run hardly better: it is not given up for that."""
    assert runs_of_those_who_can_wait(a=900, b=900, c=900, h=50, d=900) == ["abcd"]
    assert runs_of_those_who_can_wait(a=900, b=900, h=50, c=900, d=900) == ["abcd"]


def test_who_is_urgent_goes_first_where_nobody_is_late_for_it():
    assert runs_of_those_who_can_wait(a=105, c=900, d=900, e=900, f=900) == ["a", "cdef"]
    assert runs_of_those_who_can_wait(a=126, b=127, c=128) == ["ab", "c"]


def test_a_run_that_would_end_too_late_is_not_begun():
    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.submit("in vain", in_ns=500 * MS, predicted_ns=2_000 * MS)
        trial.submit("last")
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)
        assert trial.runner.abandoned_total == 0

    trial = in_trial(test)
    assert trial.runs == [["hold"], ["last"]]
    assert dict(trial.done)["in vain"] is SKIPPED


def test_a_request_is_predicted_to_share_the_runs_of_those_before_it():
    async def test(trial: Trial) -> None:
        first = await trial.hold()
        now_ns = first.began_ns + 10 * MS
        for name in "abcde":
            trial.submit(name, rows=1)
        # Four of them in one run, the fifth with the one that asks.
        assert trial.ends_in(now_ns, MS, rows=1) == pytest.approx((40 + 1.2 + 1.1) * MS)
        assert trial.ends_in(now_ns, MS) == pytest.approx((40 + 1.2 + 1.0 + 1.0) * MS)
        # Another bundle waits for one run of this one, and not for all.
        other = Model(curve({1: 7e-3}))
        assert trial.ends_in(now_ns, 7 * MS, route=other) == pytest.approx((40 + 1.1 + 7) * MS)
        trial.go_on.set()

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


@pytest.mark.parametrize("seconds", [LATER / 1e9, 1e-3], ids=["answered", "given up"])
def test_the_loop_reads_between_the_answers_of_a_run(
    monkeypatch: pytest.MonkeyPatch, seconds: float
):
    monkeypatch.setattr(runner_module, "PIECE_NS", -1)
    seen: list[int] = []

    async def test(trial: Trial) -> None:
        monkeypatch.setattr(trial.runner, "_is_overdue", lambda _: None)
        await trial.hold()
        for name in "abcd":
            in_ns = round(seconds * 1e9)
            trial.submit(name, rows=1, in_ns=in_ns, predicted_ns=10 * MS)
        trial.go_on.set()
        while len(trial.done) < 5:
            seen.append(len(trial.done))
            await asyncio.sleep(0)

    trial = in_trial(test)
    assert sorted(name for name, _ in trial.done) == ["a", "b", "c", "d", "hold"]
    assert {2, 3, 4} <= set(seen)


def test_stopping_waits_for_the_last_answer_of_a_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_module, "PIECE_NS", -1)

    async def test(trial: Trial) -> None:
        await trial.hold()
        for name in "abcd":
            trial.submit(name, rows=1)
        trial.go_on.set()

    assert len(in_trial(test).done) == 5


def test_stopping_finishes_the_queue():
    async def test(trial: Trial) -> None:
        await trial.hold()
        for number in range(5):
            trial.submit(f"job {number}")
        trial.go_on.set()

    trial = in_trial(test)
    assert [name for name, _ in trial.done] == ["hold", *(f"job {n}" for n in range(5))]


def test_stopping_answers_who_would_wait_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner_module, "STOP_SECONDS", 0.05)

    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.submit("waits")
        await asyncio.to_thread(trial.has_begun.wait)
        assert not await trial.runner.stop()
        assert trial.overdue == ["hold", "waits"]
        trial.go_on.set()
        await trial.until(lambda: trial.runner.is_idle)

    in_trial(test)
