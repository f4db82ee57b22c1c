"""An open loop in a process of its own, so that the client's threads take nothing from the server.

python -m tests.open_loop PORT RATE SECONDS DEADLINE_MS CONNECTIONS
"""

import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tests.in_thread import Connection, post
from tests.tiny import GOOD, NAME


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """A request that was answered: how long after it was due, and by whom."""

    seconds: float
    served_by: str
    reason: str | None


def open_loop(
    port: int, *, rate: float, seconds: float, deadline_ms: int, connections: int
) -> list[Sent]:
    """Sends requests at their times over kept connections, from another process."""
    numbers = map(str, (port, rate, seconds, deadline_ms, connections))
    command = [sys.executable, "-m", "tests.open_loop", *numbers]
    printed = subprocess.run(command, check=True, capture_output=True).stdout
    return [Sent(*one) for one in json.loads(printed)]


def send_all(
    port: int, rate: float, seconds: float, deadline_ms: int, connections: int
) -> list[Sent]:
    """Sends each request as soon as it is due and a connection is free."""
    header = f"Keelmark-Deadline-Ms: {deadline_ms}"
    request = post(f"/predict/{NAME}", json.dumps(GOOD).encode(), header)
    times = [number / rate for number in range(int(rate * seconds))]
    began = time.perf_counter() + 0.1
    sent: list[Sent] = []
    lock = threading.Lock()
    left = iter(times)

    def send() -> None:
        connection = Connection(port)
        with connection.sock:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                with lock:
                    due = next(left, None)
                if due is None:
                    return
                time.sleep(max(0.0, began + due - time.perf_counter()))
                # Latency is counted from the sending: a client that is late itself is no server.
                began_at = time.perf_counter()
                answer = connection.ask(request)
                taken = time.perf_counter() - began_at
                said = answer.json
                reasons: Sequence[str] = said.get("reasons", [])
                sent.append(Sent(taken, said["served_by"], reasons[0] if reasons else None))

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sent


if __name__ == "__main__":
    port, rate, seconds, deadline_ms, connections = sys.argv[1:]
    sent = send_all(int(port), float(rate), float(seconds), int(deadline_ms), int(connections))
    print(json.dumps([dataclasses.astuple(one) for one in sent]))  # noqa: T201  (what it is for)
