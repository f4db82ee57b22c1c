"""From bytes to answers: the one path that every lane takes.

A request goes down once and comes back once. `arrive` takes it as far as it can go alone:
decoded, routed, encoded. `settle` takes the requests that one loop iteration brought the rest of
the way, with one run a route: run, ladder, count, answer. One request alone is a list of one. All
of it happens on the event loop's thread: the counters' ring has one writer.
"""

import time
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import RequestError
from models.ladder import Answers, Plan
from models.outputs import ModelOutputs
from server.asked import Asked, Request, Results, together
from server.counting import commit, commit_failed, measured, write_rows
from server.logs import Seldom, logger, where
from server.prediction_ids import PredictionIds
from server.protocols.predict import Answer, decode, error_answer
from server.refusals import NO_ERRORS, RowErrors, errors_of
from server.routes import Route, RouteTable
from server.settings import Settings

DRAINING: Final = "this server is about to stop; send the request again over a new connection."
INTERNAL: Final = (
    "something went wrong in the server, not in your request; its operators find the reason in the "
    "log under this request id. Trying again may help."
)


class Core:
    """What the path needs beside the request: limits, the current route table, ids."""

    __slots__ = ("_log", "_seldom", "ids", "is_draining", "routes", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.routes = RouteTable()
        self.ids = PredictionIds()
        self.is_draining = False
        self._log = logger("core")
        self._seldom = Seldom()

    def arrive(self, request: Request, hand_over: Callable[[Answer], None]) -> Asked:
        """Picks the route (once), decodes and encodes.

        Args:
            request: as the lane has read it.
            hand_over: takes the answer when the request has been settled, once, on the loop.

        Raises:
            RequestError: the request as a whole cannot be answered.
        """
        if self.is_draining:
            raise RequestError("draining", DRAINING)
        began = perf_counter_ns()
        route = self.routes.pick(request.model, request.version)
        records, is_single = decode(request.body, self.settings)
        strays = {} if is_single else objects_only(records)
        decoded = perf_counter_ns()
        encoded = route.bundle.encoder.encode(records)
        done = perf_counter_ns()
        return Asked(
            request,
            hand_over,
            route,
            records,
            is_single,
            strays,
            encoded,
            time.time(),
            decoded - began,
            done - decoded,
            done,
        )

    def settle(self, asked: list[Asked]) -> None:
        """Answers what one loop iteration brought; each gets its answer, whatever happens."""
        for route, group in by_route(asked):
            self._settle_group(route, group)

    def refuse(self, error: RequestError, request_id: bytes | None) -> Answer:
        """The answer to a request that did not get through `arrive`."""
        return error_answer(error.code, error.message, request_id or self.ids.next())

    def _settle_group(self, route: Route, group: list[Asked]) -> None:
        try:
            results = self._run(route, group)
            if results is not None:
                self._finish(route, group, results)
                return
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            if len(group) == 1:
                self._fail(group[0], error)
                return
        # One of them broke what they shared; alone, only that one can fail.
        for asked in group:
            if not asked.is_answered:
                self._settle_group(route, [asked])

    def _run(self, route: Route, group: list[Asked]) -> Results | None:
        """Plans, asks the model, judges. None when a run that was shared raised."""
        began = perf_counter_ns()
        encoded = together(group)
        ladder = route.bundle.ladder
        plan = ladder.plan(encoded)
        planned = perf_counter_ns()
        outputs = self._ask_model(route.bundle, plan)
        ran = perf_counter_ns()
        if outputs is None and len(group) > 1 and plan.asks_model:
            return None
        answers = ladder.judge(plan, outputs)
        columns = measured(route, outputs, len(plan.rows))
        done = perf_counter_ns()
        ladder_ns = done - ran + planned - began
        return Results(encoded, columns, answers, began, ran - planned, ladder_ns, done)

    def _ask_model(self, bundle: Bundle, plan: Plan) -> ModelOutputs | None:
        if not (plan.asks_model and len(plan.rows)):
            return None
        try:
            return run_rows(bundle, plan.rows)
        except Exception as error:  # noqa: BLE001  (onnxruntime raises many kinds; the ladder answers)
            self._say_raised(bundle, error)
            return None

    def _finish(self, route: Route, group: list[Asked], results: Results) -> None:
        """Counts each request and, right after it, hands its answer over."""
        answers = results.answers
        errors = find_errors(group, answers)
        write_rows(route, group, results)
        first = 0
        for asked in group:
            answer = self._written(asked, answers, first, errors)
            commit(asked, results)
            self._hand_over(asked, answer)
            first += len(asked.records)

    def _written(self, asked: Asked, answers: Answers, first: int, errors: RowErrors) -> Answer:
        prediction_id = self.ids.next()
        request_id = asked.request.request_id or prediction_id
        writer = asked.route.writer
        if not asked.is_single:
            rows = range(first, first + len(asked.records))
            return writer.many(answers, rows, errors, request_id, prediction_id)
        if first in errors:
            return writer.refused(errors[first], request_id)
        return writer.single(answers, first, request_id, prediction_id)

    def _fail(self, asked: Asked, error: Exception) -> None:
        """500 for a request that a defect of ours hit; its rows count as failed."""
        if asked.is_answered:
            return
        request, version = asked.request, asked.route.bundle.version
        answer = self.defect(error, request, version=version)
        try:
            commit_failed(asked)
        except Exception as uncounted:  # noqa: BLE001  (it is answered, counted or not)
            self.defect(uncounted, request, version=version)
        self._hand_over(asked, answer)

    def _hand_over(self, asked: Asked, answer: Answer) -> None:
        """Once a request, and whatever its lane makes of it: others wait for theirs."""
        asked.is_answered = True
        try:
            asked.hand_over(answer)
        except Exception as error:  # noqa: BLE001  (see above)
            self.defect(error, asked.request)

    def defect(self, error: Exception, request: Request, **facts: Any) -> Answer:
        """500 with an id and nothing else: what went wrong is in the log, under the same id."""
        return internal(
            error,
            request.request_id or self.ids.next(),
            model=request.model,
            traceparent=request.traceparent.decode() if request.traceparent else None,
            **facts,
        )

    def _say_raised(self, bundle: Bundle, error: Exception) -> None:
        """One line a second: a model that raises does so for every request."""
        held_back = self._seldom.held_back(bundle.digest)
        if held_back is not None:
            self._log.error(
                "model_raised",
                model=bundle.name,
                version=bundle.version,
                kind=type(error).__name__,
                where=where(error),
                held_back=held_back,
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
    if len(asked) == 1:
        return [(asked[0].route, asked)]
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


def run_rows(bundle: Bundle, rows: NDArray[np.float64]) -> ModelOutputs:
    """The model's outputs; row by row where a batch would give other bits."""
    if bundle.batch_exact or len(rows) == 1:
        return bundle.run(rows)
    single = [bundle.run(rows[row : row + 1]) for row in range(len(rows))]
    columns = zip(*(one.values for one in single), strict=True)
    return ModelOutputs([np.concatenate(column) for column in columns])


def find_errors(group: list[Asked], answers: Answers) -> RowErrors:
    """The rows that get an error instead of an answer, by their place in the run; mostly none."""
    errors: dict[int, Any] = {}
    first = 0
    for asked in group:
        if asked.strays or answers.bad or asked.request.is_strict:
            errors |= errors_of(
                asked.route.bundle,
                asked.records,
                asked.strays,
                answers,
                first,
                is_strict=asked.request.is_strict,
            )
        first += len(asked.records)
    return errors or NO_ERRORS


def objects_only(records: list[Any]) -> dict[int, Any]:
    """Takes out, by row, what is no object, and leaves an empty record in its place."""
    strays = {row: item for row, item in enumerate(records) if type(item) is not dict}
    for row in strays:
        records[row] = {}
    return strays
