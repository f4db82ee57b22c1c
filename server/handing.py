"""Passing connections between processes, over a pair of local sockets for each worker.

Both ends stay open in the supervisor and in the dealer: what a dead or stopped worker has not taken
is still there to be taken back. The dealer's end gives connections and requests to move some; the
worker's end gives connections back. Each message is one packet. Standard library only.
"""

import errno
import socket
from typing import Final, NamedTuple

CONNECTION: Final = b"c"
USED: Final = b"u"
"""A connection on which a request has been answered: it may be idle for longer than a new one."""
MOVE: Final = b"m"
LONGEST: Final = 32
FULL: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS})


class Handed(NamedTuple):
    """A message: a connection's descriptor, or how many idle connections are to be given back.

    `is_used` if a request has been answered on the connection.
    """

    connection: int | None
    moves: int = 0
    is_used: bool = False


def make_pair() -> tuple[socket.socket, socket.socket]:
    """The dealer's end and the worker's end."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def hand(end: socket.socket, connection: int, *, is_used: bool = False) -> bool:
    """Passes a connection on; False if there is no room. The caller closes its own descriptor.

    It is closed at once: one kept until the other side has acknowledged would withhold the FIN.
    """
    try:
        socket.send_fds(end, [USED if is_used else CONNECTION], [connection])
    except OSError as error:
        if error.errno in FULL:
            return False
        raise
    return True


def ask_to_move(end: socket.socket, count: int) -> None:
    """Asks a worker to give back so many connections when they are idle, if there is room."""
    try:
        end.send(MOVE + b"%d" % count)
    except BlockingIOError:
        return


def take(end: socket.socket) -> Handed | None:
    """The next message; None if there is none.

    Raises:
        OSError: no descriptor is free, say; the message is still there, or lost with its connection
            where the kernel could not say.
    """
    try:
        message, descriptors, _, _ = socket.recv_fds(end, LONGEST, 1)  # the ends do not wait
    except BlockingIOError:
        return None
    if message[:1] == MOVE:
        return Handed(None, int(message[1:]))
    return Handed(descriptors[0] if descriptors else None, is_used=message[:1] == USED)
