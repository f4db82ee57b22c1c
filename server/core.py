"""From bytes to answers: the one path that every lane takes.

A request goes down once and comes back once. `arrive` takes it as far as it can go alone:
decoded, routed, encoded. `settle` takes the requests that one loop iteration brought the rest of
the way, with one run a route: run, ladder, count, answer. One request alone is a list of one. All
of it happens on the event loop's thread: the counters' ring has one writer.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import OK
from models.bundle import Bundle
from models.errors import RequestError
from models.ladder import REJECTED, Answers, Plan
from models.outputs import NO_DECISION, ModelOutputs
from server.logs import logger
from server.prediction_ids import PredictionIds
from server.protocols.predict import FAILED, Answer, decode, error_answer
from server.refusals import RowError, errors_of
from server.routes import Route, RouteTable
from server.settings import Settings

UNPROCESSABLE: Final = 422
DRAINING: Final = "this server is about to stop; send the request again over a new connection."
INTERNAL: Final = (
    "something went wrong in the server, not in your request; its operators find the reason in the "
    "log "
    "under this request id. Trying again may help."
)


@dataclass(slots=True)
class Request:
    """What a lane knows once a body is whole.

    `began_ns` is `perf_counter_ns` at the complete headers; `hand_over` takes the answer, on the
    loop.
    """

    model: str
    body: bytes
    began_ns: int
    hand_over: Callable[[Answer], None]
    version: str | None = None
    request_id: bytes | None = None
    traceparent: bytes | None = None
    is_strict: bool = False


@dataclass(slots=True)
class Asked:
    """A request that has picked its route and been encoded, with the clock of the way so far.

    `records` has an object a row; `strays` has, by row, the items of a list that were none.
    """

    request: Request
    route: Route
    records: list[dict[str, Any]]
    is_single: bool
    strays: dict[int, Any]
    encoded: Encoded
    arrived: float
    decode_ns: int
    encode_ns: int
    waits_since_ns: int
    is_answered: bool = field(default=False)


@dataclass(slots=True)
class Results:
    """What a group's run came to: rows of all its requests, one request after the other.

    `measured` is float64 (n, measured outputs), for the counters.
    """

    encoded: Encoded
    measured: NDArray[np.float64]
    answers: Answers
    began_ns: int
    run_ns: int
    ladder_ns: int
    done_ns: int


class Core:
    """What the path needs beside the request: limits, the current route table, ids."""

    __slots__ = ("_log", "ids", "is_draining", "routes", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.routes = RouteTable()
        self.ids = PredictionIds()
        self.is_draining = False
        self._log = logger("core")

    def arrive(self, request: Request) -> Asked:
        """Picks the route (once), decodes and encodes.

        Raises:
            RequestError: the request as a whole cannot be answered.
        """
        if self.is_draining:
            raise RequestError("draining", DRAINING)
        began = perf_counter_ns()
        route = self.routes.pick(request.model, request.version)
        records, is_single = decode(request.body, self.settings)
        strays = objects_only(records)
        decoded = perf_counter_ns()
        encoded = route.bundle.encoder.encode(records)
        done = perf_counter_ns()
        return Asked(
            request,
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
            if results is None:
                # Somebody's rows broke the shared run; alone, only theirs can.
                for asked in group:
                    self._settle_group(route, [asked])
            else:
                self._finish(route, group, results)
        except Exception as error:  # noqa: BLE001  (a defect of ours costs these requests only)
            for asked in group:
                self._fail(asked, error)

    def _run(self, route: Route, group: list[Asked]) -> Results | None:
        """Plans, asks the model, judges. None when a run that was shared raised."""
        began = perf_counter_ns()
        encoded = together(group)
        ladder = route.bundle.ladder
        plan = ladder.plan(encoded)
        planned = perf_counter_ns()
        outputs = self._ask_model(route, plan)
        ran = perf_counter_ns()
        if outputs is None and len(group) > 1 and plan.asks_model:
            return None
        answers = ladder.judge(plan, outputs)
        measured = measure(route, outputs, len(plan.rows))
        done = perf_counter_ns()
        ladder_ns = done - ran + planned - began
        return Results(encoded, measured, answers, began, ran - planned, ladder_ns, done)

    def _ask_model(self, route: Route, plan: Plan) -> ModelOutputs | None:
        if not (plan.asks_model and len(plan.rows)):
            return None
        try:
            return run_rows(route.bundle, plan.rows)
        except Exception as error:  # noqa: BLE001  (onnxruntime raises many kinds; the ladder answers)
            bundle = route.bundle
            self._log.error(
                "model_raised", model=bundle.name, version=bundle.version, kind=type(error).__name__
            )
            return None

    def _finish(self, route: Route, group: list[Asked], results: Results) -> None:
        """Counts each request and, right after it, hands its answer over."""
        errors = find_errors(group, results.answers)
        write_rows(route, group, results)
        for (asked, first), wrong in zip(placed(group), errors, strict=True):
            answer = self._written(asked, results.answers, first, wrong)
            commit(asked, results)
            asked.is_answered = True
            asked.request.hand_over(answer)

    def _written(
        self, asked: Asked, answers: Answers, first: int, errors: Mapping[int, RowError]
    ) -> Answer:
        prediction_id = self.ids.next()
        request_id = asked.request.request_id or prediction_id
        writer = asked.route.writer
        if not asked.is_single:
            count = len(asked.records)
            return writer.many(answers, first, count, errors, request_id, prediction_id)
        if errors:
            return writer.refused(errors[0], request_id)
        return writer.single(answers, first, request_id, prediction_id)

    def _fail(self, asked: Asked, error: Exception) -> None:
        """500 with an id and nothing else: what went wrong is in the log, under the same id."""
        if asked.is_answered:
            return
        request = asked.request
        request_id = request.request_id or self.ids.next()
        bundle = asked.route.bundle
        self._log.error(
            "request_failed",
            model=bundle.name,
            version=bundle.version,
            request_id=request_id.decode(),
            traceparent=request.traceparent.decode() if request.traceparent else None,
            exc_info=error,
        )
        asked.is_answered = True
        request.hand_over(error_answer("internal", INTERNAL, request_id))


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


def placed(group: list[Asked]) -> Iterator[tuple[Asked, int]]:
    """Each request with its first row in the group's run."""
    first = 0
    for asked in group:
        yield asked, first
        first += len(asked.records)


