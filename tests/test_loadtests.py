"""The load test: that it passes on a real server, and that it would find what is wrong."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "loadtests"))

from _calls import Call  # noqa: E402
from _checks import Counts, counted_by, counted_in, problem_with  # noqa: E402

LOADTEST = ROOT / "loadtests" / "run.py"
ROWS = [
    {"prediction": 0.25, "decision": "on_time", "served_by": "model"},
    {"prediction": 0.2, "served_by": "rules", "rule": "storm", "reasons": ["check:x"]},
    {"error": ["rejected_record", ["distance", "missing"]]},
]
LIST = Call(
    caller="desk", path="/predict/m", body="[]", rows=ROWS, is_list=True, model="m", version="1"
)
ERROR = {
    "code": "rejected_record",
    "message": "no",
    "fields": [{"row": 2, "field": "distance", "trouble": "missing"}],
}
ANSWER = {"model": "m", "version": "1", "request_id": "r", "prediction_id": "p"}
REJECTED = Call(
    caller="board",
    path="/predict/m",
    body="{}",
    status=422,
    code="rejected_record",
    rows=ROWS[2:],
    model="m",
    version="1",
)


@pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")
def test_callers_get_every_answer_and_the_server_counts_them(bike_store: Path, tmp_path: Path):
    store = tmp_path / "store"
    for model in (bike_store / "bike", ROOT / "models" / "shipped" / "flights"):
        shutil.copytree(model, store / model.name)
    command: list[str | Path] = [sys.executable, LOADTEST, "--store", store]
    loading = subprocess.Popen(
        [*command, "--seconds", "10", "--users", "16"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        told, _ = loading.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        loading.send_signal(signal.SIGINT)  # it stops the server that it has started
        told, _ = loading.communicate(timeout=30)
    assert loading.returncode == 0, told
    table = re.findall(r"^((?:\w+ )+\w+) +([\d,]+) +([\d,]+)$", told, re.MULTILINE)
    counts = {name: int(by_callers.replace(",", "")) for name, by_callers, _ in table}
    for outcome in ("flights 1 model", "flights 1 baseline", "flights 1 rules", "bike 1 model"):
        assert counts[outcome] > 0, counts
    for status in ("200", "400", "404", "415", "422"):
        assert counts[f"status {status}"] > 0, counts


def answer_to_list() -> dict[str, Any]:
    return {**ANSWER, "predictions": [*ROWS[:2], {"error": ERROR}]}


def said(body: Any) -> bytes:
    return json.dumps(body).encode()


def test_the_expected_answers_are_taken():
    assert problem_with(LIST, 200, said(answer_to_list()), "r") is None
    rejected = {"error": {**ERROR, "request_id": "r"}}
    assert problem_with(REJECTED, 422, said(rejected), "r") is None


@pytest.mark.parametrize(
    "row",
    [
        {**ROWS[0], "prediction": 0.2500001},
        {**ROWS[0], "decision": "late"},
        {**ROWS[0], "served_by": "baseline"},
        {**ROWS[0], "repaired": {"temp": "missing"}},
        {"error": ERROR},
    ],
)
def test_another_answer_is_found(row: dict[str, Any]):
    answer = answer_to_list()
    answer["predictions"][0] = row
    assert "row 0" in str(problem_with(LIST, 200, said(answer), "r"))


def test_what_is_not_there_or_somebody_elses_is_found():
    answer = answer_to_list()
    assert "instead of r2" in str(problem_with(LIST, 200, said(answer), "r2"))
    assert "status 503" in str(problem_with(LIST, 503, b"{}", "r"))
    answer["predictions"].pop()
    assert "2 rows instead of 3" in str(problem_with(LIST, 200, said(answer), "r"))


def test_another_error_is_found():
    wrong = {"error": {**ERROR, "code": "strict", "request_id": "r"}}
    assert "code strict" in str(problem_with(REJECTED, 422, said(wrong), "r"))


def test_every_row_and_request_is_counted():
    counts = counted_by(LIST) + counted_by(REJECTED)
    assert counts == Counts(
        {
            ("status", "200"): 1,
            ("status", "422"): 1,
            ("m", "1", "model"): 1,
            ("m", "1", "rules"): 1,
            ("m", "1", "rejected"): 2,
        }
    )
    row = {"model": "m", "version": "1"}
    samples = {
        ("keelmark_requests_total", labels(path="/predict/{model}", status="200")): 1.0,
        ("keelmark_requests_total", labels(path="/predict/{model}", status="422")): 1.0,
        ("keelmark_requests_total", labels(path="/health/ready", status="200")): 9.0,
        ("keelmark_predictions_total", labels(**row, outcome="model")): 1.0,
        ("keelmark_predictions_total", labels(**row, outcome="rules")): 1.0,
        ("keelmark_predictions_total", labels(**row, outcome="rejected")): 2.0,
        ("keelmark_predictions_total", labels(**row, outcome="failed")): 0.0,
    }
    assert counted_in(samples) == counts


def labels(**of: str) -> frozenset[tuple[str, str]]:
    return frozenset(of.items())
