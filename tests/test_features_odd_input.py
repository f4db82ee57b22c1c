"""Odd but honest input: constants, decimals, instants, empty columns, numpy numbers."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from features import (
    DeclarationError,
    FeatureSet,
    boolean,
    category,
    elapsed,
    number,
    timestamp,
    timestamps,
)
from features.fields import FLAG_NAMES
from features.timestamps import LONGEST, timestamp_parser


@pytest.mark.parametrize("value", [99.99, 0.1, 2.7e-5, 1 / 3])
def test_a_constant_column_is_shifted_only(value: float) -> None:
    features = FeatureSet("f", version=1, features={"x": number("x").standardize()})
    fitted = features.fit({"x": [value] * 49}, quiet=True)
    assert fitted.transform({"x": [value, value + 1]}).ravel().tolist() == [0.0, 1.0]


def test_decimals_become_the_float_that_json_would_send() -> None:
    texts = [f"{whole}.{cents:02d}" for whole in range(0, 100, 7) for cents in range(100)]
    features = FeatureSet("f", version=1, features={"x": number("x", from_float32=True)})
    column = pa.array([Decimal(text) for text in texts], pa.decimal128(12, 2))
    rows = features.fit({"x": [1.0]}, quiet=True).encode_table({"x": column}).rows
    assert rows[:, 0].tolist() == [float(text) for text in texts]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6)])
def test_instants_of_an_epoch_field_are_the_numbers_that_callers_send(
    unit: Any, factor: int
) -> None:
    nanos = [1_556_551_491_985_254_000 + step * 1_001 for step in range(2_000)]
    at = timestamp("at", unit=unit)
    fitted = FeatureSet("f", version=1, features={"x": at.hour()}).fit(
        {"at": pa.array([0], pa.timestamp("ns", "UTC"))}, quiet=True
    )
    table = fitted.encode_table({"at": pa.array(nanos, pa.timestamp("ns", "UTC"))})
    sent = [{"at": value / (10**9 // factor)} for value in nanos]
    assert fitted.encode_records(sent).rows.tobytes() == table.rows.tobytes()


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical([None] * 3),
        np.full(3, np.nan),
        pa.nulls(3),
        pa.array([None] * 3, pa.string()),
    ],
)
@pytest.mark.parametrize("field", [category("x", vocabulary=["a"]), boolean("x"), number("x")])
def test_a_column_of_nothing_is_missing_whatever_its_type(field: Any, column: Any) -> None:
    features = FeatureSet("f", version=1, features={"x": field.is_null()})
    fitted = features.fit({"x": pa.nulls(2)}, quiet=True)
    encoded = fitted.encode_table({"x": column})
    assert encoded.flags.tolist() == [[1]] * 3
    assert fitted.transform({"x": column}).ravel().tolist() == [1.0] * 3


def test_a_text_too_long_for_an_instant_is_not_looked_at() -> None:
    parse = timestamp_parser(None)
    longest = "2024-05-01T12:30:15.123456789+01:00"
    assert len(longest) == LONGEST
    assert parse(longest) is not None
    remembered = timestamps._tail.cache_info().currsize
    assert parse("2024-05-01T12:30" + "x" * 1_000_000) is None
    assert timestamps._tail.cache_info().currsize == remembered


def test_numpy_numbers_are_constants_like_any_others() -> None:
    x = number("x")
    plain = (x + 2).clip(low=0)
    assert (x + np.int64(2)).clip(low=np.int64(0)).to_json() == plain.to_json()  # type: ignore[arg-type]
    assert (x * np.float32(0.5)).to_json() == (x * 0.5).to_json()


def test_python_operators_mean_what_they_say() -> None:
    start, end = timestamp("a"), timestamp("b")
    assert (end - start).to_json() == elapsed(start, end).to_json()
    assert (number("x") ** 2).to_json() == number("x").power(2).to_json()
    assert abs(number("x")).to_json() == number("x").abs().to_json()


def test_equality_is_never_decided_while_features_are_declared() -> None:
    with pytest.raises(DeclarationError, match=r"lookup\(\{'US': 1\}"):
        _ = category("country") == "US"
    with pytest.raises(DeclarationError, match="itself the condition"):
        _ = boolean("b") == True  # noqa: E712
    features = FeatureSet("f", version=1, features={"same": timestamp("a") == timestamp("b")})
    fitted = features.fit({"a": ["2024-01-01T00:00Z"], "b": ["2024-01-01T00:00Z"]}, quiet=True)
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC).isoformat()
    encoded = fitted.encode_records([{"a": noon, "b": noon}, {"a": noon, "b": "2024-01-01T00:00Z"}])
    assert fitted.transform(encoded).ravel().tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("declare", "hint"),
    [
        (lambda: category("c", vocabulary="abc"), "list its texts"),
        (lambda: FeatureSet("f", version="1", features={"x": number("x")}), "whole numbers"),  # type: ignore[arg-type]
        (lambda: FeatureSet("f", version=1, features=[number("x")]), "column's name"),  # type: ignore[arg-type]
    ],
)
def test_a_slip_of_the_pen_is_told(declare: Any, hint: str) -> None:
    with pytest.raises(DeclarationError, match=hint):
        declare()


def test_no_text_of_a_caller_takes_long_to_normalize() -> None:
    """Combining marks in the wrong order, which take as many steps as their square."""
    features = FeatureSet(
        "f", version=1, features={"x": category("x", normalize=["nfc"]).one_hot()}
    )
    words = ["e\u0301", "a" + "\u0316" * 15 + "\u0300" * 15]
    fitted = features.fit({"x": words}, quiet=True)
    swapped = "a" + "\u0300" * 15 + "\u0316" * 15
    texts = [
        "\u00e9",
        "x" * 40 + "e\u0301",
        swapped,
        swapped + "\u0300",
        "a" + "\u0300\u0316" * 10**5,
    ]
    began = time.perf_counter()
    records = fitted.encode_records([{"x": text} for text in texts])
    assert time.perf_counter() - began < 2
    flags = [FLAG_NAMES[flag] for flag in records.flags[:, 0]]
    assert flags == ["ok", "unknown", "ok", "unknown", "unknown"]
    assert fitted.encode_table({"x": texts}).rows.tolist() == records.rows.tolist()
