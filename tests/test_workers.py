"""A server with workers as real processes: dealing, replacing, counting, ending."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server import supervisor
from server.cli.ops_client import ServerSaysNo, call
from server.events import events_in
from server.runtime import Prepared
from server.state_folder import running_server
from server.supervisor import SupervisorRuntime
from tests.in_thread import Connection, server_over
from tests.serving import Server, serving, wait_until_ready
from tests.tiny import GOOD, NAME, pack_tiny
from tests.workers import (
    ARGUMENTS,
    MOST_ROWS,
    REQUEST,
    WAIT_SECONDS,
    Load,
    children_of,
    counted,
    descriptors_of,
    force,
    is_quiet,
    is_whole,
    known_answers,
    replace_workers,
    wait_for_ends,
    wait_until,
    workers_of,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")


def test_what_workers_count_is_summed(server: Server):
    before = counted(server)
    http = ("keelmark_requests_total", frozenset({("path", "/predict/{model}"), ("status", "200")}))
    requests = server.samples()[http]
    for _ in range(20):  # a connection each: both workers get some
        assert server.predict(NAME, GOOD).status == 200
    assert counted(server) - before == 20
    assert server.samples()[http] - requests == 20
    closed = [("model", NAME), ("version", "1"), ("state", "closed")]
    assert (
        server.samples()["keelmark_breaker_state", frozenset(closed)] == 2
    )  # the third slot's is none


def test_a_killed_worker_is_replaced_and_nothing_else_is_lost(
    server: Server, folder: Path, store: Path
):
    before, seen, rounds = counted(server), [], 2
    open_files = descriptors_of(server)
    with Load(server.port, 16, known_answers(store)) as load:
        for _ in range(rounds):
            wait_until(lambda: load.answered > 50)
            pids = [worker["pid"] for worker in workers_of(folder)]
            os.kill(pids[0], signal.SIGKILL)
            while len(
                ready := [w["pid"] for w in workers_of(folder) if w["state"] == "ready"]
            ) < 2 or (pids[0] in ready):
                seen.append(counted(server))
                time.sleep(0.02)
    assert len(load.failures) <= 16 * rounds
    total = counted(server) - before
    assert load.answered <= total <= load.sent
    assert load.lost <= MOST_ROWS * len(load.failures)
    assert seen == sorted(seen)
    wait_until(lambda: is_quiet(folder) and descriptors_of(server) == open_files)
    replaced = [e.facts for e in events_in(folder / "state") if e.kind == "worker_replaced"]
    assert [facts["why"] for facts in replaced][-rounds:] == ["died"] * rounds


def test_what_a_stopped_worker_has_not_taken_others_answer(server: Server, folder: Path):
    stopped = workers_of(folder)[0]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    connections = [Connection(server.port) for _ in range(16)]
    try:
        began = time.monotonic()
        for connection in connections:
            connection.send(REQUEST)
        assert [connection.receive().status for connection in connections] == [200] * 16
        assert time.monotonic() - began < 1.5
        replaced = wait_until(lambda: stopped not in {w["pid"] for w in workers_of(folder)})
        assert replaced < 4
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: is_quiet(folder))
    replaced = [e.facts for e in events_in(folder / "state") if e.kind == "worker_replaced"]
    assert (replaced[-1]["why"], replaced[-1]["ended"]) == ("stuck", stopped)


def test_a_killed_dealer_loses_nothing(server: Server, folder: Path):
    (dealer,) = children_of(server.process.pid, "server.dealer")
    os.kill(dealer, signal.SIGSTOP)  # else it may have dealt them all before it is killed
    connections = [Connection(server.port) for _ in range(16)]
    os.kill(dealer, signal.SIGKILL)
    try:
        for connection in connections:
            connection.send(REQUEST)
        assert [connection.receive().status for connection in connections] == [200] * 16
        assert [worker["connections"] for worker in workers_of(folder)] == [8, 8]
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: any(e.kind == "dealer_replaced" for e in events_in(folder / "state")))
    assert children_of(server.process.pid, "server.dealer") != [dealer]


def test_workers_are_replaced_under_load_and_no_connection_is_closed(
    server: Server, folder: Path, store: Path
):
    before = counted(server)
    old = {worker["pid"] for worker in workers_of(folder)}
    with (
        Load(server.port, 8, known_answers(store)) as busy,
        Load(server.port, 24, known_answers(store), pause=0.1) as paced,
    ):
        wait_until(lambda: busy.answered > 50)
        replace_workers(folder)
        wait_until(lambda: [w["connections"] for w in workers_of(folder)] == [16, 16])
        new = workers_of(folder)
    for load in (busy, paced):
        assert load.failures == []
        assert load.closed == 0
        assert load.lost == 0
    assert not old & {worker["pid"] for worker in new}
    assert counted(server) - before == busy.answered + paced.answered
    assert sorted(worker["connections"] for worker in new) == [16, 16]
    last = [e.facts["why"] for e in events_in(folder / "state") if e.kind == "worker_replaced"][-2:]
    assert last == ["asked", "asked"]


def test_what_an_operator_changes_holds_on_every_worker_and_its_successor(
    server: Server, folder: Path
):
    force(folder, "rules", [])
    try:
        connections = [Connection(server.port) for _ in range(8)]
        answers = [connection.ask(REQUEST).json["served_by"] for connection in connections]
        for connection in connections:
            connection.close()
        assert answers == ["rules"] * 8
        killed = workers_of(folder)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: is_whole(folder, without=killed))
        answers = [server.predict(NAME, GOOD).body["served_by"] for _ in range(8)]
        assert answers == ["rules"] * 8
    finally:
        force(folder, None, [])
    assert [server.predict(NAME, GOOD).body["served_by"] for _ in range(4)] == ["model"] * 4


def test_a_change_waits_for_a_stopped_worker_and_then_for_its_successor(
    server: Server, folder: Path
):
    stopped = workers_of(folder)[1]["pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        began = time.monotonic()
        force(folder, "rules", [])
        assert 1 < time.monotonic() - began < 10  # until it was found to be stuck
        for _ in range(8):
            assert server.predict(NAME, GOOD).body["served_by"] == "rules"
    finally:
        force(folder, None, [])
    wait_until(lambda: is_whole(folder, without=stopped))


def test_a_new_worker_gets_idle_connections_of_the_others(server: Server, folder: Path):
    connections = [Connection(server.port) for _ in range(12)]
    try:
        for connection in connections:
            assert connection.ask(REQUEST).status == 200
        killed = workers_of(folder)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: [w["state"] for w in workers_of(folder)] == ["ready"] * 2)
        wait_until(lambda: [w["connections"] for w in workers_of(folder)] == [3, 3])
        alive = 0
        for connection in connections:
            with contextlib.suppress(OSError):
                alive += connection.ask(REQUEST).status == 200
        assert alive == 6
    finally:
        for connection in connections:
            connection.close()


def test_a_stop_under_load_fails_no_request(store: Path, tmp_path: Path):
    with serving(store, tmp_path, *ARGUMENTS) as server:
        load = Load(server.port, 8, known_answers(store))
        with load:
            wait_until(lambda: load.answered > 20)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT_SECONDS) == 0
    assert load.closed >= 8
    # A connection that was made just when the port closed has no answer; a kept one has.
    assert len(load.failures) <= 1
    assert load.lost <= MOST_ROWS * len(load.failures)
    assert running_server(tmp_path / "state") is None


def test_a_killed_supervisor_takes_everything_with_it_and_a_restart_works(
    store: Path, tmp_path: Path
):
    with serving(store, tmp_path, *ARGUMENTS) as server:
        children = children_of(server.process.pid, "server.")
        assert len(children) == 3
        os.kill(children[-1], signal.SIGSTOP)  # one that cannot hear of it
        server.process.kill()
        server.process.wait()
        wait_for_ends(children)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        command = [sys.executable, "-m", "keelmark", "serve", "--store", str(store)]
        command += ["--port", str(server.port), "--ops-port", str(server.ops_port), *ARGUMENTS]
        command += ["--state-dir", str(tmp_path / "state")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as again:
            try:
                wait_until_ready(Server(server.port, server.ops_port, again, server.log))
                assert server.predict(NAME, GOOD).status == 200
            finally:
                again.send_signal(signal.SIGINT)
                assert again.wait(WAIT_SECONDS) == 0


def test_a_server_that_gets_no_worker_is_neither_ready_nor_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(supervisor, "PATIENCE_SECONDS", 0.5)
    pack_tiny(tmp_path / "store")
    with server_over(tmp_path / "store", tmp_path, workers=2) as server:
        assert server.ops("/health/live").status == 200
        (tmp_path / "store" / NAME).rename(tmp_path / "away")
        for worker in server.serving.runtime.workers:
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: server.ops("/health/ready").status == 503)
        wait_until(lambda: server.ops("/health/live").status == 503)
        assert server.ops("/health/startup").status == 200
        (tmp_path / "away").rename(tmp_path / "store" / NAME)
        wait_until(lambda: server.ops("/health/ready").status == 200)
        assert server.ops("/health/live").status == 200


def test_a_bundle_that_workers_cannot_open_does_not_take_down_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = tmp_path / "store"
    pack_tiny(store)
    pack_tiny(store, name="fleeting")
    prepare = SupervisorRuntime.prepare

    async def prepared_and_gone(self: SupervisorRuntime, name: str, version: str) -> Prepared:
        prepared = await prepare(self, name, version)
        if name == "fleeting":
            (store / name).rename(tmp_path / "away")
        return prepared

    monkeypatch.setattr(SupervisorRuntime, "prepare", prepared_and_gone)
    with server_over(store, tmp_path, workers=2) as server:
        for _ in range(4):
            assert server.predict(GOOD).status == 200
            assert server.predict(GOOD, model="fleeting").error["code"] == "not_loaded"
        ready = server.ops("/health/ready")
        assert (ready.status, ready.json["models"]["fleeting"]["state"]) == (503, "not_loaded")
        assert ready.json["workers"] == {"ready": 2, "wanted": 2}


def test_a_worker_that_cannot_open_its_bundle_says_so_and_the_server_goes_on(
    store: Path, tmp_path: Path
):
    """A successor finds no bundle; the other worker answers, and readiness tells the truth."""
    own = tmp_path / "store"
    pack_tiny(own)
    with serving(own, tmp_path, *ARGUMENTS) as server:
        wait_until(lambda: is_quiet(tmp_path))  # one that still starts would find none either
        (own / NAME).rename(tmp_path / "away")
        before = workers_of(tmp_path)
        with pytest.raises(ServerSaysNo, match="0 of 2 workers were replaced"):
            call("/workers/replace", {}, server=None, state_dir=tmp_path / "state")
        after = workers_of(tmp_path)
        assert [w["pid"] for w in after] == [w["pid"] for w in before]
        assert [w["state"] for w in after] == ["ready"] * 2
        killed = workers_of(tmp_path)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        for _ in range(20):
            assert server.predict(NAME, GOOD).status == 200
        assert server.ops("/health/ready").body["workers"] == {"ready": 1, "wanted": 2}
        (tmp_path / "away").rename(own / NAME)
        wait_until(lambda: server.ops("/health/ready").body["workers"]["ready"] == 2)
