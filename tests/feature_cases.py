"""One feature for each way to call each operator, over one training table."""

from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import (
    Expression,
    FeatureSet,
    Fitted,
    boolean,
    category,
    cross,
    elapsed,
    maximum,
    minimum,
    number,
    onnx_op,
    safe_div,
    timestamp,
    where,
)
from tests import hatches

x, y = number("x"), number("y")
positive = number("positive", low=0, high=1e6)
shallow = number("shallow", low=-5)
kept = number("kept", low=0, out_of_bounds="keep")
yes, no = boolean("yes"), boolean("no")
carrier = category("carrier")
gate = category("gate", of="integer")
leaves = timestamp("leaves", tz="America/New_York")
origin = category("origin", vocabulary=["A", "A&", "#B"])
arrives = timestamp("arrives")
local_arrives = timestamp("local_arrives", tz="Australia/Lord_Howe")

softsign, turned = hatches.softsign(), hatches.turned()
pairs = cross(carrier, gate)
few_pairs = cross(gate, carrier, max_pairs=6)
pairs_with_null = cross(origin, carrier, null="value")
declared_pairs = cross(origin, gate, pairs=[("#B", 2), ("A", 1), ("A&", 9)])

CASES: dict[str, Expression] = {
    "impute a constant": x.impute(-1.5),
    "impute the median": x.impute("median"),
    "impute the mean": x.impute("mean"),
    "impute the mode": x.impute("mode"),
    "impute a truth value": yes.impute(0),
    "is_null of a number": x.is_null(),
    "is_null of a category": carrier.is_null(),
    "is_null of a timestamp": leaves.is_null(),
    "clip below": x.clip(low=-1),
    "clip at zero": x.clip(low=0.0),
    "clip above": x.clip(high=2.5),
    "clip to quantiles": x.clip(quantiles=(0.1, 0.9)),
    "standardize": x.standardize(),
    "standardize a constant": number("seven").standardize(),
    "min_max": x.min_max(),
    "robust_scale": x.robust_scale(),
    "log": x.log(),
    "log1p": x.log1p(),
    "log1p of what is never negative": positive.log1p(),
    "log1p of what may be negative": shallow.log1p(),
    "log1p of what is negative against its bound": kept.log1p(),
    "log1p of what an impute makes negative": positive.impute(-3).log1p(),
    "log1p of what a clip leaves negative": shallow.clip(low=-2).log1p(),
    "log1p of what a clip makes negative": positive.clip(high=-0.5).log1p(),
    "exp": x.exp(),
    "a tiny exp, magnified": x.exp() * 1e300,
    "sqrt": x.sqrt(),
    "abs": x.abs(),
    "power": x.power(0.7),
    "square": x.power(2),
    "cube": x.power(3),
    "inverse": x.power(-1),
    "round": x.round(),
    "floor": x.floor(),
    "floor of a logarithm": x.log().floor(),
    "bucketize at edges": x.bucketize([-2, 0, 0.1, 3]),
    "bucketize at deciles": x.bucketize(bins=10),
    "bucketize logarithms": positive.log1p().bucketize(bins=5),
    "one_hot of a number": x.one_hot([0, 1, 2.5]),
    "cyclic": x.cyclic(7),
    "passthrough": x.passthrough(),
    "add": x + y,
    "add a constant": 2 + x,
    "subtract": x - y,
    "subtract from a constant": 1 - x,
    "negate": -x,
    "multiply": x * y,
    "divide": x / y,
    "divide by a constant": x / 3,
    "divide a constant": 1 / x,
    "safe_div": safe_div(x, y, default=-7),
    "safe_div a constant": safe_div(2, y, default=0),
    "minimum": minimum(x, y),
    "minimum with a constant": minimum(x, 1),
    "maximum": maximum(x, y),
    "maximum with a constant": maximum(0, x),
    "less": x < y,
    "less than a constant": x < 1,
    "less_equal": x <= y,
    "greater": x > y,
    "greater_equal a constant": x >= 2.5,
    "equal": x == y,
    "not equal": x != 2.5,
    "less of timestamps": leaves < arrives,
    "and": yes & no,
    "or": yes | no,
    "not": ~yes,
    "where": where(x > 0, x, y),
    "where with constants": where(yes, 1, 0),
    "a truth value in arithmetic": yes * 3 + no,
    "one_hot": carrier.one_hot(),
    "one_hot with unknown and missing": carrier.one_hot(unknown=True, missing=True),
    "one_hot of integers": gate.one_hot(missing=True),
    "ordinal": carrier.ordinal(),
    "frequency": carrier.frequency(),
    "target_mean": carrier.target_mean(),
    "target_mean without smoothing": gate.target_mean(smoothing=0),
    "lookup": carrier.lookup({"AA": 1.5, "UA": -2}),
    "lookup with a default": carrier.lookup({"AA": 1.5}, default=9),
    "one_hot of a cross": few_pairs.one_hot(unknown=True, missing=True),
    "ordinal of a cross": pairs.ordinal(),
    "ordinal of a cross with nulls": pairs_with_null.ordinal(),
    "ordinal of declared pairs": declared_pairs.ordinal(),
    "frequency of a cross": pairs.frequency(),
    "frequency of a cross with nulls": pairs_with_null.frequency(),
    "target_mean of a cross": few_pairs.target_mean(),
    "lookup in a cross": pairs.lookup({("AA", 2): 1.5, ("UA", 1): -2}),
    "lookup in a cross with nulls": pairs_with_null.lookup({(None, "AA"): 7}, default=9),
    "is_null of a cross": pairs_with_null.is_null(),
    "is_null of declared pairs": declared_pairs.is_null(),
    "onnx": onnx_op(softsign, [x]),
    "onnx of a sum, standardized": onnx_op(softsign, [x + y]).standardize(),
    "onnx before a step": onnx_op(softsign, [x]).bucketize([-0.5, 0, 0.75]),
    "onnx of three columns in float32": onnx_op(hatches.larger_of_three(), [x, y, yes]),
    "onnx with a tree": onnx_op(hatches.tree(), [x.log()]),
    "onnx columns": onnx_op(turned, [x, leaves], width=2),
    "minute": leaves.minute(),
    "hour": leaves.hour(),
    "weekday": leaves.weekday(),
    "day": leaves.day(),
    "month": leaves.month(),
    "year": leaves.year(),
    "hour in UTC": arrives.hour(),
    "hour of three zones": leaves.hour() + arrives.hour() + local_arrives.hour(),
    "cyclic hour": leaves.hour().cyclic(),
    "cyclic day": leaves.day().cyclic(),
    "cyclic year": leaves.year().cyclic(11),
    "elapsed": elapsed(leaves, arrives),
    "elapsed hours": elapsed(leaves, arrives, unit="h"),
}

