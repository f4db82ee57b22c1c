"""A server with workers as real processes: dealing, replacing, counting, ending."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from server import supervisor
from server.cli.ops_client import ServerSaysNo, call
from server.events import events_in
from server.state_folder import running_server
from server.supervisor import SharedRoute, SupervisorRuntime
from tests.in_thread import Connection, post, server_over
from tests.serving import Server, serving, wait_until_ready
from tests.tiny import GOOD, NAME, pack_tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

REQUEST = post(f"/predict/{NAME}", json.dumps(GOOD).encode())
WAIT_SECONDS = 30.0
ARGUMENTS = ("--workers", "2", "--drain-delay-seconds", "0.3")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    pack_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def shared(store: Path, folder: Path) -> Generator[Server]:
    with serving(store, folder, *ARGUMENTS) as server:
        yield server


@pytest.fixture
def server(shared: Server, folder: Path) -> Server:
    """The shared server, with two workers that are ready and have no connection."""
    wait_until(lambda: is_quiet(folder))
    return shared


def workers_of(folder: Path) -> list[dict[str, Any]]:
    return call("/status", server=None, state_dir=folder / "state")["workers"]


def is_quiet(folder: Path) -> bool:
    found = workers_of(folder)
    return [(w["state"], w["connections"]) for w in found] == [("ready", 0)] * 2


def wait_until(is_so: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Waits until something holds; gives the seconds it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, "it did not come to hold in time"
        time.sleep(0.02)
    return time.monotonic() - began


def children_of(pid: int, module: str) -> list[int]:
    """Processes that a process has started, by what they run."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and module in (path / "cmdline").read_text():
                found.append(int(path.name))
    return found


def descriptors_of(server: Server) -> list[int]:
    """How many the supervisor and the dealer have open, besides those of callers."""
    pids = [server.process.pid, *children_of(server.process.pid, "server.dealer")]
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]


def counted(server: Server) -> float:
    """Rows of the model, whatever became of them."""
    samples = server.samples().items()
    return sum(value for (name, _), value in samples if name == "keelmark_predictions_total")


@dataclass
class Load:
    """Callers in a closed loop over kept connections; each opens a new one after a failure."""

    port: int
    callers: int
    pause: float = 0.0
    by_anybody: bool = False
    sent: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    closed: int = 0
    slowest: float = 0.0
    _stop: bool = False
    _thread: Any = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(WAIT_SECONDS)

    async def _all(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(self.callers)))

    async def _one(self) -> None:
        while not self._stop:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                return  # the server has stopped; nothing was sent
            try:
                while await self._ask(reader, writer) and not self._stop:
                    if self.pause:
                        await asyncio.sleep(self.pause)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        began = time.monotonic()
        self.sent += 1
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        assert head.startswith(b"http/1.1 200"), head
        assert body["served_by"] == "model" or self.by_anybody
        is_told_to_close = b"connection: close" in head
        self.closed += is_told_to_close
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        return not is_told_to_close


