"""The store: versions appear whole or not at all, and the live wish moves one step at a time."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from features import number
from models.errors import (
    BundleCorrupt,
    BundleNotFound,
    DefinitionChanged,
    FormatUnknown,
    LiveChanged,
    NothingLive,
    PackingError,
    StoreError,
    VersionTaken,
)
from models.manifest import Manifest
from models.store import LiveWish, Store
from tests.packed import copied, features, packed, trips


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Store:
    """A store of its own with one version."""
    copied(whole, tmp_path / "store" / "trips" / "1")
    return Store(tmp_path / "store")


def add(store: Store, version: str, name: str = "trips") -> Path:
    """Another version with the same content, published as pack does it."""
    manifest = store.manifest("trips", "1")
    manifest = msgspec.structs.replace(manifest, name=name, version=version)
    with store.aside(name, version) as folder:
        for path in store.folder("trips", "1").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        return store.publish(folder, manifest)


def test_it_lists_what_is_there(store: Store):
    add(store, "2")
    add(store, "10", name="other")
    assert store.names() == ["other", "trips"]
    assert store.versions("trips") == ["1", "2"]
    assert store.versions("nothing") == []


def test_what_is_no_version_is_not_listed(store: Store):
    (store.root / "trips" / ".1.half").mkdir()
    (store.root / "trips" / "notes.txt").write_text("x")
    (store.root / "empty").mkdir()
    (store.root / ".git").mkdir()
    assert store.names() == ["trips"]
    assert store.versions("trips") == ["1"]


def test_a_store_that_is_not_there(tmp_path: Path):
    with pytest.raises(StoreError, match="no store at"):
        Store(tmp_path / "nothing").names()


def test_it_opens_a_version(store: Store):
    bundle = store.open("trips", "1")
    assert (bundle.name, bundle.version) == ("trips", "1")


@pytest.mark.parametrize(("name", "version"), [("trips", "9"), ("nothing", "1")])
def test_what_is_not_there_is_said_with_what_is(store: Store, name: str, version: str):
    with pytest.raises(BundleNotFound, match=r"versions \['1'\]|no such model"):
        store.open(name, version)


@pytest.mark.parametrize("name", ["", "Trips", "../trips", "a/b", ".trips", "x" * 65, "trips\n"])
def test_names_that_are_none(store: Store, name: str):
    with pytest.raises(PackingError, match="is not a model name"):
        store.versions(name)


@pytest.mark.parametrize("version", ["", "..", "1/2", ".1", "-1", "x" * 65, "1\n"])
def test_versions_that_are_none(store: Store, version: str):
    with pytest.raises(PackingError, match="is not a version"):
        store.folder("trips", version)


def test_a_renamed_folder_is_not_that_version(store: Store):
    store.folder("trips", "1").rename(store.root / "trips" / "2")
    with pytest.raises(BundleCorrupt, match="says that it is trips/1"):
        store.open("trips", "2")


# publishing


def test_a_version_is_never_replaced(store: Store):
    before = store.manifest("trips", "1")
    with pytest.raises(VersionTaken, match="immutable"):
        packed(store.root, "1")
    assert store.manifest("trips", "1") == before


def test_a_version_taken_while_it_was_being_written(store: Store):
    manifest = msgspec.structs.replace(store.manifest("trips", "1"), version="2")
    with store.aside("trips", "2") as first, store.aside("trips", "2") as second:
        for folder in (first, second):
            for path in store.folder("trips", "1").iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
        store.publish(first, manifest)
        with pytest.raises(VersionTaken):
            store.publish(second, manifest)
    assert store.versions("trips") == ["1", "2"]


def test_what_was_not_published_leaves_nothing(store: Store):
    def fail() -> None:
        with store.aside("trips", "2") as folder:
            (folder / "model.onnx").write_bytes(b"x")
            assert store.versions("trips") == ["1"]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sorted(path.name for path in (store.root / "trips").iterdir()) == ["1"]


def test_many_publish_one_version_and_one_wins(store: Store):
    won: list[Path] = []
    lost: list[Exception] = []

    def publish() -> None:
        try:
            won.append(add(store, "2"))
        except VersionTaken as error:
            lost.append(error)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert sorted(path.name for path in (store.root / "trips").iterdir()) == ["1", "2"]


def test_a_label_names_one_definition(store: Store):
    log = number("distance", unit="km", low=0, high=50).impute("median").log1p()
    other = features(distance=number("distance", unit="km", low=0, high=50), log_distance=log)
    with pytest.raises(DefinitionChanged) as caught:
        packed(store.root, "2", features=other.fit(trips(), target="late", quiet=True))
    assert "field 'distance'.high: was 100" in str(caught.value)
    assert "raise the version of the feature set" in str(caught.value)
    assert store.versions("trips") == ["1"]


def test_another_label_may_name_another_definition(store: Store, whole: Path):
    manifest = store.manifest("trips", "1")
    identity = msgspec.structs.replace(manifest.features, label="trips@2", spec_digest="0" * 64)
    store.check_definition(identity, {})


def test_a_refitted_definition_keeps_its_label(store: Store):
    manifest: Manifest = store.manifest("trips", "1")
    refitted = features().fit(trips(seed=3), quiet=True)
    identity = msgspec.structs.replace(
        manifest.features,
        state_digest=refitted.state_digest,
        features_digest=refitted.features_digest,
    )
    assert identity.features_digest != manifest.features.features_digest
    store.check_definition(identity, refitted.feature_set.spec)


def test_one_spoilt_bundle_does_not_stop_the_others(store: Store):
    add(store, "2")
    (store.root / "trips" / "1" / "manifest.json").write_text("{")
    store.check_definition(store.manifest("trips", "2").features, {})


@pytest.mark.parametrize("version", ["live.json", "1.json"])
def test_a_version_is_not_named_as_the_files_beside_it(store: Store, version: str):
    with pytest.raises(PackingError, match=r"ends in \.json"):
        store.check_free("trips", version)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"spec": 1}'])
def test_a_neighbour_whose_features_cannot_be_read(store: Store, content: bytes | None):
    path = store.folder("trips", "1") / "features.json"
    path.unlink() if content is None else path.write_bytes(content)
    identity = store.manifest("trips", "1").features
    other = msgspec.structs.replace(identity, spec_digest="0" * 64)
    with pytest.raises(BundleCorrupt, match=r"features\.json cannot be read .* remove it"):
        store.check_definition(other, {})


def test_a_new_model_is_synced_up_to_the_store(store: Store, monkeypatch: pytest.MonkeyPatch):
    synced: list[Path] = []
    monkeypatch.setattr("models.store.sync", synced.append)
    add(store, "1", name="other")
    assert {store.root, store.root / "other"} <= set(synced)


def left(store: Store, name: str, *, age: float) -> Path:
    folder = store.root / "trips" / name
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"x")
    then = time.time() - age
    os.utime(folder, (then, then))
    return folder


def test_what_killed_packs_left_behind_is_removed_at_the_next_publish(store: Store):
    old = left(store, ".2.0123abcd", age=3700)
    young = left(store, ".2.89abcdef", age=3500)
    other = left(store, ".notes.mine", age=9999)
    with store.aside("trips", "4") as used:
        os.utime(used, (0, 0))
        add(store, "3")
        assert [path.exists() for path in (old, young, other, used)] == [False, True, True, True]


# the live wish


def test_the_only_version_is_live_without_a_wish(store: Store):
    assert store.live("trips") is None
    assert store.resolve("trips") == "1"


def test_several_versions_and_no_wish_are_refused_with_the_command(store: Store):
    add(store, "2")
    with pytest.raises(NothingLive, match="keelmark publish trips/2 --live"):
        store.resolve("trips")


def test_no_version_at_all(store: Store):
    with pytest.raises(BundleNotFound, match="has no model"):
        store.resolve("nothing")


def test_a_wish_is_written_and_followed(store: Store):
    add(store, "2")
    first = store.set_live("trips", "1", by="ada")
    second = store.set_live("trips", "2", by="grace")
    assert (first.revision, first.previous) == (1, None)
    assert (second.revision, second.previous) == (2, "1")
    assert store.live("trips") == second
    assert store.resolve("trips") == "2"
    written = json.loads((store.root / "trips" / "live.json").read_bytes())
    assert list(written) == ["format", "live", "previous", "revision", "at", "by"]


def test_wishing_the_same_again_keeps_the_previous(store: Store):
    add(store, "2")
    for version in ("1", "2", "2"):
        wish = store.set_live("trips", version, by="ada")
    assert (wish.live, wish.previous, wish.revision) == ("2", "1", 3)


def test_a_decision_based_on_an_old_look_is_refused(store: Store):
    add(store, "2")
    seen = store.set_live("trips", "1", by="ada")
    store.set_live("trips", "2", by="grace", expected=seen.revision)
    with pytest.raises(LiveChanged, match="by grace"):
        store.set_live("trips", "1", by="ada", expected=seen.revision)
    assert store.resolve("trips") == "2"


def test_only_one_of_many_with_the_same_look_wins(store: Store):
    add(store, "2")
    results: list[LiveWish | None] = []

    def wish() -> None:
        try:
            results.append(store.set_live("trips", "2", by="x", expected=0))
        except LiveChanged:
            results.append(None)

    threads = [threading.Thread(target=wish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result is not None for result in results) == 1
    assert store.live("trips") == next(result for result in results if result)


def test_changes_wait_for_each_other(store: Store):
    descriptor = os.open(store.root / "trips", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = threading.Thread(target=store.set_live, args=("trips", "1"), kwargs={"by": "x"})
    other.start()
    other.join(0.3)
    assert other.is_alive()
    os.close(descriptor)
    other.join()
    assert store.resolve("trips") == "1"


def test_a_wish_for_what_is_not_there(store: Store):
    with pytest.raises(BundleNotFound):
        store.set_live("trips", "9", by="ada")
    assert store.live("trips") is None


def test_a_wish_for_what_is_gone(store: Store):
    add(store, "2")
    store.set_live("trips", "2", by="ada")
    store.folder("trips", "2").rename(store.root / "gone")
    with pytest.raises(BundleNotFound, match="no trips/2"):
        store.resolve("trips")


@pytest.mark.parametrize(
    ("content", "error"),
    [("", BundleCorrupt), ('{"format":1}', BundleCorrupt), ('{"format":2}', FormatUnknown)],
)
def test_a_wish_that_is_none(store: Store, content: str, error: type[Exception]):
    (store.root / "trips" / "live.json").write_text(content)
    with pytest.raises(error, match=r"live\.json"):
        store.resolve("trips")


def test_reading_needs_no_write_access(store: Store):
    """Root may write anywhere, so what is looked at is whether anything was written."""
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    store.open("trips", store.resolve("trips"))
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before
