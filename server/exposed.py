"""Which bundles are on the metrics page of a server: those it has loaded, and those it had."""

from collections.abc import Callable, Sequence
from typing import Any

from server.exposition import Exposed
from server.regions import Region
from server.retired import Name, Retired
from server.routes import AnyRoutes, parts_of, shares_of, slot_of
from server.series import ModelSeries

RegionsOf = Callable[[Any], Sequence[Region]]
"""Gives the regions in which rows of a route are counted, one of each process that answers."""


def name_of(route: Any) -> Name:
    """By which its series are told from those of others."""
    return route.bundle.name, route.bundle.version


def names_of(routes: AnyRoutes) -> set[Name]:
    """Of all that is loaded."""
    return {name_of(route) for route in routes.loaded}


def exposed(routes: AnyRoutes, retired: Retired, regions_of: RegionsOf) -> list[Exposed]:
    """All of them, by the current table."""
    loaded = [
        Exposed(
            route.series,
            regions_of(route),
            route.forced,
            slot_of(route, routes),
            retired.past(name_of(route), route.bundle.digest),
            shares=shares_of(route, routes),
            overridden=parts_of(route),
        )
        for route in routes.loaded
    ]
    return [*loaded, *retired.exposed(names_of(routes))]


def series_besides(routes: AnyRoutes, retired: Retired, name: Name) -> list[ModelSeries]:
    """Of all but one bundle that is to be loaded."""
    gone = retired.exposed({*names_of(routes), name})
    return [*(route.series for route in routes.loaded), *(each.series for each in gone)]