def together(group: list[Asked]) -> Encoded:
    """The rows of all requests, one after the other."""
    if len(group) == 1:
        return group[0].encoded
    parts = [asked.encoded for asked in group]
    return Encoded(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.flags for part in parts]),
        [
            (first + row, place, flag)
            for asked, first in placed(group)
            for row, place, flag in asked.encoded.troubles
        ],
    )


def run_rows(bundle: Bundle, rows: NDArray[np.float64]) -> ModelOutputs:
    """The model's outputs; row by row where a batch would give other bits."""
    if bundle.batch_exact or len(rows) == 1:
        return bundle.run(rows)
    single = [bundle.run(rows[row : row + 1]) for row in range(len(rows))]
    columns = zip(*(one.values for one in single), strict=True)
    return ModelOutputs([np.concatenate(column) for column in columns])


def find_errors(group: list[Asked], answers: Answers) -> list[Mapping[int, RowError]]:
    """Errors by request; their rows count as rejected or failed and as no decision."""
    found = [
        errors_of(
            asked.route.bundle,
            asked.records,
            asked.strays,
            answers,
            first,
            is_strict=asked.request.is_strict,
        )
        for asked, first in placed(group)
    ]
    for (_, first), errors in zip(placed(group), found, strict=True):
        for row, error in errors.items():
            answers.outcome[first + row] = REJECTED if error.status == UNPROCESSABLE else FAILED
            answers.decision_code[first + row] = NO_DECISION
    return found


def objects_only(records: list[Any]) -> dict[int, Any]:
    """Takes out, by row, what is no object, and leaves an empty record in its place."""
    if len(records) == 1 and type(records[0]) is dict:
        return {}
    strays = {row: item for row, item in enumerate(records) if type(item) is not dict}
    for row in strays:
        records[row] = {}
    return strays


def write_rows(route: Route, group: list[Asked], results: Results) -> None:
    """Puts the group's rows into the counters' ring, uncommitted.

    A request with more rows than the ring holds is left to `commit`.
    """
    answers, encoded, counter = results.answers, results.encoded, route.counter
    if len(answers.outcome) <= counter.capacity:
        counter.write(
            *countable(group, encoded),
            results.measured,
            arrival_times(group),
            answers.outcome,
            answers.reason,
            answers.decision_code,
        )


def commit(asked: Asked, results: Results) -> None:
    """Counts a request with all its rows; the next thing is that its answer is handed over."""
    counter, count = asked.route.counter, len(asked.records)
    if not count:
        return  # an empty list is a request without rows: the lane counts it
    now = perf_counter_ns()
    stages = (
        asked.decode_ns,
        asked.encode_ns,
        results.began_ns - asked.waits_since_ns,
        results.run_ns,
        results.ladder_ns,
        now - results.done_ns,
    )
    total = now - asked.request.began_ns
    extra = asked.encoded.extra_keys
    if count <= counter.capacity:
        counter.commit(count, stages, total, extra_keys=extra)
        return
    for part in parts(count, counter.capacity):
        write_part(asked, results, part)
        first = part.start == 0
        counter.commit(part.stop - part.start, stages if first else None, total, extra_keys=extra)


def countable(
    group: list[Asked], encoded: Encoded
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Rows and flags to count: what was no record is in no distribution, under no trouble."""
    strays = [first + row for asked, first in placed(group) for row in asked.strays]
    if not strays:
        return encoded.rows, encoded.flags
    rows, flags = encoded.rows.copy(), encoded.flags.copy()
    rows[strays], flags[strays] = np.nan, OK
    return rows, flags


def write_part(asked: Asked, results: Results, part: slice) -> None:
    answers = results.answers
    rows, flags = countable([asked], asked.encoded)
    asked.route.counter.write(
        rows[part],
        flags[part],
        results.measured[part],
        asked.arrived,
        answers.outcome[part],
        answers.reason[part],
        answers.decision_code[part],
    )


def parts(count: int, size: int) -> Iterator[slice]:
    """`count` rows in slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def arrival_times(group: list[Asked]) -> float | NDArray[np.float64]:
    """Epoch seconds: one for all rows of a lone request, else one a row."""
    if len(group) == 1:
        return group[0].arrived
    times = [asked.arrived for asked in group]
    return np.repeat(times, [len(asked.records) for asked in group])


def measure(route: Route, outputs: ModelOutputs | None, count: int) -> NDArray[np.float64]:
    """Outputs as they are counted, float64 (n, measured outputs); zeros if there are none."""
    measures = route.bundle.measures
    if outputs is None:
        return np.zeros((count, measures.n_outputs))
    return measures.output_columns(outputs.values)
