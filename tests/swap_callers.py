"""Callers of `tests.three` in a process of their own, who look at every answer.

Requests are due at random times, whatever the server does, and latency counts from when a request
was due. Each answer has to be wholly of one version: encoder, features and model, in every row of a
list. When it was sent and when it came is noted, so that it can be told later by which version it
had to be answered; the clock is the machine's, the same in all processes.

python -m tests.swap_callers '{"port": …, "rate": …, …}'

It ends after `seconds`, or when its standard input is closed; without a `rate` each connection asks
as soon as it has its answer.
"""

import gc
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.calling import PATIENT
from tests.in_thread import post
from tests.three import NAME, record, version_of

TIMEOUT_SECONDS: Final = 60.0
"""For which no answer may come while some are awaited."""
LATE_SECONDS: Final = 0.001
SHOWN: Final = 5
"""Of answers that were wrong."""
LIST_EVERY: Final = 6
ONES, LIST = (0, 1, 2, 3), (1, 2, 3, 4)
BEGUN: Final = b"begun\n"
GAPS: Final = 200_000
"""So many times between arrivals are thought of, and then again."""


@dataclass(frozen=True, slots=True)
class Had:
    """What callers have had; arrays have an element for each request that was answered.

    Attributes:
        sent, came: when, float64 seconds of the machine's clock.
        latency: float64 seconds from when it was due.
        version: that answered, int64; 0 for a mixture, -1 where no model answered.
        asked: requests that were sent.
        closed: connections that the server closed, or said that it would.
        late: share of requests that were sent a millisecond late or more though a connection was
            free: this process was late itself.
        cpu: share of a processor that this process used.
        wrong: some answers that are of no one version.
    """

    sent: NDArray[np.float64]
    came: NDArray[np.float64]
    latency: NDArray[np.float64]
    version: NDArray[np.int64]
    asked: int
    closed: int
    late: float
    cpu: float
    seconds: float
    wrong: list[str]

    @property
    def failed(self) -> int:
        """Requests that got no answer of a model."""
        return self.asked - len(self.version) + int((self.version < 0).sum())

    @property
    def mixed(self) -> int:
        """Answers that are of more than one version, or of none that there is."""
        return int((self.version == 0).sum())

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.version) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Of the latencies."""
        return float(np.percentile(self.latency, percent)) * 1e3


def call_while(
    port: int,
    during: Callable[[], None] | None,
    folder: Path,
    *,
    seconds: float,
    rate: float | None,
    connections: int,
) -> Had:
    """Calls while something is done.

    Args:
        port: of the server.
        during: is done meanwhile, and ends the calls; None to call for so many seconds.
        folder: for what the callers note.
        seconds: for which they call at most.
        rate: requests a second; None for as many as are answered.
        connections: that are kept.
    """
    noted = folder / "had.npz"
    given = {"port": port, "rate": rate, "seconds": seconds, "connections": connections}
    command = [sys.executable, "-m", "tests.swap_callers", json.dumps(given | {"to": str(noted)})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as callers:
        assert callers.stdin is not None
        assert callers.stdout is not None
        assert callers.stdout.readline() == BEGUN
        try:
            if during is not None:
                during()
                callers.stdin.close()
            said = json.loads(callers.stdout.read())
        finally:
            if callers.poll() is None and sys.exception() is not None:
                callers.kill()
    with np.load(noted) as arrays:
        return Had(**dict(arrays.items()), **said)


# within the process of callers


@dataclass(eq=False, slots=True)
class _Connection:
    """A kept connection with at most one request on it."""

    sock: socket.socket
    due: float = 0.0
    sent: float = 0.0
    ys: tuple[int, ...] = ()
    received: bytes = b""

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, request: bytes, ys: tuple[int, ...], due: float) -> None:
        self.ys, self.received = ys, b""
        self.sent = time.perf_counter()
        self.due = min(due, self.sent)
        self.sock.sendall(request)

    def receive(self) -> tuple[bytes, bytes] | None:
        """Head and body as soon as they are whole."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError("closed")
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return None
        lower = head.lower()
        size = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return (lower, body) if len(body) >= size else None


