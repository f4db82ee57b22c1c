"""`keelmark verify` and `keelmark inspect` of a bundle with baseline, checks and rules."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.cli.exits import DONE, REFUSED
from tests.packed import copied, edited, full_bundle, rewritten


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_bundle(tmp_path_factory.mktemp("store"))


def ran(*arguments: object, code: int = DONE) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def lines_of(text: str, *words: str) -> list[str]:
    """The lines that begin with these words, however far they stand apart."""
    return [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]


def test_verify_counts_what_golden_rows_exercise(whole: Path):
    shown = ran("verify", whole)
    for kind, name in (
        ("rung", "baseline"),
        ("rung", "rejected"),
        ("policy", "is_weekend: missing (baseline)"),
        ("rule", "too_late"),
        ("rule", "default"),
        ("check", "far_from_home: fails (reject)"),
        ("check", "workday_or_near: holds"),
    ):
        (line,) = lines_of(shown, kind, *name.split())
        assert int(line.split()[-1]) > 0, line
    covered: Any = json.loads(ran("verify", whole, "--json"))["coverage"]
    assert covered["rungs"]["baseline"] > 100


def test_verify_refuses_what_no_golden_row_exercises(whole: Path, tmp_path: Path):
    def drop(golden: Any) -> None:
        golden["rows"] = [r for r in golden["rows"] if r["expected"]["rule"] != "too_late"]

    folder = copied(whole, tmp_path / "bundle")
    rewritten(folder, "golden.json", edited(drop))
    shown = ran("verify", folder, code=REFUSED)
    (line,) = lines_of(shown, "rule", "too_late")
    assert "0: no golden row exercises it" in line


def test_inspect_shows_who_answers_when_the_model_does_not(whole: Path):
    shown = ran("inspect", whole)
    (check,) = lines_of(shown, "check", "far_from_home")
    assert "reject" in check
    (baseline,) = lines_of(shown, "baseline")
    assert "reads distance, carrier; accepts distance missing, carrier missing/unknown" in baseline
    assert "lightgbm LGBMClassifier" in baseline
    (rule,) = lines_of(shown, "rule", "long_weekend")
    assert "r.is_weekend && r.distance > 60.0" in rule
    assert "probability 0.75" in rule
    assert lines_of(shown, "rule", "default", "always", "probability", "0.25")


def test_inspect_tells_scripts_the_same(whole: Path):
    found: Any = json.loads(ran("inspect", whole, "--json"))
    assert [rule["name"] for rule in found["rules"]] == [
        "long_weekend",
        "unknown_carrier",
        "too_late",
    ]
    assert [check["policy"] for check in found["checks"]] == ["reject", "baseline"]
    assert found["manifest"]["baseline"]["fields"] == ["distance", "carrier"]
    assert found["manifest"]["training"]["slices"]["carrier"]["UA"]["n"] > 20
