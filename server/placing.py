"""Where a request is settled: here on the loop, in the runner's thread, or by nobody; and by what.

Only what is expected to take less than 250 µs happens on the loop, because nothing there can be cut
short. Whatever would not be done by its deadline goes to a lower rung at once: the caller loses
nothing by it, and the model gets less to do.
"""

from typing import Final, NamedTuple, Protocol

from models.planning import Forced
from server.asked import Asked
from server.breaker import CLOSED
from server.cost import FEW_ROWS, LOOP_NS
from server.routes import Route

MARGIN_NS: Final = 2_000_000
MARGIN_SHARE: Final = 50
MOST_SHARE_NS: Final = 10_000_000
"""Left before a deadline for a lower rung to answer: two milliseconds and a fiftieth of the
deadline (of which ten milliseconds are enough), and never more than a quarter of it."""

LIVELY_NS: Final = 5_000_000
"""A model whose runs in the thread take longer is not tried on the loop again: it would hold up
everybody. In the thread a run may wait so long for its turn to go on."""


class Place(NamedTuple):
    """What is to be done with a request.

    Attributes:
        is_in_thread: it is given to the runner.
        failed: why the model is not asked: a reason of the vocabulary; None if it is asked, or if
            an operator has forced a lower rung.
        refused: nobody answers it: the error code.
        is_probe: it is run alone, and the breaker waits to hear of it.
        is_trial: it is run although that is expected to take too long; the pace is told.
    """

    is_in_thread: bool = False
    failed: str | None = None
    refused: str | None = None
    is_probe: bool = False
    is_trial: bool = False


HERE: Final = Place()
IN_THREAD: Final = Place(is_in_thread=True)
TOO_LATE: Final = Place(refused="deadline")
OVERLOADED: Final = Place(refused="overloaded")


class Queue(Protocol):
    """What is to be known of the runner."""

    @property
    def is_idle(self) -> bool:
        """Whether a job would begin at once."""
        ...

    def has_room(self, asked: Asked) -> bool:
        """Whether a request may be added."""
        ...

    def ends_in_ns(self, asked: Asked, now_ns: int, ns: float, *, is_alone: bool) -> float:
        """How long after now a request would be done that is added now, and alone takes `ns`."""
        ...


def place(asked: Asked, now_ns: int, queue: Queue | None) -> Place:
    """Where a request is settled that is ready to be.

    Args:
        asked: the request.
        now_ns: `perf_counter_ns`.
        queue: of the runner; without one everything happens here.
    """
    route = asked.route
    if distrusted(route) is not None:
        return _below(asked, now_ns, queue, "selftest")
    if route.forced is not None:
        return _below(asked, now_ns, queue, None)
    if route.breaker.state == CLOSED:
        return _run(asked, now_ns, queue)
    if not route.breaker.admits():
        return _below(asked, now_ns, queue, "breaker")
    found = _run(asked, now_ns, queue)
    if found.failed or found.refused:
        route.breaker.not_probed()
        return found
    return found._replace(is_probe=True)


def distrusted(route: Route) -> Forced | None:
    """The highest rung that may answer because the self-test found the ones above wrong.

    None where it found nothing, where that is only to be reported, or where an operator's word
    sends rows as low.
    """
    below = route.breaker.distrusted
    if below is None or route.on_selftest == "report" or route.forced in ("rules", below):
        return None
    return below


def may_answer_below(asked: Asked) -> bool:
    """Whether lower rungs can answer a request here on the loop."""
    below_ns = asked.route.below.predict_ns(len(asked.records))
    return asked.is_read and below_ns < LOOP_NS


def is_worth_below(asked: Asked, elapsed_ns: int) -> bool:
    """Whether lower rungs answer, here, a request for which the thread has not been in time.

    Args:
        asked: the request.
        elapsed_ns: what its run has taken up to now: the model costs at least that.
    """
    if not may_answer_below(asked):
        return False
    below_ns = asked.route.below.predict_ns(len(asked.records))
    return 2 * below_ns < max(elapsed_ns, _run_ns(asked))


def fits_here(asked: Asked, now_ns: int) -> bool:
    """Whether a request may be run on the loop with others: what almost every request is.

    Where it says yes, `place` would say so too; it costs half a microsecond.
    """
    route = asked.route
    if not asked.is_read or route.forced is not None or not route.breaker.lets_through:
        return False
    if asked.encoded.troubles and _has_many_rules(asked):
        return False
    rows, cost = len(asked.records), route.cost
    run_ns = cost.few_ns[rows] if rows < FEW_ROWS else cost.predict_ns(rows)
    ns = asked.reading_ns + run_ns * route.pace.ratio
    return ns < LOOP_NS and now_ns + ns < asked.deadline_ns


