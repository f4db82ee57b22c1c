"""What waits for the runner's thread: a line a bundle, taken in turn, several requests at a time.

While one run goes on, requests for the same bundle gather; the next run takes them together, as far
as its measured curve says that this makes a row cheaper, and no longer than the most urgent of them
can wait. The bundles take turns, so that many requests for one of them do not keep the others from
the thread. Nothing ever waits for company: a thread that is idle takes what there is.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter_ns

from server.asked import Asked
from server.jobs import Batch, Job, Line, predicted_batch_ns
from server.placing import rows_of
from server.routes import Route
from server.standing import Queued


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may be in the queue and in work together.

    Attributes:
        requests, rows, n_bytes: of requests, of their rows and of their bodies. A request that is
            larger than a bound is taken while nothing else is there.
        batch_rows: rows of several requests that a run may have; None is as the curve says.
    """

    requests: int
    rows: int
    n_bytes: int
    batch_rows: int | None = None


@dataclass(slots=True)
class Load:
    """Requests, their rows and their bytes."""

    requests: int = 0
    rows: int = 0
    n_bytes: int = 0

    def add(self, job: Job) -> None:
        """One more."""
        self.requests += 1
        self.rows += job.rows
        self.n_bytes += job.n_bytes

    def remove(self, job: Job) -> None:
        """One less."""
        self.requests -= 1
        self.rows -= job.rows
        self.n_bytes -= job.n_bytes


@dataclass(frozen=True, slots=True)
class Running:
    """What the thread is at."""

    began_ns: int
    predicted_ns: float


class Waiting:
    """The lines of all bundles. The loop adds, asks and drops, the thread takes.

    Args:
        bounds: of all lines together.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._lock = threading.Lock()
        self._lines: dict[Route, Line] = {}
        self._ready: SimpleQueue[Line | None] = SimpleQueue()
        self._running: Running | None = None
        self.load = Load()

    # on the loop

    def has_room(self, asked: Asked) -> bool:
        """Whether a request may be added."""
        load, bounds = self.load, self._bounds
        if not load.requests:
            return True
        return (
            load.requests < bounds.requests
            and load.rows + rows_of(asked) <= bounds.rows
            and load.n_bytes + len(asked.request.body) <= bounds.n_bytes
        )

    def add(self, job: Job) -> None:
        """Puts a job at the end of its line, whether there is room or not."""
        self.load.add(job)
        route = job.asked.route
        with self._lock:
            line = self._lines.get(route)
            if line is None:
                line = self._lines[route] = Line(route, self._limit(route))
                self._ready.put(line)
            line.add(job)

    def drop(self, job: Job) -> bool:
        """Takes a job out again, unless it has begun; gives whether it could be."""
        with self._lock:
            if job.is_taken:
                return False
            line = self._lines[job.asked.route]
            line.remove(job)
            if not line.jobs:
                del self._lines[line.route]
            return True

    def ends_in_ns(self, asked: Asked, now_ns: int, ns: float, *, is_alone: bool) -> float:
        """How long after now a request would have been run that is added now.

        Args:
            asked: the request.
            now_ns: `perf_counter_ns`.
            ns: what it is expected to take alone.
            is_alone: it may share its run with no other.
        """
        with self._lock:
            line = self._lines.get(asked.route)
            own = Line(asked.route, self._limit(asked.route))
            if line is not None:
                own.rows, own.alone, own.alone_ns = line.rows, line.alone, line.alone_ns
            if is_alone or own.limit == 1:
                own.alone += 1
                own.alone_ns += ns
            else:
                own.rows += rows_of(asked)
            others = [other for other in self._lines.values() if other is not line]
            turns = own.turns
            before_ns = sum(
                other.all_ns * min(1.0, turns / max(1, other.turns)) for other in others
            )
        return self._left_ns(now_ns) + before_ns + own.all_ns

    def queued(self, route: Route) -> Queued:
        """What has not begun of a route."""
        with self._lock:
            line = self._lines.get(route)
            jobs = list(line.jobs) if line is not None else []
        return Queued(len(jobs), sum(job.rows for job in jobs))

    def end(self) -> None:
        """The thread is to end when nothing waits any more."""
        self._ready.put(None)

    # in the thread

    def take(self, give_up: Callable[[Batch], None]) -> Batch | None:
        """The jobs of the next run, which begins now; waits for them. None at the end.

        Args:
            give_up: takes jobs whose run would have been in vain; they are not begun.
        """
        while (line := self._ready.get()) is not None or self._has_any():
            batch, hopeless = self._taken(line)
            line = None  # a thread that waits holds no bundle
            if hopeless:
                give_up(hopeless)
                del hopeless
            if batch:
                return batch
        return None

    def _has_any(self) -> bool:
        """At the end: whether something waits still; then the end comes behind it."""
        with self._lock:
            if self._lines:
                self._ready.put(None)
            return bool(self._lines)

    def _taken(self, line: Line | None) -> tuple[Batch, Batch]:
        """What is run next of a line, and what is not run; the line has its next turn later."""
        if line is None:
            return [], []
        with self._lock:
            now_ns = perf_counter_ns()
            batch, hopeless = line.take(now_ns)
            for job in batch:
                job.began_ns = now_ns
            if batch:
                self._running = Running(now_ns, predicted_batch_ns(line, batch))
            if line.jobs:
                self._ready.put(line)
            elif self._lines.get(line.route) is line:
                del self._lines[line.route]
        return batch, hopeless

    def ended(self) -> None:
        """The run is over."""
        self._running = None

    # within

    def _limit(self, route: Route) -> int:
        most = self._bounds.batch_rows
        measured = min(route.cost.max_batch, route.counter.capacity)
        return measured if most is None else max(1, min(measured, most))

    def _left_ns(self, now_ns: int) -> float:
        """What is left of the run that goes on.

        One that has taken longer than predicted is expected to take as long again as it has.
        """
        running = self._running
        if running is None:
            return 0.0
        elapsed = now_ns - running.began_ns
        left = running.predicted_ns - elapsed
        return left if left > 0 else elapsed
