"""The gate: a bundle's first load cannot hurt the process that asks for it."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models import gate_child
from models.bundle import Bundle
from models.errors import BundleCorrupt, BundleNotFound, FormatUnknown, GateFailed, GoldenMismatch
from models.gate import Limits, max_batch, run_gate
from models.manifest import MODEL
from tests.harmful import crashing, endless, hungry
from tests.packed import copied, edited, full_bundle, packed, rewritten
from tests.workers import children_of, wait_until


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(tmp_path_factory.mktemp("store"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "bundle")


def test_it_reports_what_it_measured(whole: Path):
    report = run_gate(whole)
    assert report.rows == 256
    assert report.batch_exact
    assert report.features_off_by_one == 0
    assert 0 < report.open_seconds < 5
    assert 0 <= report.resident_bytes < report.peak_bytes < 1 << 30
    assert sorted(report.run_seconds) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert report.max_batch in report.run_seconds
    assert report.network in ("isolated", "not isolated")


def test_another_bundle_put_there_after_the_gate_is_not_opened(folder: Path):
    report = run_gate(folder)
    bundle = Bundle.open(folder, batch_exact=report.batch_exact, digest=report.digest)
    assert bundle.batch_exact is report.batch_exact
    rewritten(folder, "card.md", lambda content: content + b"!")
    with pytest.raises(BundleCorrupt, match="put another bundle there"):
        Bundle.open(folder, digest=report.digest)


def test_a_relative_folder(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(whole.parent)
    assert run_gate(Path(whole.name)).rows == 256


def test_it_leaves_nothing_behind(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    run_gate(whole)
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


# what the child finds comes back as itself


def test_a_spoilt_bundle(folder: Path):
    (folder / MODEL).write_bytes(b"")
    with pytest.raises(BundleCorrupt, match=r"model\.onnx is truncated"):
        run_gate(folder)


def test_a_missing_bundle(tmp_path: Path):
    with pytest.raises(BundleNotFound):
        run_gate(tmp_path / "nothing")


def test_another_format(folder: Path):
    rewritten(folder, "golden.json", edited(lambda value: value.update(format=2)))
    with pytest.raises(FormatUnknown):
        run_gate(folder)


def test_golden_rows_that_do_not_replay(folder: Path):
    def change(golden: Any) -> None:
        golden["rows"][0]["expected"]["model"]["probability"] = 0.987

    rewritten(folder, "golden.json", edited(change))
    with pytest.raises(GoldenMismatch, match=r"golden row 'sample 0': output 'probability'"):
        run_gate(folder)


@pytest.mark.parametrize(
    ("row", "rung", "words"),
    [
        ("sample 0", "baseline", "the baseline's output 'probability'"),
        ("carrier: unknown", "rules", "the rules' (unknown_carrier) output 'probability'"),
    ],
)
def test_a_lower_rung_that_answers_otherwise_is_refused_by_its_name(
    tmp_path: Path, row: str, rung: str, words: str
):
    def change(golden: Any) -> None:
        found = next(one for one in golden["rows"] if one["name"] == row)
        found["expected"][rung] = {"probability": 0.987}

    folder = full_bundle(tmp_path)
    assert run_gate(folder).batch_exact
    rewritten(folder, "golden.json", edited(change))
    with pytest.raises(GoldenMismatch) as caught:
        run_gate(folder)
    assert words in str(caught.value)


EXAMINE = """
import sys
from pathlib import Path
from models.gate import examine
report = examine(Path(sys.argv[1]), network="")
print(report.onnxruntime, report.rows, report.features_off_by_one, report.batch_exact)
"""


def test_every_rung_replays_on_the_oldest_onnxruntime(tmp_path: Path, oldest_python: Path):
    """Without onnx and pyarrow, which serving must not need."""
    folder = full_bundle(tmp_path)
    done = subprocess.run(
        [oldest_python, "-c", EXAMINE, folder],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    version, rows, off, exact = done.stdout.split()
    assert version.startswith("1.20.")
    assert int(rows) > 200
    assert (off, exact) == ("0", "True")


# models that harm


@pytest.mark.skipif(platform.machine() != "x86_64", reason="others have an answer to it")
def test_a_model_that_crashes_whoever_opens_it(folder: Path):
    crashing(folder)
    with pytest.raises(GateFailed, match="it was ended by SIGFPE"):
        run_gate(folder)


def test_a_model_that_never_ends_uses_up_its_processor_time(folder: Path):
    endless(folder)
    with pytest.raises(GateFailed, match="more than 2 s of processor time"):
        run_gate(folder, Limits(cpu_seconds=2))


def test_a_model_that_never_ends_runs_out_of_time(folder: Path):
    endless(folder)
    started = time.monotonic()
    with pytest.raises(GateFailed, match=r"still busy after 1\.5 s"):
        run_gate(folder, Limits(wall_seconds=1.5))
    assert time.monotonic() - started < 10


def test_a_model_that_eats_memory(folder: Path):
    """8 GB at its first run; the parent's own memory does not grow by it."""
    hungry(folder)
    with pytest.raises(GateFailed, match="more memory than its gate allows"):
        run_gate(folder)


