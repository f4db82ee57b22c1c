"""A port's listening socket: bound at the start, open when there are answers, closed with no loss.

Bound first, so that a port that cannot be had is known before anything is opened. Nobody is let in
until the models are open: who is refused a connection has sent nothing, and goes elsewhere at once,
while a request that is taken and cannot be answered yet has failed.

A connection that the kernel has accepted and nobody has taken is reset when the listening socket is
closed. Its caller had connected and may have sent a request: whether that was worked on it cannot
know, so that no balancer may repeat it. So nobody new is let in for a moment before: what has come
through is taken, and who comes in that moment is not answered, asks again a second later as TCP
does, and is refused then.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import sys
from typing import Final

from server.settings import SettingsError

BACKLOG: Final = 2048
LAST_LOOKS: Final = 5
LOOK_SECONDS: Final = 0.01
"""Handshakes that are under way end in this time, and what has come is taken: between two looks the
loop hears of it, also where it gets no processor time for longer than that."""

SO_ATTACH_FILTER: Final = 26
"""Of Linux; Python has no name for it."""
NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of a TCP header that has the flags
    (0x45, 0, 1, 0x02),  # SYN among them: the next instruction, else the one after it
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # let all of it pass
)
"""A program for the kernel's packet filter: code, jump if true, jump if false, operand."""


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A socket that has the port, and refuses connections still.

    Args:
        host, port: what is listened on.
        flag: of the port, for the message.

    Raises:
        SettingsError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _cannot_be_had(f"{host}:{port}", flag, error) from error
    return sock


def let_in(sock: socket.socket, flag: str = "port") -> None:
    """Accepts connections from now on.

    Raises:
        SettingsError: another server that started at the same time has the port.
    """
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        host, port = sock.getsockname()[:2]
        raise _cannot_be_had(f"{host}:{port}", flag, error) from error


async def let_nobody_in(sock: socket.socket) -> None:
    """Returns when nothing more comes: what has come through by then is to be taken, and is all.

    Elsewhere than on Linux whoever comes in the moment before the socket is closed may be reset.
    """
    if sys.platform == "linux":
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in NO_SYN)
        program = ctypes.create_string_buffer(code)
        given = struct.pack("HL", len(NO_SYN), ctypes.addressof(program))
        with contextlib.suppress(OSError):  # a kernel without filters: nearly always nobody comes
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, given)
    for _ in range(LAST_LOOKS):
        await asyncio.sleep(LOOK_SECONDS)


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def from_beside(url: str) -> str:
    """How commands on the same machine reach what listens everywhere, which is no name to ask."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _cannot_be_had(address: str, flag: str, error: OSError) -> SettingsError:
    return SettingsError(
        f"{address} cannot be listened on ({error.strerror}); stop what uses it, or take another "
        f"with --{flag} (0 takes a free one)"
    )
