"""Loading, promoting, rolling back and unloading, in one process and with workers alike."""

import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import NotRunning, ServerSaysNo, call
from server.events import EventLog, events_in
from server.facts import read_facts
from server.ops import ledger
from server.regions import Region
from server.retired import KEPT_SECONDS, Retired
from server.runtime import Prepared
from server.series import Facts, ModelSeries
from server.supervisor import SupervisorRuntime
from tests.calling import Calling, received
from tests.counters import small_layout
from tests.in_thread import Client, Response, post, server_over
from tests.operating import Since, ask
from tests.serving import serving
from tests.swapping import Swapping
from tests.three import (
    NAME,
    answer_of,
    pack_strict,
    pack_three,
    pack_versions,
    record,
    version_of,
)
from tests.tiny import pack_tiny
from tests.workers import kill, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
BUSY_SECONDS = 60.0


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, of which the first is wished live."""
    return pack_versions(tmp_path_factory.mktemp("store"), 3)


class Swapped(Swapping):
    """A server of versions whose answers tell which they are."""

    def __init__(self, client: Client, state: Path) -> None:
        super().__init__(client, state, NAME)

    def answers(self, y: int = 1, query: str = "") -> int | None:
        """The version that answers, by what it answers."""
        return version_of(self.predict(record(y), query).json["prediction"], y)


@pytest.fixture(scope="module")
def running(
    packed: Path, state: Path, workers: int, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[Swapped, Path]]:
    store = tmp_path_factory.mktemp("own") / "store"
    shutil.copytree(packed, store)
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        yield Swapped(client, state), store


@pytest.fixture
def server(running: tuple[Swapped, Path]) -> Generator[Swapped]:
    yield running[0]
    running[0].clear()


@pytest.fixture
def store(running: tuple[Swapped, Path]) -> Path:
    return running[1]


# what calls do


def test_a_version_is_loaded_promoted_rolled_back_and_unloaded(server: Swapped):
    since = Since(server.state)
    loaded = server.do("load", version="2", reason="a try")
    assert loaded["changed"]
    assert loaded["after"] == {"live": "1", "candidate": "2", "previous": None}
    assert loaded["measured"]["golden_rows"] > 64
    assert loaded["measured"]["resident_bytes"] > 0
    assert loaded["contract"]["verdict"] == "compatible"
    assert loaded["measured"]["copied"] == ["model.onnx"]
    copies = server.state / "opened"
    assert [path.name[:24] for path in copies.glob(f"{loaded['measured']['digest'][:24]}*")] == [
        loaded["measured"]["digest"][:24]
    ]
    assert (server.answers(), server.answers(query="?version=2")) == (1, 2)

    promoted = server.do("promote", version="2")
    assert promoted["after"] == {"live": "2", "candidate": None, "previous": "1"}
    assert promoted["generation"] == loaded["generation"] + 1
    assert [server.answers(y) for y in (0, 1, 2)] == [2, 2, 2]
    assert server.answers(query="?version=1") == 1

    back = server.do("rollback")
    assert back["after"] == {"live": "1", "candidate": "2", "previous": None}
    assert server.answers() == 1
    gone = server.do("unload", version="2")
    assert gone["released"]
    assert not list(copies.glob(f"{loaded['measured']['digest'][:24]}*"))
    assert gone["after"] == {"live": "1", "candidate": None, "previous": None}
    answer = server.predict(record(), "?version=2")
    assert (answer.status, answer.error["code"]) == (404, "unknown_version")
    assert "1 (live)" in answer.error["message"]

    told = [event for event in since.all if event.kind != "access_refused"]
    assert [event.kind for event in told] == ["loaded", "promoted", "rolled_back", "unloaded"]
    assert {event.who for event in told} == {told[0].who}
    assert [event.model for event in told] == [NAME] * 4
    first, second, *_ = told
    assert (first.before, first.after) == ({"live": "1"}, {"live": "1", "candidate": "2"})
    assert second.after == {"live": "2", "previous": "1"}
    assert (first.facts["reason"], first.facts["measured"]["network"]) != (None, None)
    assert second.facts["generation"] == promoted["generation"]


def test_twice_the_same_changes_nothing_the_second_time(server: Swapped):
    server.do("load", version="2")
    generation = server.do("promote", version="2")["generation"]
    since = Since(server.state)
    again = server.do("promote", version="2")
    assert (again["changed"], again["generation"]) == (False, generation)
    server.do("rollback")
    again = server.do("rollback")
    assert (again["changed"], again["after"]["live"]) == (False, "1")
    assert not server.do("load", version="2")["changed"]
    server.do("unload", version="2")
    assert not server.do("unload", version="2")["changed"]
    assert [event.kind for event in since.all] == ["rolled_back", "unloaded"]


def test_a_dry_run_says_what_would_be_and_changes_nothing(server: Swapped):
    since = Since(server.state)
    said = server.do("load", version="2", dry_run=True)
    assert (said["changed"], said["after"]["candidate"]) == (True, "2")
    assert server.slots() == ("1", None, None)
    server.refused("promote", "conflict", version="2", dry_run=True)
    assert since.all == []
    server.do("load", version="2")
    assert server.do("promote", version="2", dry_run=True)["after"]["live"] == "2"
    assert server.slots() == ("1", "2", None)


def test_slots_that_are_taken_and_other_generations_are_refused(server: Swapped):
    since = Since(server.state)
    before = count(server.client, "load", "refused")
    loaded = server.do("load", version="2")
    assert "unload" in server.refused("load", "conflict", version="3")
    assert "is live already" in server.refused("load", "conflict", version="1")
    assert "not loaded" in server.refused("promote", "conflict", version="3")
    assert "is live; promote another" in server.refused("unload", "conflict", version="1")
    assert "no previous" in server.refused("rollback", "conflict")
    generation = loaded["generation"] - 1
    said = server.refused("promote", "conflict", version="2", if_generation=generation)
    assert f"the generation is {loaded['generation']}, not {generation}" in said
    server.do("promote", version="2", if_generation=loaded["generation"])
    assert "--drop-previous" in server.refused("load", "conflict", version="3")
    assert "rollback" in server.refused("promote", "conflict", version="1")
    said = server.refused("load", "unknown_version", version="9", drop_previous=True)
    assert "no three/9" in said
    refused = since("swap_refused")
    assert [event.facts["swap"] for event in refused].count("load") == 4
    assert all(event.facts["why"] and event.who.startswith("operator") for event in refused)
    assert count(server.client, "load", "refused") == before + 4
    assert server.slots() == ("2", None, "1")
    dropped = server.do("load", version="3", drop_previous=True)
    assert dropped["after"] == {"live": "2", "candidate": "3", "previous": None}
    assert (server.answers(), server.answers(query="?version=3")) == (2, 3)


def count(client: Client, swap: str, result: str) -> float:
    return client.metric(f'keelmark_swaps_total{{swap="{swap}",result="{result}"}}')


def test_a_contract_that_breaks_callers_is_promoted_only_by_word(server: Swapped, store: Path):
    """Records without `y` had an answer, and would have none."""
    pack_strict(store)
    contract = server.do("load", version="strict")["contract"]
    assert contract["verdict"] == "breaking"
    said = server.refused("promote", "conflict", version="strict")
    assert contract["changes"][0] in said
    assert "--breaking" in said
    assert server.answers() == 1
    assert server.do("promote", version="strict", breaking=True)["contract"] == contract
    assert server.answers() == 2


def test_two_operators_at_once_get_an_order_or_a_refusal(server: Swapped):
    """Loads of two versions at the same time: one is loaded, the other told why not."""
    found: list[Response] = []

    def load(version: str) -> None:
        found.append(server.ask("load", version=version))

    threads = [threading.Thread(target=load, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BUSY_SECONDS)
    assert sorted(answer.status for answer in found) == [200, 409]
    live, candidate, previous = server.slots()
    assert (live, previous) == ("1", None)
    (done,) = [answer.json for answer in found if answer.status == 200]
    assert candidate == done["version"]


def test_what_an_operator_forced_ends_with_the_version(server: Swapped):
    server.do("load", version="2")
    body = {"rung": "rules", "reason": "a test"}
    operator = server.operator
    ask(server.client, f"/models/{NAME}/force-fallback", body, authorization=operator)
    assert server.predict(record()).json["served_by"] == "rules"
    server.do("promote", version="2")
    assert server.predict(record()).json["served_by"] == "model"
    server.do("rollback")
    assert server.predict(record()).json["served_by"] == "model"
    assert read_facts(server.state).forced == {}


def test_a_full_disk_refuses_a_promotion_and_changes_nothing(
    server: Swapped, monkeypatch: pytest.MonkeyPatch
):
    """It takes no event of that either."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    generation = server.do("load", version="2")["generation"]
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "write_facts", full)
        patched.setattr(EventLog, "append", full)
        answer = server.ask("promote", version="2")
    assert (answer.status, answer.error["cause"]) == (409, "disk")
    assert "nothing was changed; make room there" in answer.error["message"]
    assert (server.slots(), server.answers()) == (("1", "2", None), 1)
    assert server.do("promote", version="2")["generation"] > generation + 1
    assert server.answers() == 2


