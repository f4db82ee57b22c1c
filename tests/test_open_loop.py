"""The open loop that trials of load and deadlines are made with."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.open_loop import TIMEOUT_SECONDS, open_loop

ANSWER = b'{"served_by": "rules", "reasons": ["deadline"]}'
REFUSAL = b'{"error": {"code": "overloaded"}}'


@pytest.fixture
def stalling() -> Iterator[int]:
    """The port of a server with one connection that stands still once, for half a second."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_serve, args=(listening,))
        thread.start()
        yield listening.getsockname()[1]
        thread.join(TIMEOUT_SECONDS)


def _serve(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection, connection.makefile("rb") as asked:
        for number in range(1_000_000):
            if asked.readline() == b"":
                return
            size = 0
            while line := asked.readline().strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            asked.read(size)
            if number == 0:
                time.sleep(0.5)
            status, body = ("200 OK", ANSWER) if number < 10 else ("503 Busy", REFUSAL)
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)


def test_latency_counts_from_when_a_request_was_due(stalling: int):
    """One was held by the server; those that were due meanwhile had to wait as long."""
    sent = open_loop(stalling, rate=40, seconds=0.5, deadline_ms=1_000, connections=1)
    assert len(sent) == 20
    assert sent[0].seconds >= 0.5 > sent[0].unsent_seconds
    for number, one in enumerate(sent[1:], 1):
        assert one.seconds >= one.unsent_seconds >= 0.5 - number / 40
    answered = [(one.status, one.served_by, one.reason) for one in sent]
    assert answered == [(200, "rules", "deadline")] * 10 + [(503, "", "overloaded")] * 10
