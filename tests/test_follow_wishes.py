"""What a server that follows its store does about wishes that fail, wait, come late or go."""

import asyncio
import json
import shutil
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from models.errors import BundleCorrupt
from models.store import Store
from server.runtime import InProcessRuntime, Prepared
from tests.following import Following, following
from tests.three import NAME, pack_strict, pack_three, pack_versions
from tests.tiny import pack_tiny
from tests.workers import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, of which the first is wished live, and one that breaks callers."""
    store = pack_versions(tmp_path_factory.mktemp("store"), 3)
    pack_strict(store)
    return store


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Store:
    """A store of the test's own."""
    return Store(shutil.copytree(packed, tmp_path / "store"))


@pytest.fixture
def server(store: Store, tmp_path: Path) -> Generator[Following]:
    """In one process, following."""
    with following(store, tmp_path / "state") as server:
        yield server


def test_a_wish_that_fails_is_told_once_and_tried_again_when_it_is_repaired(server: Following):
    folder = server.store.root / NAME / "bad"
    shutil.copytree(server.store.root / NAME / "3", folder)
    golden = folder / "golden.json"
    whole = golden.read_bytes()
    golden.write_bytes(whole[:-100])
    server.wish("bad")
    assert "golden.json" in server.until("failed", "bad")
    server.looks()
    assert server.told("wish_not_followed") == [("wish_not_followed", "server")]
    assert len(server.told("swap_refused")) == 1
    assert (server.slots(), server.answers()) == (("1", None), 1)
    golden.write_bytes(whole)  # now it is whole, and still not what its folder says
    wait_until(lambda: "says that it is" in server.stands()[2])
    server.looks()
    assert len(server.told("wish_not_followed")) == 2
    shutil.rmtree(folder)
    pack_three(server.store.root, 3, version="bad")
    server.until("followed", "bad")
    assert server.answers() == 3


def test_a_wish_that_breaks_callers_is_not_followed_and_nothing_is_given_up(server: Following):
    server.wish("3")
    server.until("followed", "3")
    server.wish("strict")
    why = server.until("failed", "strict")
    assert "breaks callers of 3" in why
    assert "--breaking" in why
    server.looks()
    assert server.slots() == ("3", "previous 1")
    assert len(server.told("wish_not_followed")) == 1
    server.do("load", version="strict", drop_previous=True)
    server.do("promote", version="strict", breaking=True)
    server.until("followed", "strict")


def test_an_operators_candidate_is_waited_for(server: Following):
    server.do("load", version="3")
    server.wish("2")
    assert "candidate 3" in server.until("waiting", "2")
    server.looks()
    assert server.slots() == ("1", "candidate 3")
    assert len(server.told("wish_not_followed")) == 1
    server.do("unload", version="3")
    server.until("followed", "2")
    server.do("load", version="3", drop_previous=True)
    server.wish("1")
    server.until("waiting", "1")
    server.do("promote", version="3")  # what the operator meant wins over the wish of that time
    server.until("overruled", "1")
    server.looks()
    assert server.slots() == ("3", "previous 2")


def test_a_load_of_an_operator_is_waited_for_even_if_it_comes_to_nothing(
    server: Following, monkeypatch: pytest.MonkeyPatch
):
    prepare, is_loading, may_go_on = InProcessRuntime.prepare, threading.Event(), threading.Event()

    async def slowly(self: InProcessRuntime, model: str, version: str) -> Prepared:
        if version == "3":
            is_loading.set()
            await asyncio.to_thread(may_go_on.wait, 60)
            raise BundleCorrupt("it was altered")
        return await prepare(self, model, version)

    monkeypatch.setattr(InProcessRuntime, "prepare", slowly)
    loading = threading.Thread(target=server.ask, args=("load",), kwargs={"version": "3"})
    loading.start()
    assert is_loading.wait(60)
    server.wish("2")
    assert "is being loaded just now" in server.until("waiting", "2")
    server.looks()
    may_go_on.set()
    loading.join(60)
    server.until("followed", "2")
    assert len(server.told("wish_not_followed", "swap_refused")) == 2


def test_a_wish_that_is_taken_back_while_it_is_loaded_is_not_promoted(
    server: Following, monkeypatch: pytest.MonkeyPatch
):
    prepare, is_loading, may_go_on = InProcessRuntime.prepare, threading.Event(), threading.Event()

    async def slowly(self: InProcessRuntime, model: str, version: str) -> Prepared:
        prepared = await prepare(self, model, version)
        if version == "2":
            is_loading.set()
            await asyncio.to_thread(may_go_on.wait, 60)
        return prepared

    monkeypatch.setattr(InProcessRuntime, "prepare", slowly)
    server.wish("2")
    assert is_loading.wait(60)
    assert server.stands() == ("moving", "2", "")
    server.wish("1")
    may_go_on.set()
    server.until("followed", "1")
    server.wish("3")
    server.until("followed", "3")
    assert [event.after["live"] for event in server.since("promoted")] == ["3"]
    assert server.slots() == ("3", "previous 1")


def test_new_models_are_served_and_removed_ones_are_left(server: Following):
    pack_tiny(server.store.root)
    server.looks()
    assert [model["model"] for model in server.status()["models"]] == [NAME]
    server.wish("1", "tiny")
    server.until("followed", "1", "tiny")
    assert server.client.predict({"age": 60}).status == 200
    shutil.rmtree(server.store.root / "tiny")
    wait_until(lambda: [wish["model"] for wish in server.status()["wishes"]] == [NAME])
    assert server.client.predict({"age": 60}).status == 200


def test_a_wish_for_what_comes_later(server: Following):
    """Whoever copies a store may copy the wish before the version."""
    path = server.store.root / NAME / "live.json"
    wish = json.loads(path.read_bytes()) | {"live": "4", "revision": 2, "by": "rsync"}
    path.write_text(json.dumps(wish))
    assert "no three/4" in server.until("failed", "4")
    pack_three(server.store.root, 2, version="4")
    server.until("followed", "4")
    assert server.answers() == 2


def test_a_wish_that_cannot_be_read_or_is_older_is_told_once(server: Following):
    server.wish("2")
    server.until("followed", "2")
    path = server.store.root / NAME / "live.json"
    older = json.loads(path.read_bytes()) | {"live": "1", "revision": 1}
    path.write_text("{")
    assert "cannot be read" in server.until("waiting", None)
    path.write_text(json.dumps(older))
    assert "replaced by an older one" in server.until("waiting", "1")
    server.looks()
    assert len(server.told("wish_not_followed")) == 2
    assert server.answers() == 2


def test_an_empty_store_is_waited_for(packed: Path, tmp_path: Path):
    (store := tmp_path / "store").mkdir()
    with following(Store(store), tmp_path / "state") as server:
        assert server.client.ops("/health/ready").status == 503
        for version in ("1", "2"):
            shutil.copytree(packed / NAME / version, store / NAME / version)
        server.looks()
        assert server.status()["models"] == []
        server.wish("2")
        server.until("followed", "2")
        assert server.client.ops("/health/ready").status == 200
        assert server.answers() == 2
