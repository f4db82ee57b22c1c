"""A bundle that is let go of: who stands still for it, who is replaced instead, what is left of it.

With the settings of `LARGE` every bundle is a large one.
"""

import hashlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from models.machine_copy import DIGITS
from server import fleet, room, succession
from server.supervisor import SupervisorRuntime
from tests.in_thread import server_over
from tests.operating import Since
from tests.swap_trials import holdings_of
from tests.swapping import Swapping
from tests.test_fleet import failing
from tests.three import NAME, pack_versions, record, version_of
from tests.workers import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
    pytest.mark.timeout(600),
]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
BUSY_SECONDS = 120.0
STALLS = "keelmark_release_stall_seconds_count"
LARGE = {"max_stall_ms": 0, "deadline_ms": 60_000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_versions(tmp_path_factory.mktemp("small"), 3)


@pytest.fixture(scope="module")
def server(store: Path, state: Path, workers: int) -> Generator[Swapping]:
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        yield Swapping(client, state, NAME)


def pids(server: Swapping) -> list[int]:
    return [worker.pid for worker in server.client.serving.runtime.workers]


def test_what_would_stall_is_let_go_of_in_a_pause_or_with_its_worker(
    store: Path, tmp_path: Path, workers: int
):
    """A previous version that a load drops, and a candidate that is unloaded."""
    with server_over(store, tmp_path, workers=workers, **LARGE) as client:
        server = Swapping(client, tmp_path, NAME)
        server.do("load", version="2")
        server.do("promote", version="2")
        before, stalls = pids(server), client.metric(STALLS)
        server.do("load", version="3", drop_previous=True)
        if workers == 1:
            wait_until(lambda: client.metric(STALLS) == stalls + 1)
        else:
            wait_until(lambda: set(pids(server)).isdisjoint(before) and len(pids(server)) == 2)
        assert (answers(server), answers(server, "?version=3")) == (2, 3)

        before, since = pids(server), Since(server.state)
        done = server.do("unload", version="3", reason="a better one")
        assert done["released"]
        assert answers(server) == 2
        (told,) = since("released")
        assert (told.facts["version"], told.facts["reason"]) == ("3", "a better one")
        if workers == 1:
            assert done["successors"] == 0
            assert 0 < done["stall_seconds"] == told.facts["stall_seconds"] < BUSY_SECONDS
            assert client.metric(STALLS) == stalls + 2
            return
        assert (done["successors"], done["stall_seconds"]) == (2, None)
        assert set(pids(server)).isdisjoint(before)
        assert client.metric(STALLS) == stalls == 0
        wait_until(lambda: len(since("worker_replaced")) == 2)
        assert {event.facts["why"] for event in since("worker_replaced")} == {"release"}
        assert {event.facts["reason"] for event in since("worker_replaced")} == {
            "three/3 is not loaded any more"
        }
        assert client.metric('keelmark_workers_replaced_total{why="release"}') == 4


def answers(server: Swapping, query: str = "") -> int | None:
    """The version that answers, by what it answers."""
    return version_of(server.predict(record(), query).json["prediction"])


def test_what_has_no_room_is_refused_before_it_is_verified_and_after(
    server: Swapping, store: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second look goes by what verifying has measured, for all workers together."""
    free: list[int] = []
    monkeypatch.setattr(room, "free_bytes", lambda: free.pop(0))
    since = Since(server.state)
    free[:] = [1 << 20]
    said = server.refused("load", "conflict", version="2")
    assert "may take" in said
    assert "1 MB are free" in said
    free[:] = [1 << 40, 1 << 20]
    said = server.refused("load", "conflict", version="2")
    assert "when it is open" in said
    assert "1 MB are free" in said
    assert [event.facts["cause"] for event in since("swap_refused")] == ["memory", "memory"]
    assert server.slots() == ("1", None, None)
    manifest = (store / NAME / "2" / "manifest.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()[:DIGITS]
    assert not list((server.state / "opened").glob(f"{digest}*"))
    free[:] = [1 << 40, 1 << 40]
    assert server.do("load", version="2")["changed"]
    assert server.do("unload", version="2")["released"]


@LINUX
def test_unloading_over_and_over_leaves_nothing_behind(server: Swapping):
    """Descriptors and mappings, in every process; memory is for `python -m tests.swap_trials`."""

    def cycle() -> None:
        server.do("load", version="2")
        assert answers(server, "?version=2") == 2
        assert server.do("unload", version="2")["released"]

    for _ in range(2):
        cycle()
    before = held()
    for _ in range(4):
        cycle()
    wait_until(lambda: held() <= before)  # then too, something may have been about to go


def held() -> Counter[str]:
    """Descriptors and mapped files of this process and those that it has started."""
    found: Counter[str] = Counter()
    for name, held in holdings_of(os.getpid()).items():
        found[f"descriptors of {name}"] = held.descriptors
        found[f"mappings of {name}"] = held.shared
    return found


# with workers


@LINUX
def test_where_no_successor_starts_workers_let_go_themselves(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(succession, "PAUSES_SECONDS", (0.01, 0.01))
    with server_over(store, tmp_path, workers=2, **LARGE) as client:
        server = Swapping(client, tmp_path, NAME)
        server.do("load", version="2")
        before = pids(server)
        tries = failing(fleet, monkeypatch, times=3)
        done = server.do("unload", version="2")
        assert (done["released"], done["successors"], len(tries)) == (True, 0, 3)
        assert done["stall_seconds"] > 0
        assert pids(server) == before
        server.do("load", version="2")
        assert server.do("unload", version="2")["successors"] == 2


@LINUX
def test_a_worker_that_dies_while_it_is_to_be_replaced_loses_no_bundle(store: Path, tmp_path: Path):
    """Its successor has not opened what was unloaded; in the end two others serve."""
    with server_over(store, tmp_path, workers=2, **LARGE) as client:
        server = Swapping(client, tmp_path, NAME)
        runtime = client.serving.runtime
        assert isinstance(runtime, SupervisorRuntime)
        server.do("load", version="2")
        first, second = pids(server)
        done: list[Any] = []
        asked = threading.Thread(target=lambda: done.append(server.do("unload", version="2")))
        asked.start()
        wait_until(lambda: len(pids(server)) == 3)
        os.kill(second, signal.SIGKILL)
        asked.join(BUSY_SECONDS)
        assert done[0]["released"]
        wait_until(lambda: [worker.state for worker in runtime.workers] == ["ready"] * 2)
        assert {first, second}.isdisjoint(pids(server))
        assert answers(server) == 1
