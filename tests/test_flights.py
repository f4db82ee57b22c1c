"""The whole way on real data: train on January to April, pack, serve, check against other tools.

Later flights have what training never saw: new airports, more nulls, and a sensor that failed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import lightgbm as lgb
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from keelmark import Bundle, Fitted, pack
from keelmark.datasets import WEATHER, flights
from tests.serving import Server, serving

SHIPPED = Path(__file__).parent.parent / "models" / "shipped"
LATER_ROWS = 50_000
COUNTED_ROWS = 10_000
LIST_ROWS = 1_000
PATIENT = {"Keelmark-Deadline-Ms": "60000"}
"""A long list on a busy machine may take longer than four times the objective."""
Table = Any
"""A pandas table or column; pandas types only a part of what it returns."""

FAULTY_WIND = 1048.36058
"""Miles an hour, as Newark's station reported on 12 February 2013 at 8:00 UTC."""


@pytest.fixture(scope="module")
def table() -> Table:
    return flights()


@pytest.fixture(scope="module")
def later(table: Table) -> Table:
    """Every fourth flight of June to December, cancelled ones too."""
    months = table[table["sched_dep"].dt.month >= 6]
    return months.iloc[:: len(months) // LATER_ROWS].head(LATER_ROWS).reset_index(drop=True)


def records_of(rows: Table) -> list[dict[str, Any]]:
    """Rows as the JSON objects that a caller would send."""
    fields = ["carrier", "origin", "dest", "distance", "sched_dep", *WEATHER]
    texts = rows[fields].assign(sched_dep=rows["sched_dep"].map(pd.Timestamp.isoformat))
    return texts.astype(object).where(texts.notna(), None).to_dict("records")


def predicted(server: Server, model: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to all records, sent in lists."""
    items: list[dict[str, Any]] = []
    for start in range(0, len(records), LIST_ROWS):
        answer = server.predict(model, records[start : start + LIST_ROWS], **PATIENT)
        assert answer.status == 200, answer.body
        items += answer.body["predictions"]
    return items


# native predictions


@pytest.fixture(scope="module")
def fitted_and_native(
    table: Table, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Fitted, Path]:
    """A store with two models over the example's features, and both as their library saves them."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "flights"))
    from definition import flights as features  # pyright: ignore[reportMissingImports]

    known = table[table["late"].notna() & (table["sched_dep"].dt.month <= 4)]
    training = known.iloc[::3].reset_index(drop=True)
    fitted, x = features.fit_transform(training, target="late", quiet=True)
    folder = tmp_path_factory.mktemp("native")
    booster = lgb.LGBMClassifier(n_estimators=60, num_leaves=31, n_jobs=1, verbose=-1)
    trees = GradientBoostingClassifier(n_estimators=30, max_depth=4, random_state=0)
    x_plain = np.nan_to_num(x, nan=-1.0)
    booster.fit(x, training["late"])
    trees.fit(x_plain, training["late"])
    joblib.dump({"boosted": booster, "trees": trees}, folder / "native.joblib")
    for name, model in (("boosted", booster), ("trees", trees)):
        pack(
            folder / "store",
            name,
            "1",
            features=fitted,
            model=model,
            training=training,
            target="late",
            time="sched_dep",
            default={"probability": 0.25},
            progress=False,
        )
    return folder / "store", fitted, folder / "native.joblib"


NATIVE = """
import sys, joblib, numpy as np
models, features, out = sys.argv[1:]
x = np.load(features)
np.savez(out, **{name: m.predict_proba(x)[:, 1] for name, m in joblib.load(models).items()})
assert not {"features", "models", "server", "keelmark", "onnxruntime"} & set(sys.modules)
"""


def native_probabilities(native: Path, x: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """What the training libraries say, in a process that imports nothing of ours."""
    np.save(native.with_name("x.npy"), x)
    out = native.with_name("native.npz")
    command = [sys.executable, "-I", "-W", "ignore", "-c", NATIVE]
    subprocess.run([*command, native, native.with_name("x.npy"), out], check=True, timeout=120)
    with np.load(out) as file:
        return dict(file)


def test_served_probabilities_equal_those_of_the_training_library(
    fitted_and_native: tuple[Path, Fitted, Path], later: Table, tmp_path: Path
) -> None:
    store, fitted, native = fitted_and_native
    expected = native_probabilities(native, fitted.transform(later, quiet=True))
    records = records_of(later)
    with serving(store, tmp_path) as server:
        for name, probabilities in expected.items():
            items = predicted(server, name, records)
            assert {item["served_by"] for item in items} == {"model"}
            served = np.array([item["prediction"] for item in items])
            assert len(served) == LATER_ROWS
            off = np.flatnonzero(np.abs(served - probabilities) > 1e-6)
            assert off.tolist() == [], f"{name}: {served[off[:3]]} for {probabilities[off[:3]]}"


def test_rows_over_http_have_the_features_of_transform(
    fitted_and_native: tuple[Path, Fitted, Path], later: Table
) -> None:
    """Record by record through the bundle's encoder and fused graph, against the table at once."""
    store, fitted, _ = fitted_and_native
    bundle = Bundle.open(store / "boosted" / "1")
    some = later.iloc[::10].reset_index(drop=True)
    records = json.loads(json.dumps(records_of(some)))
    encoded, table_encoded = bundle.encoder.encode(records), fitted.encode_table(some)
    assert encoded.rows.tobytes() == table_encoded.rows.tobytes()
    assert encoded.flags.tobytes() == table_encoded.flags.tobytes()
    transformed = fitted.transform(some, quiet=True)
    alone = [features_of(bundle, row[None]) for row in encoded.rows]
    assert np.concatenate(alone).tobytes() == transformed.tobytes()
    assert features_of(bundle, encoded.rows).tobytes() == transformed.tobytes()


def features_of(bundle: Bundle, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    features = bundle.run(rows).features
    assert features is not None
    return features


# the shipped bundle


def shipped_features() -> Fitted:
    fitted = Bundle.open(SHIPPED / "flights" / "1").fitted
    assert fitted is not None
    return fitted


def assert_both_encoders_agree(rows: Table) -> None:
    """Each flight as JSON text and as a row of an Arrow table: the same bits, the same flags."""
    bundle, fitted = Bundle.open(SHIPPED / "flights" / "1"), shipped_features()
    for start in range(0, len(rows), LIST_ROWS):
        some = rows.iloc[start : start + LIST_ROWS].reset_index(drop=True)
        body = msgspec.json.encode(records_of(some))
        encoded = bundle.encoder.encode(msgspec.json.decode(body))
        table_encoded = fitted.encode_table(pa.Table.from_pandas(some))
        same = encoded.rows.view(np.uint64) == table_encoded.rows.view(np.uint64)
        same &= encoded.flags == table_encoded.flags
        assert len(same) == len(some)
        off = np.flatnonzero(~same.all(axis=1))
        assert off.tolist() == [], records_of(some.iloc[off[:3]])


def test_records_and_tables_encode_flights_to_the_same_bits(table: Table) -> None:
    assert_both_encoders_agree(table.iloc[::50])


@pytest.mark.trial
def test_records_and_tables_encode_every_flight_to_the_same_bits(table: Table) -> None:
    assert len(table) == 336_776
    assert_both_encoders_agree(table)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(SHIPPED, tmp_path_factory.mktemp("flights")) as running:
        yield running


def test_a_flight_with_nulls_is_answered_by_the_model_without_a_mark(
    server: Server, later: Table
) -> None:
    row = later[later["pressure"].isna() & later["wind_gust"].isna()].iloc[[0]]
    answer = server.predict("flights", records_of(row)[0])
    assert answer.status == 200
    assert answer.body["served_by"] == "model"
    assert not answer.body.get("repaired")
    assert not answer.body.get("reasons")


def test_an_airport_never_seen_is_answered_as_unknown(server: Server, later: Table) -> None:
    bundle, fitted = Bundle.open(SHIPPED / "flights" / "1"), shipped_features()
    new = later[~later["dest"].isin(fitted.vocabularies["dest"])].iloc[[0]]
    labels = {"model": "flights", "version": "1", "field": "dest", "trouble": "unknown"}
    key = ("keelmark_field_quality_total", frozenset(labels.items()))
    before = server.samples()[key]
    answer = server.predict("flights", records_of(new)[0])
    assert answer.body["served_by"] == "model"
    assert server.samples()[key] == before + 1
    outputs = bundle.run(fitted.encode_table(new).rows)
    (probability,) = outputs.values[0]  # noqa: PD011  (our outputs, not a table)
    assert answer.body["prediction"] == pytest.approx(probability, abs=1e-7)


def test_the_stations_impossible_wind_is_repaired_as_in_training(
    server: Server, later: Table
) -> None:
    record = records_of(later.iloc[[0]])[0]
    answer = server.predict("flights", {**record, "wind_speed": FAULTY_WIND})
    assert answer.body["served_by"] == "model"
    assert answer.body["repaired"] == {"wind_speed": "out_of_bounds"}
    as_null = server.predict("flights", {**record, "wind_speed": None})
    assert answer.body["prediction"] == as_null.body["prediction"]


def test_one_bad_row_of_a_list_leaves_the_others_as_they_are_alone(
    server: Server, later: Table
) -> None:
    records = records_of(later.head(100))
    records[42] = {**records[42], "distance": "far"}
    items = server.predict("flights", records, **PATIENT).body["predictions"]
    assert items[42]["error"]["code"] == "rejected_record"
    assert items[42]["error"]["fields"][0]["field"] == "distance"
    for index, record in enumerate(records):
        if index != 42:
            alone = server.predict("flights", record).body
            assert items[index].items() <= alone.items()


# counting


def test_every_counter_equals_what_pandas_counts_over_the_same_flights(
    later: Table, tmp_path: Path
) -> None:
    rows = later.head(COUNTED_ROWS).copy()
    rows.loc[rows.index % 97 == 0, "wind_speed"] = FAULTY_WIND
    with serving(SHIPPED, tmp_path) as server:
        items = predicted(server, "flights", records_of(rows))
        samples = server.samples()
    reference = json.loads((SHIPPED / "flights" / "1" / "reference.json").read_text())
    expected = counted_by_pandas(rows, items, reference)
    for (name, labels), count in expected.items():
        given = frozenset({*labels, ("model", "flights"), ("version", "1")})
        assert samples[name, given] == count, (name, sorted(labels))
    total = sum(count for (name, _), count in expected.items() if name == FIELD_VALUES)
    counted = sum(value for (name, _), value in samples.items() if name == FIELD_VALUES)
    assert counted == total, "a bin that pandas does not know was counted"


FIELD_VALUES = "keelmark_field_values_total"
OUTPUT_VALUES = "keelmark_output_values_total"
QUALITY = "keelmark_field_quality_total"
Series = dict[tuple[str, frozenset[tuple[str, str]]], int]


def counted_by_pandas(
    rows: Table, items: list[dict[str, Any]], reference: dict[str, Any]
) -> Series:
    """All distributions and troubles, from the raw table and the reference's bins alone."""
    vocabulary = shipped_features().vocabularies
    expected: Series = {}
    for shape in reference["shapes"]:
        label = "field" if shape["subject"] == "field" else "output"
        name = shape["of"] if shape["part"] == "value" else f"{shape['of']}.{shape['part']}"
        metric = FIELD_VALUES if label == "field" else OUTPUT_VALUES
        for bin_, count in shape_counts(shape, rows, items, vocabulary).items():
            expected[metric, frozenset({(label, name), ("bin", bin_)})] = count
    for field in ["carrier", "origin", "dest", "distance", "sched_dep", *WEATHER]:
        troubles = {
            "missing": int(rows[field].isna().sum()),
            "out_of_bounds": int((rows["wind_speed"] > 150).sum()) if field == "wind_speed" else 0,
            "unknown": int((rows[field].notna() & ~rows[field].isin(vocabulary[field])).sum())
            if field in vocabulary
            else 0,
            "invalid": 0,
        }
        for trouble, count in troubles.items():
            expected[QUALITY, frozenset({("field", field), ("trouble", trouble)})] = count
    return expected


def shape_counts(
    shape: dict[str, Any], rows: Table, items: list[dict[str, Any]], vocabulary: Any
) -> dict[str, int]:
    if shape["subject"] == "output":
        values = pd.Series([i["prediction"] for i in items if i["served_by"] == "model"])
        return interval_counts(values, shape["bins"]["edges"])
    column = rows[shape["of"]]
    if shape["part"] == "hour":
        found = column.dt.hour.map("{:02d}".format).value_counts()
        return {label: int(found.get(label, 0)) for label in shape["bins"]["labels"]}
    if shape["part"] == "weekday":
        found = column.dt.day_name().str[:3].str.lower().value_counts()
        return {label: int(found.get(label, 0)) for label in shape["bins"]["labels"]}
    if shape["of"] in vocabulary:
        return category_counts(column, shape["bins"]["labels"], vocabulary[shape["of"]])
    if shape["of"] == "wind_speed":
        column = column[column <= 150]
    return interval_counts(column.dropna(), shape["bins"]["edges"])


def interval_counts(values: pd.Series, edges: list[float]) -> dict[str, int]:
    bins: Table = pd.cut(values, [-np.inf, *edges, np.inf], right=True, labels=False)
    found: Table = bins.value_counts()
    return {f"{index:02d}": int(found.get(index, 0)) for index in range(len(edges) + 1)}


def category_counts(
    column: pd.Series, labels: list[str], vocabulary: tuple[str, ...]
) -> dict[str, int]:
    found: Table = column.value_counts()
    own = [label for label in labels if not label.startswith("#")]
    counts = {label: int(found.get(label, 0)) for label in own}
    known = column.isin(vocabulary)
    counts["#other"] = int((known & ~column.isin(own)).sum())
    counts["#unknown"] = int((column.notna() & ~known).sum())
    return counts
