"""What each operator means, in numpy and the standard library: the second implementation.

It serves to doubt the graph and nothing else; where a number is learned, it is taken from the
fitted state, which test_feature_set.py doubts. Calendars come from Python's datetime and zoneinfo.
"""

import base64
import importlib.resources
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.expressions import Category
from features.fitted import Fitted
from features.nodes import Expression
from tests import hatches

Column = NDArray[np.float64]
Rule = Callable[[Expression, list[Column], Fitted], list[Column]]


def features(fitted: Fitted, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Features float32 (n, K) of encoded rows: rounded once, what is not finite null."""
    columns = [
        column
        for expression in fitted.feature_set.features.values()
        for column in values(expression, rows, fitted)
    ]
    with np.errstate(over="ignore"):
        single = np.stack(columns, axis=1).astype(np.float32)
    return np.where(np.isfinite(single), single, np.float32(np.nan))


def values(expression: Expression, rows: NDArray[np.float64], fitted: Fitted) -> list[Column]:
    """The float64 columns of an expression over encoded rows."""
    if expression.field is not None:
        return [rows[:, fitted.fields.index(expression.field)]]
    if expression.op == "constant":
        return [np.full(len(rows), expression.params["value"])]
    operands = [values(arg, rows, fitted)[0] for arg in expression.args]
    with np.errstate(all="ignore"):
        return RULES[expression.op](expression, operands, fitted)


def learned(expression: Expression, fitted: Fitted, name: str, default: float = 0.0) -> float:
    state = fitted.states.get(expression.key, {})
    return state.get(name, expression.params.get(name, default))


def finite(column: Column) -> Column:
    return np.where(np.isfinite(column), column, np.nan)


# numbers


def impute(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    with_ = e.params["with"]
    value = fitted.states[e.key]["value"] if isinstance(with_, str) else with_
    return [np.where(np.isnan(x[0]), value, x[0])]


def is_null(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    if isinstance(e.args[0], Category):
        return [(x[0] == size(e, fitted) + 1).astype(float)]
    return [np.isnan(x[0]).astype(float)]


def clip(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    low, high = learned(e, fitted, "low", -np.inf), learned(e, fitted, "high", np.inf)
    return [np.minimum(np.maximum(x[0], low), high)]


def shift_scale(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [(x[0] - learned(e, fitted, "shift")) / learned(e, fitted, "scale")]


def log(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [np.log(np.where(x[0] >= np.finfo(float).tiny, x[0], np.nan))]


def log1p(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [np.log1p(np.where(x[0] > -1, x[0], np.nan))]


def exp(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [np.exp(np.where(x[0] <= 709, np.maximum(x[0], -708), np.nan))]


def power(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [finite(np.power(x[0], e.params["exponent"]))]


def settle(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    mantissa, exponent = np.frexp(x[0])
    settled = np.ldexp(np.round(mantissa * 2**24) / 2**24, exponent)
    return [np.where(np.abs(x[0]) < 3e299, settled, np.nan)]


def bucketize(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    edges = fitted.states.get(e.key, e.params)["edges"]
    above = sum((x[0] > edge).astype(float) for edge in edges)
    return [np.where(np.isnan(x[0]), np.nan, above)]


def one_hot_values(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [(x[0] == value).astype(float) for value in e.params["values"]]


def cyclic(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    angle = 2 * math.pi * np.fmod(x[0], e.params["period"]) / e.params["period"]
    return [np.round(wave(angle) * 2**24) / 2**24 for wave in (np.sin, np.cos)]


# two or three operands


def divide(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [finite(x[0] / x[1])]


def safe_div(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    default = np.where(np.isfinite(x[0]), e.params["default"], np.nan)
    return [np.where(x[1] == 0, default, finite(x[0] / x[1]))]


def comparison(compare: Callable[[Column, Column], Column]) -> Rule:
    def rule(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
        null = np.isnan(x[0]) | np.isnan(x[1])
        return [np.where(null, np.nan, compare(x[0], x[1]))]

    return rule


def kleene(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    pick = {"and/1": min, "or/1": max}[e.op]
    halves = [[0.5 if math.isnan(v) else v for v in column] for column in x]
    found = [pick(a, b) for a, b in zip(*halves, strict=True)]
    return [np.array([math.nan if v == 0.5 else v for v in found])]


def where(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return [np.where(np.isnan(x[0]), np.nan, np.where(x[0] == 1, x[1], x[2]))]


def elementwise(function: Callable[..., Column]) -> Rule:
    return lambda e, x, fitted: [function(*x)]


# categories


def texts(category: Expression, fitted: Fitted) -> list[Any]:
    """What its codes stand for: texts, of a cross pairs of them."""
    if category.field is not None:
        return list(fitted.vocabularies[category.field.name])
    known = fitted.states.get(category.key, category.params)
    return [tuple(pair) for pair in known["pairs"]]


def size(e: Expression, fitted: Fitted) -> int:
    return len(texts(e.args[0], fitted))


UNKNOWN = object()


def cross(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    """By the texts of both sides, one row after the other."""
    sides = [[*texts(side, fitted), UNKNOWN, None] for side in e.args]
    pairs = texts(e, fitted)
    found: list[float] = []
    for codes in zip(*x, strict=True):
        pair = tuple(side[int(code)] for side, code in zip(sides, codes, strict=True))
        nulls = pair.count(None)
        if nulls == 2 or (nulls and e.params.get("null") != "value"):
            found.append(len(pairs) + 1)
        else:
            found.append(pairs.index(pair) if pair in pairs else len(pairs))
    return [np.array(found, np.float64)]


def one_hot(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    v = size(e, fitted)
    extra = [v + place for place, name in enumerate(("unknown", "missing")) if name in e.params]
    return [(x[0] == code).astype(float) for code in (*range(v), *extra)]


def by_code(table: Callable[[Expression, Fitted], list[float]]) -> Rule:
    def rule(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
        numbers = table(e, fitted)
        codes = np.clip(np.nan_to_num(x[0], nan=0.0), 0, len(numbers) - 1).astype(int)
        return [np.array(numbers)[codes]]

    return rule


def ordinal(e: Expression, fitted: Fitted) -> list[float]:
    return [*range(size(e, fitted)), -1.0, math.nan]


def table_of(e: Expression, fitted: Fitted) -> list[float]:
    return fitted.states[e.key]["table"]


def lookup(e: Expression, fitted: Fitted) -> list[float]:
    given = e.params["table"]
    table: dict[Any, float] = (
        given if isinstance(given, dict) else {(a, b): number for a, b, number in given}
    )
    keys = (*texts(e.args[0], fitted), UNKNOWN, UNKNOWN)
    default: float = e.params.get("default", math.nan)
    return [table.get(key, default) for key in keys]


# graphs of others, by what they compute


def largest(*columns: Column) -> list[Column]:
    return [np.max([column.astype(np.float32) for column in columns], axis=0).astype(float)]


HATCHES: Mapping[bytes, Callable[..., list[Column]]] = {
    hatches.softsign().SerializeToString(): lambda x: [x / (1 + np.abs(x))],
    hatches.larger_of_three().SerializeToString(): largest,
    hatches.turned().SerializeToString(): lambda a, b: [-b, a],
    hatches.tree().SerializeToString(): lambda x: [np.where(x.astype(np.float32) < 1.5, 2.0, 5.0)],
}


def hatch(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    return HATCHES[base64.b64decode(e.params["model"])](*x)


# timestamps

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@cache
def zone_of(name: str) -> ZoneInfo:
    """As the tzdata package has it; the system's may be another edition."""
    path = importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, name)


