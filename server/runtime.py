"""What runs behind the ports: models opened through the gate, counted, and let go at the end.

`Runtime` is what the apps and the ops plane may ask for; `InProcessRuntime` is all of it in one
process. Workers under a supervisor will be the second implementation, held to the same tests.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from features.runtime import version as onnxruntime_version
from models.bundle import Bundle
from models.errors import NothingLive, ServingError, StoreError
from models.gate import run_gate
from models.planning import Forced
from models.store import Store
from server.breaker import Breaker
from server.core import Core
from server.cost import RunCost, curve, one_by_one
from server.events import EventLog
from server.exposition import Exposed, Exposition, negotiated
from server.facts import NO_FACTS, StateFacts
from server.health import Health, Phase, Question, liveness, readiness, startup
from server.http_counters import HttpCounters
from server.layout import Layout
from server.logs import Seldom, logger, where
from server.notes import NoteWriter, notes_of
from server.protocols.predict import AnswerWriter
from server.regions import Counter, Region
from server.routes import AnyRoutes, Named, Route, RouteTable, Unavailable
from server.series import Facts, ModelSeries
from server.series_budget import SeriesBudget, TooManySeries
from server.settings import MOST_DEADLINE_MS, Settings, SettingsError
from server.standing import Notice
from server.warm_up import warm_up

FOLD_SECONDS: Final = 0.05
"""How often it is looked whether counted rows should be folded; a full ring folds itself."""

PATIENCE: Final = 4
"""A deadline is so many times the latency that the owner promises for 99 of 100 requests."""
DEFAULT_DEADLINE_MS: Final = 1_000.0

OPENING: Final = "it is being opened"
WHY_NOT: Final = "it did not pass its checks"
TOO_MANY_SERIES: Final = "its metrics have more series than there is room for"
NO_VERSION: Final = "the store does not say, or not readably, which version of it is live"

Change = Callable[[AnyRoutes], AnyRoutes]
"""Makes the next table out of the current one."""
Keep = Callable[[int], Awaitable[None]]
"""Puts on the disk what is to survive, with the generation that it belongs to."""

_log = logger("runtime")


class CannotReplace(Exception):
    """Workers that cannot be replaced, and why."""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker.

    Attributes:
        slot: its place; its successor counts on where it stopped.
        state: of `vocabulary.WORKER_STATES`.
        connections: that it has, or is about to take.
        memory_bytes: resident.
        cpu_seconds: that the workers of this slot have used up to now.
    """

    slot: int
    pid: int
    state: str
    connections: int
    memory_bytes: int
    cpu_seconds: float


class Runtime(Protocol):
    """What a plane may ask of whatever serves."""

    @property
    def routes(self) -> AnyRoutes:
        """The current table."""
        ...

    @property
    def phase(self) -> Phase:
        """Where the server is in its life."""
        ...

    def health(self, question: Question) -> Health:
        """The answer to one of the three questions."""
        ...

    @property
    def workers(self) -> list[WorkerStatus]:
        """The processes that answer requests, by slot; none where this one does."""
        ...

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        ...

    async def replace_workers(self, who: str, reason: str) -> int:
        """Puts a new worker into the place of each, one by one; gives how many.

        Raises:
            CannotReplace: there are none, or this is not the time for it; some may be replaced.
        """
        ...

    async def publish(self, change: Change, keep: Keep) -> None:
        """Routes every request that begins after it returns by the changed table.

        Args:
            change: makes the next table out of the current one.
            keep: puts its generation, and what else is to survive, on the disk before any request
                is routed by it.

        Raises:
            ServingError: nobody can serve by it; the current one stands.
            OSError: the disk did not take it; the current one stands.
        """
        ...

    async def start(self) -> None:
        """Opens what is to be served; returns when it is, or cannot be."""
        ...

    async def stop(self) -> None:
        """Lets everything go, when no request is under way any more."""
        ...


