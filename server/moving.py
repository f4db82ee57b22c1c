"""Giving idle connections to another worker, so that replacing a worker closes none.

A connection is idle when every request that has begun on it is answered and the answer is written:
then neither the parser nor the transport has anything of it, and its descriptor can go on living in
another process. The caller notices nothing.
"""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from server.board import Board
from server.connections import Protocol
from server.handing import hand
from server.watches import is_between_requests

AGAIN_SECONDS: Final = 0.002


class Mover:
    """Which connections of a worker are to go; on its loop.

    Args:
        end: the worker's end of its pair.
        board: where connections are counted.
        slot: the worker's.

    Attributes:
        is_leaving: all are to go.
        wanted: how many are to go otherwise.
    """

    def __init__(self, end: socket.socket, board: Board, slot: int) -> None:
        self._end = end
        self._board = board
        self._slot = slot
        self.is_leaving = False
        self.wanted = 0

    @property
    def is_wanted(self) -> bool:
        """Whether the next idle connection is to go."""
        return self.is_leaving or self.wanted > 0

    def look(self, connections: Iterable[Any]) -> None:
        """Gives back idle connections, as many as are wanted."""
        for connection in list(connections):
            if not self.is_wanted:
                return
            self.move(connection)

    def move(self, connection: "MovingProtocol") -> None:
        """Gives a connection back if it is idle."""
        if not (self.is_wanted and connection.is_idle):
            return
        transport: Any = connection.transport
        transport.pause_reading()
        descriptor = transport.get_extra_info("socket").fileno()
        if not hand(self._end, descriptor, is_used=connection.is_used):
            transport.resume_reading()
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self.move, connection)
            return
        self.wanted = max(0, self.wanted - 1)
        transport.abort()  # nothing is sent for it: the descriptor lives on in the pair

    def closed(self) -> None:
        """A connection has ended here, or gone elsewhere."""
        self._board.has_closed(self._slot)


class MovingProtocol(Protocol):
    """HTTP/1.1 on a connection that can move. Made by `moving`."""

    mover: ClassVar[Mover]

    @property
    def is_idle(self) -> bool:
        """Whether nothing of a request or an answer is in this process."""
        transport: Any = self.transport
        return (
            is_between_requests(self)
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    @property
    def is_used(self) -> bool:
        """Whether a request has been answered on it, here or where it was before."""
        return self.headers is not None

    def has_been_used(self) -> None:
        """Says so of one that has come from elsewhere: it is idle, and not slow to begin."""
        self.headers = self.headed = []

    def on_response_complete(self) -> None:
        """The answer is written in this turn of the loop; then the connection may be moved."""
        super().on_response_complete()
        if self.mover.is_wanted:
            self.loop.call_soon(self._move)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.mover.closed()

    def _move(self) -> None:
        self.mover.move(self)


def moving(protocol: type[Protocol], mover: Mover) -> type[MovingProtocol]:
    """A port's protocol, with connections that can move."""
    return type("MovingProtocol", (MovingProtocol, protocol), {"mover": mover})
