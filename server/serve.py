"""`keelmark serve`: the data port and the ops port, in one process or with workers.

In one process they are two uvicorn servers on one event loop; with workers this process has the ops
port, and they the data port (`server.supervisor`). The ops port answers first, then the models are
opened, then the data port lets callers in (`server.listening`). On SIGTERM readiness goes false at
once; for a set delay everything is still answered, with `Connection: close`, so that load balancers
and clients go elsewhere; then nothing new is accepted, what is under way ends, the counters are
folded and the logs flushed.
"""

import asyncio
import contextlib
import math
import os
import resource
import signal
import socket
import sys
from asyncio import FIRST_COMPLETED as FIRST
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
import uvloop

from models.standing_back import stand_back_from_now_on
from models.store import Store
from server import logs
from server.apps import create_app
from server.connections import protocol_for
from server.cpus import usable_cpus
from server.events import EventLog
from server.facts import read_facts, write_facts
from server.follow import follow_of
from server.health import Phase
from server.lanes import with_lane
from server.listening import bind, from_beside, let_in, let_nobody_in, url_of
from server.ops.access import Guard
from server.ops.app import create_ops_app
from server.ops.desk import Desk
from server.port import Server, port_config, settle_memory
from server.runtime import InProcessRuntime
from server.settings import MOST_WORKERS, Settings, SettingsError
from server.state_folder import Ports, StateFolder
from server.supervisor import SupervisorRuntime
from server.tokens import Tokens
from server.version import installed_version

FILES_BESIDE: Final = 128
"""Files that are open beside connections: the models', logs, sockets, the gate's pipes."""

_log = logs.logger("serve")


class LocalPort:
    """The data port, answered by this process."""

    def __init__(self, settings: Settings, runtime: InProcessRuntime, sock: socket.socket) -> None:
        self._runtime = runtime
        self._sock = sock
        lane = create_app(settings, runtime)
        usual = protocol_for(settings.max_connections, settings.max_header_bytes, runtime.http)
        protocol = with_lane(settings, lane, usual)
        self._server = Server(port_config(settings, lane, protocol), settings)
        lane.under_way = self._server.server_state.tasks
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Answers from now on.

        Raises:
            SettingsError: the port cannot be had after all.
        """
        let_in(self._sock)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))

    def drain(self) -> None:
        """Still answers everything, with `Connection: close`."""
        self._runtime.drain()
        self._server.close_after_answers()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Takes nothing new, and ends what is under way."""
        if self._task is not None:
            await let_nobody_in(self._sock)
        self._server.stop_listening()
        await self._server.until_empty(hurry)
        self._runtime.refuse_new()
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        await self._runtime.stop()
        self._sock.close()


