"""What the supervisor does when something of its own goes wrong: a start, a dealer, a successor."""

import asyncio
import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from server import dealing, fleet, supervisor
from server.events import events_in
from server.processes import Child
from server.runtime import CannotReplace
from server.supervisor import SupervisorRuntime
from tests.in_thread import Client, server_over
from tests.tiny import GOOD, NAME, pack_tiny
from tests.workers import children_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")


def runtime_of(server: Client) -> SupervisorRuntime:
    runtime = server.serving.runtime
    assert isinstance(runtime, SupervisorRuntime)
    return runtime


def states(server: Client) -> list[str]:
    return [worker.state for worker in runtime_of(server).workers]


def dealer_of(server: Client) -> int:
    (dealer,) = children_of(os.getpid(), "server.dealer")
    assert dealer == runtime_of(server)._dealing.pid
    return dealer


def failing(module: Any, monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """The next starts of a process fail, as where the machine has none to spare."""
    tries: list[int] = []

    def start(*given: Any) -> Child:
        tries.append(len(tries))
        if len(tries) <= times:
            given[1].close()
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return Child(*given)

    monkeypatch.setattr(module, "Child", start)
    return tries


def replace_all(server: Client) -> int:
    """Replaces all workers, on the server's loop."""
    asked = runtime_of(server).replace_workers("a test", "to see")
    return asyncio.run_coroutine_threadsafe(asked, server.loop).result(60)


def refusal_of_replacing(server: Client) -> CannotReplace:
    with pytest.raises(CannotReplace) as refused:
        replace_all(server)
    return refused.value


def test_a_successor_that_cannot_be_started_is_started_later(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with server_over(store, tmp_path, workers=2) as server:
        wait_until(lambda: states(server) == ["ready"] * 2)
        tries = failing(fleet, monkeypatch, times=2)
        os.kill(runtime_of(server).workers[0].pid, signal.SIGKILL)
        wait_until(lambda: len(tries) == 3 and states(server) == ["ready"] * 2)
        tries = failing(fleet, monkeypatch, times=1)
        with pytest.raises(CannotReplace, match="0 of 2 workers were replaced"):
            replace_all(server)
        assert len(tries) == 1
        assert replace_all(server) == 2
        assert states(server) == ["ready"] * 2


def test_a_dealer_that_does_not_start_is_tried_again_ever_less_often(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Meanwhile the server is not ready, and at last not alive; then all is as before."""
    monkeypatch.setattr(supervisor, "DEAF_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "PATIENCE_SECONDS", 1.0)
    with server_over(store, tmp_path, workers=2) as server:
        wait_until(lambda: states(server) == ["ready"] * 2)
        assert server.ops("/health/ready").status == server.ops("/health/live").status == 200
        tries = failing(dealing, monkeypatch, times=4)
        os.kill(dealer_of(server), signal.SIGKILL)
        wait_until(lambda: server.ops("/health/ready").status == 503)
        wait_until(lambda: server.ops("/health/live").status == 503)
        with server.connect() as waiting:  # in the kernel's queue, which the supervisor holds too
            wait_until(lambda: len(tries) == 5)
            assert server.predict(GOOD).status == 200
            waiting.close()
        assert server.ops("/health/ready").status == server.ops("/health/live").status == 200
    replaced = [event for event in events_in(tmp_path) if event.kind == "dealer_replaced"]
    assert len(replaced) == 1


def test_a_stop_does_not_wait_for_a_dealer_that_never_starts(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fleet, "SPARE_SECONDS", 0.2)
    with server_over(store, tmp_path, workers=2, drain_seconds=0.3) as server:
        wait_until(lambda: states(server) == ["ready"] * 2)
        dealer = dealer_of(server)
        os.kill(dealer, signal.SIGSTOP)  # it answers nothing more
        failing(dealing, monkeypatch, times=1_000)
    assert children_of(os.getpid(), "server.") == []


def test_a_worker_that_dies_while_another_is_replaced_has_a_successor(tmp_path: Path):
    """The successor that was asked for does not become ready, and makes up for nobody."""
    pack_tiny(tmp_path / "store")
    with server_over(tmp_path / "store", tmp_path, workers=2) as server:
        wait_until(lambda: states(server) == ["ready"] * 2)
        (tmp_path / "store" / NAME).rename(tmp_path / "away")
        refused: list[CannotReplace] = []
        asked = threading.Thread(target=lambda: refused.append(refusal_of_replacing(server)))
        asked.start()
        wait_until(lambda: len(states(server)) == 3)
        os.kill(runtime_of(server).workers[1].pid, signal.SIGKILL)
        asked.join()
        assert "0 of 2 workers were replaced" in str(refused[0])
        (tmp_path / "away").rename(tmp_path / "store" / NAME)
        wait_until(lambda: states(server) == ["ready"] * 2)
        assert server.predict(GOOD).status == 200


def test_models_add_no_threads_to_workers_and_a_descriptor_each(tmp_path: Path):
    """Neither onnxruntime nor numpy starts threads; of a bundle's counters the mapping is kept."""
    own, names = tmp_path / "store", [NAME, "second", "third", "fourth"]
    threads: list[set[int]] = []
    descriptors: list[int] = []
    for known in (names[:1], names):
        for name in known:
            if not (own / name).exists():
                pack_tiny(own, name=name)
        with server_over(own, tmp_path, workers=2, selftest_seconds=0) as server:
            wait_until(lambda: states(server) == ["ready"] * 2)
            for name in known * 4:
                assert server.predict(GOOD, model=name).status == 200
            pids = [worker.pid for worker in runtime_of(server).workers]
            threads.append({len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids})
            wait_until(lambda: not any(worker.connections for worker in runtime_of(server).workers))
            descriptors.append(len(list(Path(f"/proc/{pids[0]}/fd").iterdir())))
    assert threads == [{3}, {3}]  # the loop, the runner's, and the one in which bundles are opened
    assert descriptors[1] - descriptors[0] == 3
