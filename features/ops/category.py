"""Operators on a category's code.

Each is a table with a row per code: one per text of the vocabulary, one for unknown, one for
missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from features.errors import FitError
from features.expressions import Boolean, Columns, Number
from features.nodes import Expression
from features.ops.base import Call, Context, FitInput, FloatColumn, Op
from features.ops.cross import written
from features.ops.numeric import equal_to, ones_where, operands
from features.pairs import numbers_of

if TYPE_CHECKING:
    from features.graph import GraphBuilder


# fitting


def _fit_frequency(fit: FitInput) -> dict[str, Any]:
    counts = np.bincount(fit.values.astype(np.int64), minlength=fit.size + 2)
    shares = counts / len(fit.values)
    shares[fit.size] = 0.0
    return {"table": shares.tolist()}


def _fit_target_mean(fit: FitInput) -> dict[str, Any]:
    if fit.target is None:
        raise FitError(f"{fit.where}: target_mean needs fit(table, target)")
    return {"table": smoothed_means(fit, fit.target)}


def smoothed_means(fit: FitInput, target: FloatColumn) -> list[float]:
    """(sum + smoothing * prior) / (count + smoothing) per code; rows without a target do not count.

    Unknown (code V) is the prior, the mean of all rows, as is any code that was never seen.
    """
    known = np.isfinite(target)
    if not known.any():
        raise FitError(f"{fit.where}: the target has no value that is finite")
    sums, counts = _sums_by_code(fit.values[known], target[known], fit.size + 2)
    prior = math.fsum(sums) / math.fsum(counts)
    smoothing = fit.params["smoothing"]
    means = [
        (total + smoothing * prior) / (count + smoothing) if count else prior
        for total, count in zip(sums, counts, strict=True)
    ]
    means[fit.size] = prior
    return means


def _sums_by_code(
    codes: FloatColumn, values: FloatColumn, length: int
) -> tuple[list[float], list[int]]:
    """Sum of the values and number of rows for each code below `length`.

    Sums are exact before one rounding, so that the order of rows does not matter.
    """
    order = np.argsort(codes, kind="stable")
    ordered = values[order].tolist()
    ends = np.searchsorted(codes[order], np.arange(length + 1)).tolist()
    sums = [math.fsum(ordered[start:stop]) for start, stop in pairwise(ends)]
    return sums, [stop - start for start, stop in pairwise(ends)]


# tables


def _learned_table(call: Call, context: Context) -> list[float]:
    return list(call.state["table"])


def _ordinal_table(call: Call, context: Context) -> list[float]:
    return [*map(float, range(context.size(call.category))), -1.0, np.nan]


def _lookup_table(call: Call, context: Context) -> list[float]:
    numbers = numbers_of(call.params["table"])
    default: float = call.params.get("default", np.nan)
    known = [numbers.get(text, default) for text in context.texts(call.category)]
    return [*known, default, default]


_TABLES: Final = {
    "ordinal/1": _ordinal_table,
    "frequency/1": _learned_table,
    "target_mean/1": _learned_table,
    "lookup/1": _lookup_table,
}


def _table(call: Call, context: Context) -> list[float]:
    """The number for each code 0..V-1, unknown, missing."""
    return _TABLES[call.op](call, context)


def _lower_table(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    """All tables of equal length end to end and one Gather: five nodes for any number of columns.

    Total for any float64: what is beyond a table is its last entry, missing; what is below, and NaN
    and what no index can hold, which the cast makes the smallest integer, is code 0. Encoders send
    none of them.
    """
    tables = [_table(call, context) for call in calls]
    length = max(map(len, tables))
    padded = [table + table[-1:] * (length - len(table)) for table in tables]
    codes = b.to_integers(operands(b, calls))
    index = b.node("Clip", [codes, *(b.constant(bound, np.int32) for bound in (0, length - 1))])
    if len(tables) > 1:
        starts = b.constant([[length * position for position in range(len(tables))]], np.int32)
        index = b.node("Add", [index, starts])
    return b.node("Gather", [b.constant(np.concatenate(padded)), index], axis=0)


# columns


MANY_REPEATS: Final = 24
"""Columns from which a product repeats them faster than Gather does."""


def _lower_one_hot(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    """Each code as often as it has columns, compared with all of them at once.

    Many are repeated by a product with 0 and 1: exact and, in a batch, ten times as fast as Gather,
    which copies each element by itself. It asks for codes, which are never null.
    """
    wanted = [(call.operand, _codes(call, context)) for call in calls]
    counts = [len(codes) for _, codes in wanted]
    if sum(counts) < MANY_REPEATS:
        return equal_to(b, wanted)
    chosen = np.repeat(np.eye(len(wanted)), counts, axis=1)
    repeated = b.node("MatMul", [operands(b, calls), b.constant(chosen)])
    return ones_where(b, repeated, wanted)


def _codes(call: Call, context: Context) -> list[float]:
    size = context.size(call.category)
    codes = list(range(size))
    codes += [size] if call.params.get("unknown") else []
    codes += [size + 1] if call.params.get("missing") else []
    return [float(code) for code in codes]


def _one_hot_suffixes(expression: Expression, context: Context) -> list[str]:
    """`=text`; `#unknown` and `#missing`, which no text can be mistaken for."""
    extra = [f"#{name}" for name in ("unknown", "missing") if expression.params.get(name)]
    return [f"={written(text)}" for text in context.texts(expression.args[0])] + extra


def _lower_is_null(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    missing = [float(context.size(call.category) + 1) for call in calls]
    return equal_to(b, [(call.operand, [code]) for call, code in zip(calls, missing, strict=True)])


CATEGORY_OPS: Final = (
    Op(
        name="one_hot/1",
        doc="One column per text of the vocabulary.",
        gives=Columns,
        lower=_lower_one_hot,
        params=("unknown", "missing"),
        suffixes=_one_hot_suffixes,
    ),
    Op(
        name="ordinal/1",
        doc="Position in the vocabulary; unknown -1, missing null.",
        gives=Number,
        lower=_lower_table,
        group="table",
    ),
    Op(
        name="frequency/1",
        doc="Share of the training rows with this value.",
        gives=Number,
        lower=_lower_table,
        group="table",
        fit=_fit_frequency,
    ),
    Op(
        name="target_mean/1",
        doc="Smoothed mean of the target for this value.",
        gives=Number,
        lower=_lower_table,
        params=("smoothing",),
        group="table",
        fit=_fit_target_mean,
    ),
    Op(
        name="lookup/1",
        doc="A constant number for each text.",
        gives=Number,
        lower=_lower_table,
        params=("table", "default"),
        group="table",
    ),
)

CATEGORY_IS_NULL: Final = Op(
    name="is_null/1",
    doc="1 where the value is missing.",
    gives=Boolean,
    lower=_lower_is_null,
    group="category_is_null",
)
"""How `is_null/1` is lowered when its operand is a category, whose null is a code."""
