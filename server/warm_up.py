"""Warming up: a route answers golden records before any caller reaches it, and counts none.

The first pass through a model and its code costs five to ten times a later one: memory is got,
caches are filled, the constant parts of answers are written. Golden records pay for it instead.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import Any, Final

import msgspec

from models.bundle import Bundle
from models.errors import RequestError
from server.asked import Asked, Request
from server.breaker import Breaker
from server.core import Core
from server.cost import ReadCost, RunCost, curve
from server.pace import Pace
from server.protocols.predict import Answer
from server.regions import Counter, Region
from server.routes import Route, RouteTable
from server.settings import Settings
from server.standing import Notice

PATIENCE_NS: Final = 3_600_000_000_000
"""The first runs may take as long as they like."""
RECORDS: Final = 8
"""Golden records that are asked about, each alone and all in one batch."""
MEASURED: Final = 64
TRIES: Final = 5


def warm_up(route: Route) -> Route:
    """Takes golden records the whole way that requests go, into counters that are thrown away.

    Before the route is published; in any thread.

    Returns:
        The route, with what reading and lower rungs cost here.
    """
    route.counter.region.touch()
    route.notice.may_share(route.cost.max_batch)
    records = [row.record for row in route.bundle.golden.rows[:RECORDS]]
    if not records:
        return route
    region = Region.anonymous(route.counter.region.layout)
    aside = Counter(region)
    core = Core(Settings())
    core.routes = RouteTable().with_route(
        replace(
            route,
            counter=aside,
            notice=Notice(region),
            deadline_ns=PATIENCE_NS,
            forced=None,
            pace=Pace(),
            breaker=Breaker(),
        )
    )
    for _ in range(2):
        for record in records:
            _answer(core, route.bundle.name, [record])
        _answer(core, route.bundle.name, [records, *records])
    aside.fold()
    return replace(route, reading=read_cost(route.bundle), below=below_cost(route.bundle))


def _answer(core: Core, model: str, bodies: Sequence[Any]) -> None:
    """Settles the requests of one turn of the loop; what is refused here is refused later too."""
    asked: list[Asked] = []
    answers: list[Answer] = []
    for body in bodies:
        with contextlib.suppress(RequestError):
            request = Request(model, msgspec.json.encode(body), perf_counter_ns())
            asked.append(core.arrive(request, answers.append))
    core.settle(asked)


def read_cost(bundle: Bundle) -> ReadCost:
    """What decoding and encoding golden records takes here."""
    records = [row.record for row in bundle.golden.rows[:MEASURED]]
    body = msgspec.json.encode(records)
    decode = msgspec.json.Decoder().decode
    decode_ns = quickest_ns(lambda: decode(body))
    encode_ns = quickest_ns(lambda: bundle.encoder.encode(records))
    return ReadCost(
        decode_ns / len(body), encode_ns / len(records), max(1.0, len(body) / len(records))
    )


def below_cost(bundle: Bundle) -> RunCost:
    """What lower rungs take here for golden records that the model does not answer."""
    seconds: dict[int, float] = {}
    for size in (1, MEASURED):
        records = [row.record for row in bundle.golden.rows[:size]]
        plan = bundle.ladder.plan(bundle.encoder.encode(records), records)
        ns = quickest_ns(lambda plan=plan: bundle.ladder.judge(plan, None, failed="deadline"))
        seconds[len(records)] = ns / 1e9
    return curve(seconds)


def quickest_ns(step: Callable[[], Any]) -> int:
    """The shortest of a few tries: whatever else the machine does only adds to it."""
    taken: list[int] = []
    for _ in range(TRIES):
        began = perf_counter_ns()
        step()
        taken.append(perf_counter_ns() - began)
    return min(taken)
