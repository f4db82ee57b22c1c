"""Processes of a server that end or hang at any moment: what is lost, what is counted, what stays.

Short here; `make trials` does it a hundred times (`KEELMARK_TRIAL_ROUNDS`).
"""

import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import call
from server.events import events_in
from tests.serving import Server, free_port, serving, stop, wait_until_ready
from tests.tiny import GOOD, NAME
from tests.workers import (
    ARGUMENTS,
    MOST_ROWS,
    WAIT_SECONDS,
    Load,
    Record,
    Watch,
    children_of,
    counted,
    force,
    is_quiet,
    is_whole,
    known_answers,
    requests_counted,
    wait_for_ends,
    wait_until,
    workers_of,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "100"))
CALLERS = 16
DEAD_SECONDS, STUCK_SECONDS = 2.0, 4.0


@pytest.mark.parametrize("rounds", [4, pytest.param(ROUNDS, marks=pytest.mark.trial)])
def test_workers_that_end_or_hang_at_random_lose_only_what_they_had(
    store: Path, tmp_path: Path, rounds: int, record_property: Record
):
    """Some end while everything is even, others while a successor starts or connections move."""
    chance = random.Random(5)
    took: dict[str, list[float]] = {"died": [], "stuck": []}
    most_failures = 0
    with serving(store, tmp_path, *ARGUMENTS) as server:
        wait_until(lambda: is_quiet(tmp_path))
        known = known_answers(store)
        with Watch(server), Load(server.port, CALLERS, known, pause=0.002) as load:
            for number in range(rounds):
                share = CALLERS
                if number % 2 == 0:
                    wait_until(lambda: loads(tmp_path) == [CALLERS // 2] * 2)
                    share = CALLERS // 2
                time.sleep(chance.random() * 0.3)
                why = "stuck" if number % 4 == 1 else "died"
                victim = chance.choice(workers_of(tmp_path))["pid"]
                os.kill(victim, signal.SIGSTOP if why == "stuck" else signal.SIGKILL)
                most_failures += share
                if number % 8 == 3:
                    kill_dealer(server)
                took[why].append(wait_until(lambda gone=victim: is_whole(tmp_path, without=gone)))
                wait_until(lambda n=number: len(replacements(tmp_path)) > n)  # written in a thread
                opening = replacements(tmp_path)[-1]["ready_after_seconds"]
                took[why][-1] -= opening
        wait_until(lambda: is_quiet(tmp_path))
        rows, requests = counted(server), requests_counted(server)
    replaced = [str(facts["why"]) for facts in replacements(tmp_path)]
    assert {why: replaced.count(why) for why in took} == {why: len(took[why]) for why in took}
    assert len(load.failures) <= most_failures
    assert load.lost <= MOST_ROWS * len(load.failures)
    assert load.answered <= rows <= load.sent
    assert load.told <= requests <= load.asked
    for name, value in (
        ("rows", rows),
        ("failures", len(load.failures)),
        ("slowest", load.slowest),
    ):
        record_property(name, value)
    for why, limit in (("died", DEAD_SECONDS), ("stuck", STUCK_SECONDS)):
        record_property(f"{why}: median and longest before its successor starts", spread(took[why]))
        # One look may fall into a moment in which this machine does something else.
        assert statistics.median(took[why]) < limit


def loads(folder: Path) -> list[int]:
    return [worker["connections"] for worker in workers_of(folder)]


def replacements(folder: Path) -> list[dict[str, Any]]:
    """Facts of every replacement of a worker up to now."""
    return [e.facts for e in events_in(folder / "state") if e.kind == "worker_replaced"]


def spread(seconds: list[float]) -> tuple[float, float]:
    return round(statistics.median(seconds), 3), round(max(seconds), 3)


def kill_dealer(server: Server) -> None:
    for dealer in children_of(server.process.pid, "server.dealer"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(dealer, signal.SIGKILL)


@pytest.mark.parametrize("rounds", [3, pytest.param(max(1, ROUNDS // 5), marks=pytest.mark.trial)])
def test_dealers_that_end_at_random_lose_nothing(store: Path, tmp_path: Path, rounds: int):
    """Callers open a connection for every request: there is always one on its way."""
    chance = random.Random(6)
    with serving(store, tmp_path, *ARGUMENTS) as server:
        asked = failed = 0
        stopping = threading.Event()

        def ask() -> None:
            nonlocal asked, failed
            while not stopping.is_set():
                asked += 1
                try:
                    assert server.predict(NAME, GOOD).status == 200
                except OSError:
                    failed += 1

        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(rounds):
            time.sleep(chance.random())
            before = children_of(server.process.pid, "server.dealer")
            kill_dealer(server)
            wait_until(lambda old=before: children_of(server.process.pid, "server.dealer") != old)
            done = asked
            wait_until(lambda than=done: asked > than + 1)
        stopping.set()
        asking.join(WAIT_SECONDS)
        assert failed <= rounds  # the connection that the dealer has in hand is its own
        assert counted(server) >= asked - failed
    replaced = [e for e in events_in(tmp_path / "state") if e.kind == "dealer_replaced"]
    assert len(replaced) == rounds


@pytest.mark.parametrize("rounds", [2, pytest.param(max(1, ROUNDS // 5), marks=pytest.mark.trial)])
def test_a_killed_supervisor_leaves_nothing_behind_but_what_was_decided(
    store: Path, tmp_path: Path, rounds: int
):
    """It is killed while a change is under way, which holds after a restart if it was told."""
    chance, held = random.Random(7), {"model"}
    ports = free_port(), free_port()
    for _ in range(rounds):
        with served_again(store, tmp_path, ports) as server:
            rung = status_of(tmp_path)["models"][0]["forced"] or "model"
            assert rung in held
            assert server.predict(NAME, GOOD).body["served_by"] == rung
            wanted = chance.choice([None, "rules"])
            said: list[str] = []
            changing = threading.Thread(target=force_if_it_runs, args=(tmp_path, wanted, said))
            with Load(server.port, 4, known_answers(store), by_anybody=True) as load:
                wait_until(lambda load=load: load.told > 20)
                changing.start()
                time.sleep(chance.random() * 0.03)
                children = children_of(server.process.pid, "server.")
                assert len(children) == 3
                server.process.kill()
                server.process.wait()
                changing.join(WAIT_SECONDS)
                held = {said[0]} if said else {rung, wanted or "model"}
                wait_for_ends(children)
            for port in ports:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
    with served_again(store, tmp_path, ports) as server:
        assert server.predict(NAME, GOOD).body["served_by"] in held
    assert len([e for e in events_in(tmp_path / "state") if e.kind == "started"]) == rounds + 1


def status_of(folder: Path) -> dict[str, Any]:
    return call("/status", server=None, state_dir=folder / "state")


def force_if_it_runs(folder: Path, rung: str | None, said: list[str]) -> None:
    with contextlib.suppress(Exception):  # the server goes away while it is asked
        force(folder, rung, said)


@contextlib.contextmanager
def served_again(store: Path, folder: Path, ports: tuple[int, int]) -> Generator[Server]:
    """A server on the same ports with the same state, as one that is started again."""
    command = [sys.executable, "-m", "keelmark", "serve", "--store", str(store), *ARGUMENTS]
    command += ["--port", str(ports[0]), "--ops-port", str(ports[1])]
    command += ["--state-dir", str(folder / "state")]
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    server = Server(ports[0], ports[1], process, log)
    try:
        wait_until_ready(server)
        wait_until(lambda: is_quiet(folder))
        yield server
    finally:
        if process.poll() is None:
            stop(process)


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.trial)])
def test_workers_that_starve_for_a_cpu_are_not_taken_for_stuck(
    store: Path, tmp_path: Path, seconds: int
):
    """They have one CPU, the least right to it, and many who want it too."""
    one = {min(os.sched_getaffinity(0))}
    with serving(store, tmp_path, *ARGUMENTS) as server:
        wait_until(lambda: is_quiet(tmp_path))
        for worker in workers_of(tmp_path):
            for task in Path(f"/proc/{worker['pid']}/task").iterdir():
                os.sched_setaffinity(int(task.name), one)
                os.setpriority(os.PRIO_PROCESS, int(task.name), 19)
        load = Load(server.port, 8, known_answers(store), by_anybody=True)  # deadlines pass
        with load, contextlib.ExitStack() as stack:
            for _ in range(16):
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(busy.wait)
                stack.callback(busy.kill)
                os.sched_setaffinity(busy.pid, one)
            time.sleep(seconds)
    assert not [e for e in events_in(tmp_path / "state") if e.kind.endswith("_replaced")]
