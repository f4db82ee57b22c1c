"""Large models are read and opened behind whoever answers requests."""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from features import runtime
from models import integrity, machine_copy, sessions, standing_back
from models.bundle import Bundle
from models.gate import run_gate
from models.machine_copy import Copies
from models.standing_back import LARGE_BYTES, LOWEST_PRIORITY
from server.opening import layout_of
from tests.packed import full_bundle
from tests.tiny import pack_tiny


def priority() -> int:
    """Of the thread that calls."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has begun to serve; afterwards it has not."""
    monkeypatch.setattr(standing_back, "_is_serving", threading.Event())
    standing_back.stand_back_from_now_on()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux")
def test_before_a_process_serves_nothing_stands_back():
    assert standing_back.standing_back(LARGE_BYTES, priority) == priority()


@pytest.mark.usefixtures("serving")
@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux")
def test_what_is_large_has_only_what_others_leave():
    usual = priority()
    assert standing_back.standing_back(LARGE_BYTES, priority) == LOWEST_PRIORITY
    assert standing_back.standing_back(LARGE_BYTES - 1, priority) == usual
    assert priority() == usual


@pytest.mark.usefixtures("serving")
def test_where_it_is_not_allowed_nothing_stands_back(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    assert standing_back.standing_back(LARGE_BYTES, lambda: 17) == 17


@pytest.mark.usefixtures("serving")
def test_what_it_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        standing_back.standing_back(LARGE_BYTES, lambda: 1 // 0)


def test_what_is_counted_of_a_bundle_is_known_without_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = full_bundle(tmp_path)
    whole = Bundle.open(folder)
    monkeypatch.setattr(sessions, "Session", None)
    bundle = Bundle.open(folder, with_models=False)
    assert bundle.baseline is not None
    assert layout_of(bundle).fingerprint == layout_of(whole).fingerprint


def test_models_are_hashed_and_opened_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = pack_tiny(tmp_path / "store")
    (copies := tmp_path / "copies").mkdir()
    report = run_gate(folder, copies=copies)
    copy = next(copies.iterdir())
    original = (folder / "model.onnx").stat().st_size
    seen: list[tuple[str, int]] = []

    def noted(n_bytes: int, work: Any) -> Any:
        seen.append((work.func.__name__, n_bytes))
        return work()

    monkeypatch.setattr(runtime, "opens_aside", True)
    for module in (integrity, machine_copy, sessions):
        monkeypatch.setattr(module, "standing_back", noted)
    Bundle.open(folder, copies=Copies(copies, report.copies))
    assert ("_read", original) in seen
    assert seen[-2:] == [("_hashed", copy.stat().st_size), ("Session", copy.stat().st_size)]
    Bundle.open(folder)
    assert seen[-1] == (runtime.Session.__name__, original)
    monkeypatch.setattr(runtime, "opens_aside", False)
    seen.clear()
    Bundle.open(folder)
    assert {name for name, _ in seen} == {"_read"}