def local_time(seconds: float, zone: str) -> datetime:
    """Python's own answer for what a wall clock shows."""
    return (EPOCH + timedelta(seconds=math.floor(seconds))).astimezone(zone_of(zone))


def calendar(part: Callable[[datetime], float]) -> Rule:
    def rule(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
        field = e.args[0].field
        assert field is not None
        zone = field.tz or "UTC"
        found = [part(local_time(s, zone)) if math.isfinite(s) else math.nan for s in x[0]]
        return [np.array(found, np.float64)]

    return rule


def elapsed(e: Expression, x: list[Column], fitted: Fitted) -> list[Column]:
    unit = {"s": 1, "min": 60, "h": 3600, "d": 86400}[e.params["unit"]]
    return [(x[1] - x[0]) / unit]


RULES: Mapping[str, Rule] = {
    "impute/1": impute,
    "is_null/1": is_null,
    "clip/1": clip,
    "standardize/1": shift_scale,
    "min_max/1": shift_scale,
    "robust_scale/1": shift_scale,
    "log/1": log,
    "log1p/1": log1p,
    "exp/1": exp,
    "sqrt/1": elementwise(np.sqrt),
    "abs/1": elementwise(np.abs),
    "round/1": elementwise(np.rint),
    "floor/1": elementwise(np.floor),
    "power/1": power,
    "settle/1": settle,
    "bucketize/1": bucketize,
    "one_hot_values/1": one_hot_values,
    "cyclic/1": cyclic,
    "add/1": elementwise(np.add),
    "subtract/1": elementwise(np.subtract),
    "multiply/1": elementwise(np.multiply),
    "divide/1": divide,
    "safe_div/1": safe_div,
    "minimum/1": elementwise(np.minimum),
    "maximum/1": elementwise(np.maximum),
    "less/1": comparison(np.less),
    "less_equal/1": comparison(np.less_equal),
    "equal/1": comparison(np.equal),
    "and/1": kleene,
    "or/1": kleene,
    "not/1": elementwise(lambda x: 1 - x),
    "where/1": where,
    "one_hot/1": one_hot,
    "ordinal/1": by_code(ordinal),
    "frequency/1": by_code(table_of),
    "target_mean/1": by_code(table_of),
    "lookup/1": by_code(lookup),
    "cross/1": cross,
    "onnx/1": hatch,
    "onnx_columns/1": hatch,
    "minute/1": calendar(lambda t: t.minute),
    "hour/1": calendar(lambda t: t.hour),
    "weekday/1": calendar(lambda t: t.weekday()),
    "day/1": calendar(lambda t: t.day),
    "month/1": calendar(lambda t: t.month),
    "year/1": calendar(lambda t: t.year),
    "elapsed/1": elapsed,
}


def ulps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many float32 apart; 0 where both are null, huge where one is."""
    steps = np.abs(_ordered(a) - _ordered(b))
    steps = np.where(np.isnan(a) & np.isnan(b), 0, steps)
    return np.where(np.isnan(a) != np.isnan(b), 2**40, steps)


def _ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers in the order of the floats, 0 for both zeros."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