class Versions:
    """Which version an answer is of, by all of it but its ids."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], bytes, bytes, bytes], int] = {}
        self.wrong: list[str] = []

    def of(self, head: bytes, body: bytes, ys: tuple[int, ...]) -> int:
        """0 for a mixture, -1 where no model answered."""
        first, _, rest = body.partition(b'"request_id"')
        rows = rest.partition(b'"predictions"')[2]
        key = (ys, head[9:12], first, rows)
        version = self._known.get(key)
        if version is None:
            version = self._known[key] = _version(head, body, ys)
        if version <= 0 and len(self.wrong) < SHOWN:
            self.wrong.append(f"{head[:12].decode()} {body[:400].decode()}")
        return version


def _version(head: bytes, body: bytes, ys: tuple[int, ...]) -> int:
    said = json.loads(body)
    rows = said.get("predictions", [said])
    if head[9:12] != b"200" or {row.get("served_by") for row in rows} != {"model"}:
        return -1
    found = {version_of(row["prediction"], y) for row, y in zip(rows, ys, strict=True)}
    version = found.pop()
    return version if not found and version and str(version) == said["version"] else 0


@dataclass(slots=True)
class _Noted:
    """What is noted of answers."""

    sent: list[float] = field(default_factory=list[float])
    came: list[float] = field(default_factory=list[float])
    latency: list[float] = field(default_factory=list[float])
    version: list[int] = field(default_factory=list[int])


def arrivals(rate: float) -> Iterator[float]:
    """Seconds at which independent callers come; the same in every run."""
    rng, now = random.Random(7), 0.0
    gaps = [rng.expovariate(rate) for _ in range(GAPS)]
    while True:
        for gap in gaps:
            now += gap
            yield now


class _Calls:
    """One run: sends what is due, notes what comes.

    Args:
        port: of the server.
        connections: that are kept.
        rate: requests a second; None for as many as are answered.
    """

    def __init__(self, port: int, connections: int, rate: float | None) -> None:
        path = f"/predict/{NAME}"
        self._port = port
        one, many = [record(y) for y in ONES], [record(y) for y in LIST]
        # Nobody but the model answers: how late that is, is measured.
        self._singles = [
            (post(path, json.dumps(each).encode(), PATIENT), (y,))
            for y, each in zip(ONES, one, strict=True)
        ]
        self._list = post(path, json.dumps(many).encode(), PATIENT), LIST
        self._free = deque(_Connection(_connected(port)) for _ in range(connections))
        self._busy: set[_Connection] = set()
        self._rate = rate
        self._versions = Versions()
        self._noted = _Noted()
        self._asked = self._closed = self._late = 0
        self._has_waited = False

    def run(self, seconds: float) -> dict[str, Any]:
        """Calls until the time is over or standard input is closed; gives what is not in `save`."""
        began = time.perf_counter()
        cpu, ends, is_open = time.process_time(), began + seconds, True
        gaps = repeat(0.0) if self._rate is None else arrivals(self._rate)
        due_times = (began + gap for gap in gaps)
        due = next(due_times)
        while is_open or self._busy:
            if is_open:
                due = self._send_due(due, due_times)
            now = time.perf_counter()
            is_open = is_open and now < ends
            readable = self._readable(min(due, ends) if self._free else ends, is_open=is_open)
            if not readable and not is_open:
                break  # what is awaited has failed
            is_open = is_open and sys.stdin not in readable
            for one in readable:
                if isinstance(one, _Connection):
                    self._receive(one)
        ended = time.perf_counter()
        return {
            "asked": self._asked,
            "closed": self._closed,
            "late": self._late / max(1, self._asked),
            "cpu": (time.process_time() - cpu) / (ended - began),
            "seconds": ended - began,
            "wrong": self._versions.wrong,
        }

    def save(self, to: str) -> None:
        """Writes the arrays of `Had`."""
        names = _Noted.__slots__
        arrays: dict[str, Any] = {name: np.array(getattr(self._noted, name)) for name in names}
        np.savez(to, **arrays)

    def _readable(self, until: float, *, is_open: bool) -> list[Any]:
        """Waits; `select` does so to the microsecond, `epoll` to the millisecond."""
        wait = max(0.0, until - time.perf_counter()) if is_open else TIMEOUT_SECONDS
        watched = [*self._busy, sys.stdin] if is_open else list(self._busy)
        return select.select(watched, [], [], wait)[0]

    def _send_due(self, due: float, due_times: Iterator[float]) -> float:
        """Sends all for which a connection is free; gives when the next is due."""
        now, is_first = time.perf_counter(), True
        while self._free and due <= now:
            # Of what waited for a connection nobody can say that it is this process that was late.
            is_late = self._rate is not None and now - due > LATE_SECONDS
            self._late += is_late and is_first and not self._has_waited
            turn = self._asked % len(self._singles)
            request, ys = self._singles[turn] if self._asked % LIST_EVERY else self._list
            self._asked += 1
            connection = self._free.popleft()
            connection.send(request, ys, now if self._rate is None else due)
            self._busy.add(connection)
            due, is_first, now = next(due_times), False, time.perf_counter()
        self._has_waited = not self._free
        return due

    def _receive(self, one: _Connection) -> None:
        try:
            answer = one.receive()
        except OSError:
            self._busy.remove(one)
            self._open_another(one)
            return
        if answer is None:
            return
        came = time.perf_counter()
        head, body = answer
        self._noted.sent.append(one.sent)
        self._noted.came.append(came)
        self._noted.latency.append(came - one.due)
        self._noted.version.append(self._versions.of(head, body, one.ys))
        self._busy.remove(one)
        if b"connection: close" in head:
            self._open_another(one)
        else:
            self._free.append(one)

    def _open_another(self, closed: _Connection) -> None:
        closed.sock.close()
        self._closed += 1
        self._free.append(_Connection(_connected(self._port)))


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def main(argument: str) -> None:
    """See the module."""
    given = json.loads(argument)
    calls = _Calls(given["port"], given["connections"], given["rate"])
    gc.disable()
    sys.stdout.buffer.write(BEGUN)
    sys.stdout.flush()
    told = calls.run(given["seconds"])
    calls.save(given["to"])
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
