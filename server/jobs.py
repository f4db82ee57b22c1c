"""Requests on their way through the runner's thread, and which of them share a run."""

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Final, Self

from server.asked import Asked
from server.placing import Place, may_share, overdue_ns, predicted_ns, rows_of
from server.routes import Route

MUCH: Final = 4 / 3
"""Times as many rows a second as who is urgent allows, for which who is urgent is given up."""

CAUTION: Final = 1.125
"""Times as long as expected that a run may take which many share: all of them would be late."""


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


Batch = list[Job]


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

    def take(self, now_ns: int) -> tuple[Batch, Batch]:
        """The jobs of the next run, and those whose run would end too late: it would be in vain.

        Of a run are the first and those behind it that may join and make no other late. Where more
        comes than can be done, whoever is first has hardly any time left, and its run would have
        nearly no company; the next one would be first then, as late as this one, and the machine
        would do a fraction of what it can. Then a run is for those who can wait for a large one,
        and whoever cannot is told at once.
        """
        hopeless: Batch = []
        while self.jobs and is_hopeless(self.jobs[0], now_ns):
            hopeless.append(self._left(self.jobs[0]))
        batch, next_ns = self._in_order(now_ns)
        patient = [] if next_ns is None else self._patient(now_ns, batch, next_ns)
        if not patient:
            return [self._left(job) for job in batch], hopeless
        end_ns = now_ns + round(self.run_ns(rows_in(patient)))
        taken = {id(job) for job in patient}
        late = [job for job in self.jobs if id(job) not in taken and is_hopeless(job, end_ns)]
        self._leave_together([*patient, *late])
        return patient, hopeless + late

    def _in_order(self, now_ns: int) -> tuple[Batch, int | None]:
        """The first and those behind it that may join.

        If time was what kept the next one away, also when that one has to be answered.
        """
        batch = list(islice(self.jobs, 1))
        if not batch or batch[0].is_alone:
            return batch, None
        rows, soonest_ns = batch[0].rows, batch[0].overdue_ns
        for job in islice(self.jobs, 1, None):
            if is_hopeless(job, now_ns):
                continue  # it is given up when it is first, or its time is over
            rows, soonest_ns = rows + job.rows, min(soonest_ns, job.overdue_ns)
            if job.is_alone or rows > self.limit:
                break
            if now_ns + CAUTION * self.run_ns(rows) > soonest_ns:
                return batch, job.overdue_ns
            batch.append(job)
        return batch, None

    def _patient(self, now_ns: int, batch: Batch, next_ns: int) -> Batch:
        """A larger run, of those who can wait for it; none if everybody can be in time.

        Args:
            now_ns: `perf_counter_ns`.
            batch: the run of those who came first.
            next_ns: when the one behind them has to be answered.
        """
        rows = rows_in(batch)
        batch_ns = self.run_ns(rows)
        rest_ns = self.run_ns(max(1, min(self.limit, self.rows - rows)))
        if now_ns + batch_ns + rest_ns <= next_ns:
            return []
        fitting = [job for job in self.jobs if not job.is_alone and job.rows <= self.limit]
        latest: Batch = []
        most = 0
        for job in sorted(fitting, key=attrgetter("overdue_ns"), reverse=True):
            with_it = most + job.rows
            if with_it > self.limit:
                continue
            if now_ns + CAUTION * self.run_ns(with_it) > job.overdue_ns:
                break
            latest.append(job)
            most = with_it
        most_ns = CAUTION * self.run_ns(most) if most else math.inf
        if most / most_ns < MUCH * rows / batch_ns:
            return []
        first = self._filling(most, now_ns + most_ns)
        return first if rows_in(first) == most else latest

    def _filling(self, most: int, end_ns: float) -> Batch:
        """The first that may end so late, up to so many rows."""
        batch: Batch = []
        for job in self.jobs:
            if not job.is_alone and job.rows <= most and job.overdue_ns >= end_ns:
                batch.append(job)
                most -= job.rows
        return batch

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

    def _left(self, job: Job) -> Job:
        """A job that waits no more."""
        job.is_taken = True
        self.remove(job)
        return job

    def _leave_together(self, jobs: Batch) -> None:
        """They wait no more; a hundred one by one, from the middle, would take milliseconds."""
        for job in jobs:
            job.is_taken = True
            self._count(job, -1)
        self.jobs = deque(job for job in self.jobs if not job.is_taken)

    def _count(self, job: Job, sign: int) -> None:
        if job.is_alone:
            self.alone += sign
            self.alone_ns += sign * job.predicted_ns
        else:
            self.rows += sign * job.rows


def rows_in(jobs: Batch) -> int:
    """Of all of them."""
    return sum(job.rows for job in jobs)


def is_hopeless(job: Job, now_ns: int) -> bool:
    """Whether its run would end too late, if it began now.

    A trial is run although it is expected to take too long: it may show that it does not.
    """
    return not job.place.is_trial and now_ns + job.predicted_ns > job.overdue_ns


def predicted_batch_ns(line: Line, batch: Batch) -> float:
    """What the run of these jobs is expected to take."""
    if len(batch) == 1:
        return batch[0].predicted_ns
    return line.run_ns(rows_in(batch))