class InProcessRuntime:
    """One process, one event loop: serves, counts and answers for itself.

    Attributes:
        core: the path of requests; it holds the route table.
        http: counters of requests, also of those that reach no bundle.
        phase: where the server is in its life.
        has_ended: whether nothing goes on in its thread, after `stop`.
    """

    def __init__(
        self,
        settings: Settings,
        facts: StateFacts = NO_FACTS,
        events: EventLog | None = None,
        *,
        core: Core | None = None,
        http: HttpCounters | None = None,
    ) -> None:
        self.has_ended = True
        self.settings = settings
        self._facts = facts
        self._events = events
        self.core = core or Core(settings)
        self.http = http or HttpCounters()
        self.phase = Phase.STARTING
        self._exposition = Exposition([self.http])
        self._budget = SeriesBudget(settings.max_series)
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = threading.Event()
        self._seldom = Seldom()

    @property
    def routes(self) -> RouteTable:
        """The current table."""
        return self.core.routes

    def health(self, question: Question) -> Health:
        """The answer to one of the three questions."""
        if question == "live":
            return liveness()
        if question == "startup":
            return startup(self.phase)
        return readiness(self.phase, self.routes, self.settings.required_models)

    @property
    def workers(self) -> list[WorkerStatus]:
        """None: this process answers."""
        return []

    async def replace_workers(self, who: str, reason: str) -> int:
        """Not possible in one process."""
        raise CannotReplace(
            "this server is one process, without workers; `keelmark serve --workers 2` has some"
        )

    async def publish(self, change: Change, keep: Keep) -> None:
        """Routes every request that begins after it returns by the changed table."""
        await keep(self.routes.generation + 1)
        # Made now: other models may have been opened while the disk was waited for.
        table: Any = change(self.routes)
        self.core.routes = table

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        form = negotiated(accept)
        exposed: list[Exposed] = []
        for route in self.routes.live.values():
            route.notice.queued(self.core.queued(route))
            exposed.append(Exposed(route.series, [route.counter.region], route.forced))
        return form.content_type, self._exposition.page(exposed, form, self._budget.page())

    async def start(self) -> None:
        """Opens the live version of every model of the store, and begins to fold.

        One that cannot be opened does not take down the others: its requests are answered 503.

        Raises:
            NothingLive: a model has several versions and nobody has said which is live.
            SettingsError: a rung is forced that is not there.
            StoreError: there is no store, or no model in it.
        """
        self.core.start_runner(self.http.vitals)
        found = await asyncio.to_thread(wanted_versions, self.settings)
        unavailable = {each.model: each for each in found}
        self.core.routes = RouteTable(self._facts.generation, unavailable=unavailable)
        for each in found:
            if each.version is not None and not self._stopping.is_set():
                await self._open(each.model, each.version)
        if self._stopping.is_set():
            return
        self.phase = Phase.SERVING
        self._fold_later(asyncio.get_running_loop())

    def drain(self) -> None:
        """Not ready any more; requests are still answered, and nothing more is opened."""
        self.phase = Phase.DRAINING
        self._stopping.set()

    def refuse_new(self) -> None:
        """From now on requests get 503; those under way end."""
        self.core.is_draining = True

    async def stop(self) -> None:
        """Folds what was counted and lets the bundles go."""
        self.phase = Phase.STOPPED
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.core.runner is not None:
            self.has_ended = await self.core.runner.stop()
        for route in self.routes.live.values():
            while route.counter.pending:
                route.counter.fold()

    async def _open(self, name: str, version: str) -> None:
        """Puts a model into the table, as a route or with the reason why there is none."""
        try:
            route = await asyncio.to_thread(
                open_route, Store(self.settings.store), name, version, self._stopping
            )
            others = [route.series for route in self.routes.live.values()]
            self._budget.check(name, version, route.series, others)
        except Exception as error:  # noqa: BLE001  (whatever one model raises, the others serve)
            if self._stopping.is_set():
                return
            # Of an error of ours the message says it all; anything else is a defect.
            trace = None if isinstance(error, ServingError) else error
            facts = {"model": name, "version": version, "reason": str(error)}
            _log.error("model_not_loaded", **facts, exc_info=trace)
            self.core.routes = self.routes.without(Unavailable(name, version, why_not(error)))
            self._tell("model_not_loaded", name, version, reason=str(error))
        else:
            _log.info("model_loaded", model=name, version=version, digest=route.bundle.digest[:12])
            self.core.routes = self.routes.with_route(configured(route, self.settings, self._facts))
            self._tell("model_loaded", name, version, digest=route.bundle.digest)

    def _tell(self, kind: str, model: str, version: str, **facts: str) -> None:
        if self._events is not None:
            self._events.append(kind, model=model, facts={"version": version, **facts})

    def _fold_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(FOLD_SECONDS, self._fold, loop)

    def _fold(self, loop: asyncio.AbstractEventLoop) -> None:
        """One fold a model and turn of the loop, until none is due; then a rest."""
        is_more_due = False
        try:
            for route in self.routes.live.values():
                if route.counter.due():
                    route.counter.fold()
                    is_more_due = True
        except Exception as error:  # noqa: BLE001  (a defect of ours; without folds rings fill up)
            is_more_due = False
            self._say_not_folded(error)
        finally:
            if is_more_due:
                loop.call_soon(self._fold, loop)
            else:
                self._fold_later(loop)

    def _say_not_folded(self, error: Exception) -> None:
        held_back = self._seldom.held_back("fold")
        if held_back is not None:
            facts = {"kind": type(error).__name__, "where": where(error), "held_back": held_back}
            _log.error("fold_failed", **facts)


def why_not(error: Exception) -> str:
    """What callers are told of a model that was not loaded."""
    return TOO_MANY_SERIES if isinstance(error, TooManySeries) else WHY_NOT


