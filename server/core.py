"""From bytes to answers: the one path that every lane takes.

A request goes down once and comes back once. `arrive` takes it as far as it can go alone: routed,
decoded, encoded. `settle` takes the requests that one loop iteration brought the rest of the way,
with one run a route: run, ladder, count, answer. One request alone is a list of one.

What would hold up the loop is done by the same functions in the runner's thread: reading (`server.
reading`) and working (`server.work`); `server.threaded` has the way there and back. Deciding where
(`server.placing`), counting and answering are always the loop's: the counters' ring has one writer,
and an answer is given once.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from time import perf_counter_ns
from typing import Any, Final

from models.bundle import Bundle
from models.errors import RequestError
from models.ladder import MODEL, Answers
from models.vocabulary import REASONS
from server.asked import Asked, Request, Results
from server.breaker import CLOSED
from server.cost import LOOP_NS
from server.counting import commit, commit_failed, write_rows
from server.jobs import Job
from server.logs import Seldom, logger, where
from server.picking import picked
from server.placing import HERE, Place, fits_here, place, predicted_ns
from server.prediction_ids import PredictionIds
from server.protocols.predict import STATUS, Answer, error_answer
from server.reading import read
from server.refusals import RowError, RowErrors
from server.refusing import find_errors
from server.routes import Route, RouteTable
from server.runner import Runner
from server.settings import Settings
from server.shadow import offer_copy
from server.spare_work import SpareWork
from server.standing import Queued
from server.threaded import Threaded
from server.vitals import Pulse, Vitals
from server.waiting import Bounds
from server.work import work

DRAINING: Final = "this server is about to stop; send the request again over a new connection."
INTERNAL: Final = (
    "something went wrong in the server, not in your request; its operators find the reason in the "
    "log under this request id. Trying again may help."
)
TURNED_AWAY: Final = {
    "deadline": "the model cannot answer within the deadline, and what could answer for it cannot "
    "either. Send fewer records in a request, allow more time with Keelmark-Deadline-Ms, or try "
    "again.",
    "overloaded": "too many requests wait for this model, and what could answer for it would take "
    "too long too. Try again a little later.",
}
QUICK_NS: Final = 100_000
"""A run on the loop that takes less is quick, whatever was measured."""
QUICK_RATIO: Final = 2.0
REASON_OF: Final = {"deadline": REASONS.index("deadline"), "overloaded": REASONS.index("overload")}


class Core:
    """What the path needs beside the request: limits, the current route table, ids, the runner.

    Attributes:
        runner: of long work; without one everything is run where it is asked for, as warming up
            does.
        requests: where requests wait for the loop's turn.
        spare: work that nobody waits for; there is none without a runner.
    """

    __slots__ = (
        "_log",
        "_seldom",
        "ids",
        "is_draining",
        "requests",
        "routes",
        "runner",
        "settings",
        "spare",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.routes = RouteTable()
        self.ids = PredictionIds()
        self.is_draining = False
        self.runner: Runner | None = None
        self.requests: list[Sized] = []
        self.spare: SpareWork | None = None
        self._log = logger("core")
        self._seldom = Seldom()

    def start_runner(self, vitals: Vitals | None = None) -> None:
        """From now on long work is done in a thread. On the loop.

        Args:
            vitals: are told how the thread and the loop do.
        """
        threaded = Threaded(self)
        self.runner = Runner(
            threaded.do,
            threaded.take_back,
            threaded.answer_overdue,
            bounds_of(self.settings),
        )
        self.runner.start()
        self.spare = SpareWork(self.runner, self.requests, vitals and vitals.spared)
        if vitals is not None:
            Pulse(vitals, self.runner).start()

    def arrive(self, request: Request, hand_over: Callable[[Answer], None]) -> Asked:
        """Picks the route (once), and reads the body, unless that would take too long here.

        Args:
            request: as the lane has read it.
            hand_over: takes the answer when the request has been settled, once, on the loop.

        Raises:
            RequestError: the request as a whole cannot be answered.
        """
        if self.is_draining:
            raise RequestError("draining", DRAINING)
        routes = self.routes
        route, copy_to = routes.pick(request.model, request.version), None
        if routes.trials:
            route, copy_to = picked(routes, route, request, self.ids.next)
        deadline_ns = request.began_ns + (request.deadline_ns or route.deadline_ns)
        now_ns = perf_counter_ns()
        asked = Asked(request, hand_over, route, deadline_ns, time.time(), now_ns)
        if copy_to is not None:
            asked.copy_to = copy_to
        read(asked, self.settings, now_ns, math.inf if self.runner is None else LOOP_NS)
        return asked

    def settle(self, asked: list[Asked]) -> None:
        """Answers what one loop iteration brought; each gets its answer, whatever happens.

        What may not be run here with the others goes its own way, and is answered later perhaps.
        """
        now_ns = perf_counter_ns()
        here = [one for one in asked if self._stays(one, now_ns)]
        if len(here) == 1:
            self._settle_group(here[0].route, here)
        else:
            for route, group in by_route(here):
                self._settle_group(route, group)

    def refuse(self, error: RequestError, request_id: bytes | None) -> Answer:
        """The answer to a request that did not get through `arrive`."""
        return error_answer(error.code, error.message, request_id or self.ids.next())

    def queued(self, route: Route) -> Queued:
        """What waits of a route for the runner's thread."""
        return Queued(0, 0) if self.runner is None else self.runner.queued(route)

    # here, on the loop

    def _stays(self, asked: Asked, now_ns: int) -> bool:
        """Whether a request may be run here with others; if not it is sent on a way of its own."""
        try:
            if fits_here(asked, now_ns):
                return True
            self.send(asked, place(asked, now_ns, self.runner))
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            self.fail(asked, error)
        return False

    def send(self, asked: Asked, found: Place) -> None:
        """Settles a request alone, from below, in the thread, or not."""
        if found.refused is not None:
            self.turn_away(asked, found.refused)
        elif found.is_in_thread and self.runner is not None:
            self.runner.submit(Job.of(asked, found))
        else:
            self._settle_alone(asked, found)

    def _settle_group(self, route: Route, group: list[Asked]) -> None:
        try:
            results = work(route, group)
            if results is not None:
                if not is_usual(route, results):
                    self.take_note(route, results)
                self.finish(route, group, results)
                return
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            if len(group) == 1:
                self.fail(group[0], error)
                return
        # One of them broke what they shared; alone, only that one can fail.
        for asked in group:
            if not asked.is_answered:
                self._settle_again(asked)

    def _settle_again(self, asked: Asked) -> None:
        """Runs a request alone whose shared run raised, if the breaker and its deadline let it."""
        if asked.route.breaker.state != CLOSED:
            self.settle_below(asked, "breaker")
        elif perf_counter_ns() + predicted_ns(asked) < asked.deadline_ns:
            self._settle_group(asked.route, [asked])
        else:
            self.settle_below(asked, "model_error")

    def settle_below(self, asked: Asked, failed: str) -> None:
        """Answers from a lower rung."""
        try:
            self._settle_alone(asked, Place(failed=failed))
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            self.fail(asked, error)

    def _settle_alone(self, asked: Asked, found: Place) -> None:
        results = work(asked.route, [asked], found.failed)
        assert results is not None, "only a run that was shared has no results"
        self.take_note(asked.route, results, found)
        self.finish(asked.route, [asked], results)

    def take_note(self, route: Route, results: Results, found: Place = HERE) -> None:
        """Tells a run to the pace and the breaker, and what it raised to the log."""
        if not results.has_run:
            if found.is_probe:
                route.breaker.not_probed()
            return
        answers, error = results.answers, results.error
        if error is None:
            measured_ns = route.cost.predict_ns(len(answers.outcome))
            route.pace.took(results.run_ns, measured_ns, found.is_trial)
        else:
            self.say_raised(route.bundle, error, results.raised_at)
        invalid = len(answers.invalid_outputs)
        is_bad = error is not None or invalid > answers.outcome.count(MODEL)
        if found.is_probe:
            route.breaker.probed(is_bad=is_bad)
        else:
            route.breaker.ran(is_bad=is_bad)

    # the end of every way

    def finish(self, route: Route, group: list[Asked], results: Results) -> None:
        """Counts each request and, right after it, hands its answer over."""
        answers = results.answers
        errors = find_errors(group, answers)
        write_rows(route, group, results)
        has_copies = False
        first = 0
        for asked in group:
            answer = self.written(asked, answers, first, errors)
            commit(asked, results)
            self.hand_over(asked, answer)
            if asked.copy_to is not None:
                has_copies = True
            first += len(asked.records)
        if has_copies:
            self.copy(group, results)

    def written(self, asked: Asked, answers: Answers, first: int, errors: RowErrors) -> Answer:
        prediction_id = self.ids.next()
        request_id = asked.request.request_id or prediction_id
        writer = asked.route.writer
        if not asked.is_single:
            rows = range(first, first + len(asked.records))
            return writer.many(answers, rows, errors, request_id, prediction_id)
        if first in errors:
            return writer.refused(errors[first], request_id)
        return writer.single(answers, first, request_id, prediction_id)

    def turn_away(self, asked: Asked, code: str) -> None:
        """503 or 504 for a whole request; its rows, where they are known, count as failed."""
        request_id = asked.request.request_id or self.ids.next()
        error = RowError(code, TURNED_AWAY[code], STATUS[code])
        answer = asked.route.writer.refused(error, request_id)
        commit_failed(asked, REASON_OF[code])
        self.hand_over(asked, answer)

    def fail(self, asked: Asked, error: Exception) -> None:
        """500 for a request that a defect of ours hit; its rows count as failed."""
        if asked.is_answered:
            return
        request, version = asked.request, asked.route.bundle.version
        answer = self.defect(error, request, version=version)
        try:
            commit_failed(asked)
        except Exception as uncounted:  # noqa: BLE001  (it is answered, counted or not)
            self.defect(uncounted, request, version=version)
        self.hand_over(asked, answer)

    def hand_over(self, asked: Asked, answer: Answer) -> None:
        """Once a request, and whatever its lane makes of it: others wait for theirs."""
        asked.is_answered = True
        try:
            asked.hand_over(answer)
        except Exception as error:  # noqa: BLE001  (see above)
            self.defect(error, asked.request)

    def copy(self, group: list[Asked], results: Results) -> None:
        """Offers requests to the shadow of a candidate that gets them, now that all are answered.

        Args:
            group: the requests of a run.
            results: what it came to.
        """
        first = 0
        for asked in group:
            if asked.copy_to is not None and self.spare is not None:
                try:
                    offer_copy(self, self.spare, asked, results, first)
                except Exception as error:  # noqa: BLE001  (its caller has the answer)
                    self.defect(error, asked.request)
            first += len(asked.records)

    def defect(self, error: Exception, request: Request, **facts: Any) -> Answer:
        """500 with an id and nothing else: what went wrong is in the log, under the same id."""
        return internal(
            error,
            request.request_id or self.ids.next(),
            model=request.model,
            traceparent=request.traceparent.decode() if request.traceparent else None,
            **facts,
        )

    def say_raised(self, bundle: Bundle, error: Exception, raised_at: Sequence[str]) -> None:
        """One line a second: a model that raises does so for every request."""
        held_back = self._seldom.held_back(bundle.digest)
        if held_back is not None:
            self._log.error(
                "model_raised",
                model=bundle.name,
                version=bundle.version,
                kind=type(error).__name__,
                where=list(raised_at),
                held_back=held_back,
            )


