"""Kept rows that are put to two versions in a process of its own."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from server.replaying import CannotReplay, check_rows, replay, replayed
from tests.deploying import BAD, BETTER, Made, pack_risk, write_rows

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
NOBODY = threading.Event()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    for version, made in {"1": Made(work=1), "2": BETTER, "3": BAD["failing"]}.items():
        pack_risk(store, version, made)
    return store / "risk"


def test_rows_are_counted_as_serving_counts_them(store: Path, tmp_path: Path):
    """Golden samples of both, which came from training, and the rows of a table."""
    found = replayed(store / "2", store / "1", write_rows(tmp_path / "rows.jsonl", 500), NOBODY)
    candidate, live = found.candidate, found.live
    samples = sum(
        row.name.startswith("sample")
        for version in ("1", "2")
        for row in Bundle.open(store / version).golden.rows
    )
    assert candidate.requests == live.requests == candidate.rows == samples + 500
    assert sum(candidate.latency) == candidate.squares == candidate.requests
    assert candidate.failing == candidate.degraded == live.degraded == 0
    assert sum(candidate.outputs["probability"]) == candidate.rows
    assert found.compared == candidate.rows
    assert 0.05 < found.changed / found.compared < 0.4


def test_rows_that_the_model_cannot_answer_are_its_fault(store: Path, tmp_path: Path):
    candidate, live = Bundle.open(store / "3"), Bundle.open(store / "1")
    found = replay(candidate, live, write_rows(tmp_path / "rows.jsonl", 1_000))
    assert 5 < found.candidate.faults == found.candidate.degraded < 60
    assert found.live.degraded == 0
    assert found.compared == found.candidate.rows - found.candidate.faults


def test_a_table_of_any_kind_is_the_same_rows(store: Path, tmp_path: Path):
    candidate, live = Bundle.open(store / "2"), Bundle.open(store / "1")
    lines = write_rows(tmp_path / "rows.jsonl", 60)
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    text = "x,y\n" + "".join(f"{row['x']},{row['y']}\n" for row in rows)
    (tmp_path / "rows.csv").write_text(text)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [
        replay(candidate, live, tmp_path / f"rows.{suffix}")
        for suffix in ("jsonl", "csv", "parquet")
    ]
    outputs = [np.array(each.candidate.outputs["probability"]) for each in found]
    assert all((each == outputs[0]).all() for each in outputs)
    assert len({each.changed for each in found}) == 1


def test_what_cannot_be_replayed_is_said(store: Path, tmp_path: Path):
    with pytest.raises(CannotReplay, match=r"none of \.csv, \.jsonl, \.parquet"):
        check_rows(tmp_path / "rows.txt")
    with pytest.raises(CannotReplay, match="there is no file"):
        check_rows(tmp_path / "rows.csv")
    (tmp_path / "bad.jsonl").write_text('{"x": 1}\nno\n')
    with pytest.raises(CannotReplay, match="line 2 is not a JSON object"):
        replayed(store / "2", store / "1", tmp_path / "bad.jsonl", NOBODY)
    stop = threading.Event()
    stop.set()
    with pytest.raises(CannotReplay, match="it was told to stop"):
        replayed(store / "2", store / "1", None, stop)
