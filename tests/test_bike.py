"""The example with a value: rentals by the hour, with troubles whose answers pandas can tell."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from keelmark import Bundle
from tests.serving import Server, serving

EXAMPLE = Path(__file__).parent.parent / "examples" / "bike"
LIST_ROWS = 1_000
PATIENT = {"Keelmark-Deadline-Ms": "60000"}
"""A long list on a busy machine may take longer than four times the objective."""
STORM_RENTALS, HOLIDAY_RENTALS = 10.0, 90.0
Table = Any


@pytest.fixture(scope="module")
def table() -> Table:
    """The second year, which the model has not seen."""
    sys.path.insert(0, str(EXAMPLE))
    from rentals import rentals  # pyright: ignore[reportMissingImports]

    hours = rentals()
    return hours[hours["hour"].dt.year == 2012].reset_index(drop=True)


@pytest.fixture(scope="module")
def folder(bike_store: Path) -> Path:
    """The bundle that the example's own command packs."""
    return bike_store / "bike" / "1"


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(folder.parent.parent, tmp_path_factory.mktemp("serving")) as running:
        yield running


@pytest.fixture(scope="module")
def items(server: Server, table: Table) -> list[dict[str, Any]]:
    """An answer for each hour of the second year."""
    records = records_of(table)
    found: list[dict[str, Any]] = []
    for start in range(0, len(records), LIST_ROWS):
        answer = server.predict("bike", records[start : start + LIST_ROWS], **PATIENT)
        assert answer.status == 200, answer.body
        found += answer.body["predictions"]
    return found


def records_of(rows: Table) -> list[dict[str, Any]]:
    texts = rows.drop(columns="rentals").assign(hour=rows["hour"].map(pd.Timestamp.isoformat))
    return json.loads(texts.to_json(orient="records"))


def test_the_table_is_the_same_every_time(table: Table):
    sys.path.insert(0, str(EXAMPLE))
    from rentals import rentals  # pyright: ignore[reportMissingImports]

    assert rentals().tail(len(table)).reset_index(drop=True).equals(table)
    assert not rentals(seed=1)["rentals"].equals(rentals()["rentals"])


def test_the_model_is_better_than_the_baseline_and_both_than_nothing(folder: Path):
    training = Bundle.open(folder).manifest.training
    baseline = Bundle.open(folder).manifest.baseline
    assert baseline is not None
    assert training.metrics["r2"] > 0.9
    assert 0 < baseline.metrics["r2"] < training.metrics["r2"]


def reasons_by_pandas(table: Table) -> list[str]:
    """Why the model does not answer, from the raw table alone; empty where it does."""
    frozen = (table["feels_like"] - table["temp"]).abs() > 12
    reasons = frozen.map({True: "check:feels_like_temp", False: ""})
    return reasons.mask(table["temp"].isna(), "temp:missing").tolist()


def test_who_answers_each_hour_of_the_second_year_and_why(items: list[Any], table: Table):
    expected = reasons_by_pandas(table)
    assert Counter(expected)["temp:missing"] == 48
    assert Counter(expected)["check:feels_like_temp"] >= 20
    for item, reason in zip(items, expected, strict=True):
        first, *more = item.get("reasons", [""])
        assert first == reason
        # A linear baseline may say less than no bikes, at night; then the rules answer.
        rungs = {"": "model", "output_invalid": "rules"}
        assert item["served_by"] == rungs.get(more[0] if more else first, "baseline")
        assert more in ([], ["output_invalid"])


def test_no_answer_is_below_zero(items: list[Any]):
    assert min(item["prediction"] for item in items) >= 0


def test_a_dry_sensor_is_repaired_as_in_training(server: Server, table: Table):
    record = records_of(table.iloc[[3_000]])[0]
    dry = server.predict("bike", {**record, "humidity": 0}).body
    assert dry["repaired"] == {"humidity": "out_of_bounds"}
    assert (
        dry["prediction"] == server.predict("bike", {**record, "humidity": None}).body["prediction"]
    )


def test_rules_answer_where_the_hour_is_unknown(server: Server, table: Table, folder: Path):
    record = {**records_of(table.iloc[[3_000]])[0], "hour": None, "holiday": False}
    default = Bundle.open(folder).fallback.default["value"]
    for changed, rule, rentals in (
        ({"weather": "storm"}, "storm", STORM_RENTALS),
        ({"weather": "clear", "holiday": True}, "holiday", HOLIDAY_RENTALS),
        ({"weather": "clear"}, "default", default),
    ):
        answer = server.predict("bike", {**record, **changed}).body
        assert (answer["served_by"], answer["rule"]) == ("rules", rule)
        assert answer["reasons"] == ["hour:missing"]
        assert answer["prediction"] == rentals