# under load


@dataclass
class Callers(Calling):
    """Callers in a closed loop over kept connections; each answer is checked for one version."""

    port: int
    allowed: set[int]
    answered: int = 0
    lists: int = 0
    failures: list[str] = field(default_factory=list[str])

    def _each(self) -> Iterable[Coroutine[Any, Any, None]]:
        return map(self._one, range(6))

    async def _one(self, n: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while not self._stop:
                ys = [1, 2, 3, 4] if n % 2 else [n]
                body = [record(y) for y in ys] if n % 2 else record(n)
                writer.write(post(f"/predict/{NAME}", json.dumps(body).encode()))
                self._check(*await received(reader), ys)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shows it)
            self.failures.append(repr(error))
        finally:
            writer.close()

    def _check(self, head: bytes, body: Any, ys: list[int]) -> None:
        rows = body.get("predictions", [body])
        found = {version_of(row["prediction"], y) for row, y in zip(rows, ys, strict=True)}
        if not head.startswith(b"http/1.1 200") or len(found) != 1 or not found <= self.allowed:
            self.failures.append(f"{head!r} {body}")
        if body["version"] != str(*found):
            self.failures.append(f"{body['version']} says it was {found}")
        self.answered += 1
        self.lists += len(ys) > 1


def flip(server: Swapped, cycles: int) -> None:
    """Promotes and rolls back; after each return old connections and new ones have the version."""
    server.do("load", version="2")
    with Callers(server.client.port, {1, 2}) as callers, server.client.connect() as kept:
        for n in range(cycles):
            for swap, body, version in (("promote", {"version": "2"}, 2), ("rollback", {}, 1)):
                assert server.do(swap, **body)["changed"], n
                rows = [record(y) for y in (0, 1, 2)]
                request = post(f"/predict/{NAME}", json.dumps(rows).encode())
                found = kept.ask(request).json["predictions"]
                assert [row["prediction"] for row in found] == [
                    answer_of(version, y) for y in (0, 1, 2)
                ]
                assert server.answers() == version
    assert callers.failures == []
    assert callers.answered > 2 * cycles
    assert callers.lists > 0