def predicted_ns(asked: Asked, found: Place = HERE) -> float:
    """What reading a request and running it, or answering it from below, is expected to take."""
    if found.failed is None and asked.route.forced is None:
        return _reading_ns(asked) + _run_ns(asked)
    below_ns = asked.route.below.predict_ns(rows_of(asked))
    return below_ns if asked.is_read else below_ns + _reading_ns(asked)


def may_share(asked: Asked, found: Place) -> bool:
    """Whether a request may be run in the thread with others of its route."""
    is_plain = not (found.failed or found.is_probe or found.is_trial)
    if not (is_plain and asked.is_read and asked.route.forced is None):
        return False
    return 0 < len(asked.records) <= asked.route.cost.max_batch


def rows_of(asked: Asked) -> int:
    """The rows of a request; before it is decoded as many as its bytes may well be."""
    if asked.is_decoded:
        return len(asked.records)
    return 1 + int(len(asked.request.body) / asked.route.reading.row_bytes)


def overdue_ns(asked: Asked) -> int:
    """When a lower rung has to begin, for its answer to be there by the deadline."""
    whole = asked.deadline_ns - asked.request.began_ns
    below_ns = asked.route.below.predict_ns(rows_of(asked))
    margin_ns = MARGIN_NS + min(whole // MARGIN_SHARE, MOST_SHARE_NS)
    return asked.deadline_ns - min(whole // 4, margin_ns + round(min(below_ns, LOOP_NS)))


def _run(asked: Asked, now_ns: int, queue: Queue | None) -> Place:
    route = asked.route
    ns = predicted_ns(asked)
    is_for_loop = asked.is_read and not _has_many_rules(asked)
    if queue is None or (is_for_loop and ns < LOOP_NS):
        return HERE if now_ns + ns < asked.deadline_ns else _below(asked, now_ns, queue, "deadline")
    usual_ns = ns - _run_ns(asked) * (1 - 1 / route.pace.ratio)
    is_lively = usual_ns < LOOP_NS and route.pace.last_ns < LIVELY_NS
    if is_for_loop and is_lively and now_ns + ns < asked.deadline_ns and route.pace.may_probe():
        return Place(is_trial=True)
    if not queue.has_room(asked):
        return _below(asked, now_ns, queue, "overload", OVERLOADED)
    left_ns = overdue_ns(asked) - now_ns
    if queue.ends_in_ns(asked, now_ns, ns, is_alone=not may_share(asked, IN_THREAD)) < left_ns:
        return IN_THREAD
    if queue.is_idle and usual_ns < left_ns and route.pace.may_probe():
        return Place(is_in_thread=True, is_trial=True)
    return _below(asked, now_ns, queue, "deadline", OVERLOADED if ns < left_ns else TOO_LATE)


def _below(
    asked: Asked,
    now_ns: int,
    queue: Queue | None,
    failed: str | None,
    refused: Place = TOO_LATE,
) -> Place:
    """Who answers without the model.

    Args:
        asked: the request.
        now_ns: `perf_counter_ns`.
        queue: of the runner.
        failed: why the model is not asked; None where an operator does not want it.
        refused: what becomes of it if nobody can answer.
    """
    is_relief = failed in ("deadline", "overload")
    rows = rows_of(asked)
    below_ns = asked.route.below.predict_ns(rows)
    if is_relief and (not asked.is_read or 2 * below_ns > _run_ns(asked)):
        return refused
    if queue is None or (asked.is_read and below_ns < LOOP_NS):
        return Place(failed=failed)
    if not queue.has_room(asked):
        return OVERLOADED
    ns = below_ns if asked.is_read else below_ns + _reading_ns(asked)
    if now_ns + queue.ends_in_ns(asked, now_ns, ns, is_alone=True) < overdue_ns(asked):
        return Place(is_in_thread=True, failed=failed)
    return refused


def _reading_ns(asked: Asked) -> float:
    if asked.is_decoded:
        return asked.reading_ns
    reading, size = asked.route.reading, len(asked.request.body)
    return size * reading.byte_ns + rows_of(asked) * reading.row_ns


def _run_ns(asked: Asked) -> float:
    route = asked.route
    return route.cost.predict_ns(rows_of(asked)) * route.pace.ratio


def _has_many_rules(asked: Asked) -> bool:
    """Whether policies send so many rows to lower rungs that these must not run on the loop."""
    if not asked.encoded.troubles:
        return False
    route = asked.route
    if route.below.predict_ns(len(asked.records)) < LOOP_NS:
        return False
    rung = route.answering.ladder.plan(asked.encoded).rung
    below = sum(map(bool, rung)) if rung else 0
    return below > 0 and route.below.predict_ns(below) >= LOOP_NS
