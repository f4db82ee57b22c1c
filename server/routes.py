"""The route table: which bundle answers a model's requests. Immutable and replaced whole.

A model has two slots. One is live: it answers. The other is empty, or holds a candidate that has
been loaded and not promoted, or the previous version; it answers whoever names its version.

A request picks its route once, when it arrives, and keeps it until it has been answered, whatever
is published meanwhile.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar

from models.bundle import Bundle
from models.errors import RequestError
from models.manifest import Manifest
from models.overrides import Override
from models.planning import Forced, lowest
from server.breaker import Breaker
from server.cost import UNMEASURED_BELOW, UNREAD, ReadCost, RunCost
from server.notes import NoteWriter
from server.pace import Pace
from server.protocols.predict import AnswerWriter
from server.regions import Counter, Region
from server.series import ModelSeries
from server.settings import SelftestAction
from server.shadow_counters import ShadowCounter
from server.shares import Shares
from server.standing import Notice

DEFAULT_DEADLINE_NS: Final = 1_000_000_000
"""Where nobody says how long answers may take."""


Role = Literal["candidate", "previous"]
"""What the bundle of a model's second slot is, as `vocabulary.SLOTS` names it."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A bundle with all that is kept beside it. By identity: requests of one route share a run.

    Attributes:
        writer: its answers.
        counter: of its rows.
        cost: of its runs, by their rows.
        series: its page of metrics.
        has_one_number: its only output is a number a row, as most models have it.
        notes: of its rows, for the metrics.
        below: the cost of an answer by lower rungs, by its rows.
        reading: the cost of its records' bodies.
        deadline_ns: how long its callers wait, who do not say it themselves.
        forced: the highest rung that may answer, if an operator wants a lower one than the model.
        said: the same as `force-fallback` or a setting says it, whatever an override says.
        override: what an operator has changed, if anything.
        answering: the bundle as it answers: with what is changed, else `bundle` itself.
        packed: what answered before the override; None without one.
        pace: how much slower its runs have become. This and the breaker are the loop's.
        breaker: whether its model may be run, and is trusted.
        on_selftest: what follows where it is not: `vocabulary.SELFTEST_ACTIONS`.
        notice: where the runner's work for it is told to the metrics.
        release_seconds: how long letting go of the bundle stops a process, as its gate measured.
        shadow: where it counts in shadows, on either side.
    """

    bundle: Bundle
    writer: AnswerWriter
    counter: Counter
    cost: RunCost
    series: ModelSeries
    has_one_number: bool
    notes: NoteWriter
    notice: Notice
    shadow: ShadowCounter
    answering: Bundle
    below: RunCost = UNMEASURED_BELOW
    reading: ReadCost = UNREAD
    deadline_ns: int = DEFAULT_DEADLINE_NS
    release_seconds: float = 0.0
    forced: Forced | None = None
    said: Forced | None = None
    override: Override | None = None
    packed: "Rungs | None" = None
    pace: Pace = field(default_factory=Pace)
    breaker: Breaker = field(default_factory=Breaker)
    on_selftest: SelftestAction = "fallback"

    def with_rungs(self, rungs: "Rungs") -> "Route":
        """The route with what an operator has changed, in place of what was changed before."""
        packed = self.packed or Rungs(None, self.answering, self.notes, self.below)
        return replace(self._with(rungs), packed=packed)

    def without_override(self) -> "Route":
        """The route with what was packed."""
        return self if self.packed is None else replace(self._with(self.packed), packed=None)

    def _with(self, rungs: "Rungs") -> "Route":
        changed = replace(
            self,
            override=rungs.override,
            answering=rungs.answering,
            notes=rungs.notes,
            below=rungs.below,
        )
        return said(changed, self.said)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where its rows are counted: in one region, of this process."""
        return (self.counter.region,)


