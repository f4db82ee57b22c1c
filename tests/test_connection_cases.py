"""Each row of the table of connections, over real sockets, in front of every kind of server.

After each the next caller is answered as ever, no request was answered that nobody sent, and no
connection is left. Behind HAProxy, which refuses and mends some of them itself, what counts is
that both see the same requests.
"""

import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.runtime import InProcessRuntime
from tests.connection_cases import ASK, CASES, MAX_BODY, MAX_HEAD, SLOW, TIMEOUT, Case
from tests.in_thread import Client, Connection, Response, get, server_over
from tests.serving import free_port
from tests.tiny import GOOD

LAST = get("/models/tiny")
"""Sent behind the rest to see whether the connection is still good."""
LONGEST_SECONDS = 15.0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")
HAPROXY = """
global
    maxconn 500
defaults
    mode http
    timeout connect 2s
    timeout client {timeout}ms
    timeout server 10s
    timeout http-request {timeout}ms
    timeout http-keep-alive 5s
    http-reuse always
frontend data
    bind 127.0.0.1:{port}
    default_backend keelmark
backend keelmark
    server one 127.0.0.1:{behind}
"""


@dataclass(frozen=True, slots=True)
class Front:
    """Where callers come, and the server behind it."""

    port: int
    server: Client
    is_proxied: bool

    @property
    def connections(self) -> int:
        """That the server has."""
        if isinstance(self.server.serving.runtime, InProcessRuntime):
            return len(self.server.connections)
        lines = self.server.ops("/metrics").body.decode().splitlines()
        counts = [line for line in lines if line.startswith("keelmark_worker_connections{")]
        return sum(int(line.split()[-1]) for line in counts)

    @property
    def requests(self) -> int:
        """That the server has answered."""
        lines = self.server.ops("/metrics").body.decode().splitlines()
        counts = [line for line in lines if line.startswith("keelmark_requests_total{")]
        return sum(int(line.split()[-1]) for line in counts)


