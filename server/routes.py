"""The route table: which bundle answers a model's requests. Immutable and replaced whole.

A request picks its route once, when it arrives, and keeps it until it has been answered, whatever
is published meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from models.bundle import Bundle
from models.errors import RequestError
from models.manifest import Manifest
from models.planning import Forced
from server.breaker import Breaker
from server.cost import UNMEASURED_BELOW, UNREAD, ReadCost, RunCost
from server.notes import NoteWriter
from server.pace import Pace
from server.protocols.predict import AnswerWriter
from server.regions import Counter
from server.series import ModelSeries
from server.standing import Notice

DEFAULT_DEADLINE_NS: Final = 1_000_000_000
"""Where nobody says how long answers may take."""


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
        pace: how much slower its runs have become. This and the breaker are the loop's.
        breaker: whether its model may be run.
        notice: where the runner's work for it is told to the metrics.
    """

    bundle: Bundle
    writer: AnswerWriter
    counter: Counter
    cost: RunCost
    series: ModelSeries
    has_one_number: bool
    notes: NoteWriter
    notice: Notice
    below: RunCost = UNMEASURED_BELOW
    reading: ReadCost = UNREAD
    deadline_ns: int = DEFAULT_DEADLINE_NS
    forced: Forced | None = None
    pace: Pace = field(default_factory=Pace)
    breaker: Breaker = field(default_factory=Breaker)


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


R = TypeVar("R", bound=Served)


@dataclass(frozen=True, slots=True)
class Routes(Generic[R]):
    """Live routes by model name, and the models that have none: a route table.

    Where requests are answered it is a `RouteTable`; the supervisor, which answers none, has one of
    routes that lead to its workers.
    """

    generation: int = 0
    live: Mapping[str, R] = field(default_factory=lambda: MappingProxyType({}))
    unavailable: Mapping[str, Unavailable] = field(default_factory=lambda: MappingProxyType({}))

    def pick(self: "Routes[Route]", model: str, version: str | None = None) -> Route:
        """The route of a request.

        Raises:
            RequestError: `unknown_model`, `unknown_version` (naming what is loaded), `not_loaded`
                or `takes_tensors`.
        """
        route = self.live.get(model)
        if route is None:
            raise self._no_route(model)
        if version is not None and version != route.bundle.version:
            raise RequestError(
                "unknown_version",
                f"version {version!r:.70} of model {model!r} is not loaded; loaded: "
                f"{route.bundle.version} (live). Leave `version` out for the live one.",
            )
        if route.bundle.fitted is None:
            raise RequestError(
                "takes_tensors",
                f"model {model!r} takes tensors, not records. Its tensor path, "
                f"/v2/models/{model}/infer, comes with a later version; GET /models/{model} "
                "describes what it takes.",
            )
        return route

    def with_route(self, route: R) -> Self:
        """The next table, in which `route` is live."""
        name = route.bundle.name
        unavailable = {n: u for n, u in self.unavailable.items() if n != name}
        return self._next({**self.live, name: route}, unavailable)

    def without(self, missing: Unavailable) -> Self:
        """The next table, in which a model has no route."""
        live = {name: route for name, route in self.live.items() if name != missing.model}
        return self._next(live, {**self.unavailable, missing.model: missing})

    def _next(self, live: Mapping[str, R], unavailable: Mapping[str, Unavailable]) -> Self:
        return replace(self, generation=self.generation + 1, live=live, unavailable=unavailable)

    def names(self) -> list[str]:
        """Every model that this server is meant to serve."""
        return sorted({*self.live, *self.unavailable})

    def _no_route(self, model: str) -> RequestError:
        if missing := self.unavailable.get(model):
            return RequestError(
                "not_loaded",
                f"model {model!r} is not loaded: {missing.why}. Try again later; its operators see "
                "the reason in the server's log.",
            )
        return RequestError("unknown_model", self.no_such(model))

    def no_such(self, model: str) -> str:
        """What to say of a model that is not there."""
        return (
            f"no model {model!r:.70} here; there is {', '.join(self.names()) or 'none'}. GET "
            f"/models "
            "lists what is served."
        )


class RouteTable(Routes[Route]):
    """The table by which requests are routed."""

    __slots__ = ()


AnyRoutes = Routes[Any]
"""Of whatever routes: what the planes read of them is `Served`."""
