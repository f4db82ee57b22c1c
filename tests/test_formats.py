"""One bundle of each format number is kept here for ever, and still opens, replays and answers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.bundle import Bundle
from models.gate import run_gate
from models.ladder import MODEL
from models.manifest import Check, FileEntry, Rule

FORMATS = Path(__file__).parent / "formats"

EXAMINE = """
import sys
from pathlib import Path
from models.gate import examine
report = examine(Path(sys.argv[1]), network="")
print(report.onnxruntime, report.rows, report.features_off_by_one, report.batch_exact)
"""


@pytest.fixture(params=sorted(path.name for path in FORMATS.iterdir() if path.is_dir()))
def folder(request: pytest.FixtureRequest) -> Path:
    return FORMATS / request.param


def test_it_says_its_format(folder: Path):
    assert json.loads((folder / "manifest.json").read_bytes())["format"] == int(folder.name)


def test_it_passes_the_gate(folder: Path):
    report = run_gate(folder)
    assert report.rows == len(Bundle.open(folder).golden.rows)
    assert report.batch_exact


def test_it_answers(folder: Path):
    bundle = Bundle.open(folder)
    plan = bundle.ladder.plan(bundle.encoder.encode([bundle.example]))
    answers = bundle.ladder.judge(plan, bundle.run(plan.rows))
    assert answers.outcome == [MODEL]
    assert answers.decision[0] in bundle.ladder.decisions.names


def test_it_replays_on_the_oldest_onnxruntime(folder: Path, oldest_python: Path):
    """Features to the bit; without onnx and pyarrow, which serving must not need."""
    done = subprocess.run(
        [oldest_python, "-c", EXAMINE, folder],
        cwd=FORMATS.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    version, rows, off, exact = done.stdout.split()
    assert version.startswith("1.20.")
    assert (int(rows), int(off), exact) == (len(Bundle.open(folder).golden.rows), 0, "True")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Check, {"name": "far\n", "expression": {}, "text": "x < 1", "policy": "rules"}),
        (Rule, {"name": "far\n", "when": "true", "outputs": {}}),
        (FileEntry, {"name": "card.md", "size": 1, "sha256": "0" * 64 + "\n"}),
    ],
)
def test_a_line_break_ends_no_name_and_no_digest(kind: type[Any], given: dict[str, Any]):
    wrong = next(name for name, value in given.items() if str(value).endswith("\n"))
    assert msgspec.convert({**given, wrong: given[wrong].rstrip()}, kind)
    with pytest.raises(msgspec.ValidationError, match=wrong):
        msgspec.convert(given, kind)