def bounds_of(settings: Settings) -> Bounds:
    """What may wait for the runner's thread."""
    return Bounds(
        settings.queue_requests, settings.queue_rows, settings.queue_bytes, settings.max_batch
    )


def is_usual(route: Route, results: Results) -> bool:
    """Whether a run was quick and good, as those before it: neither pace nor breaker would change.

    Not to tell them saves a third of a microsecond.
    """
    return (
        results.run_ns < QUICK_NS
        and results.error is None
        and not results.answers.invalid_outputs
        and route.breaker.is_calm
        and route.pace.ratio < QUICK_RATIO
    )


def internal(error: Exception, request_id: bytes, **facts: Any) -> Answer:
    """500 for a defect of ours, which is in the log under the id that the caller gets."""
    logger("core").error(
        "request_failed",
        request_id=request_id.decode(),
        kind=type(error).__name__,
        where=where(error),
        **facts,
    )
    return error_answer("internal", INTERNAL, request_id)


def by_route(asked: list[Asked]) -> Iterable[tuple[Route, list[Asked]]]:
    """Groups that may share a run: of one route, whose batches have the bits of single rows."""
    groups: dict[Route, list[Asked]] = {}
    for one in asked:
        groups.setdefault(one.route, []).append(one)
    return [
        (route, part)
        for route, group in groups.items()
        for part in ([group] if may_share(route, group) else [[one] for one in group])
    ]


def may_share(route: Route, group: list[Asked]) -> bool:
    """Whether one run and one stretch of the counters' ring can hold all of them."""
    rows = sum(len(asked.records) for asked in group)
    return route.bundle.batch_exact and rows <= route.counter.capacity
