"""Opening bundles: what a good one is, and how every way of being a bad one is refused."""

import errno
import gc
import hashlib
import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from features import number
from features.runtime import Session
from models.bundle import Bundle
from models.errors import BundleCorrupt, BundleNotFound, FeaturesMismatch, FormatUnknown
from models.manifest import FEATURES, MANIFEST, MODEL, REQUIRED, SIGNATURE
from tests.packed import copied, edited, features, packed, relisted, rewritten, trained, trips

HUGE = 1 << 36
JSON_FILES = ("fallback.json", "features.json", "golden.json", "reference.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("store"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return copied(whole, tmp_path / "bundle")


def test_its_digest_is_that_of_the_manifest(whole: Path):
    bundle = Bundle.open(whole)
    assert bundle.digest == hashlib.sha256((whole / MANIFEST).read_bytes()).hexdigest()
    assert (bundle.name, bundle.version) == ("trips", "1")


def test_it_answers_with_the_features_that_transform_gives(whole: Path):
    bundle, (fitted, x) = Bundle.open(whole), trained()
    outputs = bundle.run(fitted.encode_table(trips()).rows)
    assert outputs.features is not None
    assert outputs.features.tobytes() == x.tobytes()
    assert [spec.name for spec in bundle.outputs] == ["probability"]
    assert outputs.values[0].shape == (len(x),)
    assert outputs.values[0].dtype == np.float32


def test_no_rows_have_no_answers(whole: Path):
    bundle = Bundle.open(whole)
    outputs = bundle.run(np.empty((0, len(bundle.fields))))
    assert [column.shape for column in outputs.values] == [(0,)]
    assert outputs.features is not None
    assert outputs.features.shape == (0, len(trained()[0].feature_names))


def test_its_example_is_a_record_that_the_model_answers(whole: Path):
    bundle = Bundle.open(whole)
    plan = bundle.ladder.plan(bundle.encoder.encode([bundle.example]))
    assert plan.rung is None
    assert set(bundle.example) == {field.name for field in bundle.fields}


def test_batches_are_not_trusted_until_the_gate_has_looked(whole: Path):
    assert Bundle.open(whole).manifest.batch_exact
    assert not Bundle.open(whole).batch_exact
    assert Bundle.open(whole, batch_exact=True).batch_exact


def test_it_is_gone_as_soon_as_nobody_holds_it(whole: Path):
    """A cycle would keep a model's memory until the collector runs, in live traffic."""
    bundle = Bundle.open(whole)
    gone = weakref.ref(bundle)
    gc.disable()
    try:
        del bundle
        assert gone() is None
    finally:
        gc.enable()


def test_serving_needs_no_authoring_library(whole: Path):
    program = (
        "import sys; from pathlib import Path; from models.bundle import Bundle\n"
        "bundle = Bundle.open(Path(sys.argv[1]))\n"
        "bundle.run(bundle.encoder.encode([bundle.example]).rows)\n"
        "heavy = {'onnx', 'pyarrow', 'pandas', 'sklearn', 'lightgbm', 'rich', 'fastapi'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program, whole], check=True, cwd=Path(__file__).parent.parent
    )


# refusals


def refused(folder: Path, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        Bundle.open(folder)
    message = str(caught.value).replace(str(folder), "")  # whose name is the test's
    for word in words:
        assert word in message
    assert len(message.split()) > 8, "what happened, what was expected, what to do"


def test_a_folder_that_is_not_there(tmp_path: Path):
    refused(tmp_path / "nothing", BundleNotFound, "check the store")


@pytest.mark.parametrize("name", REQUIRED)
def test_an_altered_file(folder: Path, name: str):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refused(folder, BundleCorrupt, name, "altered", "copy the bundle again")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_truncated_file(folder: Path, name: str):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    refused(folder, BundleCorrupt, name, "truncated")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_longer_file(folder: Path, name: str):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    refused(folder, BundleCorrupt, name, "longer")


def claimed(folder: Path, name: str, size: int) -> None:
    """Lets the manifest say that a file has so many bytes."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for entry in manifest["files"]:
        if entry["name"] == name:
            entry["size"] = size
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, *REQUIRED])
def test_a_file_of_holes_is_not_read(folder: Path, name: str):
    """It costs whoever puts it there nothing, and whoever reads it all memory."""
    (folder / name).touch()
    os.truncate(folder / name, HUGE)
    if name == MODEL:
        refused(folder, BundleCorrupt, name, "longer")
        return
    if name in REQUIRED:
        refused(folder, BundleCorrupt, name, "longer")
        claimed(folder, name, HUGE)
    refused(folder, BundleCorrupt, name, str(HUGE), "at most")


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_a_missing_file(folder: Path, name: str):
    (folder / name).unlink()
    refused(folder, BundleCorrupt, name, "missing")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "baseline.onnx"])
def test_a_file_that_is_not_listed(folder: Path, name: str):
    (folder / name).write_bytes(b"x")
    refused(folder, BundleCorrupt, name, "Remove")


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_a_link_in_place_of_a_file(folder: Path, tmp_path: Path, name: str):
    original = (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(original)
    refused(folder, BundleCorrupt, name, "a link")


def test_a_subfolder(folder: Path):
    (folder / "more").mkdir()
    refused(folder, BundleCorrupt, "more", "a folder")


def test_a_listed_file_that_the_format_has_not(folder: Path):
    (folder / "notes.txt").write_bytes(b"x")

    def add(manifest: Any) -> None:
        manifest["files"].append({"name": "notes.txt", "size": 1, "sha256": "0" * 64})

    (folder / MANIFEST).write_bytes(edited(add)((folder / MANIFEST).read_bytes()))
    refused(folder, BundleCorrupt, "notes.txt")


def test_a_path_out_of_the_folder(folder: Path):
    def add(manifest: Any) -> None:
        manifest["files"].append({"name": "../card.md", "size": 1, "sha256": "0" * 64})

    (folder / MANIFEST).write_bytes(edited(add)((folder / MANIFEST).read_bytes()))
    refused(folder, BundleCorrupt, "../card.md")


@pytest.mark.parametrize("format_", [2, 0, "1", True, None, 1.5])
@pytest.mark.parametrize("name", [MANIFEST, *JSON_FILES])
def test_another_format(folder: Path, name: str, format_: Any):
    rewritten(folder, name, edited(lambda value: value.update(format=format_)))
    refused(folder, FormatUnknown, name, "format 1")


@pytest.mark.parametrize("name", [MANIFEST, *JSON_FILES])
@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"\xff\xfe"])
def test_a_file_that_is_not_what_its_name_says(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    if name != MANIFEST:
        relisted(folder, name)
    refused(folder, BundleCorrupt, name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("manifest.json", "description"),
        ("features.json", "spec"),
        ("fallback.json", "default"),
        ("golden.json", "rows"),
        ("reference.json", "troubles"),
    ],
)
@pytest.mark.parametrize("depth", [900, 100_000])
def test_lists_in_lists_without_end(folder: Path, name: str, key: str, depth: int):
    content = (folder / name).read_bytes()
    start = f'"{key}":'.encode()
    assert start in content
    deep = start + b"[" * depth + b"]" * depth + b', "x":'
    (folder / name).write_bytes(content.replace(start, deep, 1))
    if name != MANIFEST:
        relisted(folder, name)
    refused(folder, BundleCorrupt, name)


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_an_answer_of_lists_in_lists(folder: Path, depth: int):
    (folder / "fallback.json").write_bytes(
        re.sub(
            rb'"probability": *[0-9.]+',
            b'"probability":' + b"[" * depth + b"]" * depth,
            (folder / "fallback.json").read_bytes(),
        )
    )
    relisted(folder, "fallback.json")
    refused(folder, BundleCorrupt, "fallback.json")


@pytest.mark.parametrize("name", [MANIFEST, "fallback.json", "golden.json", "reference.json"])
def test_a_key_that_nobody_knows(folder: Path, name: str):
    rewritten(folder, name, edited(lambda value: value.update(surprise=1)))
    refused(folder, BundleCorrupt, name, "surprise")


def test_a_file_that_is_no_model(folder: Path):
    rewritten(folder, MODEL, lambda _: b"no model")
    refused(folder, BundleCorrupt, MODEL, "onnxruntime")


@pytest.mark.parametrize("how", ["replaced", "written", "gone", "away and back"])
def test_a_model_that_changes_between_hashing_and_opening(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    path = folder / MODEL
    content = path.read_bytes()

    def opened(model: Path) -> Session:
        session = Session(model)
        if how == "replaced":
            path.unlink()
        if how in ("replaced", "written"):
            path.write_bytes(content)
        else:
            moved = path.rename(folder / "moved")
            if how == "away and back":
                moved.rename(path)
        return session

    monkeypatch.setattr("models.sessions.Session", opened)
    refused(folder, BundleCorrupt, MODEL, "changed while it was opened")


def test_a_model_that_changes_while_it_is_hashed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody writes to it, whatever, after its last byte was read: the digest says nothing."""
    path = folder / MODEL
    content = path.read_bytes()

    class Watching:
        def __init__(self) -> None:
            self.hash = hashlib.sha256()
            self.read = b""

        def update(self, piece: bytes) -> None:
            self.hash.update(piece)
            self.read += piece
            if self.read == content:
                path.write_bytes(content)

        def hexdigest(self) -> str:
            return self.hash.hexdigest()

    def sha256(given: bytes | None = None) -> Any:
        return Watching() if given is None else hashlib.sha256(given)

    monkeypatch.setattr("models.integrity.hashlib", SimpleNamespace(sha256=sha256))
    refused(folder, BundleCorrupt, MODEL, "changed while it was opened")


@pytest.mark.parametrize("name", [MANIFEST, MODEL, FEATURES])
def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    opened = os.open

    def forbidding(path: Any, *arguments: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr("models.integrity.os.open", forbidding)
    refused(folder, BundleCorrupt, f"{name} cannot be opened", "Permission denied")


def test_another_bundle_than_the_one_that_was_examined(whole: Path):
    digest = Bundle.open(whole).digest
    assert Bundle.open(whole, digest=digest).digest == digest
    with pytest.raises(BundleCorrupt, match="its gate examined 000000000000"):
        Bundle.open(whole, digest="0" * 64)


def test_the_features_graph_in_place_of_the_model(folder: Path):
    rewritten(folder, MODEL, lambda _: trained()[0].model().SerializeToString())
    refused(folder, BundleCorrupt, MODEL, "probability")


def test_features_that_the_model_was_not_trained_on(folder: Path):
    other = features(distance=number("distance", unit="km", low=0, high=100) + 0.5)
    other.fit(trips(), quiet=True).save(folder / "features.json")
    relisted(folder, "features.json")
    refused(folder, FeaturesMismatch, "bound to features", "pack the model again")


def test_features_fitted_on_other_rows(folder: Path):
    features().fit(trips(seed=1), quiet=True).save(folder / "features.json")
    relisted(folder, "features.json")
    refused(folder, FeaturesMismatch)


def test_features_altered_by_hand(folder: Path):
    def widen(value: Any) -> None:
        value["spec"]["fields"][0]["high"] = 200.0

    rewritten(folder, "features.json", edited(widen))
    refused(folder, BundleCorrupt, "features.json", "altered")


def test_golden_rows_of_other_features(folder: Path):
    rewritten(folder, "golden.json", edited(lambda value: value.update(features_digest="0" * 64)))
    refused(folder, FeaturesMismatch, "golden.json")


def test_policies_that_do_not_name_the_fields(folder: Path):
    rewritten(folder, "fallback.json", edited(lambda value: value["policies"].pop("carrier")))
    refused(folder, BundleCorrupt, "fallback.json")


def test_a_default_for_other_outputs(folder: Path):
    rewritten(folder, "fallback.json", edited(lambda value: value.update(default={"score": 1})))
    refused(folder, BundleCorrupt, "fallback.json", "score")


def test_a_repair_with_a_value_that_is_itself_in_trouble(folder: Path):
    def repair(value: Any) -> None:
        value["policies"]["distance"]["invalid"] = {"policy": "repair", "value": 1000.0}

    rewritten(folder, "fallback.json", edited(repair))
    refused(folder, BundleCorrupt, "fallback.json", "out_of_bounds")


def test_more_decisions_than_can_be_counted(folder: Path):
    steps = [{"below": n / 1000, "is": f"step {n}"} for n in range(254)]
    change = edited(lambda value: value.update(decision=[*steps, {"is": "rest"}]))
    (folder / MANIFEST).write_bytes(change((folder / MANIFEST).read_bytes()))
    refused(folder, BundleCorrupt, "255 decisions", "at most 254")


def test_a_reference_of_other_fields(folder: Path):
    def rename(value: Any) -> None:
        value["shapes"][0]["of"] = "nothing"

    rewritten(folder, "reference.json", edited(rename))
    refused(folder, BundleCorrupt, "nothing")


def test_the_manifest_begins_with_its_format(whole: Path):
    assert next(iter(json.loads((whole / MANIFEST).read_bytes()).items())) == ("format", 1)