def wanted_versions(settings: Settings) -> list[Unavailable]:
    """What is to be opened, see `live_versions`, if the settings fit it.

    Raises:
        NothingLive, StoreError: see `live_versions`.
        SettingsError: a rung is forced of a model that is not there.
    """
    found = live_versions(Store(settings.store))
    names = sorted(each.model for each in found)
    for name in settings.forced_rungs:
        if name not in names:
            raise SettingsError(
                f"--force names the model {name!r}, which the store has not; it has "
                f"{', '.join(names)}"
            )
    for name in set(settings.required_models or ()) - set(names):
        _log.warning("required_model_not_in_store", model=name)
    return found


def live_versions(store: Store) -> list[Unavailable]:
    """What is to be opened: of each model the version that the store wishes, or the only one.

    A model for which that cannot be found out has no version, and a reason.

    Raises:
        NothingLive: a model has several versions and nobody has said which is live.
        StoreError: there is no store, or no model in it.
    """
    names = store.names()
    if not names:
        raise StoreError(
            f"the store {store.root} has no model in it; pack one into it, or name another store "
            "with --store"
        )
    return [_live_version(store, name) for name in names]


def _live_version(store: Store, name: str) -> Unavailable:
    try:
        return Unavailable(name, store.resolve(name), OPENING)
    except NothingLive:
        raise
    except (ServingError, OSError) as error:
        _log.error("model_not_loaded", model=name, version=None, reason=str(error))
        return Unavailable(name, None, NO_VERSION)


def open_route(store: Store, name: str, version: str, cancelled: threading.Event) -> Route:
    """A bundle that has passed its gate in another process, opened and warmed up here.

    Args:
        store: that has it.
        name: of the model.
        version: of the model.
        cancelled: ends its gate early when it is set.

    Raises:
        BundleError: it cannot be served; the message says why and what to do.
    """
    report = run_gate(store.folder(name, version), cancelled=cancelled)
    bundle = store.open(name, version, batch_exact=report.batch_exact, digest=report.digest)
    return warm_up(make_route(bundle, curve(report.run_seconds)))


def make_route(bundle: Bundle, cost: RunCost, region: Region | None = None) -> Route:
    """A bundle with its counters.

    Args:
        bundle: that is to serve.
        cost: of its runs, by their rows, as its gate measured them.
        region: where its rows are counted; None for fresh memory of this process.
    """
    region = region or Region.anonymous(layout_of(bundle))
    notice = Notice(region)
    return Route(
        bundle,
        AnswerWriter(bundle),
        Counter(region),
        cost if bundle.batch_exact else one_by_one(cost),
        ModelSeries(region.layout, facts_of(bundle)),
        [output.kind in ("probability", "value") for output in bundle.outputs] == [True],
        NoteWriter(bundle),
        notice,
        breaker=Breaker(notice.breaker),
    )


def configured(route: Route, settings: Settings, facts: StateFacts) -> Route:
    """The route as the settings want it: deadline and forced rung.

    Raises:
        SettingsError: the bundle has no such rung.
    """
    forced = forced_rung(route.bundle, settings, facts)
    return replace(route, forced=forced, deadline_ns=deadline_ns_of(route.bundle, settings))


def forced_rung(bundle: Named, settings: Settings, facts: StateFacts) -> Forced | None:
    """The rung that a setting forces; where none does, what an operator said before a restart.

    Raises:
        SettingsError: the bundle has no such rung.
    """
    forced = settings.forced_rungs.get(bundle.name)
    forced = forced or facts.forced_rung(bundle.name, bundle.version, time.time())
    if forced == "baseline" and bundle.manifest.baseline is None:
        raise SettingsError(
            f"--force {bundle.name}=baseline: version {bundle.version} of {bundle.name!r} has no "
            "baseline; it has rules. Force them, or pack the model with a baseline"
        )
    return forced


def deadline_ns_of(bundle: Bundle, settings: Settings) -> int:
    """How long callers of a bundle wait, who do not say it themselves."""
    objective = bundle.manifest.objectives.latency_seconds
    ms = settings.deadline_ms or DEFAULT_DEADLINE_MS
    if settings.deadline_ms is None and objective is not None:
        ms = min(max(1.0, PATIENCE * objective * 1e3), MOST_DEADLINE_MS)
    return round(ms * 1e6)


def layout_of(bundle: Bundle) -> Layout:
    """Where the counters of a bundle lie."""
    return Layout(
        bundle.name,
        bundle.version,
        field_names=[field.name for field in bundle.fields],
        measures=bundle.measures,
        decisions=bundle.ladder.decisions.names,
        notes=notes_of(bundle),
        objective_seconds=bundle.manifest.objectives.latency_seconds,
    )


def facts_of(bundle: Bundle) -> Facts:
    """What the metrics say of a bundle that was loaded just now."""
    packed_at = bundle.manifest.training.packed_at
    return Facts(
        digest=bundle.digest,
        features=bundle.manifest.features.identity,
        onnxruntime=onnxruntime_version,
        owner=bundle.manifest.owner,
        loaded=time.time(),
        trained=datetime.fromisoformat(packed_at).timestamp() if packed_at else None,
    )
