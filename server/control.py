"""What supervisor and workers say to each other, and the channel between them.

A local socket of packets for each worker: one message a packet, JSON, with the descriptors that it
speaks of. The supervisor's end and the worker's are alike; each is used on one event loop.
"""

import array
import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from models.overrides import Override
from models.planning import Forced
from server.findings import Finding
from server.settings import SelftestAction

LARGEST: Final = 1 << 20
"""Bytes of a message: a route table of thousands of models fits."""
MOST_DESCRIPTORS: Final = 8


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag="begin"):
    """The first message: who the worker is.

    With it come the worker's end of its pair, the board, the counters of requests, and the state
    folder's lock, if there is one.
    """

    slot: int
    slots: int
    settings: dict[str, Any]


class Hold(msgspec.Struct, frozen=True, kw_only=True, tag="hold"):
    """A bundle to open, which has passed its gate; with it comes the file of its counters.

    `copies` are the sha256 of this machine's own copies of its models.
    """

    number: int
    model: str
    version: str
    digest: str
    batch_exact: bool
    run_seconds: dict[int, float]
    copies: dict[str, str] = {}


class Overrule(msgspec.Struct, frozen=True, kw_only=True, tag="overrule"):
    """What an operator has changed about a bundle, for tables that name it by its number."""

    number: int
    bundle: int
    override: Override


class Held(msgspec.Struct, frozen=True):
    """A live bundle of a table, by its number, and what an operator has changed about it."""

    number: int
    forced: Forced | None = None
    overrule: int | None = None
    on_selftest: SelftestAction = "fallback"


class HeldSecond(msgspec.Struct, frozen=True):
    """What a model's second slot holds in a table; see `server.routes.Second`."""

    held: Held
    role: Literal["candidate", "previous"]
    was_live: bool = False
    canary: float = 0.0
    shadow: float = 0.0


class Missing(msgspec.Struct, frozen=True):
    """A model of a table that has no bundle."""

    model: str
    version: str | None
    why: str


class Table(msgspec.Struct, frozen=True, kw_only=True, tag="table"):
    """A route table to hold, until the board says that its generation holds."""

    generation: int
    live: list[Held]
    second: list[HeldSecond]
    missing: list[Missing]


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """The table of this generation holds and no other is to come: let go of what it has not.

    `turn` grows with each such message. `kept` are numbers of bundles that the worker is to keep
    all the same, and end with: its successor has been thought of.
    """

    generation: int
    turn: int
    kept: list[int] = []


class Now(msgspec.Struct, frozen=True, tag="now"):
    """Where the server is in its life; when it drains, answers say `Connection: close`."""

    phase: str


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A successor is there: give back connections as they become idle, and end."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Nobody listens any more: answer what is under way, and end."""


class Hurry(msgspec.Struct, frozen=True, tag="hurry"):
    """End what waits for idle connections."""


class Holds(msgspec.Struct, frozen=True, tag="holds"):
    """The worker has this table, and every bundle of it is open."""

    generation: int


class Released(msgspec.Struct, frozen=True, tag="released"):
    """The worker has let go of what it was told to in this turn, and keeps nothing.

    `stalls` are the seconds for which it stood still each time since the last such message.
    """

    turn: int
    stalls: list[float] = []


class Tested(msgspec.Struct, frozen=True, tag="tested"):
    """What the worker's self-test finds of the bundle `number` from now on; None: all is good."""

    number: int
    finding: Finding | None = None


class Refuses(msgspec.Struct, frozen=True, tag="refuses"):
    """The worker cannot have this table; the reason is of the bundle or override `number`."""

    generation: int
    number: int
    reason: str


ToWorker = Begin | Hold | Overrule | Table | Settled | Now | Leave | Stop | Hurry
ToSupervisor = Holds | Refuses | Released | Tested
Message = ToWorker | ToSupervisor
Received = Callable[[Any, list[int]], None]

_read: Any = msgspec.json.Decoder(Message).decode
_write = msgspec.json.Encoder().encode


def make_ends() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    return ends


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors; None when the other side has ended.

    Raises:
        BlockingIOError: there is none, and the socket does not wait.
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(end, LARGEST, MOST_DESCRIPTORS)
    except ConnectionResetError:  # how an end arrives that has left something unread
        return None
    return (_read(message), descriptors) if message else None


class Channel:
    """One side of a channel, on the running loop.

    Args:
        end: the socket.
        received: takes each message with its descriptors, which are then its own.
        ended: is called once, when the other side has gone.
    """

    def __init__(self, end: socket.socket, received: Received, ended: Callable[[], None]) -> None:
        self._end = end
        self._received = received
        self._ended = ended
        self._outbox: deque[tuple[bytes, array.array[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._on_readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Sends, or keeps it until there is room: a stopped process takes nothing.

        The descriptors stay the caller's, who keeps them open while the other side lives.
        """
        if self._end.fileno() < 0:
            return
        self._outbox.append((_write(message), array.array("i", descriptors)))
        if len(self._outbox) == 1:
            self._flush()

    def close(self) -> None:
        """Nothing is received or sent any more."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()

    def _flush(self) -> None:
        while self._outbox:
            message, descriptors = self._outbox[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
            try:
                self._end.sendmsg([message], rights)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._on_writable)
                return
            except OSError:  # it has gone; reading tells
                self._outbox.clear()
                return
            self._outbox.popleft()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._end.fileno())
        self._flush()

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            found = receive(self._end)
            if found is None:
                self.close()
                self._ended()
            else:
                self._received(*found)
