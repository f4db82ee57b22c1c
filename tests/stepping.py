"""A server to whose processes something happens at a named step of a swap.

`python -m tests.stepping_server serve …` is `keelmark serve`, whose processes look at each step if
a file of its name lies in the folder of `FOLDER`. Who finds one takes it away and does what it
says: a worker or the verifying process kills or stops itself, the server kills itself or workers,
or one of its processes kills the server. So it happens at the step, whatever the machine is busy
with; the product knows nothing of it.

The processes: the server; its workers (`tests.stepping_worker`); the verifying process
(`tests/stepping_gate.py`).
"""

import asyncio
import functools
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

FOLDER: Final = "STEPPING_FOLDER"
"""Environment variable: where steps are armed."""
NOTICED_SECONDS: Final = 20.0

Act = Literal["kill worker", "stop worker", "kill workers", "kill server", "kill verifier"]

SWAP_EVENTS: Final = ("loaded", "promoted", "rolled_back", "unloaded")

_fleets: list[Any] = []
_workers: list[int] = []
"""The process id of this process, if it is a worker."""


def arm(folder: Path, step: str, act: Act) -> None:
    """Has it happen the next time that a process comes to this step."""
    aside = folder / f".{step}"
    aside.write_text(act)
    aside.replace(folder / step)


def taken(folder: Path, step: str) -> str | None:
    """What is to happen at the step, for whoever is there first."""
    aside = folder / f".{os.getpid()} {step}"
    try:
        (folder / step).rename(aside)
    except FileNotFoundError:
        return None
    act = aside.read_text()
    aside.unlink()
    return act


def at(step: str, *, notice: bool = False) -> None:
    """The server, or a worker, is at a step.

    Args:
        step: its name.
        notice: go on only when the server has noticed that the worker has ended; for threads.
    """
    act = taken(Path(os.environ[FOLDER]), step)
    if act is None:
        return
    sign = signal.SIGSTOP if act == "stop worker" else signal.SIGKILL
    if act == "kill server":
        os.kill(os.getppid() if _workers else os.getpid(), sign)
        time.sleep(NOTICED_SECONDS)  # a worker ends with the server
    if _workers:
        os.kill(os.getpid(), sign)
        return
    fleet = _fleets[0]
    workers = fleet.workers if act == "kill workers" else fleet.workers[:1]
    for worker in workers:
        os.kill(worker.child.pid, sign)
    end = time.monotonic() + NOTICED_SECONDS
    while notice and sign is signal.SIGKILL and any(map(fleet.is_there, workers)):
        assert time.monotonic() < end
        time.sleep(0.01)


def before(step: str, function: Callable[..., Any], *, notice: bool = False) -> Any:
    """The function, with a step before it."""

    @functools.wraps(function)
    def stepped(*arguments: Any, **named: Any) -> Any:
        at(step, notice=notice)
        return function(*arguments, **named)

    return stepped


def after(step: str, function: Callable[..., Any], *, notice: bool = False) -> Any:
    """The function, with a step after it."""

    @functools.wraps(function)
    def stepped(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        at(step, notice=notice)
        return result

    return stepped


def before_awaiting(step: str, function: Callable[..., Any]) -> Any:
    """The same for a coroutine function."""

    @functools.wraps(function)
    async def stepped(*arguments: Any, **named: Any) -> Any:
        await asyncio.to_thread(at, step, notice=True)
        return await function(*arguments, **named)

    return stepped


def after_awaiting(step: str, function: Callable[..., Any]) -> Any:
    """The same for a coroutine function."""

    @functools.wraps(function)
    async def stepped(*arguments: Any, **named: Any) -> Any:
        result = await function(*arguments, **named)
        await asyncio.to_thread(at, step, notice=True)
        return result

    return stepped


def step_server() -> None:
    """Puts the server's steps into this process."""
    from models import gate_child, machine_copy
    from server import fleet, opening, shared_routes
    from server.board import Board
    from server.events import EventLog
    from server.ops import ledger, swaps
    from server.runtime import InProcessRuntime
    from server.supervisor import SupervisorRuntime

    gate_child.__file__ = str(Path(__file__).with_name("stepping_gate.py"))
    _step_fleet(fleet)
    put(opening, "run_gate", partial(before, "verify", notice=True))
    put(machine_copy, "admit", partial(before, "copy written", notice=True))
    put(machine_copy, "admit", partial(after, "copy renamed", notice=True))
    put(shared_routes, "sealed_file", partial(after, "region made", notice=True))
    for runtime in (InProcessRuntime, SupervisorRuntime):
        put(runtime, "prepare", partial(after_awaiting, "prepared"))
        put(runtime, "publish", partial(after_awaiting, "published"))
        put(runtime, "settled", partial(after_awaiting, "settled"))
    put(SupervisorRuntime, "_hand_out", partial(before_awaiting, "table made"))
    put(SupervisorRuntime, "_hand_out", partial(after_awaiting, "all hold it"))
    put(ledger, "write_facts", partial(after, "facts kept", notice=True))
    put(Path, "replace", _step_replacing)
    word: Any = Board.generation
    put(Board, "generation", lambda _: word.setter(after("word stored", word.fset)))
    put(EventLog, "append", _step_telling)
    put(swaps, "sweep", partial(after, "swept", notice=True))
    for name in ("load", "unload", "promote", "rollback"):
        put(swaps.Swaps, name, partial(after_awaiting, "answered"))


def put(owner: Any, name: str, stepped: Callable[[Any], Any]) -> None:
    """Puts something stepped in the place of an attribute."""
    setattr(owner, name, stepped(getattr(owner, name)))


def _step_fleet(fleet: Any) -> None:
    """Keeps the fleet, whose workers have steps too, and a step after it has sent a table."""
    child, begun = fleet.Child, fleet.Fleet.__init__

    def remembered(self: Any, *arguments: Any) -> None:
        begun(self, *arguments)
        _fleets.append(self)

    fleet.Child = lambda _, *more: child("tests.stepping_worker", *more)
    fleet.Fleet.__init__ = remembered
    put(fleet.Fleet, "hand_out", partial(after, "hold sent"))


def _step_telling(append: Any) -> Any:
    """A step after the event of a swap."""

    def appended(self: Any, kind: str, **words: Any) -> Any:
        result = append(self, kind, **words)
        if kind in SWAP_EVENTS:
            at("event written", notice=True)
        return result

    return appended


def _step_replacing(replace: Any) -> Any:
    """Steps around the one moment in which new facts take the place of the old ones."""

    def replaced(self: Path, target: Path) -> Path:
        if self.name != "facts.json.new":
            return replace(self, target)
        at("facts aside", notice=True)
        result = replace(self, target)
        at("facts replaced", notice=True)
        return result

    return replaced


def step_worker() -> None:
    """Puts a worker's steps into this process."""
    _workers.append(os.getpid())
    from server.control import Channel, Holds, Released
    from server.worker import Worker, WorkerRuntime

    put(WorkerRuntime, "_opened", partial(before, "opening"))
    put(WorkerRuntime, "_opened", partial(after, "opened"))
    put(WorkerRuntime, "settle", partial(before, "settling"))
    put(Worker, "_held", partial(after, "held"))
    send: Any = Channel.send

    def sent(self: Any, message: Any, *more: Any) -> None:
        if isinstance(message, Released):
            at("released")
        send(self, message, *more)
        if isinstance(message, Holds):
            at("acknowledged")

    put(Channel, "send", lambda _: sent)
