"""One thread for work that would hold up the event loop, and its way back to the loop.

Long runs, large bodies and many rules are *jobs*: one thread does them, those of a bundle in the
order in which they came and several at a time where that makes them cheaper (`server.waiting`). Its
results go back to the loop, which alone counts and answers; by then the thread is at the next run.
A job that is not done when its caller has to be answered is *abandoned*: the caller gets another
answer, and the thread is counted as busy until the run has really ended, because nothing can stop
it. A job that is abandoned before it has begun is not run.

No job is lost: each is given back to the loop once, done, skipped, or with `ThreadDied` where its
thread came to an end; another thread then goes on with what waits.
"""

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any, Final

from server.asked import Asked
from server.jobs import Batch, Job
from server.logs import logger
from server.routes import Route
from server.standing import Queued
from server.waiting import Bounds, Waiting

STOP_SECONDS: Final = 5.0
"""How long a run that goes on is waited for when the server stops."""

SWITCH_SECONDS: Final = 0.0005
PIECE_NS: Final = 1_000_000
"""For so long the loop is kept, before it reads what has come."""

_log = logger("runner")


class ThreadDied(Exception):
    """The thread ended in the middle of a job: something raised what no code should catch."""


SKIPPED: Final = object()
"""The outcome of a job that was not run: it was abandoned, or would have ended too late."""


