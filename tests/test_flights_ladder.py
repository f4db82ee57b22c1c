"""Later flights with their real nulls through the ladder, against pandas over the raw table.

What is expected is worked out from the table, with the policies of the example written down once
more: nothing of the encoder, of the graph or of the ladder is used for it.
"""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from keelmark import Bundle
from keelmark.datasets import WEATHER, flights
from server.cli.answers import answer_records
from tests.serving import serving

SHIPPED = Path(__file__).parent.parent / "models" / "shipped"
FIELDS = ["carrier", "origin", "dest", "distance", "sched_dep", *WEATHER]
BOUNDS = {
    "distance": (0, 6000),
    "temp": (-60, 140),
    "dewp": (-80, 100),
    "humid": (0, 100),
    "wind_dir": (0, 360),
    "wind_speed": (0, 150),
    "wind_gust": (0, 200),
    "precip": (0, 20),
    "pressure": (850, 1100),
    "visib": (0, 20),
}
EVES = ("2013-05-24", "2013-07-03", "2013-08-30", "2013-11-27")
SAMPLE_EVERY = 97
LIST_ROWS = 1_000
PATIENT = {"Keelmark-Deadline-Ms": "60000"}
"""A long list on a busy machine may take longer than four times the objective."""
Table = Any


@dataclass(frozen=True, slots=True)
class Ends:
    """What becomes of flights: how many ended in each way, and how often a field was repaired."""

    ways: Counter[tuple[str, str, tuple[str, ...]]]
    """By who answers, the rule that does, and the reasons."""
    repaired: Counter[tuple[str, str]]
    """By field and trouble."""


@pytest.fixture(scope="module")
def table() -> Table:
    return flights()


@pytest.fixture(scope="module")
def seen(table: Table) -> set[str]:
    """Airports of the flights that the model was trained on."""
    known = table[table["late"].notna() & (table["sched_dep"].dt.month <= 4)]
    return set(known["dest"])


# what pandas expects


def expected_ends(rows: Table, seen: set[str]) -> Ends:
    """The example's policies, check and rules, over the raw columns."""
    out = {name: (rows[name] < low) | (rows[name] > high) for name, (low, high) in BOUNDS.items()}
    temp, dewp, humid = (rows[n].mask(out[n]) for n in ("temp", "dewp", "humid"))
    storm = (temp - dewp) * 1.5 + humid > 103
    no_weather = rows["temp"].isna()
    stranger = ~rows["dest"].isin(seen)
    eve = np.zeros(len(rows), bool)
    for day in EVES:
        begins = pd.Timestamp(f"{day} 17:00", tz="America/New_York")
        eve |= (rows["sched_dep"] >= begins) & (rows["sched_dep"] < begins + pd.Timedelta(hours=7))
    assert not out["distance"].any(), "would be rejected"
    ways: Counter[tuple[str, str, tuple[str, ...]]] = Counter()
    columns = zip(storm, no_weather, stranger, eve, strict=True)
    for is_storm, is_bare, is_strange, is_eve in columns:
        reasons = ("temp:missing",) * is_bare + ("check:station_agrees",) * is_storm
        rule = "holiday_evening" if is_eve else "unknown_airport" if is_strange else "default"
        if is_storm:
            ways["rules", "storm", reasons] += 1
        elif is_bare and is_strange:
            ways["rules", rule, (*reasons, "dest:unknown")] += 1
        else:
            ways["baseline" if is_bare else "model", "", reasons] += 1
    repaired = Counter(
        {(name, "out_of_bounds"): int(bad.sum()) for name, bad in out.items() if bad.any()}
    )
    return Ends(ways, repaired)


# what the ladder gives


def records_of(rows: Table) -> list[dict[str, Any]]:
    """Rows as the JSON objects that a caller would send."""
    texts = rows[FIELDS].assign(sched_dep=rows["sched_dep"].map(pd.Timestamp.isoformat))
    return texts.astype(object).where(texts.notna(), None).to_dict("records")


def ends_of(items: list[dict[str, Any]]) -> Ends:
    ends = Ends(Counter(), Counter())
    for item in items:
        reasons = tuple(item.get("reasons", ()))
        ends.ways[item["served_by"], item.get("rule", ""), reasons] += 1
        ends.repaired.update(item.get("repaired", {}).items())
    return ends


