"""The runner thread's half of the core: what the thread does, and how it comes back to the loop.

What is expected to take long is given to the thread as a job (`server.placing` decides). Reading
and running are the thread's; counting and answering are the loop's, as they are for what is run
there: for that the core's own ends of the way are used.
"""

from collections.abc import Iterator
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from models.errors import RequestError
from server.asked import Asked, Results
from server.counting import commit, write_part
from server.jobs import Batch, Job
from server.logs import where
from server.placing import is_worth_below, may_answer_below, place
from server.reading import read
from server.refusing import find_errors
from server.runner import SKIPPED, ThreadDied
from server.work import work

if TYPE_CHECKING:
    from server.core import Core

FEW: Final = 8
"""Requests whose answers are written at once: each takes a twentieth of a millisecond."""


class Threaded:
    """What a runner calls: `do` in its thread, `take_back` and `answer_overdue` on the loop.

    Args:
        core: counts and answers.
    """

    __slots__ = ("_core",)

    def __init__(self, core: "Core") -> None:
        self._core = core

    # in the runner's thread

    def do(self, jobs: Batch) -> Results | None:
        """Reads and runs requests; None if a shared run raised."""
        for job in jobs:
            if not job.asked.is_read:
                read(job.asked, self._core.settings, perf_counter_ns())
        first = jobs[0]
        return work(first.asked.route, [job.asked for job in jobs], first.place.failed)

    # on the loop again

    def take_back(self, jobs: Batch, outcome: Any) -> Iterator[None]:
        """Answers jobs that the thread is through with, unless it was too late: one in each step.

        Many share a run, and all of their answers at once would keep the loop from reading.
        """
        self._take_outcome(jobs, outcome)
        for job in jobs:
            if job.is_counted:
                job.asked.route.notice.ended()
        left = [job for job in jobs if not job.asked.is_answered]
        if left and isinstance(outcome, Results):
            yield from self._finish_late([job.asked for job in jobs], outcome)
            return
        for job in left:
            try:
                self._answer_without(job, outcome)
            except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
                self._core.fail(job.asked, error)
            yield

    def _answer_without(self, job: Job, outcome: Any) -> None:
        """Answers a job whose run has not come to anything."""
        asked = job.asked
        if outcome is None:
            self._run_alone(asked)
        elif outcome is SKIPPED:
            self.answer_overdue(job)
        elif isinstance(outcome, RequestError):
            self._core.hand_over(asked, self._core.refuse(outcome, asked.request.request_id))
        elif isinstance(outcome, ThreadDied) and may_answer_below(asked):
            self._core.settle_below(asked, "model_error")
        else:
            self._core.fail(asked, outcome)

    def _take_outcome(self, jobs: Batch, outcome: Any) -> None:
        """Tells the breaker, the pace and the metrics what came of jobs that had one run."""
        route, found = jobs[0].asked.route, jobs[0].place
        if isinstance(outcome, Results):
            self._core.take_note(route, outcome, found)
            if outcome.has_run:
                route.notice.ran(len(outcome.answers.outcome))
        elif isinstance(outcome, ThreadDied):
            self._core.say_raised(route.bundle, outcome, where(outcome))
            told = route.breaker.probed if found.is_probe else route.breaker.ran
            told(is_bad=True)
        elif found.is_probe:
            route.breaker.not_probed()

    def _run_alone(self, asked: Asked) -> None:
        """Runs a request in the thread again whose shared run raised: alone, only one can fail."""
        runner = self._core.runner
        try:
            found = place(asked, perf_counter_ns(), runner)
            if found.is_in_thread and runner is not None:
                runner.submit(Job.of(asked, found, is_alone=True))
            else:
                self._core.send(asked, found)
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            self._core.fail(asked, error)

    def _finish_late(self, group: list[Asked], results: Results) -> Iterator[None]:
        try:
            if len(group) > FEW or any(asked.is_answered for asked in group):
                yield from self._finish_rest(group, results)
            else:
                self._core.finish(group[0].route, group, results)
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its requests only)
            for asked in group:
                self._core.fail(asked, error)

    def _finish_rest(self, group: list[Asked], results: Results) -> Iterator[None]:
        """As `Core.finish`, each by itself: they are many, or the deadlines of some have come."""
        errors = find_errors(group, results.answers)
        notes = group[0].route.notes.of(results.answers)
        first = 0
        for asked in group:
            count = len(asked.records)
            if not asked.is_answered:
                answer = self._core.written(asked, results.answers, first, errors)
                write_part(asked, results, slice(0, count), notes, first)
                commit(asked, results)
                self._core.hand_over(asked, answer)
                yield
            first += count
        self._core.copy(group, results)

    def answer_overdue(self, job: Job) -> None:
        """Answers a request without its run, which goes on if it has begun."""
        asked = job.asked
        if job.is_counted:
            asked.route.notice.abandoned()
        elapsed_ns = perf_counter_ns() - job.began_ns if job.began_ns else 0
        if is_worth_below(asked, elapsed_ns):
            self._core.settle_below(asked, "deadline")
            return
        try:
            self._core.turn_away(asked, "deadline")
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            self._core.fail(asked, error)