def test_a_bundle_that_needs_more_memory_than_it_may_have(whole: Path):
    with pytest.raises(GateFailed, match=r"40 MB of address space|more memory"):
        run_gate(whole, Limits(address_space_bytes=40 << 20))


# children that die; what they do is written here, how they are treated is not


def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = tmp_path / "child.py"
    path.write_text(program)
    monkeypatch.setattr(gate_child, "__file__", str(path))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("import sys; print('no luck', file=sys.stderr); sys.exit(3)", "no luck"),
        ("", "without one"),
        ("import os, sys; os.write(int(sys.argv[1]), b'{\"rep')", "something else"),
        ("import os, sys; os.write(int(sys.argv[1]), b'[]')", "something else"),
        ("import os, sys; os.write(int(sys.argv[1]), b'{}'); os.abort()", "SIGABRT"),
        (
            "import os, sys; fd = int(sys.argv[1])\nwhile True: os.write(fd, b'x' * 9999)",
            "its verdict is longer than 1 MB",
        ),
        ("import time; time.sleep(60)", "still busy"),
    ],
)
def test_no_verdict_is_a_failure_with_its_reason(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
):
    child(tmp_path, monkeypatch, program)
    with pytest.raises(GateFailed) as caught:
        run_gate(whole, Limits(wall_seconds=2, cpu_seconds=5))
    assert words in str(caught.value)
    assert str(whole) in str(caught.value)


ROOT = Path(__file__).parent.parent

TALKS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import models.gate_child as child
child.limit({{"cpu_seconds": 5, "address_space_bytes": 1 << 30, "copy_bytes": 0}})
while True:
    sys.stderr.write("x" * 100_000)
"""

LOOKS_AROUND = """
import json, os, sys
seen = dict(
    names=sorted(os.environ),
    typed=sys.stdin.read(),
    cwd=os.getcwd(),
    descriptors=sorted(map(int, os.listdir("/proc/self/fd"))),
    flags=[sys.flags.isolated, sys.dont_write_bytecode, os.getpgid(0) == os.getpid()],
    pipe=int(sys.argv[1]),
)
print("<" + json.dumps(seen) + ">", file=sys.stderr)
"""

CONNECTS = f"""
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
import models.gate_child as child
assert child.leave_network()
socket.create_connection(("127.0.0.1", 1), timeout=1)
"""


def test_a_child_that_talks_too_much_is_cut_short(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    child(tmp_path, monkeypatch, TALKS)
    with pytest.raises(GateFailed) as caught:
        run_gate(whole, Limits(wall_seconds=10))
    assert "x" * 100 in str(caught.value)
    assert len(str(caught.value)) < 2_000


ASKS_FOR_A_VERDICT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from models.gate import run_gate
run_gate(Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere its limits end it")
def test_the_child_ends_with_whoever_started_it(folder: Path):
    """It would go on for a minute, and write where the next one does."""
    endless(folder)
    asking = subprocess.Popen([sys.executable, "-c", ASKS_FOR_A_VERDICT, str(folder)])
    try:
        wait_until(lambda: busy_child_of(asking.pid) is not None)
        child = busy_child_of(asking.pid)
    finally:
        asking.kill()
        asking.wait()
    assert child is not None
    wait_until(lambda: not is_running(child), 30)


def busy_child_of(pid: int) -> int | None:
    """The one that has begun with the model; not one that got too little done and was ended."""
    for child in children_of(pid, "gate_child"):
        with contextlib.suppress(OSError):
            if b"onnxruntime" in Path(f"/proc/{child}/maps").read_bytes():
                return child
    return None


def is_running(pid: int) -> bool:
    """Whether the process is there, and has not ended unnoticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_child_has_nothing_of_ours(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No environment but two settings, no input, no descriptor but the pipe, another folder."""
    monkeypatch.setenv("SECRET", "42")
    child(tmp_path, monkeypatch, LOOKS_AROUND)
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        with pytest.raises(GateFailed) as caught:
            run_gate(whole)
    seen = json.loads(str(caught.value).partition("<")[2].partition(">")[0])
    assert set(seen["names"]) <= {"ORT_DISABLE_TELEMETRY", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    assert (seen["typed"], seen["cwd"]) == ("", "/")
    assert set(seen["descriptors"]) <= {0, 1, 2, 3, seen["pipe"]}, "3 is of looking at them"
    assert seen["flags"] == [1, True, True]


def test_the_child_cannot_reach_the_network_where_the_machine_lets_us(whole: Path):
    if run_gate(whole).network != "isolated":
        pytest.skip("this machine does not allow network namespaces")
    command = [sys.executable, "-I", "-c", CONNECTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Network is unreachable" in done.stderr


def test_max_batch_is_where_the_cost_per_row_stops_falling():
    assert max_batch({}) == 1
    assert max_batch({1: 1.0, 2: 2.0, 4: 4.0}) == 1
    assert max_batch({1: 1.0, 2: 1.1, 4: 1.2, 8: 4.0, 16: 9.0}) == 4