def replayed(bundle: Bundle, rows: Table) -> Ends:
    """Every flight as a record, in lists, without a server."""
    items: list[dict[str, Any]] = []
    for start in range(0, len(rows), LIST_ROWS):
        records = records_of(rows.iloc[start : start + LIST_ROWS])
        items += answer_records(bundle, json.loads(json.dumps(records))).as_dicts()
    return ends_of(items)


def later(table: Table) -> Table:
    return table[table["sched_dep"].dt.month >= 6]


def test_a_sample_of_later_flights_ends_as_pandas_says(table: Table, seen: set[str]):
    """Every 97th, and all that the ladder has something to do with."""
    rows = later(table)
    odd = rows["temp"].isna() | ((rows["temp"] - rows["dewp"]) * 1.5 + rows["humid"] > 103)
    some = rows[odd | (np.arange(len(rows)) % SAMPLE_EVERY == 0)]
    expected = expected_ends(some, seen)
    assert {who for who, _, _ in expected.ways} == {"model", "baseline", "rules"}
    assert replayed(Bundle.open(SHIPPED / "flights" / "1"), some) == expected


def test_a_failed_sensor_is_repaired_as_often_as_it_reads_nonsense(table: Table, seen: set[str]):
    rows = later(table).iloc[::SAMPLE_EVERY].copy()
    rows.loc[rows.index[::7], "wind_speed"] = 1048.36
    rows.loc[rows.index[::11], "humid"] = 250.0
    expected = expected_ends(rows, seen)
    assert expected.repaired["wind_speed", "out_of_bounds"] > 200
    assert replayed(Bundle.open(SHIPPED / "flights" / "1"), rows) == expected


@pytest.mark.trial
@pytest.mark.parametrize("month", range(6, 13))
def test_every_flight_of_a_month_ends_as_pandas_says(table: Table, seen: set[str], month: int):
    rows = table[table["sched_dep"].dt.month == month]
    assert len(rows) > 27_000
    assert replayed(Bundle.open(SHIPPED / "flights" / "1"), rows) == expected_ends(rows, seen)


def test_a_server_counts_what_pandas_says(table: Table, seen: set[str], tmp_path: Path):
    december = table[table["sched_dep"] >= datetime(2013, 12, 30, tzinfo=UTC)]
    assert december["temp"].isna().sum() > 500, "the weather ends with the year"
    expected = expected_ends(december, seen)
    with serving(SHIPPED, tmp_path) as server:
        records = records_of(december)
        for start in range(0, len(records), LIST_ROWS):
            some = records[start : start + LIST_ROWS]
            assert server.predict("flights", some, **PATIENT).status == 200
        samples = server.samples()
    labels = {("model", "flights"), ("version", "1")}
    outcomes: Counter[str] = Counter()
    fallbacks: Counter[tuple[str, str]] = Counter()
    for (who, _, reasons), count in expected.ways.items():
        outcomes[who] += count
        if who != "model":
            # A row is counted once, under what sent it as low as it went.
            deciding = next((r for r in reasons if r.startswith("check:")), reasons[0])
            trouble = "check" if deciding.startswith("check:") else deciding.partition(":")[2]
            fallbacks[who, trouble] += count
    for outcome, count in outcomes.items():
        key = "keelmark_predictions_total", frozenset({*labels, ("outcome", outcome)})
        assert samples[key] == count, outcome
    for (rung, reason), count in fallbacks.items():
        own = {*labels, ("rung", rung), ("reason", reason)}
        assert samples["keelmark_fallbacks_total", frozenset(own)] == count, (rung, reason)
    counted = sum(v for (name, _), v in samples.items() if name == "keelmark_fallbacks_total")
    assert counted == fallbacks.total()


def test_what_the_check_finds_is_worth_finding(table: Table):
    """Storms of the later months, which training had few of: seven of ten flights come late."""
    rows = later(table)
    storm = (rows["temp"] - rows["dewp"]) * 1.5 + rows["humid"] > 103
    assert 100 < storm.sum() < 0.001 * len(rows)
    assert rows["late"][storm].mean() > 2 * rows["late"].mean()