@dataclass(frozen=True, slots=True)
class Rungs:
    """What answers beside the model, by an override or, where that is None, as packed.

    Attributes: see those of a `Route`.
    """

    override: Override | None
    answering: Bundle
    notes: NoteWriter
    below: RunCost


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A model of the store that cannot be served, and why, in words that a caller may read."""

    model: str
    version: str | None
    why: str


class Named(Protocol):
    """What every bundle says of itself, opened or not."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...


class Stateful(Protocol):
    """Whose breaker's state can be read."""

    @property
    def state(self) -> str: ...


class Served(Protocol):
    """What can be told of a route, in whatever process its bundle is open."""

    @property
    def bundle(self) -> Named: ...
    @property
    def breaker(self) -> Stateful: ...
    @property
    def forced(self) -> Forced | None: ...
    @property
    def release_seconds(self) -> float: ...
    @property
    def said(self) -> Forced | None: ...
    @property
    def override(self) -> Override | None: ...
    @property
    def on_selftest(self) -> SelftestAction: ...


R = TypeVar("R", bound=Served)


@dataclass(frozen=True, slots=True)
class Second(Generic[R]):
    """What a model's second slot holds.

    Attributes:
        route: that answers whoever names its version.
        role: what it is.
        was_live: a candidate that was live before and was rolled back.
        canary: share of the model's callers that a candidate answers, 0 to 1.
        shadow: share of the requests which live answers that a candidate gets copies of.
    """

    route: R
    role: Role
    was_live: bool = False
    canary: float = 0.0
    shadow: float = 0.0

    @property
    def version(self) -> str:
        """Of its bundle."""
        return self.route.bundle.version