@pytest.mark.trial
def test_workers_that_are_killed_and_stopped_at_random_lose_only_what_they_had(
    store: Path, tmp_path: Path
):
    """A hundred ends of workers and a dozen of dealers under load, with changes by an operator."""
    chance, rounds = random.Random(5), int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "100"))
    slowest, old_answers, total = {"kill": 0.0, "stop": 0.0}, 0, 0.0
    with serving(store, tmp_path, *ARGUMENTS) as server:
        with Load(server.port, callers=16, pause=0.002, by_anybody=True) as load:
            for n in range(rounds):
                how = chance.choice(["kill", "kill", "stop"])
                victim = chance.choice(workers_of(tmp_path))["pid"]
                os.kill(victim, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                if n % 8 == 0:
                    (dealer,) = children_of(server.process.pid, "server.dealer") or [0]
                    if dealer:
                        os.kill(dealer, signal.SIGKILL)
                force(tmp_path, chance.choice(["rules", None]), served := [])
                for _ in range(4):  # on a new connection each
                    old_answers += server.predict(NAME, GOOD).body["served_by"] != served[0]
                took = wait_until(lambda gone=victim: is_whole(tmp_path, without=gone))
                slowest[how] = max(slowest[how], took)
                now = counted(server)
                assert now >= total
                total = now
        wait_until(lambda: is_quiet(tmp_path))
        total = counted(server)
    assert old_answers == 0
    own = 4 * rounds
    assert load.answered + own <= total <= load.sent + own
    assert len(load.failures) <= 16 * rounds
    assert max(slowest.values()) < 10  # a successor's start and the opening of its bundles, mostly


@pytest.mark.trial
def test_workers_that_starve_for_a_cpu_are_not_taken_for_stuck(store: Path, tmp_path: Path):
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})  # what is started now stays there
    try:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(serving(store, tmp_path, *ARGUMENTS))
            for worker in workers_of(tmp_path):
                os.setpriority(os.PRIO_PROCESS, worker["pid"], 19)
            for _ in range(16):
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(busy.wait)
                stack.callback(busy.kill)
            os.sched_setaffinity(0, cpus)
            with Load(server.port, callers=8, by_anybody=True):  # their deadlines pass
                time.sleep(20)
    finally:
        os.sched_setaffinity(0, cpus)
    assert not [e for e in events_in(tmp_path / "state") if e.kind.endswith("_replaced")]


def force(folder: Path, rung: str | None, served: list[str]) -> None:
    """Forces a rung, and says who answers from then on."""
    body = {"rung": rung, "reason": "a trial"}
    call(f"/models/{NAME}/force-fallback", body, server=None, state_dir=folder / "state")
    served.append(rung or "model")


def is_whole(folder: Path, *, without: int) -> bool:
    """Whether both workers are ready, and neither is the one that was ended."""
    found = workers_of(folder)
    states = [worker["state"] for worker in found]
    return states == ["ready"] * 2 and without not in {worker["pid"] for worker in found}


@pytest.mark.parametrize(("count", "share"), [(64, 32), (8, 4)])
def test_connections_opened_at_once_are_dealt_evenly(
    server: Server, folder: Path, count: int, share: int
):
    connections = [Connection(server.port) for _ in range(count)]
    try:
        for connection in connections:
            connection.send(REQUEST)
        assert [connection.receive().status for connection in connections] == [200] * count
        assert [worker["connections"] for worker in workers_of(folder)] == [share, share]
        samples = server.samples()
        for slot in ("0", "1"):
            key = ("keelmark_worker_connections", frozenset({("slot", slot)}))
            assert samples[key] == share
    finally:
        for connection in connections:
            connection.close()


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


def test_a_killed_worker_is_replaced_and_nothing_else_is_lost(server: Server, folder: Path):
    before, seen, rounds = counted(server), [], 2
    open_files = descriptors_of(server)
    with Load(server.port, callers=16) as load:
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
    assert load.sent - load.answered <= len(load.failures) + 16
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


def test_workers_are_replaced_under_load_and_no_connection_is_closed(server: Server, folder: Path):
    before = counted(server)
    old = {worker["pid"] for worker in workers_of(folder)}
    with Load(server.port, callers=8) as busy, Load(server.port, callers=24, pause=0.1) as paced:
        wait_until(lambda: busy.answered > 50)
        done = call("/workers/replace", {}, server=None, state_dir=folder / "state")
        assert done == {"replaced": 2}
        time.sleep(1)
        new = workers_of(folder)
    for load in (busy, paced):
        assert load.failures == []
        assert load.closed == 0
        assert load.sent == load.answered
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
        load = Load(server.port, callers=8)
        with load:
            wait_until(lambda: load.answered > 20)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(WAIT_SECONDS) == 0
    assert load.closed >= 8
    # A connection that was made just when the port closed has no answer; a kept one has.
    assert load.sent - load.answered == len(load.failures) <= 1
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
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 5)
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
    examined = SupervisorRuntime._examined

    def examined_and_gone(self: SupervisorRuntime, name: str, version: str) -> SharedRoute:
        route = examined(self, name, version)
        if name == "fleeting":
            (store / name).rename(tmp_path / "away")
        return route

    monkeypatch.setattr(SupervisorRuntime, "_examined", examined_and_gone)
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
