"""Sends requests when they are due, whether answers come or not, and times from then.

Reads what to do as JSON from standard input and prints an `OpenSample`. It has a core of its own
and never sleeps: a timer would be late by more than an answer takes.
"""

import json
import math
import random
import select
import socket
import sys
import time
from collections import deque
from typing import Any

GIVE_UP_SECONDS = 20
"""After the last request was due: a server that is overloaded needs longer than anybody waits."""
LATE_SECONDS = 0.001
"""A request that is sent later after its time had to wait for a free connection."""


class Connection:
    """One kept connection, with at most one request under way."""

    __slots__ = ("_got", "due", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.due = 0.0
        self._got = b""

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        if self.sock.send(request) != len(request):
            raise RuntimeError("a request did not fit into the socket's buffer")

    def answered(self) -> bytes | None:
        """The status line's code once the answer is whole."""
        got = self.sock.recv(262_144)
        if not got:
            raise RuntimeError("the server closed a connection")
        self._got = got = self._got + got if self._got else got
        head, separator, body = got.partition(b"\r\n\r\n")
        if not separator or not is_whole(head, body):
            return None
        self._got = b""
        return head[9:12]


def is_whole(head: bytes, body: bytes) -> bool:
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        return body.endswith(b"0\r\n\r\n")  # in chunks
    end = lower.find(b"\r\n", at)
    return len(body) >= int(lower[at + 15 : end if end > 0 else None])


def http_requests(pairs: list[tuple[str, str]]) -> list[bytes]:
    return [
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        for path, body in pairs
    ]


def due_times(rate: float, seconds: float) -> list[float]:
    """Independent callers: exponential gaps, the same in every run."""
    gaps, times, now = random.Random(0), [], 0.0
    while (now := now + gaps.expovariate(rate)) < seconds:
        times.append(now)
    return times


def run(port: int, requests: list[bytes], times: list[float], connections: int) -> dict[str, Any]:
    all_connections = [Connection(port) for _ in range(connections)]
    by_file = {one.sock.fileno(): one for one in all_connections}
    poll = select.epoll()
    for file in by_file:
        poll.register(file, select.EPOLLIN)
    free, latencies = deque(all_connections), []
    clock, count, kinds = time.perf_counter, len(times), len(requests)
    sent = failed = late = 0
    began = clock() + 0.05
    until = times[-1] + GIVE_UP_SECONDS
    while len(latencies) < count:
        now = clock() - began
        if now > until:
            break
        while free and sent < count and times[sent] <= now:
            free.popleft().send(requests[sent % kinds], times[sent])
            late += now - times[sent] > LATE_SECONDS
            sent += 1
        for file, _ in poll.poll(0):
            one = by_file[file]
            status = one.answered()
            if status is not None:
                latencies.append(clock() - began - one.due)
                failed += status != b"200"
                free.append(one)
    ended = clock() - began
    return {
        **percentiles(latencies + [math.inf] * (count - len(latencies))),
        "answered_rate": len(latencies) / ended,
        "failed": failed + count - len(latencies),
        "late_sends": late / count,
    }


def percentiles(latencies: list[float]) -> dict[str, float]:
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return min(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 1e6)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0)}


def main() -> None:
    given = json.load(sys.stdin)
    times = due_times(given["rate"], given["seconds"])
    found = run(given["port"], http_requests(given["requests"]), times, given["connections"])
    print(json.dumps({"rate": given["rate"], **found}))


if __name__ == "__main__":
    main()
