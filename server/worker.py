"""A worker: answers requests on the connections that the dealer passes to it. A process of its own.

Started by the supervisor, `python -m server.worker CONTROL PARENT`. It opens the bundles that it is
told to hold, in place and one after the other, in a thread; keeps the route tables that it is sent
by generation; and looks once a request, after its last byte, which of them holds. It counts into
its slot's part of the shared regions.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final

import uvicorn
import uvloop

from models.standing_back import stand_back_from_now_on
from models.trimming import trim
from server import logs
from server.apps import create_app
from server.board import Board, mapped
from server.connections import protocol_for
from server.control import (
    Begin,
    Channel,
    Held,
    Hold,
    Holds,
    Hurry,
    Leave,
    Now,
    Overrule,
    Refuses,
    Released,
    Settled,
    Stop,
    Table,
    Tested,
    receive,
)
from server.core import Core
from server.cost import curve
from server.findings import Finding
from server.handing import take
from server.health import Phase
from server.http_counters import PATHS, HttpCounters
from server.lanes import with_lane
from server.moving import Mover, moving
from server.opening import deadline_ns_of, layout_of, make_route, open_held
from server.orphans import die_with
from server.overrides import rungs_of
from server.port import Server, port_config, settle_memory
from server.regions import Region
from server.routes import Route, RouteTable, Rungs, Second, Unavailable
from server.runtime import InProcessRuntime
from server.settings import Settings
from server.warm_up import warm_up

BEAT_SECONDS: Final = 0.05
LOOK_SECONDS: Final = 0.005
AT_ONCE: Final = 16
"""Connections taken before requests get their turn."""
ToOpen = Hold | Overrule | Table | Settled
"""Messages that are taken one after the other, as some need a thread for a while."""

_log = logs.logger("worker")


class SharedCore(Core):
    """The path of requests, routed by the table whose generation stands on the board."""

    __slots__ = ("_board", "_table", "_tables")

    def __init__(self, settings: Settings, board: Board) -> None:
        self._board = board
        self._tables: dict[int, RouteTable] = {}
        self._table = RouteTable()
        super().__init__(settings)

    @property
    def routes(self) -> RouteTable:
        """The table that holds now: one word is read for each request."""
        generation = self._board.generation
        if generation != self._table.generation:
            self._table = self._tables.get(generation, self._table)
        return self._table

    @routes.setter
    def routes(self, table: RouteTable) -> None:
        """Holds a table; those that can no longer come to hold are let go."""
        now = self._board.generation
        kept = {g: held for g, held in self._tables.items() if g >= now}
        self._tables = {**kept, table.generation: table}

    def keep_only(self, generation: int) -> None:
        """Lets every table go but this one, by which requests are routed."""
        self._table = self._tables[generation]
        self._tables = {generation: self._table}


class WorkerRuntime(InProcessRuntime):
    """Serves what the supervisor says, counts into shared memory."""

    def __init__(self, begin: Begin, board: Board, http: HttpCounters) -> None:
        settings = Settings(**begin.settings)
        super().__init__(settings, core=SharedCore(settings, board), http=http)
        self._slot = begin.slot
        self._routes: dict[int, Route] = {}
        self._rungs: dict[int, Rungs] = {}
        self._kept: dict[int, Route] = {}
        self._stalls: list[float] = []
        self._when_free: list[Callable[[list[float]], None]] = []

    async def start(self) -> None:
        """Begins to fold; bundles are opened as they are named."""
        self.core.start_runner(self.http.vitals)
        self._fold_later(asyncio.get_running_loop())

    async def hold(self, asked: Hold, counters: int) -> None:
        """Opens a bundle; `counters` is the file of its counters.

        Raises:
            Exception: whatever opening it raises.
        """
        if asked.number not in self._routes:
            self._routes[asked.number] = await asyncio.to_thread(self._opened, asked, counters)

    async def overrule(self, asked: Overrule) -> None:
        """Makes ready what an operator has changed about a bundle that is open.

        Raises:
            Exception: whatever applying it raises.
        """
        bundle = self._routes[asked.bundle].bundle
        self._rungs[asked.number] = await asyncio.to_thread(rungs_of, bundle, asked.override)

    def hold_table(self, table: Table) -> None:
        """Keeps a table, whose bundles are open."""
        live = {route.bundle.name: route for route in map(self._as_held, table.live)}
        missing = {m.model: Unavailable(m.model, m.version, m.why) for m in table.missing}
        second = {
            route.bundle.name: Second(route, each.role, each.was_live, each.canary, each.shadow)
            for each, route in ((each, self._as_held(each.held)) for each in table.second)
        }
        self.core.routes = RouteTable(table.generation, live, missing, second)

    def settle(self, asked: Settled, released: Callable[[list[float]], None]) -> None:
        """Lets every table go but one, and the bundles that it has not and that are not to be kept.

        Args:
            asked: the table by which requests are routed, and what is to be kept.
            released: is called in this loop when nobody holds such a bundle any more and none is
                kept, with the seconds for which each stopped it. While one is kept it never is.
        """
        core = self.core
        assert isinstance(core, SharedCore)
        core.keep_only(asked.generation)
        standing = {id(route.override) for route in core.routes.loaded}
        self._rungs = {n: r for n, r in self._rungs.items() if id(r.override) in standing}
        wanted = {id(route.bundle) for route in core.routes.loaded}
        gone = [n for n, route in self._routes.items() if id(route.bundle) not in wanted]
        self._kept |= {number: self._routes.pop(number) for number in gone}
        for number in self._kept.keys() - asked.kept:
            self._still_held += 1
            self._releases.let_go(self._kept.pop(number).bundle, 0.0, self._is_free)
        self._when_free.append(released)
        asyncio.get_running_loop().call_soon(self._tell_if_free)

    def _is_free(self, seconds: float) -> None:
        self._still_held -= 1
        self._stalls.append(seconds)
        self._tell_if_free()

    def _tell_if_free(self) -> None:
        while self._when_free and not self._still_held and not self._kept:
            stalls, self._stalls = self._stalls, []
            self._when_free.pop(0)(stalls)

    def number_of(self, route: Route) -> int:
        """By which the supervisor knows a bundle that is loaded."""
        return next(n for n, held in self._routes.items() if held.bundle is route.bundle)

    def _as_held(self, held: Held) -> Route:
        route = self._routes[held.number]
        rungs = None if held.overrule is None else self._rungs[held.overrule]
        if rungs is None:
            route = route.without_override()
        elif rungs.override is not route.override:
            route = route.with_rungs(rungs)
        if (route.forced, route.on_selftest) != (held.forced, held.on_selftest):
            route = replace(route, forced=held.forced, on_selftest=held.on_selftest)
        self._routes[held.number] = route
        return route

    def _opened(self, asked: Hold, counters: int) -> Route:
        bundle = open_held(self.settings, asked)
        layout = layout_of(bundle)
        region = Region(layout, mapped(counters), offset=layout.part(self._slot))
        route = warm_up(make_route(bundle, curve(asked.run_seconds), region))
        trim()  # opening needs more than what is kept
        return replace(route, deadline_ns=deadline_ns_of(bundle, self.settings))


class WorkerServer(Server):
    """uvicorn's server without a listening socket: connections come over the pair.

    Attributes:
        is_up: it can take connections.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config, settings)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Nothing is listened on."""
        del sockets
        await self.lifespan.startup()
        self.servers = []
        self.started = True
        self.is_up.set()

    def protocol(self, *, is_used: bool) -> asyncio.Protocol:
        """A protocol for one connection; `is_used` if another worker has answered on it."""
        made: Any = self.config.http_protocol_class
        protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        if is_used:
            protocol.has_been_used()
        return protocol


class Worker:
    """Everything of one worker; on its loop.

    Args:
        begin: who it is.
        descriptors: that came with it.
        control: its end of the channel.
    """

    def __init__(self, begin: Begin, descriptors: list[int], control: socket.socket) -> None:
        pair, board, http, *self._lock = descriptors
        self._slot = begin.slot
        self._loop = asyncio.get_running_loop()
        self._pair = socket.socket(fileno=pair)
        self._board = Board(board)
        memory = mapped(http)
        counters = HttpCounters(PATHS, memory, offset=len(memory) // begin.slots * begin.slot)
        self.runtime = WorkerRuntime(begin, self._board, counters)
        self._mover = Mover(self._pair, self._board, begin.slot)
        settings = self.runtime.settings
        lane = create_app(settings, self.runtime)
        usual = protocol_for(settings.max_connections, settings.max_header_bytes, counters)
        protocol = moving(with_lane(settings, lane, usual), self._mover)
        config = port_config(settings, lane, protocol)
        self._server = WorkerServer(config, settings)
        lane.under_way = self._server.server_state.tasks
        self._opening: asyncio.Queue[tuple[ToOpen, list[int]]] = asyncio.Queue()
        self._refused: dict[int, str] = {}
        self._hurry = asyncio.Event()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._control = control

    async def run(self) -> bool:
        """Until it is told to end; gives whether nothing goes on in a thread."""
        self._beat()
        await self.runtime.start()
        serving = asyncio.create_task(self._server.serve())
        await self._server.is_up.wait()
        channel = Channel(self._control, self._on_message, partial(os._exit, 1))
        self.runtime.start_selftest(partial(self._tested, channel))
        opening = asyncio.create_task(self._open_in_order(channel))
        opening.add_done_callback(_end_if_it_failed)
        self._loop.add_reader(self._pair.fileno(), self._take)
        await self._ended.wait()
        opening.cancel()
        await self._end(serving)
        return self.runtime.has_ended

    async def _end(self, serving: asyncio.Task[None]) -> None:
        self._server.close_after_answers()
        await self._connect_all()
        await self._server.until_empty(self._hurry)
        self._loop.remove_reader(self._pair.fileno())
        self.runtime.refuse_new()
        self._server.should_exit = True
        await serving
        await self.runtime.stop()

    def _beat(self) -> None:
        self._board.beats(self._slot)
        for route in self.runtime.routes.loaded:
            route.notice.queued(self.runtime.core.queued(route))
        self._loop.call_later(BEAT_SECONDS, self._beat)

    # connections

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                found = take(self._pair)
            except OSError as error:
                _log.error("connection_not_taken", reason=str(error))
                return
            if found is None:
                return
            if found.connection is None:
                self._mover.wanted = found.moves
                self._mover.look(self._server.server_state.connections)
            else:
                self._board.has_taken(self._slot)
                connection = socket.socket(fileno=found.connection)
                self._do(self._connect(connection, is_used=found.is_used))

    async def _connect_all(self) -> None:
        """Takes all that has been dealt, so that nothing of it is overlooked at the end."""
        while True:
            self._take()
            connecting = self._tasks - {asyncio.current_task()}
            if not connecting:
                return
            await asyncio.wait(connecting)

    async def _connect(self, connection: socket.socket, *, is_used: bool) -> None:
        protocol = partial(self._server.protocol, is_used=is_used)
        try:
            await self._loop.connect_accepted_socket(protocol, connection)
        except OSError:  # the caller has gone: there is no protocol that could count that
            connection.close()
            self._mover.closed()

    # messages

    def _on_message(self, message: Any, descriptors: list[int]) -> None:
        match message:
            case Hold() | Overrule() | Table() | Settled():
                self._opening.put_nowait((message, descriptors))
            case Now(phase):
                self.runtime.phase = Phase(phase)
                if self.runtime.phase is Phase.DRAINING:
                    self._server.close_after_answers()
            case Leave():
                self._do(self._leave())
            case Stop():
                self._ended.set()
            case Hurry():
                self._hurry.set()
            case _:
                raise AssertionError(message)

    async def _open_in_order(self, channel: Channel) -> None:
        while True:
            message, descriptors = await self._opening.get()
            match message:
                case Hold():
                    await self._hold(message, descriptors[0])
                case Overrule():
                    await self._overrule(message)
                case Table():
                    channel.send(self._held(message))
                case Settled():
                    self.runtime.settle(message, partial(self._released, channel, message.turn))
                    self._refused.clear()  # no table names these any more

    async def _hold(self, asked: Hold, counters: int) -> None:
        try:
            await self.runtime.hold(asked, counters)
            settle_memory()
        except Exception as error:  # noqa: BLE001  (whatever it is, the supervisor hears of it)
            self._refused[asked.number] = str(error) or type(error).__name__
        finally:
            os.close(counters)  # what is mapped stays mapped

    async def _overrule(self, asked: Overrule) -> None:
        try:
            await self.runtime.overrule(asked)
        except Exception as error:  # noqa: BLE001  (whatever it is, the supervisor hears of it)
            self._refused[asked.number] = str(error) or type(error).__name__

    def _held(self, table: Table) -> Holds | Refuses:
        for held in (*table.live, *(second.held for second in table.second)):
            for number in (held.number, held.overrule):
                if number in self._refused:
                    return Refuses(table.generation, number, self._refused[number])
        self.runtime.hold_table(table)
        stand_back_from_now_on()
        return Holds(table.generation)

    def _released(self, channel: Channel, turn: int, stalls: list[float]) -> None:
        self._do(self._trim(channel, Released(turn, stalls)))

    async def _trim(self, channel: Channel, released: Released) -> None:
        await asyncio.to_thread(trim)
        channel.send(released)

    def _tested(self, channel: Channel, route: Route, finding: Finding | None) -> None:
        channel.send(Tested(self.runtime.number_of(route), finding))

    async def _leave(self) -> None:
        """Gives back connections as they become idle; the rest is told to close."""
        self._mover.is_leaving = True
        deadline = self._loop.time() + self.runtime.settings.drain_seconds
        connections = self._server.server_state.connections
        await self._connect_all()
        while connections and self._loop.time() < deadline and not self._hurry.is_set():
            self._mover.look(connections)
            await asyncio.sleep(LOOK_SECONDS)
        self._ended.set()

    def _do(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end_if_it_failed(opening: asyncio.Task[None]) -> None:
    """A worker that takes no tables any more must not go on: its successor does."""
    if not opening.cancelled() and (error := opening.exception()) is not None:
        _log.error("opening_failed", exc_info=error)
        logs.flush()
        os._exit(1)


async def _run(begin: Begin, descriptors: list[int], control: socket.socket) -> bool:
    # One thread for all that is slow and not a run: opening bundles, giving memory back.
    aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keelmark-aside")
    asyncio.get_running_loop().set_default_executor(aside)
    return await Worker(begin, descriptors, control).run()


def main(arguments: list[str]) -> None:
    """`python -m server.worker CONTROL PARENT`: the channel's descriptor, the parent's id."""
    control, parent = map(int, arguments)
    die_with(parent)
    end = socket.socket(fileno=control)
    first = receive(end)
    if first is None:
        return
    begin, descriptors = first
    assert isinstance(begin, Begin), begin
    settings = Settings(**begin.settings)
    logs.configure(settings.log_level, settings.log_format)
    has_ended = uvloop.run(_run(begin, descriptors, end))
    logs.flush()
    if not has_ended:
        os._exit(0)  # a run goes on in its thread: taking Python down under it may crash


if __name__ == "__main__":
    main(sys.argv[1:])