class Runner:
    """The thread, its queue and its timers. Everything but the thread itself is the loop's.

    Args:
        work: does the jobs of one run, in the thread; what it returns or raises is their outcome.
        done: takes jobs with their common outcome, on the loop, some of them in each step: it is
            gone on with a millisecond at a time.
        overdue: is called on the loop when a job is not done at its `overdue_ns`; it has been
            abandoned.
        bounds: of what may be in the queue and in work together.

    Attributes:
        abandoned: jobs that have begun, were abandoned, and have not ended.
        abandoned_total: all of them up to now.
        deaths: threads that came to an end and were replaced.
        is_stopping: `stop` has been called.
    """

    def __init__(
        self,
        work: Callable[[Batch], Any],
        done: Callable[[Batch, Any], Iterator[None]],
        overdue: Callable[[Job], None],
        bounds: Bounds,
    ) -> None:
        self._work = work
        self._done = done
        self._overdue = overdue
        self._waiting = Waiting(bounds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._under_way = 0
        self._busy_ns = 0
        self._began_ns = 0
        self.is_stopping = False
        self._is_empty = asyncio.Event()
        self._is_through = asyncio.Event()
        self.abandoned = 0
        self.abandoned_total = 0
        self.deaths = 0

    @property
    def is_idle(self) -> bool:
        """Whether a job would begin at once."""
        return not self._waiting.load.requests

    def has_room(self, asked: Asked) -> bool:
        """Whether a request may be added."""
        return self._waiting.has_room(asked)

    def ends_in_ns(self, asked: Asked, now_ns: int, ns: float, *, is_alone: bool) -> float:
        """How long after now a request would be done that is added now (`Waiting.ends_in_ns`)."""
        return self._waiting.ends_in_ns(asked, now_ns, ns, is_alone=is_alone)

    def queued(self, route: Route) -> Queued:
        """What has not begun of a route."""
        return self._waiting.queued(route)

    @property
    def busy_ns(self) -> int:
        """How long the thread has worked up to now, abandoned runs included."""
        busy_ns, began_ns = self._busy_ns, self._began_ns
        return busy_ns + (perf_counter_ns() - began_ns if began_ns else 0)

    def start(self) -> None:
        """Starts the thread. On the loop.

        For the whole process, a thread that wants to go on then waits for another that computes in
        Python for half a millisecond and not for five: the loop waits so long for this one.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._start_thread()

    def submit(self, job: Job) -> None:
        """Adds a job, whether there is room or not: that is for the caller to look at."""
        assert self._loop is not None, "a runner is started before it is given jobs"
        seconds = max(0.0, (job.overdue_ns - perf_counter_ns()) / 1e9)
        self._timers[job] = self._loop.call_later(seconds, self._is_overdue, job)
        self._waiting.add(job)

    async def stop(self) -> bool:
        """Waits for the queue to be done or answered; gives whether the thread has ended.

        Whoever still waits after a while is answered as at the deadline. A run that goes on is
        waited for a little longer, because a process ends badly in the middle of one.
        """
        self.is_stopping = True
        self._waiting.end()
        if self._thread is None:
            return True
        if self._timers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), STOP_SECONDS)
        for job in list(self._timers):
            self._is_overdue(job)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        await asyncio.sleep(0)  # what the thread gave back last is taken in
        if self._under_way:
            self._is_through.clear()
            await self._is_through.wait()
        for job in list(self._timers):  # what a run that broke would have had run again
            self._is_overdue(job)
        if self._thread.is_alive():
            _log.warning("run_goes_on", waited_seconds=STOP_SECONDS)
        return not self._thread.is_alive()

    # on the loop

    def _is_overdue(self, job: Job) -> None:
        self._forget_timer(job)
        job.is_abandoned = True
        was_dropped = self._waiting.drop(job)
        if job.began_ns:
            job.is_counted = True
            self.abandoned += 1
            self.abandoned_total += 1
        self._overdue(job)
        if was_dropped:
            self._are_done([job], SKIPPED)

    def _are_done(self, jobs: Batch, outcome: Any) -> None:
        for job in jobs:
            self._waiting.load.remove(job)
            self.abandoned -= job.is_counted
            self._forget_timer(job)
        self._under_way += 1
        self._go_on(self._done(jobs, outcome))

    def _go_on(self, steps: Iterator[None]) -> None:
        assert self._loop is not None
        end_ns, is_through = perf_counter_ns() + PIECE_NS, True
        try:
            for _ in steps:
                if perf_counter_ns() > end_ns:
                    self._loop.call_soon(self._go_on, steps)
                    is_through = False
                    return
        finally:
            self._under_way -= is_through
            if not self._under_way:
                self._is_through.set()

    def _are_skipped(self, jobs: deque[Job]) -> None:
        """Answers jobs that were not run, a millisecond at a time too; each has its timer still."""
        assert self._loop is not None
        end_ns = perf_counter_ns() + PIECE_NS
        try:
            self._are_done([jobs.popleft()], SKIPPED)
            while jobs and perf_counter_ns() < end_ns:
                self._are_done([jobs.popleft()], SKIPPED)
        finally:
            if jobs:
                self._loop.call_soon(self._are_skipped, jobs)

    def _forget_timer(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()
        if self.is_stopping and not self._timers:
            self._is_empty.set()

    def _has_died(self, jobs: Batch | None) -> None:
        """Gives back the jobs that the thread died of, and starts another thread for the rest."""
        self.deaths += 1
        _log.error("runner_died", jobs_left=self._waiting.load.requests)
        self._start_thread()
        if jobs is not None:
            self._are_done(jobs, ThreadDied())

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._main, name="keelmark-runner", daemon=True)
        self._thread.start()

    # in the thread

    def _main(self) -> None:
        jobs: Batch | None = None
        try:
            while (jobs := self._waiting.take(self._give_up)) is not None:
                self._give_back(self._are_done, jobs, self._attempt(jobs))
                jobs = None  # a thread that waits holds no bundle
        except BaseException:  # noqa: BLE001  (whatever it was, who waits behind it is answered)
            self._give_back(self._has_died, jobs)

    def _attempt(self, jobs: Batch) -> Any:
        self._began_ns = began_ns = perf_counter_ns()
        try:
            return self._work(jobs)
        except Exception as error:  # noqa: BLE001  (a defect of ours: its requests are answered 500)
            return error
        finally:
            self._began_ns = 0
            self._busy_ns += perf_counter_ns() - began_ns
            self._waiting.ended()

    def _give_up(self, jobs: Batch) -> None:
        self._give_back(self._are_skipped, deque(jobs))

    def _give_back(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