def test_cycles_under_load_fail_and_mix_nothing_and_leave_nothing_old(server: Swapped):
    flip(server, 20)


def test_promote_returns_when_every_worker_has_the_table(server: Swapped, workers: int):
    """One is stopped for a moment, and answers by the new version on old connections then."""
    if workers == 1:
        pytest.skip("there are no workers")
    server.do("load", version="2")
    answer = ask(server.client, "/status", authorization=server.operator)
    stopped = answer.json["workers"][0]["pid"]
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(server.client.connect()) for _ in range(4)]
        request = post(f"/predict/{NAME}", json.dumps(record()).encode())
        assert [version_of(c.ask(request).json["prediction"]) for c in kept] == [1] * 4
        promoting = threading.Thread(target=server.do, args=("promote",), kwargs={"version": "2"})
        os.kill(stopped, signal.SIGSTOP)
        try:
            promoting.start()
            promoting.join(0.7)
            assert promoting.is_alive()
        finally:
            os.kill(stopped, signal.SIGCONT)
        promoting.join(BUSY_SECONDS)
        assert not promoting.is_alive()
        assert [version_of(c.ask(request).json["prediction"]) for c in kept] == [2] * 4


@pytest.mark.trial
def test_two_hundred_cycles_under_load(server: Swapped):
    flip(server, int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "200")))


