"""What runs behind the ports of a server with workers: models examined once, counted everywhere.

The supervisor answers the ops port and no prediction. It puts each bundle through its gate, makes
the file of its counters, publishes route tables to the workers, and sums what they count.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from models.errors import ServingError
from models.overrides import Changes, Effect, Override
from models.vocabulary import REPLACEMENT_REASONS
from server.board import Board, board_bytes, mapped, sealed_file
from server.control import Message, Now, Overrule, Refuses, Settled, Tested
from server.dealing import Dealing
from server.events import EventLog
from server.exposed import exposed, name_of, series_besides
from server.exposition import Exposition, negotiated
from server.facts import NO_FACTS, StateFacts
from server.findings import Findings, event_of
from server.fleet import Fleet
from server.health import Health, Phase, Question, liveness, readiness, startup
from server.http_counters import PATHS, HttpCounters
from server.leaving import Leaving
from server.logs import logger
from server.opening import forced_rung, selftest_action
from server.regions import fold
from server.retired import Retired
from server.routes import AnyRoutes, Routes, said
from server.runtime import (
    CannotReplace,
    Change,
    Keep,
    Prepared,
    PutOn,
    WorkerStatus,
    accepting,
    open_live,
    stalls_too_long,
    tell_if_not_batched,
)
from server.series import ModelSeries
from server.series_budget import SeriesBudget
from server.settings import Settings, SettingsError
from server.shared_routes import SharedRoute, examine, messages_of, tried
from server.standing import leave
from server.succession import WHY, Succession
from server.swap_counters import SwapCounters
from server.wanted import wanted_versions
from server.worker_series import worker_page

PATIENCE_SECONDS: Final = 30.0
"""So long no worker may be ready, or no dealer accept, before the server says that it is not
alive."""
DEAF_SECONDS: Final = 2.0
"""So long no dealer may accept before the server says that it is not ready."""

_log = logger("supervisor")


class NobodyHolds(ServingError):
    """A route table that no worker can hold; the message says why."""


class SupervisorRuntime:
    """Serves through workers.

    Args:
        settings: of the server.
        count: of workers.
        listener: of the data port.
        facts: that were read from the state folder.
        events: the log.
        lock: descriptor of the state folder's lock, which the workers hold too.

    Attributes:
        phase: where the server is in its life.
        routes: the current table.
        fleet: the workers.
        has_ended: nothing goes on in a thread of this process.
    """

    has_ended: Final = True

    def __init__(
        self,
        settings: Settings,
        count: int,
        listener: socket.socket,
        facts: StateFacts,
        events: EventLog,
        *,
        lock: int | None = None,
    ) -> None:
        self.phase = Phase.STARTING
        self.routes: AnyRoutes = Routes(facts.generation)
        self._settings = settings
        self._facts = facts
        self._events = events
        self._slots = count + 1
        self.swaps = SwapCounters()
        self.golden = Findings()
        self._pending: AnyRoutes | None = None
        self._is_careful = False
        self._deaths = 0
        self._turn = 0
        self._retired = Retired()
        self._leaving = Leaving()
        self._generation = facts.generation
        self._numbers = 0
        self._publishing = asyncio.Lock()
        self._stopping = threading.Event()
        self._telling: set[asyncio.Task[Any]] = set()
        self._refusal: str | None = None
        self._replaced: dict[str, int] = dict.fromkeys(REPLACEMENT_REASONS, 0)
        board = sealed_file("keelmark-board", board_bytes(self._slots))
        self._board = Board(board)
        self._board.generation = facts.generation
        part = HttpCounters(PATHS).n_bytes
        http = sealed_file("keelmark-http", part * self._slots)
        self._files = [board, http]
        memory = mapped(http)
        parts = [HttpCounters(PATHS, memory, offset=part * i) for i in range(self._slots)]
        self._exposition = Exposition(parts)
        self._budget = SeriesBudget(settings.max_series)
        shared = [] if lock is None else [lock]
        dealing = Dealing(listener, self._board, [board, *shared], self._dealer_replaced)
        self._dealing = dealing
        fleet_shares = [board, http, *shared]
        self.fleet: Final = Fleet(settings, count, self, dealing, self._board, fleet_shares)
        self._succession = Succession(self.fleet, self._let_go_in_place)
        self._count = count

    @property
    def workers(self) -> list[WorkerStatus]:
        """The worker processes, by slot."""
        return [
            WorkerStatus(
                slot=worker.slot,
                pid=worker.child.pid,
                state=worker.state,
                connections=self.fleet.connections(worker),
                memory_bytes=self.fleet.memory_bytes(worker.slot),
                cpu_seconds=self.fleet.cpu_seconds(worker.slot),
            )
            for worker in self.fleet.workers
        ]

    def health(self, question: Question) -> Health:
        """The answer to one of the three questions."""
        if question == "live":
            without = max(self.fleet.seconds_without, self._dealing.seconds_without)
            is_stuck = self.phase is Phase.SERVING and without > PATIENCE_SECONDS
            return Health(is_good=False, body={"live": False}) if is_stuck else liveness()
        if question == "startup":
            return startup(self.phase)
        told = readiness(self.phase, self.routes, self._settings.required_models, self.golden)
        ready = self.fleet.ready
        is_accepting = self._dealing.seconds_without < DEAF_SECONDS
        is_ready = told.is_good and ready > 0 and is_accepting
        workers = {"ready": ready, "wanted": self._count}
        return Health(is_ready, {**told.body, "ready": is_ready, "workers": workers})

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        form = negotiated(accept)
        shown = exposed(self.routes, self._retired, lambda route: route.regions)
        used = map(self.fleet.cpu_seconds, range(self._slots))
        page = worker_page(self.workers, used, self._replaced)
        page |= self._budget.page() | self.swaps.page(self.routes.generation)
        return form.content_type, self._exposition.page(shown, form, page)

    async def start(self) -> None:
        """Starts the workers, has them open the live version of every model, and lets callers in.

        One that cannot be opened does not take down the others: its requests are answered 503.

        Raises:
            NothingLive, StoreError, SettingsError: see `server.wanted.wanted_versions`.
        """
        found = await asyncio.to_thread(wanted_versions, self._settings, self._facts)
        self.routes = Routes(self.routes.generation, {}, {each.model: each for each in found})
        self.fleet.start()
        await self.fleet.until(lambda: self.fleet.ready > 0 or self._stopping.is_set())
        for each in found:
            if each.version is not None and not self._stopping.is_set():
                model, version = each.model, each.version
                told = self._facts, self._stopping, self._tell_of_model
                await open_live(self, model, version, *told)
        if not self._stopping.is_set():
            self._dealing.let_in()
            self._go_on(Phase.SERVING)

    def drain(self) -> None:
        """Not ready any more; requests are still answered, and nothing more is opened."""
        self._stopping.set()
        self._succession.stop()
        self._go_on(Phase.DRAINING)
        self.fleet.wake()

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Takes no connection, ends the workers, which answer what they have, and folds."""
        self._stopping.set()
        self._succession.stop()
        self.fleet.wake()
        await self.fleet.stop(hurry or asyncio.Event())
        self.phase = Phase.STOPPED
        if self._telling:
            await asyncio.wait(self._telling)
        for route in self.routes.loaded:
            os.close(route.counters)
        for route in self._leaving:
            os.close(route.counters)
        while self._files:
            os.close(self._files.pop())

    async def replace_workers(self, who: str, reason: str) -> int:
        """Puts a new worker into the place of each, one by one."""
        if self.phase is not Phase.SERVING:
            raise CannotReplace(f"the server is {self.phase.value}; try again when it serves")
        try:
            return await self.fleet.replace(who, reason)
        except ChildProcessError as error:
            raise CannotReplace(str(error)) from error

    async def publish(self, change: Change, keep: Keep) -> None:
        """Routes every request that begins after it returns by the changed table.

        Every worker holds the table before its generation is kept, and it is kept before the word
        on the board says that it holds. A worker that dies meanwhile has a successor, which is told
        of both tables. Whoever gives no sign of life is killed by who watches; nobody is here.
        """
        async with self._publishing:
            self._generation += 1  # never twice, also after one that came to nothing
            before, table = self.routes, replace(change(self.routes), generation=self._generation)
            self._pending, self._deaths, self._refusal = table, 0, None
            self._is_careful = False
            try:
                await self._hand_out(table)
                await keep(table.generation)
                self.routes = table
                self._board.generation = table.generation
            finally:
                self._pending = None
                self._settle(before, table)

    async def _hand_out(self, table: AnyRoutes) -> None:
        messages = messages_of(table, known=self.routes)
        is_careful = self._is_careful = self.phase is Phase.SERVING and len(messages) > 1

        def is_held() -> bool:
            told = [w for w in self.fleet.workers if w.state != "starting"]
            return bool(told) and all(w.holds >= table.generation for w in told)

        def is_hopeless() -> bool:
            if self._refusal is not None or self._stopping.is_set():
                return True
            return self._pending is None if is_careful else self._deaths > self._slots

        if is_careful:  # one at a time: opening takes processor time, and might end a worker
            for worker in self.fleet.workers:
                self.fleet.hand_out(messages, table.generation, worker)
                await self.fleet.until(
                    lambda worker=worker: (
                        worker.holds >= table.generation
                        or not self.fleet.is_there(worker)
                        or is_hopeless()
                    )
                )
                if is_hopeless():
                    break
        else:
            self.fleet.hand_out(messages, table.generation)
        await self.fleet.until(lambda: is_held() or is_hopeless())
        if self._pending is None or not is_held():
            why = self._refusal or "workers ended while they opened it"
            raise NobodyHolds(f"no worker can serve it: {why}")

    async def prepare(self, model: str, version: str) -> Prepared:
        """Examines a version in a process of its own, and makes the file of its counters."""
        self._numbers += 1
        facts = self._facts if self.phase is Phase.STARTING else NO_FACTS
        examined = partial(examine, self._settings, model, version, self._numbers, self._slots)
        accept = accepting(self.phase, f"{model}/{version}", self._count)
        checks = self._check_budget, self._stopping, accept
        route, report = await asyncio.to_thread(examined, *checks)
        try:
            route = said(route, forced_rung(route.bundle, self._settings, facts))
        except SettingsError:
            self.discard(route)
            raise
        await tell_if_not_batched(route, report, self._tell_of_model)
        action = selftest_action(route.bundle, self._settings, facts)
        return Prepared(replace(route, on_selftest=action), report)

    async def try_override(self, route: SharedRoute, changes: Changes, standing: Changes) -> Effect:
        """What an override would do to the golden rows of a bundle, opened once more for it."""
        said_of = changes, standing, route.said
        return await asyncio.to_thread(tried, self._settings, route.hold, *said_of)

    async def with_override(self, route: SharedRoute, override: Override) -> PutOn:
        """Makes an override ready that has been tried: what is given puts it on the route."""
        self._numbers += 1
        overrule = Overrule(number=self._numbers, bundle=route.hold.number, override=override)
        return lambda route: route.with_overrule(overrule)

    def discard(self, route: SharedRoute) -> None:
        """Lets a prepared route go that nobody has tried to publish."""
        os.close(route.counters)

    def is_heavy(self, route: SharedRoute) -> bool:
        """Whether workers are replaced that have its bundle, and do not let go of it."""
        return stalls_too_long(route, self._settings)

    async def settled(self, limit_seconds: float) -> bool:
        """Waits until no worker holds a bundle any more that is in no table."""
        limit_seconds += self._succession.patience_seconds
        with contextlib.suppress(TimeoutError):
            gone = self.fleet.until(lambda: not self._leaving and self._succession.is_over)
            await asyncio.wait_for(gone, limit_seconds)
        return not self._leaving

    def _check_budget(self, model: str, version: str, series: ModelSeries) -> None:
        others = series_besides(self.routes, self._retired, (model, version))
        self._budget.check(model, version, series, others)

    # what the fleet asks and tells

    def greetings(self) -> tuple[list[tuple[Message, list[int]]], int]:
        """The phase, the current table, and the one that is being published."""
        told: list[tuple[Message, list[int]]] = [(Now(self.phase.value), [])]
        told += messages_of(self.routes)
        told.append((Settled(self.routes.generation, self._turn), []))
        if self._pending is None:
            return told, self.routes.generation
        told += messages_of(self._pending, known=self.routes)
        return told, self._pending.generation

    def refused(self, refusal: Refuses) -> None:
        """A worker cannot hold a table."""
        pending = self._pending
        if pending is not None and refusal.generation == pending.generation:
            self._refusal = refusal.reason

    def released(self, stalls: Sequence[float] = ()) -> None:
        """Lets go of what no worker has open any more."""
        for seconds in stalls:
            self.swaps.releases.stalled(seconds)
        done = min((worker.released for worker in self.fleet.workers), default=self._turn)
        for route in self._leaving.gone(done):
            self._retired.close(route.hold.number)
            os.close(route.counters)

    def buried(self, slot: int) -> None:
        """Folds what the slot's last worker has committed."""
        tables = [table for table in (self.routes, self._pending) if table is not None]
        routes = {route.hold.number: route for table in tables for route in table.loaded}
        for route in routes.values():
            region = route.regions[slot]
            while fold(region):
                pass
            leave(region)
        self.golden.ended(slot)
        self.released()

    def tested(self, slot: int, pid: int, message: Tested) -> None:
        """A worker's self-test has found something, or that all is good again."""
        for route in self.routes.loaded:
            if route.hold.number == message.number:
                self.golden.put(route.bundle.digest, slot, message.finding)
                told = event_of(route, message.finding, slot=slot, pid=pid)
                self._soon(asyncio.to_thread(self._events.append, **told))

    def died(self, holds: int) -> None:
        """A worker has ended by itself.

        One may have been killed; two while they open bundles have died of them. Then successors are
        not told of these. Nobody dies of a table whose bundles are open already: successors have to
        hold it too.
        """
        if self._pending is None or holds >= self._pending.generation:
            return
        self._deaths += 1
        if self._deaths > 1 and self._is_careful:
            self._pending = None

    def tell(self, kind: str, facts: dict[str, Any], who: str) -> None:
        """Writes an event without waiting for the disk."""
        _log.warning(kind, **facts, who=who)
        if kind == "worker_replaced":
            self._replaced[facts["why"]] += 1
            self.swaps.releases.successors += facts["why"] == WHY
        self._soon(asyncio.to_thread(self._events.append, kind, who=who, facts=facts))

    # within

    async def _tell_of_model(self, kind: str, model: str, facts: dict[str, str]) -> None:
        await asyncio.to_thread(self._events.append, kind, model=model, facts=facts)

    def _settle(self, before: AnyRoutes, tried: AnyRoutes) -> None:
        """Has workers let go of what is in the current table no more, or has never come into it."""
        self._turn += 1
        gone: dict[int, SharedRoute] = {}
        for route in [*self.routes.lacks(before), *self.routes.lacks(tried)]:
            gone[route.hold.number] = route
        for route in self.routes.lacks(before):
            key, digest = route.hold.number, route.bundle.digest
            self._retired.add(key, name_of(route), digest, route.series, route.regions)
        self.golden.keep({route.bundle.digest for route in self.routes.loaded})
        is_serving = self.phase is Phase.SERVING
        for route in gone.values():
            is_kept = is_serving and self.is_heavy(route)
            self._leaving.add(route, self._turn, is_kept=is_kept)
            if is_kept:
                name, version = name_of(route)
                self._succession.begin(f"{name}/{version} is not loaded any more")
        self.fleet.say(Settled(self.routes.generation, self._turn, self._leaving.kept))

    def _let_go_in_place(self) -> None:
        """There are no successors: workers let go themselves of what they have kept."""
        self._leaving.keep_nothing()
        self.fleet.say(Settled(self.routes.generation, self._turn))

    def _go_on(self, phase: Phase) -> None:
        self.phase = phase
        self.fleet.say(Now(phase.value))

    def _dealer_replaced(self, code: int) -> None:
        self.tell("dealer_replaced", {"ended_with": code}, "server")

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
