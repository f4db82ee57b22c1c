"""One thread for work that would hold up the event loop, and the queue before it.

Long runs, large bodies and many rules are *jobs*: one thread does them in the order in which they
came, and its results go back to the loop, which alone counts and answers. A job that is not done
when its caller has to be answered is *abandoned*: the caller gets another answer, and the thread is
counted as busy until the run has really ended, because nothing can stop it. A job that is abandoned
before it has begun is skipped.

No job is lost: each is given back to the loop once, done, skipped, or with `ThreadDied` where its
thread came to an end; another thread then goes on with the queue.
"""

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any, Final

from server.asked import Asked
from server.logs import logger
from server.placing import Place
from server.routes import Route

STOP_SECONDS: Final = 5.0
"""How long a run that goes on is waited for when the server stops."""

SWITCH_SECONDS: Final = 0.0005

_log = logger("runner")


class ThreadDied(Exception):
    """The thread ended in the middle of a job: something raised what no code should catch."""


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the thread.

    Attributes:
        asked: the request.
        place: what the thread is to do with it.
        predicted_ns: what the thread is expected to need for it.
        overdue_ns: `perf_counter_ns` at which its caller has to be answered without it.
        began_ns, ended_ns: 0 until then; set by the thread.
        is_abandoned: its caller has another answer.
        is_counted: it had begun when it was abandoned.
    """

    asked: Asked
    place: Place
    predicted_ns: float
    overdue_ns: int
    began_ns: int = 0
    ended_ns: int = 0
    is_abandoned: bool = False
    is_counted: bool = False


SKIPPED: Final = object()
"""The outcome of a job that was abandoned before it began."""


class Runner:
    """The thread, its queue and its timers. Everything but the thread itself is the loop's.

    Args:
        work: does a job, in the thread; what it returns or raises is the job's outcome.
        done: takes each job with its outcome, on the loop.
        overdue: is called on the loop when a job is not done at its `overdue_ns`; it has been
            abandoned.
        capacity: jobs that may be in the queue and in work together.

    Attributes:
        abandoned: jobs that have begun, were abandoned, and have not ended.
        abandoned_total: all of them up to now.
        deaths: threads that came to an end and were replaced.
    """

    def __init__(
        self,
        work: Callable[[Job], Any],
        done: Callable[[Job, Any], None],
        overdue: Callable[[Job], None],
        *,
        capacity: int,
    ) -> None:
        self._work = work
        self._done = done
        self._overdue = overdue
        self._capacity = capacity
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._jobs: deque[Job] = deque()
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._ahead_ns = 0.0
        self._busy_ns = 0
        self._is_stopping = False
        self._is_empty = asyncio.Event()
        self.abandoned = 0
        self.abandoned_total = 0
        self.deaths = 0

    @property
    def is_full(self) -> bool:
        """Whether no job may be added."""
        return len(self._jobs) >= self._capacity

    @property
    def is_idle(self) -> bool:
        """Whether a job would begin at once."""
        return not self._jobs

    def queued(self, route: Route) -> int:
        """Jobs of a route that have not begun and are not abandoned."""
        return sum(
            job.asked.route is route and not (job.began_ns or job.is_abandoned)
            for job in self._jobs
        )

    @property
    def busy_seconds(self) -> float:
        """How long the thread has worked up to now, abandoned runs included."""
        running = self._jobs[0].began_ns if self._jobs and not self._jobs[0].ended_ns else 0
        return (self._busy_ns + (perf_counter_ns() - running if running else 0)) / 1e9

    def wait_ns(self, now_ns: int) -> float:
        """How long a job added now is expected to wait for its turn.

        A run that has taken longer than predicted is expected to take as long again as it has.
        """
        if not self._jobs:
            return 0.0
        first = self._jobs[0]
        behind = self._ahead_ns - first.predicted_ns
        if first.ended_ns:
            return behind
        if not first.began_ns:
            return self._ahead_ns
        elapsed = now_ns - first.began_ns
        left = first.predicted_ns - elapsed
        return behind + (left if left > 0 else elapsed)

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
        self._jobs.append(job)
        self._ahead_ns += job.predicted_ns
        seconds = max(0.0, (job.overdue_ns - perf_counter_ns()) / 1e9)
        self._timers[job] = self._loop.call_later(seconds, self._is_overdue, job)
        self._inbox.put(job)

    async def stop(self) -> bool:
        """Waits for the queue to be done or answered; gives whether the thread has ended.

        Whoever still waits after a while is answered as at the deadline. A run that goes on is
        waited for a little longer, because a process ends badly in the middle of one.
        """
        self._is_stopping = True
        self._inbox.put(None)
        if self._thread is None:
            return True
        if self._timers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), STOP_SECONDS)
        for job in list(self._timers):
            self._is_overdue(job)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        await asyncio.sleep(0)  # what the thread gave back last is taken in
        if self._thread.is_alive():
            _log.warning("run_goes_on", waited_seconds=STOP_SECONDS)
        return not self._thread.is_alive()

    # on the loop

    def _is_overdue(self, job: Job) -> None:
        self._forget_timer(job)
        job.is_abandoned = True
        if job.began_ns:
            job.is_counted = True
            self.abandoned += 1
            self.abandoned_total += 1
        else:
            self._ahead_ns -= job.predicted_ns
            job.predicted_ns = 0.0
        self._overdue(job)

    def _is_done(self, job: Job, outcome: Any) -> None:
        first = self._jobs.popleft()
        assert first is job, "one thread does jobs in their order"
        self._ahead_ns = self._ahead_ns - job.predicted_ns if self._jobs else 0.0
        self.abandoned -= job.is_counted
        self._forget_timer(job)
        self._done(job, outcome)

    def _forget_timer(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()
        if self._is_stopping and not self._timers:
            self._is_empty.set()

    def _has_died(self, job: Job | None) -> None:
        """Gives back the job that the thread died of, and starts another thread for the rest."""
        self.deaths += 1
        _log.error("runner_died", jobs_left=len(self._jobs))
        self._start_thread()
        if job is not None:
            self._is_done(job, ThreadDied())

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._main, name="keelmark-runner", daemon=True)
        self._thread.start()

    # in the thread

    def _main(self) -> None:
        job: Job | None = None
        try:
            while (job := self._inbox.get()) is not None:
                outcome = SKIPPED if job.is_abandoned else self._attempt(job)
                self._give_back(self._is_done, job, outcome)
                job = None
        except BaseException:  # noqa: BLE001  (whatever it was, who waits behind it is answered)
            self._give_back(self._has_died, job)

    def _attempt(self, job: Job) -> Any:
        job.began_ns = perf_counter_ns()
        try:
            return self._work(job)
        except Exception as error:  # noqa: BLE001  (a defect of ours: its request is answered 500)
            return error
        finally:
            job.ended_ns = perf_counter_ns()
            self._busy_ns += job.ended_ns - job.began_ns

    def _give_back(self, function: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
