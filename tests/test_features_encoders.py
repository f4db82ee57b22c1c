"""What a value becomes: the rules for records, and that tables give the same bits."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features import (
    Category,
    Encoded,
    Expression,
    FeatureSet,
    Fitted,
    Timestamp,
    boolean,
    category,
    number,
    timestamp,
)
from features.fields import FLAG_NAMES, INVALID, MISSING, OK, OUT_OF_BOUNDS, UNKNOWN
from tests.oracle import zone_of

NAN = math.nan
FIRST, LAST = -62_135_596_800, 253_402_300_799
"""Seconds of the years 1 to 9999."""


def feature_of(field: Expression) -> Expression:
    """The cheapest feature that reads the field."""
    if isinstance(field, Category):
        return field.ordinal()
    return field.hour() if isinstance(field, Timestamp) else field


def fitted(field: Expression, *texts: str) -> Fitted:
    """A set of one field called f; `texts` are what its vocabulary is learned from."""
    table = {"f": [*texts] or pa.nulls(1)}
    features = FeatureSet("one", version=1, features={"x": feature_of(field)})
    return features.fit(table, quiet=True)


def encode(subject: Fitted, *values: Any) -> list[tuple[float, str]]:
    """Value and flag of each, as records."""
    encoded = subject.encode_records([{"f": value} for value in values])
    names = [FLAG_NAMES[flag] for flag in encoded.flags[:, 0]]
    return list(zip(encoded.rows[:, 0].tolist(), names, strict=True))


def assert_same(records: Encoded, table: Encoded):
    """Equal to the last bit, NaN too."""
    assert records.flags.tolist() == table.flags.tolist()
    assert records.rows.view(np.int64).tolist() == table.rows.view(np.int64).tolist()


def assert_encodes(subject: Fitted, value: Any, expected: float, flag: str):
    [(found, name)] = encode(subject, value)
    assert name == flag, value
    assert found == expected or (math.isnan(found) and math.isnan(expected)), value


# the rules for records

plain = number("f")
bounded = {
    policy: number("f", low=-1.5, high=6000, out_of_bounds=policy)
    for policy in ("null", "clip", "keep")
}


@pytest.mark.parametrize(
    ("value", "expected", "flag"),
    [
        (1, 1.0, "ok"),
        (-2.5, -2.5, "ok"),
        (1e308, 1e308, "ok"),
        (5e-324, 5e-324, "ok"),
        (2**53, 2.0**53, "ok"),
        (-(2**53), -(2.0**53), "ok"),
        (2**53 + 1, NAN, "invalid"),
        (-(2**53) - 1, NAN, "invalid"),
        (10**400, NAN, "invalid"),
        (float(2**60), 2.0**60, "ok"),
        (None, NAN, "missing"),
        (True, NAN, "invalid"),
        ("1", NAN, "invalid"),
        ("", NAN, "invalid"),
        ([], NAN, "invalid"),
        ({}, NAN, "invalid"),
        (NAN, NAN, "invalid"),
        (math.inf, NAN, "invalid"),
    ],
)
def test_a_number_is_an_integer_or_a_float(value: Any, expected: float, flag: str):
    assert_encodes(fitted(plain), value, expected, flag)


def test_zero_keeps_its_sign():
    [(minus, _), (plus, _)] = encode(fitted(plain), -0.0, 0.0)
    assert (math.copysign(1, minus), math.copysign(1, plus)) == (-1, 1)


@pytest.mark.parametrize("policy", bounded)
@pytest.mark.parametrize(
    ("value", "nearer"),
    [
        (-1.5, None),
        (6000, None),
        (6000.0, None),
        (math.nextafter(-1.5, -math.inf), -1.5),
        (-2, -1.5),
        (math.nextafter(6000.0, math.inf), 6000.0),
        (6001, 6000.0),
        (2**53, 6000.0),
        (1e300, 6000.0),
    ],
)
def test_bounds_are_inclusive_and_kept_as_declared(policy: str, value: float, nearer: float | None):
    if nearer is None:
        assert_encodes(fitted(bounded[policy]), value, float(value), "ok")
    else:
        becomes = {"null": NAN, "clip": nearer, "keep": float(value)}[policy]
        assert_encodes(fitted(bounded[policy]), value, becomes, "out_of_bounds")


@pytest.mark.parametrize("policy", bounded)
def test_what_is_no_number_is_invalid_whatever_the_bounds_do(policy: str):
    for value in (2**53 + 1, math.inf, NAN, "7", True):
        assert_encodes(fitted(bounded[policy]), value, NAN, "invalid")


@pytest.mark.parametrize(
    ("value", "expected", "flag"),
    [
        (True, 1.0, "ok"),
        (False, 0.0, "ok"),
        (None, NAN, "missing"),
        (1, NAN, "invalid"),
        (0.0, NAN, "invalid"),
        ("true", NAN, "invalid"),
    ],
)
def test_a_boolean_is_true_or_false(value: Any, expected: float, flag: str):
    assert_encodes(fitted(boolean("f")), value, expected, flag)


carrier = category("f", vocabulary=["UA", "", "Ünal", "7"])


@pytest.mark.parametrize(
    ("value", "expected", "flag"),
    [
        ("UA", 0.0, "ok"),
        ("", 1.0, "ok"),
        ("Ünal", 2.0, "ok"),
        ("7", 3.0, "ok"),
        ("ua", 4.0, "unknown"),
        (" UA", 4.0, "unknown"),
        ("U\u0308nal", 4.0, "unknown"),  # decomposed: another text, unless nfc is declared
        (None, 5.0, "missing"),
        (7, 5.0, "invalid"),
        (7.0, 5.0, "invalid"),
        (True, 5.0, "invalid"),
        (["UA"], 5.0, "invalid"),
    ],
)
def test_a_category_is_a_text_as_it_stands(value: Any, expected: float, flag: str):
    assert_encodes(fitted(carrier), value, expected, flag)


@pytest.mark.parametrize(
    ("steps", "value", "text"),
    [
        (["strip"], " UA\u00a0\n", "UA"),
        (["strip"], " ua", "ua"),
        (["casefold"], "UA", "ua"),
        (["casefold"], "Straße", "strasse"),
        (["casefold"], " UA", " ua"),
        (["nfc"], "U\u0308", "Ü"),
        (["strip", "casefold"], " UA ", "ua"),
        (["casefold", "nfc"], "\u01f0", "\u01f0"),  # ǰ, which folds into two characters
        (["nfc", "casefold"], "\u01f0", "j\u030c"),
    ],
)
def test_texts_are_normalized_as_declared_and_no_further(steps: list[str], value: str, text: str):
    subject = fitted(category("f", normalize=steps), "other", value, value)
    assert subject.vocabularies["f"][0] == text
    assert encode(subject, value, text)[0] == (0.0, "ok")


gate = category("f", of="integer", vocabulary=[7, -1, 10**30])


@pytest.mark.parametrize(
    ("value", "expected", "flag"),
    [
        (7, 0.0, "ok"),
        (-1, 1.0, "ok"),
        (10**30, 2.0, "ok"),
        (8, 3.0, "unknown"),
        pytest.param(10**6000, 3.0, "unknown", id="longer than Python writes out"),
        (None, 4.0, "missing"),
        ("7", 4.0, "invalid"),
        (7.0, 4.0, "invalid"),
        (True, 4.0, "invalid"),
    ],
)
def test_an_integer_category_is_an_integer(value: Any, expected: float, flag: str):
    assert_encodes(fitted(gate), value, expected, flag)


aware, local = timestamp("f"), timestamp("f", tz="America/New_York")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00Z", 0.0),
        ("1970-01-01 00:00:00Z", 0.0),
        ("1970-01-01T00:00:00.000000001Z", 1e-9),
        ("1970-01-01T00:00:00.5+00:00", 0.5),
        ("1970-01-01T05:30+05:30", 0.0),
        ("1969-12-31T19:00:00-05:00", 0.0),
        ("1970-01-01T00:00-00:00", 0.0),
        ("2016-02-29T23:59:59.999999999Z", 1456790399.999999999),
        ("0001-01-01T00:00Z", float(FIRST)),
        ("9999-12-31T23:59:59Z", float(LAST)),
    ],
)
def test_a_timestamp_is_iso_8601(text: str, seconds: float):
    assert_encodes(fitted(aware), text, seconds, "ok")
    assert_encodes(fitted(local), text, seconds, "ok")


@pytest.mark.parametrize(
    "value",
    [
        *("", "1970", "1970-01-01", "1970-01-01T00", "1970-01-01T0:00Z", "1970-1-1T00:00Z"),
        *("1970-01-01t00:00Z", "1970-01-01T00:00z", "1970-01-01T00:00 Z", " 1970-01-01T00:00Z"),
        *("1970-01-01T00:00Z ", "1970-01-01T00:00Z\n", "1970-01-01T00:00:00.Z"),
        *("1970-01-01T00:00:00,5Z", "1970-01-01T00:00:00.0000000001Z", "1970-01-01T00:00.5Z"),
        *("1970-01-01T24:00Z", "1970-01-01T00:60Z", "1970-01-01T23:59:60Z", "1970-02-30T00:00Z"),
        *("2015-02-29T00:00Z", "0000-01-01T00:00Z", "-001-01-01T00:00Z", "10000-01-01T00:00Z"),
        *("1970-01-01T00:00+24:00", "1970-01-01T00:00+0530", "1970-01-01T00:00+05"),
        *("1970-01-01T00:00Z+00:00", "１970-01-01T00:00Z", "1970-01-01T0０:00Z", "now"),
        *("0001-01-01T00:00+01:00", "9999-12-31T23:59:59-00:01"),  # not in the years 1 to 9999
        *(0, 0.0, True, [], {}),
    ],
)
def test_what_is_not_a_timestamp_is_invalid(value: Any):
    assert_encodes(fitted(aware), value, NAN, "invalid")
    assert_encodes(fitted(local), value, NAN, "invalid")


def test_an_offset_may_be_missing_only_where_a_zone_is_declared():
    assert_encodes(fitted(aware), "1970-01-01T00:00", NAN, "invalid")
    assert_encodes(fitted(local), "1970-01-01T00:00", 18_000.0, "ok")
    assert_encodes(fitted(local), "1970-01-01 00:00:00.25", 18_000.25, "ok")


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_a_timestamp_may_be_a_number_of_its_unit(unit: Any, factor: int):
    subject = fitted(timestamp("f", unit=unit))
    for value in (0, 1, -7 * factor, 1_456_790_399 * factor, 0.5, 1e9 * factor + 0.25):
        assert_encodes(subject, value, value / factor, "ok")
    edges = FIRST * factor, (LAST + 1) * factor
    for value in map(float, edges):
        assert_encodes(subject, value, value / factor, "ok")
        assert_encodes(subject, value * 1.001, NAN, "invalid")
    for value in ("0", "1970-01-01T00:00Z", True, NAN, math.inf, 1e300, 2**53 + 1, 10**400):
        assert_encodes(subject, value, NAN, "invalid")
    assert_encodes(subject, None, NAN, "missing")


# records as a whole


@cache
def two_fields() -> Fitted:
    features = {"a": number("a").passthrough(), "b": number("b", low=0).passthrough()}
    return FeatureSet("two", version=1, features=features).fit({"a": [1], "b": [1]}, quiet=True)


def test_a_key_that_is_absent_is_missing_like_null():
    encoded = two_fields().encode_records([{"a": 1}, {"a": 1, "b": None}, {}])
    assert encoded.flags.tolist() == [[OK, MISSING], [OK, MISSING], [MISSING, MISSING]]
    assert not encoded.extra_keys


@pytest.mark.parametrize(
    ("records", "extra"),
    [
        ([{"a": 1, "b": 2}], False),
        ([{"b": 2, "a": 1}], False),
        ([{"a": 1, "b": 2, "c": 3}], True),
        ([{"a": 1, "c": None}], True),
        ([{"a": None, "c": None}], True),
        ([{"c": 3}], True),
        ([{"a": 1}, {"a": 1, "A": 2}, {}], True),
        ([], False),
    ],
)
def test_extra_keys_are_ignored_and_noticed(records: list[dict[str, Any]], extra: bool):
    encoded = two_fields().encode_records(records)
    assert encoded.extra_keys is extra
    assert encoded.rows.shape == encoded.flags.shape == (len(records), 2)


def test_troubles_list_every_flag_that_is_not_ok_in_row_order():
    records = [{"a": 1, "b": 1}, {"a": "1", "b": -1}, {}, {"a": 1, "b": 2}, {"a": None, "b": 2}]
    encoded = two_fields().encode_records(records)
    assert list(encoded.troubles) == [
        (1, 0, INVALID),
        (1, 1, OUT_OF_BOUNDS),
        (2, 0, MISSING),
        (2, 1, MISSING),
        (4, 0, MISSING),
    ]
    assert encoded.flags.sum() == sum(flag for _, _, flag in encoded.troubles)


@pytest.mark.parametrize("decode", [msgspec.json.decode, json.loads])
def test_the_last_of_duplicate_keys_wins(decode: Callable[[bytes], Any]):
    encoded = two_fields().encode_records([decode(b'{"a": 1, "b": 1, "a": 2, "b": null}')])
    assert encoded.rows[0, 0] == 2.0
    assert encoded.flags.tolist() == [[OK, MISSING]]


def test_names_of_fields_never_reach_the_encoders_source():
    names = ["found", "row", "record", "offset", "v0", "fix0", "None", "import os", "a-b.c"]
    features = {name.replace("None", "none"): number(name).passthrough() for name in names}
    table = {name: [1.0] for name in names}
    subject = FeatureSet("names", version=1, features=features).fit(table, quiet=True)
    encoded = subject.encode_records([{name: index for index, name in enumerate(names)}])
    assert encoded.rows.tolist() == [list(map(float, range(len(names))))]


def test_a_record_is_encoded_alone_as_among_others():
    records = [{"a": k / 7, "b": k - 3 if k % 3 else None} for k in range(20)]
    together = two_fields().encode_records(records)
    for index, record in enumerate(records):
        alone = two_fields().encode_records([record])
        assert alone.rows.tobytes() == together.rows[index].tobytes()
        assert alone.flags.tobytes() == together.flags[index].tobytes()


def test_whatever_json_holds_nothing_is_raised():
    """Every kind of field meets every kind of value."""
    values = [
        None,
        True,
        0,
        -1,
        10**500,
        0.5,
        -0.0,
        1e308,
        "",
        "x",
        "\ud800",
        [],
        [1],
        {},
        {"a": 1},
    ]
    fields = [plain, *bounded.values(), boolean("f"), carrier, gate, aware, local]
    fields += [timestamp("f", unit="us"), category("f", normalize=("nfc",), vocabulary=["x"])]
    for field in fields:
        subject = fitted(field)
        for value in values:
            [(_, flag)] = encode(subject, value)
            assert flag == "missing" or value is not None


# tables give the same bits

finite = st.floats(allow_nan=False, allow_infinity=False)
around_bounds = st.sampled_from(
    [-1.5, 6000.0, math.nextafter(-1.5, -2), math.nextafter(6000.0, 7e3), 0.0, -0.0, 1e308]
)
integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**53) - 2, -(2**53) + 2)
unsigned = st.integers(0, 2**64 - 1) | st.integers(2**53 - 2, 2**53 + 2)
words = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=4)
spelled = st.sampled_from(["UA", " ua", "Ua\u00a0", "Ü", "U\u0308", "ü", "STRASSE", "straße", ""])
texts = words | spelled
days = st.integers(1, 9999).flatmap(
    lambda year: st.builds(
        "{:04d}-{:02d}-{:02d}".format, st.just(year), st.integers(0, 13), st.integers(0, 32)
    )
)
clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 24), st.integers(0, 60))
tails = st.sampled_from(["", ":00", ":59", ":60", ":07.5", ":59.999999999", ":30.000000001", ":1"])
offsets = st.sampled_from(["", "Z", "+00:00", "-05:00", "+14:00", "-23:59", "+24:00", "z"])
iso = st.builds("{}{}{}{}{}".format, days, st.sampled_from("T T t"), clocks, tails, offsets)
near_steps = st.builds(
    "{}T0{}:{}{}{}".format,
    st.sampled_from(["2013-03-10", "2013-11-03", "2013-07-04", "1883-11-18", "2101-03-13"]),
    st.integers(0, 4),
    st.sampled_from(["00", "30", "59"]),
    tails,
    st.sampled_from(["", "Z", "-04:00"]),
)
instants_in_ns = st.integers(-(2**63) + 1, 2**63 - 1) | st.builds(
    lambda seconds, nanos: seconds * 10**9 + nanos,
    st.integers(1_362_900_000, 1_362_920_000) | st.integers(1_383_450_000, 1_383_470_000),
    st.integers(0, 10**9 - 1),
)


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values | st.none(), min_size=1, max_size=12)


FIELDS: dict[str, tuple[Expression, pa.DataType, st.SearchStrategy[Any]]] = {
    "a number": (plain, pa.float64(), finite | around_bounds),
    "a number to null": (bounded["null"], pa.float64(), finite | around_bounds),
    "a number to clip": (bounded["clip"], pa.float64(), finite | around_bounds),
    "a number to keep": (bounded["keep"], pa.float64(), finite | around_bounds),
    "an integer": (plain, pa.int64(), integers),
    "an integer to clip": (bounded["clip"], pa.int64(), integers | st.integers(-3, 6002)),
    "a small integer": (bounded["null"], pa.int8(), st.integers(-128, 127)),
    "a large integer": (plain, pa.uint64(), unsigned),
    "a boolean": (boolean("f"), pa.bool_(), st.booleans()),
    "a text": (category("f"), pa.string(), texts),
    "a declared text": (category("f", vocabulary=["Ü", "", "UA"]), pa.large_string(), texts),
    "a stripped text": (category("f", normalize=("strip",)), pa.string_view(), texts),
    "a folded text": (category("f", normalize=("casefold",)), pa.string(), texts),
    "a composed text": (category("f", normalize=("nfc",)), pa.string(), texts),
    "a tidy text": (category("f", normalize=("strip", "casefold", "nfc")), pa.string(), texts),
    "one of few texts": (category("f", max_vocabulary=2), pa.string(), spelled),
    "an integer category": (category("f", of="integer"), pa.int64(), integers),
    "a short category": (category("f", of="integer"), pa.uint16(), st.integers(0, 9)),
    "ISO 8601": (aware, pa.string(), iso | near_steps | words),
    "ISO 8601 in a zone": (local, pa.string(), iso | near_steps | words),
    "seconds": (timestamp("f", unit="s"), pa.int64(), integers | st.integers(FIRST, LAST + 1)),
    "milliseconds": (timestamp("f", unit="ms"), pa.float64(), finite),
    "microseconds": (timestamp("f", unit="us"), pa.int64(), integers),
}


def fit_on(field: Expression, column: pa.Array) -> Fitted:
    """Learns what there is to learn from the column, or from some text where there is nothing."""
    if field.kind == "category" and column.null_count == len(column):
        column = pa.array([0 if pa.types.is_integer(column.type) else "x"], column.type)
    features = FeatureSet("one", version=1, features={"x": feature_of(field)})
    return features.fit({"f": column}, quiet=True)


def through_json(values: list[Any]) -> list[dict[str, Any]]:
    """As they come over HTTP."""
    return msgspec.json.decode(msgspec.json.encode([{"f": value} for value in values]))


@pytest.mark.filterwarnings("ignore:field 'f'.*none of its:UserWarning")
@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=40)
@given(data=st.data())
def test_records_and_tables_encode_to_the_same_bits(name: str, data: st.DataObject):
    field, kind, strategy = FIELDS[name]
    values = data.draw(nullable(strategy))
    learned = data.draw(nullable(strategy)) if field.kind == "category" else values
    subject = fit_on(field, pa.array(learned, kind))
    column = pa.array(values, kind)
    records = subject.encode_records(through_json(values))
    assert_same(records, subject.encode_table({"f": column}))
    pieces = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    assert_same(records, subject.encode_table(pa.table({"f": pieces})))
    if field.kind == "category" and kind != pa.string_view():
        assert_same(records, subject.encode_table({"f": column.dictionary_encode()}))


def as_text(nanos: int, digits: int, offset: int | None) -> str:
    """ISO 8601 of an instant, or of a wall clock without offset; fractions to so many digits."""
    seconds, rest = divmod(nanos, 10**9)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    fraction = f".{rest:09d}"[: digits + 1] if digits else ""
    if offset is None:
        return at.strftime(f"%Y-%m-%dT%H:%M:%S{fraction}").rjust(19 + len(fraction), "0")
    shifted = at.astimezone(timezone(timedelta(minutes=offset)))
    sign, minutes = "-" if offset < 0 else "+", abs(offset)
    text = shifted.strftime(f"%Y-%m-%dT%H:%M:%S{fraction}").rjust(19 + len(fraction), "0")
    return f"{text}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=60)
@given(values=nullable(instants_in_ns), offset=st.integers(-1439, 1439))
def test_instants_of_tables_are_the_texts_of_records(unit: str, values: list[Any], offset: int):
    digits = UNITS[unit]
    step = 10 ** (9 - digits)
    rounded = [None if value is None else value // step * step for value in values]
    ticks = [None if value is None else value // step for value in rounded]
    texts = [None if value is None else as_text(value, digits, offset) for value in rounded]
    for field in (aware, local):
        subject = fitted(field)
        column = pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, tz="Asia/Kolkata"))
        assert_same(
            subject.encode_records(through_json(texts)), subject.encode_table({"f": column})
        )


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=60)
@given(values=nullable(instants_in_ns))
@example(values=[1_362_882_600 * 10**9, 1_383_445_800 * 10**9, 1_383_442_200 * 10**9])
def test_wall_clocks_of_tables_are_the_texts_without_offset(unit: str, values: list[Any]):
    """In gaps and overlaps too: around 2 o'clock of 10 March and 3 November 2013."""
    digits = UNITS[unit]
    step = 10 ** (9 - digits)
    ticks = [None if value is None else value // step for value in values]
    texts = [None if tick is None else as_text(tick * step, digits, None) for tick in ticks]
    subject = fitted(local)
    column = pa.array(ticks, pa.int64()).cast(pa.timestamp(unit))
    assert_same(subject.encode_records(through_json(texts)), subject.encode_table({"f": column}))


@settings(max_examples=100)
@given(text=near_steps)
def test_texts_in_a_zone_are_the_instants_that_python_finds(text: str):
    subject = fitted(local)
    [(seconds, flag)] = encode(subject, text)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        assert flag == "invalid"
        return
    if "1900" <= text < "2101":
        at = parsed if parsed.tzinfo else parsed.replace(tzinfo=zone_of("America/New_York"))
        whole = at.replace(microsecond=0).timestamp()
        assert whole <= seconds <= whole + 1


# dataframes

MOMENTS = ["2013-03-10T06:59:59.25Z", None, "2013-11-03T05:30:00.00Z"]


def test_dataframes_of_every_column_type_encode_like_records():
    features = {
        "count": number("count").passthrough(),
        "size": number("size").passthrough(),
        "member": boolean("member").passthrough(),
        "city": category("city", vocabulary=["Bern", "Oslo"]).ordinal(),
        "code": category("code", of="integer", vocabulary=[3, 4]).ordinal(),
        "at": timestamp("at").hour(),
    }
    subject = FeatureSet("all", version=1, features=features).fit(
        {name: pa.nulls(1) for name in features}, quiet=True
    )
    columns: dict[str, list[Any]] = {
        "count": [1, None, -3],
        "size": [0.1, None, -0.0],
        "member": [True, None, False],
        "city": ["Oslo", None, "Lima"],
        "code": [4, None, 5],
        "at": MOMENTS,
    }
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    records = subject.encode_records(rows)
    assert records.flags[2].tolist() == [OK, OK, OK, UNKNOWN, UNKNOWN, OK]
    instants = pd.to_datetime(pd.Series(MOMENTS), format="ISO8601")
    frame = pd.DataFrame({**columns, "at": instants})
    nullable_types = {"count": "Int64", "member": "boolean", "code": "Int64"}
    in_polars = pl.DataFrame({**columns, "at": pl.Series(MOMENTS).str.to_datetime(time_zone="UTC")})
    for table in (
        columns,
        frame.astype({**nullable_types, "city": "category"}),
        frame.astype({**nullable_types, "city": "string", "code": "Int16", "size": "Float64"}),
        frame.astype({**nullable_types, "at": "datetime64[ns, Europe/Paris]"}),
        in_polars,
        in_polars.with_columns(pl.col("city").cast(pl.Categorical), pl.col("code").cast(pl.Int8)),
        in_polars.with_columns(
            pl.col("at").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns")
        ),
        pa.table(columns),
    ):
        assert_same(records, subject.encode_table(table))


def test_nan_of_pandas_and_numpy_is_null():
    subject = fitted(plain)
    expected = subject.encode_records([{"f": None}, {"f": 1.5}])
    for column in (
        np.array([NAN, 1.5]),
        pd.Series([NAN, 1.5]),
        pa.array([NAN, 1.5]),
        [None, 1.5],
        np.array([None, 1.5], object),
    ):
        assert_same(expected, subject.encode_table({"f": column}))


def test_a_float_that_is_infinite_is_invalid_in_a_table_too():
    encoded = fitted(bounded["clip"]).encode_table({"f": [math.inf, -math.inf, 1.0]})
    assert encoded.flags[:, 0].tolist() == [INVALID, INVALID, OK]
    assert np.isnan(encoded.rows[:2, 0]).all()


def test_float32_and_decimals_are_taken_where_they_are_declared():
    subject = fitted(number("f", from_float32=True))
    narrow = subject.encode_table({"f": np.array([0.1, NAN], np.float32)})
    assert narrow.rows[0, 0] == float(np.float32(0.1))
    assert narrow.flags[:, 0].tolist() == [OK, MISSING]
    money = pa.array([None, "12.34"]).cast(pa.decimal128(10, 2))
    assert subject.encode_table({"f": money}).rows[1, 0] == 12.34


def test_a_dictionary_may_hold_null():
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), pa.array(["a", None, "b"]))
    subject = fitted(category("f", vocabulary=["a", "b"]))
    assert subject.encode_table({"f": column}).rows[:, 0].tolist() == [0.0, 3.0, 3.0, 1.0]