ROWS = 200


@cache
def table() -> dict[str, Any]:
    """Training rows with nulls, ties and a constant column."""
    rng, rng_of_origin = np.random.default_rng(7), np.random.default_rng(9)
    start = np.datetime64("2013-01-01T00:00:00")
    seconds = rng.integers(0, 365 * 86_400, ROWS)
    numbers = np.round(rng.normal(1, 3, ROWS), 2)
    numbers[::9] = np.nan
    numbers[1::9] = 2.5
    carriers = np.array(["UA", "AA", "DL", "B6", None], object)
    return {
        "x": numbers,
        "y": rng.integers(-3, 4, ROWS).astype(float),
        "positive": np.round(rng.gamma(2, 50, ROWS)),
        "shallow": rng.normal(0, 2, ROWS),
        "kept": rng.normal(0, 2, ROWS),
        "seven": np.full(ROWS, 7.0),
        "yes": rng.random(ROWS) < 0.3,
        "no": rng.random(ROWS) < 0.6,
        "carrier": carriers[rng.choice(5, ROWS, p=[0.4, 0.3, 0.15, 0.1, 0.05])],
        "gate": rng.integers(1, 6, ROWS),
        "origin": rng_of_origin.choice(np.array(["A", "A&", "#B", "C", None], object), ROWS),
        "leaves": start + seconds,
        "arrives": [f"{at}Z" for at in start + seconds + rng.integers(0, 40_000, ROWS)],
        "local_arrives": start + seconds,
    }


@cache
def target() -> NDArray[np.float64]:
    return np.random.default_rng(8).random(ROWS)


@cache
def fitted(name: str) -> Fitted:
    """The case alone."""
    return FeatureSet("case", version=1, features={"f": CASES[name]}).fit(
        table(), target(), quiet=True
    )


@cache
def all_fitted() -> Fitted:
    """Every case in one graph, where columns ride along with operators that are not theirs."""
    features = {f"f{index}": expression for index, expression in enumerate(CASES.values())}
    return FeatureSet("all", version=1, features=features).fit(table(), target(), quiet=True)


# encoded values, by field

ZEROS_AND_ONES = (0.0, -0.0, 1.0, -1.0)
EDGES = (
    2.5,
    7.0,
    1e-8,
    -1e-8,
    2e-9,
    -1e-12,
    1e-300,
    5e-324,
    2.2250738585072014e-308,
    709.0,
    -708.5,
    -745.2,
)
INTERESTING = (*ZEROS_AND_ONES, *EDGES, 1e6, 2.0**53)
FIRST, LAST = -2_208_988_800, 4_133_980_799
"""1900 to 2100: the years in which zones are frozen, and Python has the same ones."""


def encoded_value(fitted: Fitted, name: str) -> st.SearchStrategy[float]:
    """What an encoder could put into the row for a field."""
    field = next(field for field in fitted.fields if field.name == name)
    if field.kind == "boolean":
        return st.sampled_from([0.0, 1.0, np.nan])
    if field.kind == "category":
        return st.integers(0, len(fitted.vocabularies[name]) + 1).map(float)
    if field.kind == "timestamp":
        instants = st.integers(FIRST, LAST).map(float) | st.floats(FIRST, LAST)
        return instants | st.just(np.nan)
    low = -1e9 if field.low is None or field.out_of_bounds == "keep" else field.low
    high = 1e9 if field.high is None else field.high
    pool = [value for value in INTERESTING if low <= value <= high] + [np.nan]
    return (
        st.sampled_from(pool)
        | st.floats(low, high)
        | st.integers(-20, 20).map(lambda number: min(max(number / 4, low), high))
    )


def rows_of(
    fitted: Fitted, *, min_size: int = 1, max_size: int = 9
) -> st.SearchStrategy[NDArray[np.float64]]:
    """Encoded rows float64 (n, F)."""
    row = st.tuples(*(encoded_value(fitted, field.name) for field in fitted.fields))
    rows = st.lists(row, min_size=min_size, max_size=max_size)
    return rows.map(lambda found: np.array(found, np.float64).reshape(-1, len(fitted.fields)))


def any_rows(fitted: Fitted) -> st.SearchStrategy[NDArray[np.float64]]:
    """Rows float64 (n, F) of any floats at all."""
    anything = st.floats(width=64) | st.sampled_from([*INTERESTING, np.inf, -np.inf, np.nan])
    row = st.tuples(*(anything for _ in fitted.fields))
    return st.lists(row, min_size=1, max_size=7).map(lambda found: np.array(found, np.float64))
