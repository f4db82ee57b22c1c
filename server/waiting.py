"""What waits for the runner's thread: a line a bundle, taken in turn, several requests at a time.

While one run goes on, requests for the same bundle gather; the next run takes them together, as far
as its measured curve says that this makes a row cheaper, and no longer than the most urgent of them
can wait. The bundles take turns, so that many requests for one of them do not keep the others from
the thread. Nothing ever waits for company: a thread that is idle takes what there is.
"""

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Self

from server.asked import Asked
from server.placing import Place, may_share, overdue_ns, predicted_ns, rows_of
from server.routes import Route
from server.standing import Queued


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the thread.

    Attributes:
        asked: the request.
        place: what the thread is to do with it.
        rows: that it has; before it is decoded as many as its bytes may well be.
        predicted_ns: what the thread is expected to need for it alone.
        overdue_ns: `perf_counter_ns` at which its caller has to be answered without it.
        is_alone: it shares its run with no other request.
        is_taken: it waits no more; set by the thread, as what follows.
        began_ns: 0 until then, and where its run would have been in vain.
        is_abandoned: its caller has another answer.
        is_counted: it had begun when it was abandoned.
    """

    asked: Asked
    place: Place
    rows: int
    predicted_ns: float
    overdue_ns: int
    is_alone: bool = True
    is_taken: bool = False
    began_ns: int = 0
    is_abandoned: bool = False
    is_counted: bool = False

    @classmethod
    def of(cls, asked: Asked, place: Place, *, is_alone: bool = False) -> Self:
        """A request that has its place in the thread."""
        return cls(
            asked,
            place,
            rows_of(asked),
            predicted_ns(asked, place),
            overdue_ns(asked),
            is_alone or not may_share(asked, place),
        )

    @property
    def n_bytes(self) -> int:
        """Of its body."""
        return len(self.asked.request.body)


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


@dataclass(slots=True, eq=False)
class Line:
    """The jobs of one route that have not begun, in the order in which they came.

    Attributes:
        limit: rows of several requests that one run may have.
        rows: of the jobs that may share runs.
        alone, alone_ns: jobs that may not, and what they are expected to take.
    """

    route: Route
    limit: int
    jobs: deque[Job] = field(default_factory=deque[Job])
    rows: int = 0
    alone: int = 0
    alone_ns: float = 0.0

    def add(self, job: Job) -> None:
        """At the end."""
        self.jobs.append(job)
        self._count(job, 1)

    def remove(self, job: Job) -> None:
        """Wherever it is."""
        self.jobs.remove(job)
        self._count(job, -1)

    def take(self, now_ns: int) -> tuple[list[Job], list[Job]]:
        """The jobs of the next run, and those whose run would end too late: it would be in vain.

        Of a run are the first and those behind it that may join and make no other late.
        """
        batch: list[Job] = []
        hopeless: list[Job] = []
        rows, soonest_ns = 0, math.inf
        while self.jobs:
            job = self.jobs[0]
            if is_hopeless(job, now_ns):
                hopeless.append(self._first())
                continue
            if batch:
                rows, soonest_ns = rows + job.rows, min(soonest_ns, job.overdue_ns)
                is_too_many = rows > self.limit or now_ns + self.run_ns(rows) > soonest_ns
                if batch[0].is_alone or job.is_alone or is_too_many:
                    break
            else:
                rows, soonest_ns = job.rows, job.overdue_ns
            batch.append(self._first())
        return batch, hopeless

    def run_ns(self, rows: int) -> float:
        """What a run of so many rows is expected to take."""
        return self.route.cost.predict_ns(rows) * self.route.pace.ratio

    def shared_ns(self, rows: int) -> float:
        """What so many rows take in as few runs as there may be."""
        runs, rest = divmod(rows, self.limit)
        return runs * self.run_ns(self.limit) + (self.run_ns(rest) if rest else 0.0)

    @property
    def turns(self) -> int:
        """Runs that the thread needs for all of it."""
        return self.alone + -(-self.rows // self.limit)

    @property
    def all_ns(self) -> float:
        """What they are expected to take."""
        return self.alone_ns + self.shared_ns(self.rows)

    def _first(self) -> Job:
        job = self.jobs.popleft()
        job.is_taken = True
        self._count(job, -1)
        return job

    def _count(self, job: Job, sign: int) -> None:
        if job.is_alone:
            self.alone += sign
            self.alone_ns += sign * job.predicted_ns
        else:
            self.rows += sign * job.rows


@dataclass(frozen=True, slots=True)
class Running:
    """What the thread is at."""

    began_ns: int
    predicted_ns: float


Batch = list[Job]


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


def is_hopeless(job: Job, now_ns: int) -> bool:
    """Whether its run would end too late, if it began now.

    A trial is run although it is expected to take too long: it may show that it does not.
    """
    return not job.place.is_trial and now_ns + job.predicted_ns > job.overdue_ns


def predicted_batch_ns(line: Line, batch: Batch) -> float:
    """What the run of these jobs is expected to take."""
    if len(batch) == 1:
        return batch[0].predicted_ns
    return line.run_ns(sum(job.rows for job in batch))