@pytest.fixture(
    scope="module",
    params=[
        (1, "asgi", False),
        (1, "httptools", False),
        pytest.param((2, "asgi", False), marks=LINUX),
        pytest.param((2, "httptools", False), marks=LINUX),
        pytest.param((2, "httptools", True), marks=LINUX),
    ],
    ids=lambda p: f"{p[0]} process, {p[1]} lane{', behind HAProxy' * p[2]}",
)
def front(
    request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    workers, lane, is_proxied = request.param
    folder = tmp_path_factory.mktemp("state")
    limits = {"max_body_bytes": MAX_BODY, "max_header_bytes": MAX_HEAD}
    times = {"header_timeout_seconds": TIMEOUT, "body_timeout_seconds": TIMEOUT}
    with server_over(store, folder, workers=workers, lane=lane, **limits, **times) as server:
        direct = Front(server.port, server, is_proxied=False)
        if is_proxied:
            with haproxy(server.port, folder) as port:
                yield Front(port, server, is_proxied=True)
        else:
            yield direct
        assert until(lambda: direct.connections == 0)


@contextlib.contextmanager
def haproxy(behind: int, folder: Path) -> Generator[int]:
    """A real one in front of a port; gives its own."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.skip("haproxy is not installed; `make test` installs it, or the package haproxy")
    port = free_port()
    settings = folder / "haproxy.cfg"
    settings.write_text(HAPROXY.format(port=port, behind=behind, timeout=round(TIMEOUT * 1_000)))
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", settings], stdout=log, stderr=log)
    try:
        assert until(lambda: is_listening(port)), (folder / "haproxy.log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(10)


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def until(condition: Any) -> bool:
    """Whether something becomes true within the time."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def talk(port: int, case: Case, *, goes_on: bool) -> tuple[list[Response], bool]:
    """Sends what a case says; gives the answers, and whether a last request had its own, too."""
    connection = Connection(port)
    connection.sock.settimeout(LONGEST_SECONDS)
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answers: list[Response] = []
    try:
        with contextlib.suppress(ConnectionError):  # it may be closed before all was sent
            for step in (*case.sends, LAST) if goes_on else case.sends:
                act(connection, step)
        while not is_left(case):
            answer = connection.receive()
            if goes_on and b'"fields"' in answer.body and answer.status == 200:
                return answers, True
            answers.append(answer)
    except ConnectionError:
        pass
    finally:
        connection.close()
    return answers, False


def act(connection: Connection, step: bytes | float | str) -> None:
    if isinstance(step, bytes):
        connection.send(step)
    elif isinstance(step, float):
        time.sleep(step)
    elif step == "half close":
        connection.sock.shutdown(socket.SHUT_WR)
    elif step == "reset":
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_left(case: Case) -> bool:
    """Whether the caller goes without waiting for anything."""
    return bool(case.sends) and case.sends[-1] in ("close", "reset")


def is_ended(case: Case) -> bool:
    """Whether the caller can send nothing more."""
    return bool(case.sends) and isinstance(case.sends[-1], str)


@pytest.fixture(scope="module")
def prediction(front: Front) -> float:
    return front.server.predict(GOOD).json["prediction"]


def assert_clean(front: Front, answer: Response, prediction: float) -> None:
    """An answer is right, or refuses in our words; in a proxy's, where it is the proxy's."""
    if answer.status >= 400:
        is_ours = answer.headers.get("content-type") == "application/json"
        assert is_ours or front.is_proxied
        assert not is_ours or {"code", "message", "request_id"} <= answer.error.keys()
    elif answer.status == 200 and "keelmark-served-by" in answer.headers:
        items = answer.json.get("predictions", [answer.json])
        assert {item["prediction"] for item in items} == {prediction}


def assert_goes_on(front: Front, prediction: float) -> None:
    """Whoever comes next has the answer to what he asks."""
    for name in ("one", "two", "three")[: 3 if front.is_proxied else 1]:
        connection = Connection(front.port)
        answer = connection.ask(
            ASK.replace(b"\r\n\r\n", f"\r\nX-Request-Id: {name}\r\n\r\n".encode())
        )
        connection.close()
        assert (answer.status, answer.json["request_id"]) == (200, name)
        assert answer.json["prediction"] == prediction


@pytest.mark.parametrize("name", CASES)
def test_an_answer_or_a_clean_refusal(front: Front, prediction: float, name: str):
    case = CASES[name]
    before = front.requests
    goes_on = not is_ended(case) and (case.is_kept or front.is_proxied)
    answers, is_kept = talk(front.port, case, goes_on=goes_on)
    final = [answer for answer in answers if answer.status >= 200]
    for answer in final:
        assert_clean(front, answer, prediction)
    if not front.is_proxied:
        assert tuple(answer.status for answer in answers) == case.answers
        assert is_kept == case.is_kept
        if final and not is_kept and final[-1].status >= 400:
            assert final[-1].headers["connection"] == "close"
    if not is_ended(case):
        # Every answer is to a request that the server has seen, and to every one was one given.
        ours = [a for a in final if a.headers.get("content-type") == "application/json"]
        assert front.requests - before == len(ours) + is_kept
    if not front.is_proxied:
        assert until(lambda: front.connections == 0)
    assert_goes_on(front, prediction)


def test_who_stops_or_never_ends_is_not_held_for_ever(front: Front, prediction: float):
    began = time.monotonic()
    with ThreadPoolExecutor(len(SLOW)) as together:
        found = dict(
            zip(
                SLOW,
                together.map(lambda case: talk(front.port, case, goes_on=False), SLOW.values()),
                strict=True,
            )
        )
    assert time.monotonic() - began < LONGEST_SECONDS
    for name, (answers, _) in found.items():
        for answer in answers:
            assert_clean(front, answer, prediction)
        statuses = tuple(answer.status for answer in answers)
        if front.is_proxied:
            assert statuses[-1:] in ((), (200,), (400,), (408,), (502,), (504,)), name
        else:
            assert statuses == SLOW[name].answers, name
    if not front.is_proxied:
        assert until(lambda: front.connections == 0)
    assert_goes_on(front, prediction)


def test_an_endless_size_of_a_chunk_is_not_read_for_ever(front: Front, prediction: float):
    """Neither are an extension and a trailer: none of them is a body that grows too large."""
    start = ASK[: ASK.index(b"\r\n\r\n")].replace(b"Content-Length", b"X-Length")
    head = start + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    for begun, endless in ((b"", b"0" * 1024), (b"1;", b"a" * 1024), (b"0\r\nX: ", b"a" * 1024)):
        connection = Connection(front.port)
        connection.sock.settimeout(LONGEST_SECONDS)
        sent = 0
        with contextlib.suppress(ConnectionError):
            connection.send(head + begun)
            while sent < 1 << 26:
                sent += connection.sock.send(endless * 64)
        connection.close()
        assert sent < 1 << 26, f"it took 64 MB behind {begun!r}"
    assert_goes_on(front, prediction)


def test_more_callers_than_are_taken_do_not_keep_the_others_out_for_long(
    front: Front, prediction: float
):
    """Who opens connections and says nothing loses them."""
    idle = [socket.create_connection(("127.0.0.1", front.port), 5) for _ in range(100)]
    assert until(lambda: not any(is_open(each) for each in idle))
    for each in idle:
        each.close()
    assert_goes_on(front, prediction)


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False