def test_timestamps_may_come_in_a_dictionary():
    column = pa.array([*MOMENTS, "never"]).dictionary_encode()
    subject = fitted(aware)
    expected = subject.encode_records([{"f": value} for value in (*MOMENTS, "never")])
    assert_same(expected, subject.encode_table({"f": column}))


def test_two_spellings_of_one_text_are_counted_together():
    """Learned vocabularies are of normalized texts, most frequent first, then by code point."""
    subject = fitted(category("f", normalize=("strip", "casefold")), "b", "A", " a", "B ", "c", "a")
    assert subject.vocabularies["f"] == ("a", "b", "c")


def test_a_learned_vocabulary_keeps_the_most_frequent():
    subject = fitted(category("f", max_vocabulary=2), *"zzyyxxx")
    assert subject.vocabularies["f"] == ("x", "y")
    assert encode(subject, "z") == [(2.0, "unknown")]


# what people are told


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (plain, "number"),
        (number("f", low=0), "number of at least 0"),
        (number("f", high=0.5, unit="mi"), "number of at most 0.5 mi"),
        (number("f", low=-1, high=1_000_001), "number from -1 to 1000001"),
        (boolean("f"), "true or false"),
        (carrier, "string"),
        (gate, "integer"),
        (aware, "timestamp YYYY-MM-DDThh:mm:ss with Z or an offset"),
        (local, "timestamp YYYY-MM-DDThh:mm:ss"),
        (timestamp("f", unit="ms"), "number of ms since 1970-01-01 UTC"),
    ],
)
def test_a_field_describes_what_it_takes(field: Expression, text: str):
    subject = fitted(field)
    assert subject.record_encoder.describe(0) == text