def test_loading_and_unloading_over_and_over_leaves_nothing_behind(server: Swapped):
    """Nothing that the collector would have to find: it is off, as far as this process goes."""
    gc.disable()
    try:
        for _ in range(3):
            server.do("load", version="2")
            assert server.answers(query="?version=2") == 2
            assert server.do("unload", version="2")["released"]
    finally:
        gc.enable()
    line = f'keelmark_predictions_total{{model="{NAME}",version="2",outcome="model"}}'
    before = server.client.metric(line)
    server.do("load", version="2")
    server.answers(query="?version=2")
    assert server.client.metric(line) == before + 1
    slot = f'keelmark_model_slot{{model="{NAME}",version="2",slot="candidate"}}'
    assert server.client.metric(slot) == 1


# restarts


def test_a_restart_serves_what_was_live_with_the_same_beside_it(
    packed: Path, tmp_path: Path, workers: int
):
    with server_over(packed, tmp_path, workers=workers, deadline_ms=60_000) as client:
        first = Swapped(client, tmp_path)
        first.do("load", version="2")
        first.do("promote", version="2")
        generation = first.do("rollback")["generation"]
        generation = first.do("promote", version="2")["generation"]
    with server_over(packed, tmp_path, workers=workers, deadline_ms=60_000) as client:
        again = Swapped(client, tmp_path)
        assert again.slots() == ("2", None, "1")
        assert (again.answers(), again.answers(query="?version=1")) == (2, 1)
        back = again.do("rollback")
        assert back["generation"] > generation
        assert again.answers() == 1
    with server_over(packed, tmp_path, workers=workers, deadline_ms=60_000) as client:
        last = Swapped(client, tmp_path)
        assert last.slots() == ("1", "2", None)
        assert not last.do("rollback")["changed"]


def test_a_model_that_was_not_there_can_be_loaded_and_promoted(tmp_path: Path, workers: int):
    store = tmp_path / "store"
    pack_tiny(store)
    with server_over(store, tmp_path / "state", workers=workers, deadline_ms=60_000) as client:
        pack_three(store, 1)
        server = Swapped(client, tmp_path / "state")
        server.do("load", version="1")
        assert client.ops("/health/ready").status == 200
        answer = server.predict(record())
        assert (answer.status, answer.error["code"]) == (503, "not_loaded")
        assert server.answers(query="?version=1") == 1
        server.do("promote", version="1")
        assert server.answers() == 1


# series of the past


def test_series_of_the_unloaded_are_kept_for_a_while():
    now = [0.0]
    layout = small_layout()
    series = ModelSeries(layout, Facts("ab", "x", "1", "", 1.0))
    retired = Retired(lambda: now[0])
    retired.add("key", ("a", "1"), "ab", series, [Region.anonymous(layout)])
    retired.close("key")
    now[0] = KEPT_SECONDS - 1
    assert len(list(retired.exposed(set()))) == 1
    assert list(retired.exposed({("a", "1")})) == []
    now[0] = 2 * KEPT_SECONDS - 2
    assert len(list(retired.exposed(set()))) == 1
    now[0] = 2 * KEPT_SECONDS
    assert list(retired.exposed(set())) == []


def test_events_of_swaps_are_complete(server: Swapped):
    """As many events of a kind as calls that changed something, by the metrics."""
    server.do("load", version="2")
    server.do("promote", version="2")
    server.do("rollback")
    kinds = [event.kind for event in events_in(server.state)]
    for swap, kind in (("load", "loaded"), ("promote", "promoted"), ("rollback", "rolled_back")):
        assert kinds.count(kind) == count(server.client, swap, "done") > 0


