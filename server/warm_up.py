"""Warming up: a route answers golden records before any caller reaches it, and counts none.

The first pass through a model and its code costs five to ten times a later one: memory is got,
caches are filled, the constant parts of answers are written. Golden records pay for it instead.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from models.errors import RequestError
from server.asked import Asked, Request
from server.core import Core
from server.protocols.predict import Answer
from server.regions import Counter, Region
from server.routes import Route, RouteTable
from server.settings import Settings

RECORDS: Final = 8
"""Golden records that are asked about, each alone and all in one batch."""


def warm_up(route: Route) -> None:
    """Takes golden records the whole way that requests go, into counters that are thrown away.

    Before the route is published; in any thread.
    """
    route.counter.region.touch()
    records = [row.record for row in route.bundle.golden.rows[:RECORDS]]
    if not records:
        return
    aside = Counter(Region.anonymous(route.counter.region.layout))
    core = Core(Settings())
    core.routes = RouteTable().with_route(replace(route, counter=aside))
    for _ in range(2):
        for record in records:
            _answer(core, route.bundle.name, [record])
        _answer(core, route.bundle.name, [records, *records])
    aside.fold()


def _answer(core: Core, model: str, bodies: Sequence[Any]) -> None:
    """Settles the requests of one turn of the loop; what is refused here is refused later too."""
    asked: list[Asked] = []
    answers: list[Answer] = []
    for body in bodies:
        with contextlib.suppress(RequestError):
            asked.append(core.arrive(Request(model, msgspec.json.encode(body), 0), answers.append))
    core.settle(asked)
