"""Publishing a folder into a store: what was examined is there, or nothing is."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models import publishing
from models.errors import (
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    StoreError,
    VersionTaken,
)
from models.gate import run_gate
from models.publishing import publish_folder
from models.store import LEFT_BEHIND_SECONDS, Store
from tests.packed import copied, rewritten
from tests.tiny import NAME, pack_tiny
from tests.workers import wait_until

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A bundle's folder that a test may spoil."""
    return copied(whole, tmp_path / "bundle")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (root := tmp_path / "store").mkdir()
    return Store(root)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def is_empty(store: Store) -> bool:
    return list(store.root.iterdir()) == []


def test_a_folder_is_published_whole_and_once(store: Store, folder: Path):
    assert publish_folder(store, folder).is_new
    assert contents(store.root) == {f"{NAME}/1/{n}": c for n, c in contents(folder).items()}
    assert not publish_folder(store, folder).is_new
    assert not publish_folder(store, store.folder(NAME, "1")).is_new


def test_a_dry_run_does_all_but_the_last_step(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    examined: list[Path] = []

    def gate(aside: Path) -> Any:
        examined.append(aside)
        return run_gate(aside)

    monkeypatch.setattr(publishing, "run_gate", gate)
    assert publish_folder(store, folder, dry_run=True).is_new
    assert (len(examined), is_empty(store)) == (1, True)
    publish_folder(store, folder)
    other = pack_tiny(folder.parent / "other", description="another")
    with pytest.raises(VersionTaken):
        publish_folder(store, other, dry_run=True)


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def nonsense(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


def altered(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def one_file_more(folder: Path) -> None:
    (folder / "run.sh").write_text("touch ran")


def a_link(folder: Path) -> None:
    (folder / "card.md").rename(folder.parent / "card.md")
    (folder / "card.md").symlink_to(folder.parent / "card.md")


def another_answer(folder: Path) -> None:
    def change(content: bytes) -> bytes:
        golden = json.loads(content)
        row = next(row for row in golden["rows"] if row["expected"]["model"] is not None)
        row["expected"]["model"]["probability"] = 0.123
        return json.dumps(golden).encode()

    rewritten(folder, "golden.json", change)


SPOILT: dict[str, tuple[Callable[[Path], None], type[BundleError]]] = {
    "no manifest": (no_manifest, BundleCorrupt),
    "nonsense": (nonsense, BundleCorrupt),
    "altered": (altered, BundleCorrupt),
    "one file more": (one_file_more, BundleCorrupt),
    "a link": (a_link, BundleCorrupt),
    "another answer": (another_answer, BundleError),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_refused_leaves_nothing_behind(store: Store, folder: Path, how: str):
    spoil, error = SPOILT[how]
    spoil(folder)
    with pytest.raises(error):
        publish_folder(store, folder)
    assert is_empty(store)


def test_what_is_no_folder(store: Store, tmp_path: Path):
    with pytest.raises(BundleNotFound):
        publish_folder(store, tmp_path / "nothing")
    assert is_empty(store)


def test_what_is_changed_while_it_is_copied_is_refused(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another bundle comes into the folder, as good as the first: it was not what was meant."""
    other = pack_tiny(folder.parent / "other", "2")
    real = publishing._copy_file

    def copy(source: Path, target: Path) -> None:
        real(other / source.name, target)

    monkeypatch.setattr(publishing, "_copy_file", copy)
    with pytest.raises(BundleCorrupt, match="changed while it was copied"):
        publish_folder(store, folder)
    assert is_empty(store)


def test_what_becomes_a_link_while_it_is_copied_is_not_followed(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    real = publishing._copy

    def copy(source: Path, *given: Any) -> None:
        (source / "card.md").unlink()
        (source / "card.md").symlink_to("/dev/zero")
        real(source, *given)

    monkeypatch.setattr(publishing, "_copy", copy)
    with pytest.raises(StoreError):
        publish_folder(store, folder)
    assert is_empty(store)


def test_a_full_disk_is_said_and_leaves_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "_copy_file", full)
    with pytest.raises(StoreError, match="No space left on device"):
        publish_folder(store, folder)
    assert is_empty(store)


def test_many_publish_one_bundle_and_all_are_content(store: Store, folder: Path):
    found: list[bool] = []

    def publish() -> None:
        found.append(publish_folder(store, folder).is_new)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, False, True]
    assert sorted(path.name for path in (store.root / NAME).iterdir()) == ["1"]


def test_new_models_come_and_fail_side_by_side(store: Store, folder: Path):
    """One that fails removes the empty folder of its model, under the hands of others."""
    errors: list[Exception] = []

    def come_and_go() -> None:
        try:
            for _ in range(200):
                with store.aside("new", "1"):
                    pass
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert is_empty(store)


def test_a_model_whose_folder_is_a_link_to_nowhere_is_refused(store: Store, tmp_path: Path):
    (store.root / "new").symlink_to(tmp_path / "unmounted")
    with pytest.raises(OSError, match="leads nowhere"), store.aside("new", "1"):
        pass


KILLED = """
import sys, time
from pathlib import Path
from models import publishing
from models.store import Store

def wait(*_):
    print("waits", flush=True)
    time.sleep(600)

publishing.run_gate = wait
publishing.publish_folder(Store(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_publisher_that_is_killed_leaves_what_nobody_sees(store: Store, folder: Path):
    """The next one publishes the same, and one that comes later removes what was left."""
    command = [sys.executable, "-c", KILLED, str(store.root), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        process.send_signal(signal.SIGKILL)
    (left,) = (store.root / NAME).iterdir()
    assert left.name.startswith(".1.")
    assert store.names() == []
    assert publish_folder(store, folder).is_new
    then = time.time() - LEFT_BEHIND_SECONDS - 60
    os.utime(left, (then, then))
    wished = store.root / NAME / ".live.json.0123abcd"
    wished.write_text("{")
    os.utime(wished, (then, then))
    publish_folder(store, pack_tiny(folder.parent / "other", "2"))
    wait_until(lambda: not left.exists())
    assert sorted(path.name for path in (store.root / NAME).iterdir()) == ["1", "2"]


def test_a_half_written_wish_is_no_wish(store: Store, folder: Path):
    publish_folder(store, folder)
    (store.root / NAME / ".live.json.0123abcd").write_text('{"format":1,"live":"9"')
    assert store.live(NAME) is None
    assert store.resolve(NAME) == "1"
    assert store.set_live(NAME, "1", by="ann").revision == 1
