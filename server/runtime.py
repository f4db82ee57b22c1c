"""What runs behind the ports: models opened through the gate, counted, and let go at the end.

`Runtime` is what the apps and the ops plane may ask for. `InProcessRuntime` is all of it in one
process; `server.supervisor` has the other implementation, with workers, held to the same tests.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from models.errors import ServingError
from models.gate import GateReport
from models.overrides import Changes, Effect, Override, dry_run
from models.store import Store
from models.trimming import trim
from server.core import Core
from server.events import EventLog
from server.exposed import exposed, name_of, series_besides
from server.exposition import Exposition, negotiated
from server.facts import NO_FACTS, StateFacts
from server.findings import Finding, Findings, event_of
from server.health import Health, Phase, Question, liveness, readiness, startup
from server.http_counters import HttpCounters
from server.logs import Seldom, logger, where
from server.opening import Accept, accept_any, configured, copies_folder, open_route
from server.overrides import as_before, rungs_of
from server.releasing import Releases
from server.retired import Name, Retired
from server.room import check_measured
from server.routes import (
    AnyRoutes,
    Route,
    RouteTable,
    Served,
    Unavailable,
)
from server.selftest import Hear, SelfTest
from server.series_budget import SeriesBudget, TooManySeries
from server.settings import Settings, SettingsError
from server.swap_counters import SwapCounters
from server.wanted import wanted_versions, why_not

FOLD_SECONDS: Final = 0.05
"""How often it is looked whether counted rows should be folded; a full ring folds itself."""

Change = Callable[[AnyRoutes], AnyRoutes]
"""Makes the next table out of the current one."""
PutOn = Callable[[Any], Any]
"""Gives a route like the one that it is called with, and with an override."""
Keep = Callable[[int], Awaitable[None]]
"""Puts on the disk what is to survive, with the generation that it belongs to."""
Tell = Callable[[str, str, dict[str, str]], Awaitable[None]]
"""Writes an event of a kind, about a model, with facts."""

_log = logger("runtime")


class Prepared(NamedTuple):
    """A bundle that can be put into the route table, and what its gate found."""

    route: Any
    report: GateReport


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

    @property
    def golden(self) -> Findings:
        """What the self-tests of loaded bundles have found."""
        ...

    @property
    def swaps(self) -> SwapCounters:
        """What the metrics say of swaps; whoever does them counts them."""
        ...

    async def prepare(self, model: str, version: str) -> Prepared:
        """Examines a version of the store in a process of its own, and makes it ready to be routed.

        Raises:
            ServingError: it cannot be served, or has no room; the message says why.
        """
        ...

    def discard(self, route: Any) -> None:
        """Lets a prepared route go that nobody has tried to publish."""
        ...

    async def try_override(self, route: Any, changes: Changes, standing: Changes) -> Effect:
        """What an override would do to the golden rows of a route's bundle.

        Args:
            route: that has the bundle.
            changes: to be tried; none take away what stands.
            standing: that are in force, in the place of which the new ones would be.

        Raises:
            ServingError, OSError: they cannot be applied; the message says why.
        """
        ...

    async def with_override(self, route: Any, override: Override) -> PutOn:
        """Makes an override ready that has been tried: what is given puts it on the route.

        Raises:
            ServingError: it cannot be applied.
        """
        ...

    def is_heavy(self, route: Any) -> bool:
        """Whether letting go of a route's bundle stops a process for longer than it may."""
        ...

    async def settled(self, limit_seconds: float) -> bool:
        """Waits until nobody holds a bundle any more that is in no table; whether it came to that.

        Requests that are under way hold the bundle that they picked.
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

    Args:
        settings: of the server.
        facts: that were read from the state folder.
        events: the log.
        core: the path of requests.
        http: counters of requests, also of those that reach no bundle.

    Attributes:
        core: the path of requests; it holds the route table.
        http: counters of requests.
        phase: where the server is in its life.
        has_ended: whether nothing goes on in its thread, after `stop`.
        golden, swaps: see `Runtime`.
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
        self.swaps = SwapCounters()
        self.golden = Findings()
        self._selftest: SelfTest | None = None
        self._exposition = Exposition([self.http])
        self._budget = SeriesBudget(settings.max_series)
        self._retired = Retired()
        self._generation = facts.generation
        self._publishing = asyncio.Lock()
        self._still_held = 0
        self._releases = Releases(settings.max_stall_ms / 1e3, self._traffic)
        self._is_settled = asyncio.Event()
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
        return readiness(self.phase, self.routes, self.settings.required_models, self.golden)

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
        async with self._publishing:
            self._generation += 1  # never twice, also after one that came to nothing
            table: Any = replace(change(self.routes), generation=self._generation)
            await keep(table.generation)
            gone = table.lacks(self.routes)
            self.core.routes = table
        self.golden.keep({route.bundle.digest for route in table.loaded})
        while gone:
            self._let_go(gone.pop())

    async def prepare(self, model: str, version: str) -> Prepared:
        """Examines a version in a process of its own, opens it and warms it up."""
        store, copies = Store(self.settings.store), copies_folder(self.settings)
        accept = accepting(self.phase, f"{model}/{version}", processes=1)
        found = await asyncio.to_thread(
            open_route, store, model, version, self._stopping, copies, accept
        )
        facts = self._facts if self.phase is Phase.STARTING else NO_FACTS
        route = configured(found.route, self.settings, facts)
        others = series_besides(self.routes, self._retired, (model, version))
        try:
            self._budget.check(model, version, route.series, others)
        except TooManySeries:
            self.discard(route)
            raise
        await tell_if_not_batched(route, found.report, self._tell)
        return Prepared(route, found.report)

    async def try_override(self, route: Route, changes: Changes, standing: Changes) -> Effect:
        """What an override would do to the golden rows of a route's bundle."""
        forced = route.said
        return await asyncio.to_thread(
            dry_run, route.bundle, changes, standing=standing, forced=forced
        )

    async def with_override(self, route: Route, override: Override) -> PutOn:
        """Makes an override ready that has been tried: what is given puts it on the route."""
        rungs = await asyncio.to_thread(rungs_of, route.bundle, override)
        return lambda route: route.with_rungs(rungs)

    def discard(self, route: Route) -> None:
        """It goes when nobody holds it any more."""
        self._release(route, object())

    def is_heavy(self, route: Route) -> bool:
        """Whether letting go of its bundle waits for a pause."""
        return stalls_too_long(route, self.settings)

    async def settled(self, limit_seconds: float) -> bool:
        """Waits until the bundles are gone that are in no table."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                while self._still_held:
                    self._is_settled.clear()
                    await self._is_settled.wait()
        return not self._still_held

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        form = negotiated(accept)
        for route in self.routes.loaded:
            route.notice.queued(self.core.queued(route))
        shown = exposed(self.routes, self._retired, lambda route: [route.counter.region])
        more = self._budget.page(), self.swaps.page(self.routes.generation)
        return form.content_type, self._exposition.page(shown, form, *more)

    async def start(self) -> None:
        """Opens the live version of every model, and begins to fold.

        One that cannot be opened does not take down the others: its requests are answered 503.

        Raises:
            NothingLive: a model has several versions and nobody has said which is live.
            SettingsError: a rung is forced that is not there.
            StoreError: there is no store, or no model in it.
        """
        self.core.start_runner(self.http.vitals)
        found = await asyncio.to_thread(wanted_versions, self.settings, self._facts)
        unavailable = {each.model: each for each in found}
        self.core.routes = RouteTable(self._generation, unavailable=unavailable)
        for each in found:
            if each.version is not None and not self._stopping.is_set():
                name, version = each.model, each.version
                await open_live(self, name, version, self._facts, self._stopping, self._tell)
        if self._stopping.is_set():
            return
        self.phase = Phase.SERVING
        self._fold_later(asyncio.get_running_loop())
        self.start_selftest(self._tell_tested)

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
        if self._selftest is not None:
            self._selftest.stop()
        if self._timer is not None:
            self._timer.cancel()
        is_idle = self.core.spare is None or await self.core.spare.stop()
        if self.core.runner is not None:
            self.has_ended = await self.core.runner.stop() and is_idle
        for route in self.routes.loaded:
            while route.counter.pending:
                route.counter.fold()

    def start_selftest(self, hear: Hear) -> None:
        """Puts golden rows to what is loaded from now on, as spare work, if a setting wants it.

        Args:
            hear: hears what is found, after this process.
        """

        def found(route: Route, finding: Finding | None) -> None:
            self.golden.put(route.bundle.digest, 0, finding)
            hear(route, finding)

        spare, seconds = self.core.spare, self.settings.selftest_seconds
        if spare is not None and seconds:
            self._selftest = SelfTest(lambda: self.routes.loaded, spare, seconds, found)
            self._selftest.start()

    def _tell_tested(self, route: Route, finding: Finding | None) -> None:
        """Writes an event without waiting for the disk."""
        if self._events is not None:
            told = partial(self._events.append, **event_of(route, finding))
            asyncio.get_running_loop().run_in_executor(None, told)

    def _let_go(self, route: Route) -> None:
        """Keeps what was counted for a route that is in no table; its bundle goes when it can."""
        key, regions = object(), [route.counter.region]
        self._retired.add(key, name_of(route), route.bundle.digest, route.series, regions)
        self._release(route, key)

    def _release(self, route: Route, key: object) -> None:
        self._still_held += 1
        gone = partial(self._is_gone, key, name_of(route))
        self._releases.let_go(route.bundle, route.release_seconds, gone)

    def _is_gone(self, key: object, name: Name, seconds: float) -> None:
        self._retired.close(key)
        self.swaps.releases.stalled(seconds)
        model, version = name
        _log.info("let_go", model=model, version=version, stalled_seconds=round(seconds, 4))
        trimming = asyncio.get_running_loop().run_in_executor(None, trim)
        trimming.add_done_callback(lambda _: self._is_released())

    def _is_released(self) -> None:
        self._still_held -= 1
        self._is_settled.set()

    def _traffic(self) -> int | None:
        """Grows with each answer; None while a request waits for the runner or is in its thread."""
        runner = self.core.runner
        is_busy = runner is not None and not runner.is_idle
        return None if is_busy else int(self.http.read().sum())

    async def _tell(self, kind: str, model: str, facts: dict[str, str]) -> None:
        if self._events is not None:
            await asyncio.to_thread(self._events.append, kind, model=model, facts=facts)

    def _fold_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(FOLD_SECONDS, self._fold, loop)

    def _fold(self, loop: asyncio.AbstractEventLoop) -> None:
        """One fold a model and turn of the loop, until none is due; then a rest."""
        is_more_due = False
        try:
            for route in self.routes.loaded:
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


async def open_live(
    runtime: Runtime,
    name: str,
    version: str,
    facts: StateFacts,
    stopping: threading.Event,
    tell: Tell,
) -> None:
    """Puts a model into the table, as a route or with the reason why there is none.

    Args:
        runtime: that starts.
        name: of the model.
        version: of the model.
        facts: that were read from the state folder.
        stopping: set when the server is to end: then nothing is said.
        tell: writes an event.

    Raises:
        SettingsError: a rung is forced that is not there, which is for whoever starts the server.
    """
    try:
        route, _ = await runtime.prepare(name, version)
        route = await as_before(runtime, route, facts, time.time())
        await runtime.publish(lambda table: table.with_route(route), keep_nothing)
    except SettingsError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever one model raises, the others serve)
        if stopping.is_set():
            return
        # Of an error of ours the message says it all; anything else is a defect.
        trace = None if isinstance(error, ServingError) else error
        words = {"version": version, "reason": str(error)}
        _log.error("model_not_loaded", model=name, **words, exc_info=trace)
        missing = Unavailable(name, version, why_not(error))
        await runtime.publish(lambda table: table.without(missing), keep_nothing)
        await tell("model_not_loaded", name, words)
    else:
        digest = route.bundle.digest
        _log.info("model_loaded", model=name, version=version, digest=digest[:12])
        await tell("model_loaded", name, {"version": version, "digest": digest})


async def tell_if_not_batched(route: Served, report: GateReport, tell: Tell) -> None:
    """Tells of a bundle whose batches had the bits of single rows where it was packed, not here.

    Then each row is run by itself, which costs what sharing runs had saved.
    """
    bundle = route.bundle
    if bundle.manifest.batch_exact and not report.batch_exact:
        _log.warning("batching_off", model=bundle.name, version=bundle.version)
        with contextlib.suppress(OSError):  # what the disk does not take keeps no model away
            await tell("batching_off", bundle.name, {"version": bundle.version})


async def keep_nothing(_: int) -> None:
    """What is opened at the start is kept by who started it."""


def accepting(phase: Phase, what: str, processes: int) -> Accept:
    """Whether a bundle has room in memory; what is live at the start is opened if there is any way.

    Args:
        phase: of the server.
        what: the bundle is called.
        processes: that are to open it.
    """
    if phase is not Phase.SERVING:
        return accept_any
    return lambda report: check_measured(report, what, processes)


def stalls_too_long(route: Served, settings: Settings) -> bool:
    """Whether letting go of a route's bundle stops a process for longer than it may."""
    return route.release_seconds * 1e3 > settings.max_stall_ms