@dataclass(frozen=True, slots=True)
class Routes(Generic[R]):
    """Live routes by model name, and the models that have none: a route table.

    Where requests are answered it is a `RouteTable`; the supervisor, which answers none, has one of
    routes that lead to its workers.

    Attributes:
        generation: grows with every table; never used twice.
        live: what answers, by model.
        unavailable: models that are to be served and have nothing live.
        second: what the second slots hold, by model; those that are empty are not in it.
        trials: those of them that take part beside a live one, as canary or shadow: mostly none.
    """

    generation: int = 0
    live: Mapping[str, R] = field(default_factory=lambda: MappingProxyType({}))
    unavailable: Mapping[str, Unavailable] = field(default_factory=lambda: MappingProxyType({}))
    second: Mapping[str, Second[R]] = field(default_factory=lambda: MappingProxyType({}))
    trials: Mapping[str, Second[R]] = field(init=False)

    def __post_init__(self) -> None:
        trials = {
            model: second
            for model, second in self.second.items()
            if model in self.live and (second.canary or second.shadow)
        }
        object.__setattr__(self, "trials", MappingProxyType(trials))

    @property
    def loaded(self) -> Iterator[R]:
        """The routes of both slots of all models."""
        yield from self.live.values()
        for second in self.second.values():
            yield second.route

    def pick(self: "Routes[Route]", model: str, version: str | None = None) -> Route:
        """The route of a request.

        Raises:
            RequestError: `unknown_model`, `unknown_version` (naming what is loaded), `not_loaded`
                or `takes_tensors`.
        """
        route = self.live.get(model)
        if route is None or (version is not None and version != route.bundle.version):
            route = self._named(model, version)
        if route.bundle.fitted is None:
            raise RequestError(
                "takes_tensors",
                f"model {model!r} takes tensors, not records. Its tensor path, "
                f"/v2/models/{model}/infer, comes with a later version; GET /models/{model} "
                "describes what it takes.",
            )
        return route

    def lacks(self, before: "Routes[R]") -> list[R]:
        """The routes of a table before this one whose bundles this one has not."""
        kept = {id(route.bundle) for route in self.loaded}
        return [route for route in before.loaded if id(route.bundle) not in kept]

    def with_route(self, route: R) -> Self:
        """The next table, in which `route` is live."""
        name = route.bundle.name
        unavailable = {n: u for n, u in self.unavailable.items() if n != name}
        return self._next(live={**self.live, name: route}, unavailable=unavailable)

    def without(self, missing: Unavailable) -> Self:
        """The next table, in which a model has nothing live."""
        live = {name: route for name, route in self.live.items() if name != missing.model}
        return self._next(live=live, unavailable={**self.unavailable, missing.model: missing})

    def with_second(self, second: Second[R]) -> Self:
        """The next table, in which a model's second slot holds this."""
        return self._next(second={**self.second, second.route.bundle.name: second})

    def without_second(self, model: str) -> Self:
        """The next table, in which a model's second slot is empty."""
        return self._next(second={name: s for name, s in self.second.items() if name != model})

    def flipped(self, model: str, role: Role) -> Self:
        """The next table, in which a model's slots have changed places.

        Args:
            model: its second slot holds something.
            role: what the version is from now on that was live.
        """
        live, second = self.live.get(model), self.second[model]
        table = self.with_route(second.route).without_second(model)
        if live is not None:
            table = table.with_second(Second(live, role, was_live=role == "candidate"))
        return replace(table, generation=self.generation + 1)

    def _next(self, **changed: Any) -> Self:
        return replace(self, generation=self.generation + 1, **changed)

    def names(self) -> list[str]:
        """Every model that this server serves, is meant to serve, or has loaded."""
        return sorted({*self.live, *self.unavailable, *self.second})

    def _named(self: "Routes[Route]", model: str, version: str | None) -> Route:
        """The route of a version that is not live.

        Raises:
            RequestError: it is not loaded either, or nothing is live and none was named.
        """
        second, live = self.second.get(model), self.live.get(model)
        if version is not None and second is not None and version == second.version:
            return second.route
        if live is None and (version is None or second is None):
            raise self._no_route(model)
        loaded = [] if live is None else [f"{live.bundle.version} (live)"]
        loaded += [] if second is None else [f"{second.version} ({second.role})"]
        raise RequestError(
            "unknown_version",
            f"version {version!r:.70} of model {model!r} is not loaded; loaded: "
            f"{', '.join(loaded)}. Leave `version` out for the live one.",
        )

    def _no_route(self, model: str) -> RequestError:
        why = self.why_not_live(model)
        if why is None:
            return RequestError("unknown_model", self.no_such(model))
        return RequestError(
            "not_loaded",
            f"model {model!r} is not loaded: {why}. Try again later; its operators see "
            "the reason in the server's log.",
        )

    def why_not_live(self, model: str) -> str | None:
        """Why no version of a model answers; None where there is no such model."""
        if missing := self.unavailable.get(model):
            return missing.why
        if second := self.second.get(model):
            return f"no version of it is live; {second.version} is loaded as {second.role}"
        return None

    def no_such(self, model: str) -> str:
        """What to say of a model that is not there."""
        names = ", ".join(self.names()) or "none"
        return f"no model {model!r:.70} here; there is {names}. GET /models lists what is served."


class RouteTable(Routes[Route]):
    """The table by which requests are routed."""

    __slots__ = ()


def parts_of(route: Served) -> tuple[str, ...]:
    """What an operator has changed about a route, of `vocabulary.OVERRIDE_PARTS`."""
    return () if route.override is None else route.override.changes.parts


def said(route: Any, rung: Forced | None) -> Any:
    """The route with the rung that `force-fallback` or a setting says; the lowest said holds."""
    by_override = None if route.override is None else route.override.changes.rung
    return replace(route, said=rung, forced=lowest(rung, by_override))


AnyRoutes = Routes[Any]
"""Of whatever routes: what the planes read of them is `Served`."""


def shares_of(route: Served, routes: AnyRoutes) -> Shares:
    """What a route's bundle gets by this table."""
    second = routes.trials.get(route.bundle.name)
    if second is None or second.route is not route:
        return Shares()
    return Shares(second.canary, second.shadow)


def slot_of(route: Served, routes: AnyRoutes) -> str | None:
    """What a route's bundle is to its model by this table, see `vocabulary.SLOTS`."""
    name = route.bundle.name
    if routes.live.get(name) is route:
        return "live"
    second = routes.second.get(name)
    return second.role if second is not None and second.route is route else None
