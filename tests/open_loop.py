"""An open loop in a process of its own, so that the client takes nothing from the server's threads.

Requests are due at fixed times, whatever the server does, and latency counts from when a request
was due: a server that stands still for a second has made everyone wait who came in that second, not
only the one whose request it held (a client that waits before it sends again would not see them).

python -m tests.open_loop '{"port": …, "rate": …, …}'
"""

import dataclasses
import gc
import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from tests.in_thread import post
from tests.tiny import GOOD, NAME

TIMEOUT_SECONDS: Final = 30.0
"""For which no answer may come while some are awaited."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """A request that was answered.

    Attributes:
        seconds: from when it was due to the last byte of its answer.
        served_by: the rung, of a list the first item's; empty where nobody answered.
        reason: the first; the error's code where nobody answered.
        status: of HTTP.
        unsent_seconds: the part of `seconds` before it was sent: no connection was free, or this
            process was late itself.
    """

    seconds: float
    served_by: str
    reason: str | None
    status: int = 200
    unsent_seconds: float = 0.0


def open_loop(
    port: int,
    *,
    rate: float,
    seconds: float,
    deadline_ms: int,
    connections: int,
    model: str = NAME,
    value: Any = GOOD,
    headers: Sequence[str] = (),
) -> list[Sent]:
    """Sends requests at their times over kept connections, from another process.

    Args:
        port: of the server.
        rate: requests a second.
        seconds: for which they come.
        deadline_ms: of each.
        connections: over which they go, each as soon as one is free.
        model: that is asked.
        value: the body, a record or a list.
        headers: more of them, as `Name: value`.
    """
    given = {"port": port, "rate": rate, "seconds": seconds, "connections": connections}
    lines = [f"Keelmark-Deadline-Ms: {deadline_ms}", *headers]
    request = {"path": f"/predict/{model}", "body": json.dumps(value), "headers": lines}
    command = [sys.executable, "-m", "tests.open_loop", json.dumps(given | request)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return [Sent(**one) for one in json.loads(printed)]


class _Connection:
    """A kept connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = self.sent_at = 0.0
        self._received = b""

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due, self.sent_at, self._received = due, time.perf_counter(), b""
        self.sock.sendall(request)

    def receive(self) -> bytes | None:
        """The whole answer as soon as it is there."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError(f"closed in an answer, after {self._received!r}")
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        lines = head.lower().split(b"\r\n")
        size = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        return self._received if len(body) >= size else None


def send_all(
    port: int, rate: float, seconds: float, connections: int, request: bytes
) -> list[Sent]:
    """See `open_loop`; what is due while no connection is free waits for the first one."""
    # The one free longest goes first: none is idle for so long that the server closes it.
    free = deque(_Connection(port) for _ in range(connections))
    busy: list[_Connection] = []
    answers: list[tuple[float, float, bytes]] = []
    gc.collect()  # what has been imported would be looked through, for a third of a second
    gc.freeze()
    began = time.perf_counter() + 0.1
    left = deque(began + number / rate for number in range(int(rate * seconds)))
    while left or busy:
        while left and free and left[0] <= time.perf_counter():
            connection = free.popleft()
            busy.append(connection)
            connection.send(request, left.popleft())
        # `select` waits to the microsecond, `epoll` to the millisecond.
        wait = max(0.0, left[0] - time.perf_counter()) if left and free else TIMEOUT_SECONDS
        readable = select.select(busy, [], [], wait)[0]
        if not readable and wait == TIMEOUT_SECONDS:
            raise TimeoutError(f"{len(busy)} requests without an answer for {wait:g} s")
        for connection in readable:
            answer = connection.receive()
            if answer is not None:
                taken = time.perf_counter() - connection.due
                answers.append((taken, connection.sent_at - connection.due, answer))
                busy.remove(connection)
                free.append(connection)
    for connection in free:
        connection.sock.close()
    return [_read(*answer) for answer in answers]


def _read(taken: float, unsent: float, answer: bytes) -> Sent:
    """Done after the last answer: reading takes time that others would have to wait."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, said = int(head.split(b" ", 2)[1]), json.loads(body)
    item = said.get("predictions", [said])[0]
    if "error" in item:
        return Sent(taken, "", item["error"]["code"], status, unsent)
    reason = next(iter(item.get("reasons", ())), None)
    return Sent(taken, item["served_by"], reason, status, unsent)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    path, body, lines = given.pop("path"), given.pop("body"), given.pop("headers")
    sent = send_all(**given, request=post(path, body.encode(), *lines))
    print(json.dumps([dataclasses.asdict(one) for one in sent]))  # noqa: T201  (what it is for)
