"""The lanes against each other: what takes which, the same answers on both, which is chosen."""

import contextlib
import gc
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from server import create_app
from server.connections import Protocol, protocol_for
from server.httptools_lane import Quick, QuickProtocol
from server.lanes import BODY as BODY_OF_TRIAL
from server.lanes import ELSEWHERE as ELSEWHERE_OF_TRIAL
from server.lanes import HEAD, UnlikeError, _Trial, try_out, with_lane
from server.port import settle_memory
from server.settings import Settings, SettingsError
from tests.in_thread import Client, Response, get, post, server_over
from tests.tiny import GOOD, NAME

PATH = f"/predict/{NAME}"
BODY = json.dumps(GOOD).encode()
LIMITS: dict[str, Any] = {"max_body_bytes": 20_000, "max_rows": 40}
TRACE = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def quick(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("state")
    with server_over(store, state, lane="httptools", **LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def plain(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("state")
    with server_over(store, state, lane="asgi", **LIMITS) as client:
        yield client


def in_chunks(path: str) -> bytes:
    head = post(path, b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


QUICK: dict[str, bytes] = {
    "a record": post(PATH, BODY),
    "a list": post(PATH, json.dumps([GOOD, {**GOOD, "age": None}, 7]).encode()),
    "an empty list": post(PATH, b"[]"),
    "nothing": post(PATH, b""),
    "no JSON": post(PATH, b"{"),
    "a bad field": post(PATH, json.dumps({**GOOD, "age": "old"}).encode()),
    "repaired": post(PATH, json.dumps({**GOOD, "height": 99}).encode()),
    "strict": post(PATH, json.dumps({**GOOD, "height": 99}).encode(), "Keelmark-Strict: 1"),
    "too many rows": post(PATH, json.dumps([{}] * 41).encode()),
    "another model": post("/predict/other", BODY),
    "no model": post("/predict/", BODY),
    "a deeper path": post(f"{PATH}/7", BODY),
    "a version": post(f"{PATH}?version=1", BODY),
    "another version": post(f"{PATH}?x=y&version=9", BODY),
    "an id and a trace": post(PATH, BODY, "X-Request-Id: mine", TRACE),
    "kept alive": post(PATH, BODY, "Connection: keep-alive"),
    "an upgrade": post(PATH, BODY, "Connection: Upgrade", "Upgrade: h2c"),
    "a deadline": post(PATH, BODY, "Keelmark-Deadline-Ms: 60000"),
    "names in capitals": post(PATH, BODY).replace(b"Content-Type", b"CONTENT-TYPE"),
}
ELSEWHERE: dict[str, bytes] = {
    "a page": get("/models"),
    "another method": get(PATH),
    "to be closed": post(PATH, BODY, "Connection: close"),
    "HTTP/1.0": post(PATH, BODY, version="1.0"),
    "HTTP/1.0, kept alive": post(PATH, BODY, "Connection: keep-alive", version="1.0"),
    "chunks": in_chunks(PATH),
    "too large": post(PATH, b"", "Content-Length: 20001"),
    "another type": post(PATH, BODY, "Content-Type: text/plain"),
    "compressed": post(PATH, BODY, "Content-Encoding: gzip"),
    "no deadline": post(PATH, BODY, "Keelmark-Deadline-Ms: soon"),
    "a quoted path": post(PATH.replace("tiny", "t%69ny"), BODY),
    "an absolute address": post(f"http://test{PATH}", BODY),
}


@pytest.mark.parametrize("name", [*QUICK, *ELSEWHERE])
def test_both_lanes_give_the_same_answer(quick: Client, plain: Client, name: str):
    request = {**QUICK, **ELSEWHERE}[name]
    assert comparable(quick.send(request)) == comparable(plain.send(request))


def comparable(response: Response) -> tuple[Any, ...]:
    """All of an answer but its ids, which are unique and of one length."""
    body = re.sub(rb"[0-9a-f]{13}-[0-9a-f]{12}", b"id", response.body)
    return response.version, response.status, response.headers, body


@pytest.mark.parametrize("name", [*QUICK, *ELSEWHERE])
def test_what_is_usual_takes_the_quick_lane_and_nothing_else(quick: Client, name: str):
    taken: list[Any] = []
    request = {**QUICK, **ELSEWHERE}[name]
    assert until(lambda: not quick.connections)
    with quick.connect() as connection:
        assert until(lambda: bool(quick.connections))
        protocols = list(quick.connections)
        connection.ask(request)
        taken += [type(each.cycle) for each in protocols if each.cycle is not None]
    assert (Quick in taken) == (name in QUICK)


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


# what has to be right on a connection that changes lanes


def test_requests_of_both_lanes_are_answered_in_their_order(quick: Client):
    """Also where one is still being worked at when the next ones come."""
    long = post(PATH, json.dumps([GOOD] * 40).encode(), "X-Request-Id: long")
    asked = [long, get("/models"), post(PATH, BODY), in_chunks(PATH), post(PATH, BODY)] * 3
    with quick.connect() as connection, quick.connect() as other:
        for size in (1, 2, 5, 15):
            connection.send(b"".join(asked[:size]))
            other.send(post(PATH, BODY))
            answers = [connection.receive() for _ in range(size)]
            assert other.receive().status == 200
            assert [answer.status for answer in answers] == [200] * size
            assert ["models" in answer.json for answer in answers] == [
                request.startswith(b"GET") for request in asked[:size]
            ]


def test_every_request_counts_for_uvicorn(quick: Client):
    port: Any = quick.serving._port
    state: ServerState = port._server.server_state
    before = state.total_requests
    with quick.connect() as connection:
        for request in (post(PATH, BODY), get("/models"), post(PATH, BODY), in_chunks(PATH)):
            assert connection.ask(request).status == 200
    assert state.total_requests == before + 4


def test_a_body_that_comes_in_pieces(quick: Client):
    with quick.connect() as connection:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for byte in post(PATH, BODY):
                connection.send(bytes([byte]))
            assert connection.receive().status == 200


def test_the_deadline_counts_from_the_first_byte(quick: Client, plain: Client):
    """On the ASGI lane from the complete headers; uvicorn says no more."""
    for ending in ("X-Connection: kept", "Connection: close"):
        request = post(PATH, BODY, "Keelmark-Deadline-Ms: 150", ending)
        for server, is_late in ((quick, True), (plain, False)):
            with server.connect() as connection:
                connection.send(request[:10])
                time.sleep(0.3)
                answer = connection.ask(request[10:])
            assert is_late == (answer.status == 504 or answer.json.get("reasons") == ["deadline"])


def test_an_answer_after_its_caller_has_gone_is_counted(quick: Client):
    series = 'keelmark_requests_total{path="/predict/{model}",status="200"}'
    before = quick.metric(series)
    with quick.connect() as other:  # two connections: the answer waits for the loop's turn
        other.ask(get("/models"))
        with quick.connect() as connection:
            linger = b"\1\0\0\0\0\0\0\0"  # to be reset when it is closed
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.send(post(PATH, json.dumps([GOOD] * 40).encode()))
    assert until(lambda: quick.metric(series) == before + 1)


def test_who_leaves_before_the_body_is_whole_is_forgotten(quick: Client):
    assert until(lambda: not quick.connections)
    with quick.connect() as connection:
        connection.send(post(PATH, BODY)[:-3])
        assert until(lambda: len(quick.connections) == 1)
        (there,) = quick.connections
        waiting = there.lane.slow_bodies._waiting
        assert until(lambda: there in waiting)
    assert until(lambda: there not in waiting)


@pytest.mark.parametrize("server", ["quick", "plain"])
def test_a_peer_that_does_not_read_is_waited_for(server: str, request: pytest.FixtureRequest):
    """Neither its answers nor its next requests pile up here."""
    quick: Client = request.getfixturevalue(server)
    one = post(PATH, json.dumps([GOOD] * 40).encode())
    requests = memoryview(one * 5_000)
    assert until(lambda: not quick.connections)
    with quick.connect() as connection:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        assert until(lambda: bool(quick.connections))
        (there,) = quick.connections
        sock = there.transport.get_extra_info("socket")
        quick.call(sock.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.sock.setblocking(False)

        def is_paused() -> bool:
            nonlocal requests
            with contextlib.suppress(BlockingIOError):
                requests = requests[connection.sock.send(requests[: len(one)]) :]
            return there.flow.write_paused and there.flow.read_paused

        assert until(is_paused)
        assert type(there.cycle) is not Quick
        assert there.transport.get_write_buffer_size() < 1 << 20
        assert there._read_bytes < 1 << 22


# draining


def test_while_draining_answers_say_close_on_both_lanes(store: Path, tmp_path: Path):
    for lane in ("httptools", "asgi"):
        with (
            server_over(store, tmp_path / lane, lane=lane) as server,
            server.connect() as connection,
            server.connect() as slow,
        ):
            assert connection.ask(post(PATH, BODY)).headers.get("connection") is None
            slow.send(post(PATH, BODY)[:-3])
            assert until(lambda server=server: len(server.connections) == 2)
            time.sleep(0.1)
            port: Any = server.serving._port
            server.call(port.drain)
            for kept, request in ((connection, post(PATH, BODY)), (slow, BODY[-3:])):
                answer = kept.ask(request)
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert kept.is_closed()


def test_an_answer_with_others_waiting_behind_it_is_the_last_while_draining():
    trial = _Trial()
    trial.protocol.data_received(HEAD + BODY_OF_TRIAL + ELSEWHERE_OF_TRIAL)
    trial.protocol.server_state.default_headers.append((b"connection", b"close"))
    trial.answer()
    assert (trial.is_closed, trial.tasks) == (True, 0)


# which lane is chosen


def test_the_installed_uvicorn_is_as_the_quick_lane_needs_it():
    try_out()


def without_queue(self: Any) -> None:
    """A uvicorn that begins a request although another one is under way."""
    cycle, self.cycle = self.cycle, None
    ORIGINAL(self)
    del cycle


ORIGINAL = HttpToolsProtocol.on_headers_complete


@pytest.mark.parametrize(
    ("name", "otherwise"),
    [
        ("on_headers_complete", without_queue),
        ("on_headers_complete", lambda _: None),
        ("on_message_begin", lambda _: None),
        ("shutdown", lambda self: self.transport.close()),
        ("on_response_complete", lambda _: None),
        ("connection_lost", lambda _, __: None),
    ],
)
def test_a_uvicorn_that_does_otherwise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, name: str, otherwise: Any
):
    monkeypatch.setattr(HttpToolsProtocol, name, otherwise)
    with pytest.raises((UnlikeError, AttributeError, TypeError)):
        try_out()
    usual = protocol_for(10, 1024)
    lane = create_app(Settings())
    assert with_lane(Settings(), lane, usual) is usual
    with pytest.raises(SettingsError, match="--lane httptools does not go with uvicorn"):
        with_lane(Settings(lane="httptools"), lane, usual)


@pytest.mark.parametrize(
    ("lane", "base"), [("auto", QuickProtocol), ("httptools", QuickProtocol), ("asgi", Protocol)]
)
def test_the_lane_is_a_setting(lane: Any, base: type[Protocol]):
    made = with_lane(Settings(lane=lane), create_app(Settings()), protocol_for(10, 1024))
    assert issubclass(made, base)
    assert issubclass(made, QuickProtocol) == (base is QuickProtocol)


# garbage


@pytest.mark.parametrize("server", ["quick", "plain"])
def test_no_request_is_behind_a_full_collection(server: str, request: pytest.FixtureRequest):
    client: Client = request.getfixturevalue(server)
    collected: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            collected.append(about["generation"])

    thresholds = gc.get_threshold()
    settle_memory()
    frozen = gc.get_freeze_count()
    gc.callbacks.append(note)
    try:
        with client.connect() as connection, client.connect() as other:
            for _ in range(1_500):
                connection.send(post(PATH, BODY))
                assert other.ask(post(PATH, BODY)).status == 200
                assert connection.receive().status == 200
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    assert frozen > 10_000
    assert len(collected) <= 3
    assert 2 not in collected
