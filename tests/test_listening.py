"""A port lets nobody in before there are answers, and loses nobody who was let in."""

import asyncio
import errno
import selectors
import socket
import sys
import threading
from pathlib import Path

import pytest

from server.listening import bind, from_beside, let_in, let_nobody_in
from server.settings import SettingsError
from tests.in_thread import Connection, server_over
from tests.serving import free_port
from tests.tiny import GOOD
from tests.workers import REQUEST

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux")


def connecting(port: int) -> socket.socket:
    """A connection that may come about or not."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", port))
    return sock


def outcome(sock: socket.socket, seconds: float) -> int | None:
    """What has become of it: 0 if it is there, an error's number, None if nothing yet."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        if not selector.select(seconds):
            return None
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_a_bound_port_is_taken_and_refuses_connections():
    with bind("127.0.0.1", 0, "port") as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        let_in(sock)
        socket.create_connection(("127.0.0.1", port), 5).close()
        with pytest.raises(
            SettingsError, match=rf"127.0.0.1:{port} cannot be listened on .*--port"
        ):
            bind("127.0.0.1", port, "port")


@pytest.mark.parametrize(
    ("listened", "reached"),
    [
        ("http://0.0.0.0:8081", "http://127.0.0.1:8081"),
        ("http://[::]:8081", "http://[::1]:8081"),
        ("http://10.0.0.7:8081", "http://10.0.0.7:8081"),
    ],
)
def test_commands_beside_a_server_ask_for_a_name_that_it_goes_by(listened: str, reached: str):
    assert from_beside(listened) == reached


def test_of_two_that_start_together_the_second_is_told():
    port = free_port()
    with bind("127.0.0.1", port, "port") as first, bind("127.0.0.1", port, "port") as second:
        let_in(first)
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be listened on"):
            let_in(second)


@LINUX
def test_who_has_come_is_there_and_who_comes_later_is_refused():
    """Not reset: he has sent nothing to anybody."""
    with bind("127.0.0.1", 0, "port") as sock:
        let_in(sock)
        port = sock.getsockname()[1]
        with connecting(port) as before:
            assert outcome(before, 5) == 0
            before.sendall(b"asked")
            asyncio.run(let_nobody_in(sock))
            with connecting(port) as later:
                assert outcome(later, 0.3) is None
                taken, _ = sock.accept()
                sock.close()
                assert taken.recv(5) == b"asked"
                taken.sendall(b"answered")
                before.setblocking(True)
                assert before.recv(8) == b"answered"
                taken.close()
                assert outcome(later, 30) == errno.ECONNREFUSED


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=LINUX)])
def test_every_connection_that_is_there_is_answered_while_the_server_stops(
    store: Path, tmp_path: Path, workers: int
):
    """Callers open one after the other, up to the moment at which none is let in any more."""
    failures: list[str] = []
    answered: list[int] = []

    def call(port: int) -> None:
        while True:
            try:
                connection = Connection(port)
            except OSError:
                return
            try:
                answered.append(connection.ask(REQUEST).status)
            except OSError as error:
                failures.append(repr(error))
            finally:
                connection.close()

    with server_over(store, tmp_path, workers=workers) as server:
        assert server.predict(GOOD).status == 200
        callers = [threading.Thread(target=call, args=(server.port,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        while len(answered) < 100:
            callers[0].join(0.01)
    for caller in callers:
        caller.join()
    assert failures == []
    assert set(answered) == {200}