def test_a_candidate_that_workers_cannot_open_is_given_up(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It goes between its gate and the workers: the live version answers, nothing is left."""
    if sys.platform != "linux":
        pytest.skip("workers are for Linux")
    store = tmp_path / "store"
    shutil.copytree(packed, store)
    prepare = SupervisorRuntime.prepare

    async def prepared_and_gone(self: SupervisorRuntime, model: str, version: str) -> Prepared:
        prepared = await prepare(self, model, version)
        if version == "2":
            (store / NAME / "2").rename(tmp_path / "away")
        return prepared

    monkeypatch.setattr(SupervisorRuntime, "prepare", prepared_and_gone)
    with server_over(store, tmp_path / "state", workers=2, deadline_ms=60_000) as client:
        server = Swapped(client, tmp_path / "state")
        said = server.refused("load", "bundle_refused", version="2")
        assert "no worker can serve it" in said
        assert (server.slots(), server.answers()) == (("1", None, None), 1)
        assert client.ops("/health/ready").json["workers"] == {"ready": 2, "wanted": 2}
        (tmp_path / "away").rename(store / NAME / "2")
        monkeypatch.setattr(SupervisorRuntime, "prepare", prepare)
        server.do("load", version="2")
        server.do("promote", version="2")
        assert server.answers() == 2


def kills(packed: Path, folder: Path, rounds: int) -> set[tuple[Any, ...]]:
    """Kills supervisors in the middle of swaps; gives the states that restarts found."""
    chance, found = random.Random(11), set[tuple[Any, ...]]()
    store = folder / "store"
    shutil.copytree(packed, store)
    arguments = ("--workers", "2", "--drain-delay-seconds", "0", "--deadline-ms", "60000")
    for _ in range(rounds):
        with serving(store, folder, *arguments) as server:
            slots = read_facts(folder / "state").slots
            if NAME in slots and slots[NAME].second is not None:  # it is opened after the live one
                wait_until(lambda: status(folder)["second"] is not None)
            model = status(folder)
            answer = server.predict(NAME, record()).body
            assert answer["version"] == model["version"]
            assert version_of(answer["prediction"]) == int(model["version"])
            second = model["second"] or {"slot": None, "version": None}
            found.add((model["version"], second["slot"], second["version"]))
            swaps = threading.Thread(target=swap_on, args=(folder, model["version"], second))
            swaps.start()
            time.sleep(chance.uniform(0, 0.5 if second["slot"] else 4.0))
            kill(server)
            swaps.join(BUSY_SECONDS)
    return found


def status(folder: Path) -> dict[str, Any]:
    """Of the one model."""
    (model,) = call("/status", server=None, state_dir=folder / "state")["models"]
    return model


def swap_on(folder: Path, live: str, second: dict[str, Any]) -> None:
    """Loads, promotes and rolls back, until the server is gone."""

    def swap(name: str, **body: str) -> None:
        while True:
            try:
                call(f"/models/{NAME}/{name}", body, server=None, state_dir=folder / "state")
            except ServerSaysNo as error:
                if "still opening" not in str(error):
                    raise
            else:
                return

    with contextlib.suppress(NotRunning, OSError):
        if second["slot"] is None:
            swap("load", version="2")
        if live == "2":
            swap("rollback")
        while True:
            swap("promote", version="2")
            swap("rollback")


LEGAL = {
    ("1", None, None),
    ("1", "candidate", "2"),
    ("2", "previous", "1"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
def test_a_supervisor_killed_in_a_swap_leaves_a_state_that_a_restart_serves(
    packed: Path, tmp_path: Path
):
    assert kills(packed, tmp_path, 3) <= LEGAL


@pytest.mark.trial
@pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
def test_supervisors_killed_at_random_in_swaps(packed: Path, tmp_path: Path):
    found = kills(packed, tmp_path, int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "40")))
    assert found == LEGAL
