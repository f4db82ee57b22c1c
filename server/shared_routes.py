"""Routes that lead to workers: a bundle examined once, with a file for what all of them count."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models.gate import GateReport
from models.manifest import Manifest
from models.overrides import Changes, Effect, Override, dry_run
from models.planning import Forced
from models.store import Store
from models.trimming import trim
from server.board import mapped, sealed_file
from server.control import Held, HeldSecond, Hold, Message, Missing, Overrule, Table
from server.opening import (
    Accept,
    copies_folder,
    facts_of,
    layout_of,
    open_examined,
    open_held,
)
from server.regions import Region
from server.routes import AnyRoutes, said
from server.series import ModelSeries
from server.settings import SelftestAction, Settings
from server.standing import leave, read_standing, state_of


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of a bundle that is open elsewhere."""

    name: str
    version: str
    digest: str
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Breakers:
    """The breakers of a bundle in all workers."""

    regions: Sequence[Region]

    @property
    def state(self) -> str:
        """The worst of theirs."""
        return state_of(read_standing(self.regions))


@dataclass(frozen=True, slots=True, eq=False)
class SharedRoute:
    """A bundle that workers answer for.

    Attributes:
        hold: what workers are told, so that they open it.
        counters: descriptor of the file of its counters.
        regions: the parts of it, one a slot.
        release_seconds: how long letting go of the bundle stops a process, as its gate measured.
    """

    bundle: Card
    hold: Hold
    series: ModelSeries
    counters: int
    regions: tuple[Region, ...]
    breaker: Breakers
    release_seconds: float = 0.0
    forced: Forced | None = None
    said: Forced | None = None
    overrule: Overrule | None = None
    on_selftest: SelftestAction = "fallback"

    @property
    def override(self) -> Override | None:
        """What an operator has changed, if anything."""
        return None if self.overrule is None else self.overrule.override

    def with_overrule(self, overrule: Overrule | None) -> "SharedRoute":
        """The route with what an operator has changed."""
        return said(replace(self, overrule=overrule), self.said)

    def without_override(self) -> "SharedRoute":
        """The route with what was packed."""
        return self.with_overrule(None)


CheckSeries = Callable[[str, str, ModelSeries], None]
"""Raises where the series of a version have no room."""


def examine(
    settings: Settings,
    model: str,
    version: str,
    number: int,
    slots: int,
    check: CheckSeries,
    cancelled: threading.Event,
    accept: Accept,
) -> tuple[SharedRoute, GateReport]:
    """A bundle that has passed its gate, with a file for its counters; in a thread.

    It is opened here, but for its models, to see what is counted of it, and closed again.

    Args:
        settings: of the server.
        model: its name.
        version: of the model.
        number: by which workers know it.
        slots: of workers.
        check: whether its series have room.
        cancelled: ends its gate early when it is set.
        accept: raises where it has no place here, for what its gate found.

    Raises:
        BundleError: it cannot be served.
    """
    store, copies = Store(settings.store), copies_folder(settings)
    bundle, report = open_examined(
        store, model, version, cancelled, copies, accept, with_models=False
    )
    layout = layout_of(bundle)
    series = ModelSeries(layout, facts_of(bundle))
    card = Card(bundle.name, bundle.version, bundle.digest, bundle.manifest)
    del bundle
    trim()
    check(model, version, series)
    counters = sealed_file("keelmark-counters", layout.n_bytes * slots)
    memory = mapped(counters)
    regions = tuple(Region(layout, memory, offset=layout.part(i)) for i in range(slots))
    for region in regions:
        leave(region)
    hold = Hold(
        number=number,
        model=model,
        version=version,
        digest=report.digest,
        batch_exact=report.batch_exact,
        run_seconds=report.run_seconds,
        copies=report.copies,
    )
    breakers, seconds = Breakers(regions), report.release_seconds
    return SharedRoute(card, hold, series, counters, regions, breakers, seconds), report


def tried(
    settings: Settings, held: Hold, changes: Changes, standing: Changes, forced: Forced | None
) -> Effect:
    """What an override would do to the golden rows of a bundle that workers have; in a thread.

    The bundle is opened here for it, and closed again.

    Raises:
        OverrideRefused: it cannot be applied.
        BundleError, OSError: the store has the bundle no more, or not as it was.
    """
    bundle = open_held(settings, held)
    try:
        return dry_run(bundle, changes, standing=standing, forced=forced)
    finally:
        del bundle
        trim()


def messages_of(
    table: AnyRoutes, known: AnyRoutes | None = None
) -> list[tuple[Message, list[int]]]:
    """What makes a worker hold a table, if it has the bundles of the `known` one."""
    before: list[SharedRoute] = [] if known is None else list(known.loaded)
    has = {route.hold.number for route in before}
    told: list[tuple[Message, list[int]]] = [
        (route.hold, [route.counters]) for route in table.loaded if route.hold.number not in has
    ]
    has = {route.overrule.number for route in before if route.overrule is not None}
    overruled = (route.overrule for route in table.loaded if route.overrule is not None)
    told += [(overrule, []) for overrule in overruled if overrule.number not in has]
    seconds = [
        HeldSecond(_held(s.route), s.role, s.was_live, s.canary, s.shadow)
        for s in table.second.values()
    ]
    message = Table(
        generation=table.generation,
        live=[_held(route) for route in table.live.values()],
        second=seconds,
        missing=[Missing(m.model, m.version, m.why) for m in table.unavailable.values()],
    )
    return [*told, (message, [])]


def _held(route: SharedRoute) -> Held:
    overrule = None if route.overrule is None else route.overrule.number
    return Held(route.hold.number, route.forced, overrule, route.on_selftest)
