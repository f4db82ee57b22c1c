"""Who gets which connection: evenly, also after workers and dealers have come and gone."""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from server.board import Board, board_bytes, sealed_file
from server.dealer import Dealer, message
from server.events import events_in
from server.handing import hand, make_pair, take
from tests.in_thread import Connection
from tests.serving import Server, serving
from tests.workers import (
    ARGUMENTS,
    REQUEST,
    Load,
    children_of,
    counted,
    is_quiet,
    is_whole,
    known_answers,
    replace_workers,
    wait_until,
    workers_of,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "20"))
BEGUN, REST = REQUEST[:40], REQUEST[40:]


def loads(folder: Path) -> list[int]:
    """Connections of the workers, by slot."""
    return [worker["connections"] for worker in workers_of(folder)]


@contextlib.contextmanager
def opened(server: Server, count: int, sent: bytes = REQUEST) -> Generator[list[Connection]]:
    """Connections that have sent something, all before any answer is read."""
    with contextlib.ExitStack() as stack:
        connections = [Connection(server.port) for _ in range(count)]
        for connection in connections:
            stack.callback(connection.close)
            connection.send(sent)
        yield connections


@pytest.mark.parametrize(("count", "share"), [(64, 32), (8, 4)])
def test_connections_opened_at_once_are_dealt_evenly(
    server: Server, folder: Path, count: int, share: int
):
    with opened(server, count) as connections:
        assert [connection.receive().status for connection in connections] == [200] * count
        assert loads(folder) == [share, share]
        samples = server.samples()
        for slot in ("0", "1"):
            key = ("keelmark_worker_connections", frozenset({("slot", slot)}))
            assert samples[key] == share


def test_four_workers_get_a_quarter_each(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--workers", "4") as server:
        wait_until(lambda: is_quiet(tmp_path, 4))
        for count in (64, 8):
            with opened(server, count) as connections:
                assert [connection.receive().status for connection in connections] == [200] * count
                assert loads(tmp_path) == [count // 4] * 4
            wait_until(lambda: is_quiet(tmp_path, 4))


def test_new_connections_go_to_the_new_worker_and_idle_ones_move_until_even(
    server: Server, folder: Path
):
    with opened(server, 20, BEGUN) as begun:  # half a request is no idle connection: none can move
        wait_until(lambda: loads(folder) == [10, 10])
        killed = workers_of(folder)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: is_whole(folder, without=killed))
        assert loads(folder) == [0, 10]
        with opened(server, 6) as new:
            assert [connection.receive().status for connection in new] == [200] * 6
            assert loads(folder) == [6, 10]
            alive = 0
            for connection in begun:
                with contextlib.suppress(OSError):
                    connection.send(REST)
                    alive += connection.receive().status == 200
            assert alive == 10
            wait_until(lambda: loads(folder) == [8, 8])


def test_a_new_dealer_knows_what_its_predecessor_dealt(server: Server, folder: Path):
    """Also what a worker has not taken: that goes to others, and is counted for nobody twice."""
    stopped = workers_of(folder)[0]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    with opened(server, 16) as first:
        (dealer,) = children_of(server.process.pid, "server.dealer")
        os.kill(dealer, signal.SIGKILL)
        assert [connection.receive().status for connection in first] == [200] * 16
        os.kill(stopped, signal.SIGCONT)
        with opened(server, 16) as second:
            assert [connection.receive().status for connection in second] == [200] * 16
            wait_until(lambda: loads(folder) == [16, 16])
    assert stopped in {worker["pid"] for worker in workers_of(folder)}


def test_what_its_predecessor_dealt_and_nobody_took_a_dealer_takes_back():
    with contextlib.ExitStack() as stack:
        board_file = sealed_file("keelmark-board", board_bytes(1))
        board = Board(board_file)
        (ours, theirs), (control, far), (kept, other) = make_pair(), make_pair(), make_pair()
        for end in (theirs, control, far, kept, other):
            stack.callback(end.close)
        for _ in range(3):
            assert hand(ours, kept.fileno())
        dealer = Dealer(control)
        dealer._on_begin([board_file])
        dealer._on_add([ours.detach(), os.dup(theirs.fileno())], worker=7, slot=0)
        assert take(theirs) is None
        board.beats(0)
        dealer._on_deal([], worker=7, on=True)
        dealer._deal_waiting()
        found = dealer._hands[7]
        assert (found.dealt, dealer._load(found)) == (3, 3)
        for _ in range(3):
            handed = take(theirs)
            assert handed is not None
            assert handed.connection is not None
            os.close(handed.connection)
        dealer._on_gone([], worker=7)
        os.close(board_file)


@pytest.mark.parametrize("is_read", [True, False])
def test_a_dealer_ends_quietly_when_nobody_waits_for_its_answer(*, is_read: bool):
    """Closed with its answers unread, a socket resets the other side; else the pipe is broken."""
    board = sealed_file("keelmark-board", board_bytes(1))
    far, control = make_pair()
    socket.send_fds(far, [message("begin")], [board])
    dealer = Dealer(control)
    assert dealer._obey()
    if is_read:
        far.recv(16)
    far.send(message("stop"))
    far.close()
    assert not dealer._obey()
    control.close()
    os.close(board)


def test_a_connection_that_was_moved_while_idle_is_idle_and_not_slow(store: Path, tmp_path: Path):
    """New ones have a second for their headers here, idle ones much longer."""
    arguments = (*ARGUMENTS, "--header-timeout-seconds", "1", "--keep-alive-seconds", "60")
    with serving(store, tmp_path, *arguments) as server:
        new = Connection(server.port)
        with opened(server, 8) as connections:
            assert [each.receive().status for each in connections] == [200] * 8
            replace_workers(tmp_path)
            assert new.is_closed()  # it has said nothing for too long
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                assert sum(loads(tmp_path)) == 8
                time.sleep(0.1)
            assert [each.ask(REQUEST).status for each in connections] == [200] * 8
        new.close()


@pytest.mark.parametrize("rounds", [2, pytest.param(ROUNDS, marks=pytest.mark.trial)])
def test_replacing_workers_under_load_fails_and_closes_nothing(
    server: Server, folder: Path, store: Path, rounds: int
):
    before, known = counted(server), known_answers(store)
    with Load(server.port, 16, known) as busy, Load(server.port, 48, known, pause=0.15) as paced:
        wait_until(lambda: busy.answered > 100 and paced.answered > 100)
        for _ in range(0, rounds, 2):
            old = {worker["pid"] for worker in workers_of(folder)}
            replace_workers(folder)
            new = workers_of(folder)
            assert not old & {worker["pid"] for worker in new}
            wait_until(lambda: loads(folder) == [32, 32])
    for load in (busy, paced):
        assert (load.failures, load.closed, load.lost) == ([], 0, 0)
    assert counted(server) - before == busy.answered + paced.answered
    last = [e.facts["why"] for e in events_in(folder / "state") if e.kind == "worker_replaced"]
    assert last[-rounds:] == ["asked"] * rounds
