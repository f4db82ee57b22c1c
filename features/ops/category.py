"""Operators on a category's code: each is a table with a row per code, one for unknown, one for missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from features.errors import FitError
from features.expressions import Columns, Expression, Number
from features.ops.base import Call, Context, FitInput, Op
from features.ops.numeric import equal_to

if TYPE_CHECKING:
    from features.graph import GraphBuilder


def target_sums(fit: FitInput) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the target and rows per code, float64 (V + 2,) each; rows without a target do not count."""
    if fit.target is None:
        raise FitError(f"{fit.where}: target_mean needs fit(table, target)")
    known = np.isfinite(fit.target)
    codes = fit.values[known].astype(np.int64)
    length = fit.size + 2
    sums = np.bincount(codes, weights=fit.target[known], minlength=length)
    return sums, np.bincount(codes, minlength=length).astype(np.float64)


def smoothed_means(
    sums: np.ndarray, counts: np.ndarray, size: int, smoothing: float
) -> list[float]:
    """Shrunk means per code; unknown (code `size`) is the prior, as is any code never seen."""
    prior = float(sums.sum() / max(counts.sum(), 1.0))
    weight = counts + smoothing
    means = np.where(
        counts > 0, (sums + smoothing * prior) / np.where(weight > 0, weight, 1.0), prior
    )
    means[size] = prior
    return [float(mean) for mean in means]


def _fit_target_mean(fit: FitInput) -> dict[str, Any]:
    sums, counts = target_sums(fit)
    return {"table": smoothed_means(sums, counts, fit.size, fit.params["smoothing"])}


def _fit_frequency(fit: FitInput) -> dict[str, Any]:
    counts = np.bincount(fit.values.astype(np.int64), minlength=fit.size + 2)
    shares = counts / max(len(fit.values), 1)
    shares[fit.size] = 0.0
    return {"table": [float(share) for share in shares]}


def _table(call: Call, context: Context) -> list[float]:
    """The number for each code 0..V-1, unknown, missing."""
    if "table" in call.state:
        return list(call.state["table"])
    field = call.source
    size = context.size(field)
    if call.expression is not None and call.expression.op == "ordinal/1":
        return [float(code) for code in range(size)] + [-1.0, np.nan]
    known, default = call.params["table"], call.params.get("default", np.nan)
    return [known.get(text, default) for text in context.vocabularies[field.name]] + [default] * 2


def _lower_table(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    """All tables of equal length end to end and one Gather: five nodes for any number of columns.

    Total for any float64: what is beyond a table is its last entry, missing; what is below, or NaN, which
    the cast makes the smallest integer, is code 0. Encoders send neither.
    """
    tables = [_table(call, context) for call in calls]
    length = max(map(len, tables))
    padded = [table + table[-1:] * (length - len(table)) for table in tables]
    columns = b.tensor([call.columns[0] for call in calls if call.columns[0] is not None])
    codes = b.to_integers(columns)
    index = b.node("Clip", [codes, *(b.constant(bound, np.int64) for bound in (0, length - 1))])
    if len(tables) > 1:
        starts = b.constant([[length * position for position in range(len(tables))]], np.int64)
        index = b.node("Add", [index, starts])
    return b.node("Gather", [b.constant(np.concatenate(padded)), index], axis=0)


def _lower_one_hot(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return equal_to(b, [(call.columns[0], _codes(call, context)) for call in calls])


def _codes(call: Call, context: Context) -> list[float]:
    size = context.size(call.source)
    extra = [size] * bool(call.params.get("unknown")) + [size + 1] * bool(
        call.params.get("missing")
    )
    return [float(code) for code in [*range(size), *extra]]


def _one_hot_suffixes(expression: Expression, context: Context) -> list[str]:
    field = expression.args[0].field
    assert field is not None
    extra = [f"#{name}" for name in ("unknown", "missing") if expression.params.get(name)]
    return [f"={text}" for text in [*context.vocabularies[field.name], *extra]]


def _lower_category_is_null(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return equal_to(
        b, [(call.columns[0], [float(context.size(call.source) + 1)]) for call in calls]
    )


CATEGORY_OPS: Final = (
    Op("one_hot/1", Columns, _lower_one_hot, "one_hot", "One column per text of the vocabulary.", None, None, _one_hot_suffixes),
    Op("ordinal/1", Number, _lower_table, "table", "Position in the vocabulary; unknown -1, missing null."),
    Op("frequency/1", Number, _lower_table, "table", "Share of the training rows with this value.", None, _fit_frequency),
    Op("target_mean/1", Number, _lower_table, "table", "Smoothed mean of the target for this value.", None, _fit_target_mean),
    Op("lookup/1", Number, _lower_table, "table", "A constant number for each text."),
)  # fmt: skip

CATEGORY_IS_NULL: Final = Op(
    "is_null/1",
    Number,
    _lower_category_is_null,
    "category_is_null",
    "1 where the value is missing.",
)
"""How `is_null/1` is lowered when its operand is a category, whose null is a code."""
