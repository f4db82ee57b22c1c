"""This machine's own copies of models: written by the gate, opened in place of the originals."""

from pathlib import Path

import numpy as np
import pytest

from models import gate, machine_copy
from models.bundle import Bundle
from models.gate import run_gate
from models.machine_copy import NEW, Copies, path_of, sweep
from tests.tiny import pack_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("store"))


def test_the_gate_writes_copies_that_answer_with_the_same_bits(folder: Path, tmp_path: Path):
    report = run_gate(folder, copies=tmp_path)
    assert set(report.copies) == {"model.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == [
        path_of(tmp_path, report.digest, "model.onnx").name
    ]
    original = Bundle.open(folder, batch_exact=True)
    copies = Copies(tmp_path, report.copies)
    copied = Bundle.open(folder, batch_exact=True, copies=copies, digest=report.digest)
    rows = original.encoder.encode([row.record for row in original.golden.rows]).rows
    for part in (rows, rows[:1]):
        assert original.run(part).same_bits(copied.run(part))


def test_a_copy_that_is_not_as_it_was_admitted_is_not_opened(folder: Path, tmp_path: Path):
    report = run_gate(folder, copies=tmp_path)
    copies, path = Copies(tmp_path, report.copies), next(tmp_path.iterdir())
    assert copies.found(report.digest, "model.onnx") == path
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert copies.found(report.digest, "model.onnx") is None
    path.unlink()
    opened = Bundle.open(folder, copies=copies)
    assert np.isfinite(opened.run(np.zeros((1, len(opened.fields)))).values[0]).all()


def test_copies_with_other_bits_are_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gate, "_same_bits", lambda *_: False)
    report = gate.examine(folder, network="", copies=tmp_path)
    assert (report.copies, report.without_copies[:10]) == ({}, "the copies")
    assert machine_copy.admit(tmp_path, report.digest, report.copies).sha256 == {}
    assert list(tmp_path.iterdir()) == []


def test_copies_that_do_not_open_are_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def save(_: Path, target: Path) -> None:
        target.write_bytes(b"no model")

    monkeypatch.setattr(gate.runtime, "save_for_this_machine", save)
    report = gate.examine(folder, network="", copies=tmp_path)
    assert report.copies == {}
    assert report.without_copies.startswith("the copies do not open: ")
    assert report.rows > 0


def test_where_no_copy_can_be_written_the_bundle_serves_without(folder: Path, tmp_path: Path):
    report = run_gate(folder, copies=tmp_path / "missing")
    assert report.copies == {}
    assert report.without_copies


def test_copies_of_what_is_not_loaded_are_swept(folder: Path, tmp_path: Path):
    report = run_gate(folder, copies=tmp_path)
    half = path_of(tmp_path, report.digest, "baseline.onnx", NEW)
    half.write_bytes(b"what a process that was killed has left")
    sweep(tmp_path, {report.digest})
    assert list(tmp_path.iterdir()) == [path_of(tmp_path, report.digest, "model.onnx")]
    sweep(tmp_path, {"0" * 64})
    assert list(tmp_path.iterdir()) == []
