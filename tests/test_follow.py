"""A server that follows its store: wishes are gone over to, once, and operators are not fought."""

import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest

from models.store import Store
from server.cli.ops_client import call
from tests.following import following
from tests.in_thread import server_over
from tests.operating import ask, bearer
from tests.serving import serving
from tests.three import NAME, pack_versions, record, version_of
from tests.workers import kill, wait_until

pytestmark = [
    pytest.mark.in_turn,
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, of which the first is wished live."""
    return pack_versions(tmp_path_factory.mktemp("store"), 3)


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Store:
    """A store of the test's own."""
    return Store(shutil.copytree(packed, tmp_path / "store"))


MOVES = ("loaded", "promoted", "rolled_back", "unloaded", "swap_refused")


def test_wishes_are_followed_and_operators_are_not_fought(
    store: Store, tmp_path: Path, workers: int
):
    with following(store, tmp_path / "state", workers=workers) as server:
        server.until("followed", "1")
        server.wish("2")
        server.until("followed", "2")
        assert (server.slots(), server.answers()) == (("2", "previous 1"), 2)
        server.wish("1")
        server.until("followed", "1")
        assert (server.slots(), server.answers()) == (("1", "candidate 2"), 1)
        moves = server.told(*MOVES)
        assert moves == [(kind, "server") for kind in ("loaded", "promoted", "rolled_back")]
        promoted = server.since("promoted")[0]
        assert promoted.facts["reason"] == "the store's wish, revision 2, by ann"

        server.wish("3")  # the candidate 2 was rolled back from: it makes room
        server.until("followed", "3")
        assert (server.slots(), server.answers()) == (("3", "previous 1"), 3)
        server.do("rollback", reason="it is no good")
        why = server.until("overruled", "3")
        assert why.startswith("operator-")
        server.looks()
        assert (server.slots(), server.answers()) == (("1", "candidate 3"), 1)
        (event,) = server.since("wish_not_followed")
        assert (event.facts["state"], event.facts["wished"]) == ("overruled", "3")
        state = 'keelmark_wish_state{{model="three",state="{}"}}'
        assert server.client.metric(state.format("overruled")) == 1
        assert server.client.metric(state.format("followed")) == 0
        wishes = 'keelmark_wishes_total{{result="{}"}}'
        assert server.client.metric(wishes.format("followed")) == 4
        assert server.client.metric(wishes.format("overruled")) == 1
    with following(store, tmp_path / "state", workers=workers) as server:
        server.until("overruled", "3")
        server.looks()
        assert server.slots() == ("1", "candidate 3")
        server.wish("3")  # somebody insists
        server.until("followed", "3")
        assert server.answers() == 3
        assert server.told("wish_not_followed") == []


def test_at_the_start_facts_win_and_then_a_newer_wish(store: Store, tmp_path: Path, workers: int):
    state = tmp_path / "state"
    with following(store, state, workers=workers) as server:
        server.wish("2")
        server.until("followed", "2")
    store.set_live(NAME, "3", by="bob")
    with server_over(store.root, state, workers=workers) as client:
        answer = ask(client, "/status", authorization=bearer(state, "viewer")).json
        assert (answer["models"][0]["version"], answer["wishes"]) == ("2", [])
    with following(store, state, workers=workers) as server:
        server.until("followed", "3")
        assert server.answers() == 3


def kills(store: Store, folder: Path, rounds: int) -> None:
    """Kills servers while they follow; the last one gets to the last wish all the same."""
    chance, version = random.Random(7), "1"
    arguments = ("--workers", "2", "--follow", "--follow-seconds", "0.2", "--deadline-ms", "60000")
    for last in [False] * rounds + [True]:
        with serving(store.root, folder, *arguments, "--drain-delay-seconds", "0") as server:
            answer = server.predict(NAME, record()).body
            assert version_of(answer["prediction"]) == int(answer["version"])
            version = chance.choice([each for each in "123" if each != version])
            store.set_live(NAME, version, by="ann")
            if not last:
                time.sleep(chance.uniform(0, 4.0))
                kill(server)
                continue

            def is_followed(version: str = version) -> bool:
                status = call("/status", server=None, state_dir=folder / "state")
                known = [(wish["version"], wish["state"]) for wish in status["wishes"]]
                return known == [(version, "followed")]

            wait_until(is_followed)
            assert server.predict(NAME, record()).body["version"] == version


@pytest.mark.trial
@pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
def test_servers_killed_at_random_while_they_follow(store: Store, tmp_path: Path):
    kills(store, tmp_path, int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "20")))