class Serving:
    """Both servers and what is behind them, from `start` to `stop`; made and used on one loop.

    Args:
        settings: of the server.
        folder: the state folder, which is locked for this server.
        lock: descriptor of that lock, for the workers to hold it too.

    Raises:
        SettingsError: a port cannot be had, or what is in the state folder cannot be read.
    """

    def __init__(self, settings: Settings, folder: Path, lock: int | None = None) -> None:
        workers, follow = worker_count(settings.workers), follow_of(settings)
        facts, tokens = read_facts(folder), Tokens(folder)
        self._folder, self._facts, self._store = folder, facts, Store(settings.store)
        self.events = EventLog(folder)
        data = bind(settings.host, settings.port, "port")
        self._ops_socket = bind(settings.ops_host, settings.ops_port, "ops-port")
        let_in(self._ops_socket, "ops-port")
        self.data_url, self.ops_url = url_of(data), url_of(self._ops_socket)
        self.runtime: InProcessRuntime | SupervisorRuntime
        self._port: LocalPort | SupervisorRuntime
        if workers == 1:
            self.runtime = InProcessRuntime(settings, facts, self.events)
            self._port = LocalPort(settings, self.runtime, data)
        else:
            self.runtime = self._port = SupervisorRuntime(
                settings, workers, data, facts, self.events, lock=lock
            )
        self._desk = Desk(self.runtime, folder, facts, self.events, self._store, follow=follow)
        guard = Guard(settings, tokens, self.events)
        ops = create_ops_app(self.runtime, guard=guard, desk=self._desk)
        usual = protocol_for(settings.max_connections, settings.max_header_bytes)
        self._ops = Server(port_config(settings, ops, usual), settings)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Answers on the ops port, opens the models, then answers on the data port.

        Raises:
            SettingsError: a port cannot be had after all; `stop` is still to be called.
            ServingError: there is nothing to serve, or nobody said what; the same holds.
        """
        self._tasks.append(asyncio.create_task(self._ops.serve(sockets=[self._ops_socket])))
        self._desk.catch_up()
        facts = {"version": installed_version(), "data": self.data_url, "ops": self.ops_url}
        self.events.append("started", facts=facts)
        await asyncio.to_thread(self._take_generations)
        await self.runtime.start()
        if isinstance(self._port, LocalPort) and self.runtime.phase is Phase.SERVING:
            self._port.start()
        await self._desk.open()

    def _take_generations(self) -> None:
        """Keeps those of the start on the disk: a server that is killed while it starts used some.

        There are two tables at most for each model: with it, or after that could not be, without.
        """
        models = {*self._store.names(), *self._facts.slots}
        generation = self._facts.generation + 2 * len(models)
        write_facts(self._folder, msgspec.structs.replace(self._facts, generation=generation))

    async def stop(self, *, delay_seconds: float, hurry: asyncio.Event | None = None) -> None:
        """Stops gracefully: nothing that has been accepted is lost.

        Args:
            delay_seconds: how long everything is still answered, with `Connection: close`.
            hurry: ends the delay early when it is set.
        """
        self._desk.drain()
        self._port.drain()
        hurry = hurry or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), delay_seconds or 0.001)
        await self._port.stop(hurry)
        self._ops.should_exit = True
        await asyncio.gather(*self._tasks)
        self._ops_socket.close()
        await self._desk.until_quiet()
        self._desk.close()
        self.events.append("stopped")
        self.events.close()


def worker_count(workers: int | Literal["auto"]) -> int:
    """How many processes are to answer.

    Raises:
        SettingsError: more than one, where that is not possible.
    """
    count = max(1, math.floor(usable_cpus())) if workers == "auto" else workers
    if count > 1 and sys.platform != "linux":
        if workers == "auto":
            return 1
        raise SettingsError(
            f"--workers {workers} needs Linux; leave it out, and one process answers everything"
        )
    return min(count, MOST_WORKERS)


def run(settings: Settings, warnings: Iterable[str] = ()) -> None:
    """Serves until SIGTERM or SIGINT, then stops gracefully.

    Args:
        settings: of the server.
        warnings: about the settings, for the log.

    Raises:
        SettingsError: a port or the state folder cannot be had.
        ServingError: there is nothing to serve.
    """
    logs.configure(settings.log_level, settings.log_format)
    for warning in warnings:
        _log.warning("settings", warning=warning)
    allow_open_files(settings.max_connections + FILES_BESIDE)
    state = StateFolder(settings.state_dir)
    has_ended = True
    try:
        has_ended = uvloop.run(_run(settings, state))
    finally:
        state.close()
        logs.flush()
    if not has_ended:
        os._exit(0)  # a run goes on in its thread: taking Python down under it may crash


async def _run(settings: Settings, state: StateFolder) -> bool:
    """Gives whether nothing goes on in a thread."""
    stopping = Stopping(asyncio.get_running_loop())
    serving = Serving(settings, state.path, state.lock)
    near = from_beside(serving.data_url), from_beside(serving.ops_url)
    state.announce(Ports(os.getpid(), *near))
    starting = asyncio.create_task(serving.start())
    await asyncio.wait([starting, asyncio.create_task(stopping.asked.wait())], return_when=FIRST)
    if starting.done() and not starting.exception():
        settle_memory()
        stand_back_from_now_on()
        _log.info("serving", data=serving.data_url, ops=serving.ops_url)
        await stopping.asked.wait()
    is_serving = serving.runtime.phase is Phase.SERVING
    delay = settings.drain_delay_seconds if stopping.wants_delay and is_serving else 0
    _log.info("stopping", delay_seconds=delay)
    await serving.stop(delay_seconds=delay, hurry=stopping.hurried)
    _log.info("stopped")
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    return serving.runtime.has_ended


class Stopping:
    """What signals have asked for: SIGTERM to stop with the delay, SIGINT or a second at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.wants_delay = False
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._on_signal, sign)

    def _on_signal(self, sign: signal.Signals) -> None:
        if self.asked.is_set():
            self.hurried.set()
        self.wants_delay = sign is signal.SIGTERM
        self.asked.set()


def allow_open_files(needed: int) -> None:
    """Raises the limit on open files as far as it goes, and warns where that is too little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS takes no unlimited one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        _log.warning("few_open_files", allowed=soft, needed=needed, advice="raise ulimit -n")
