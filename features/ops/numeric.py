"""Operators on one number: imputing, clipping, scaling, logarithms, buckets.

All arithmetic is float64. Undefined results are null, never an infinity, so that a later `impute` catches
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from features.errors import FitError
from features.expressions import Boolean, Columns, Expression, Number
from features.ops.base import Call, Context, FitInput, FloatColumn, Op

if TYPE_CHECKING:
    from features.graph import GraphBuilder

GRID: Final = 2.0**24
"""sin and cos are rounded to multiples of 1 / GRID: a row alone and in a batch then have equal bits."""

LARGEST_EXPONENT: Final = 709.0
TINY: Final = 1e-8
"""Below this, log(1 + x) and x agree better in float64 than log(1 + x) computed as written."""


def operands(b: GraphBuilder, calls: Sequence[Call]) -> str:
    """The tensor of the calls' first operands."""
    return b.tensor([call.columns[0] for call in calls if call.columns[0] is not None])


def vector(b: GraphBuilder, calls: Sequence[Call], name: str, neutral: float) -> str:
    """One constant per call, from its state or parameters."""

    def value(call: Call) -> float:
        if call.neutral:
            return neutral
        found = call.state.get(name, call.params.get(name))
        return neutral if found is None else float(found)

    return b.vector([value(call) for call in calls])


def present(fit: FitInput) -> FloatColumn:
    """The values that are not null; at least one, or the operator cannot learn."""
    values = fit.values[np.isfinite(fit.values)]
    if not len(values):
        raise FitError(
            f"{fit.where}: every training value is null, so there is nothing to learn from; "
            "check the column, or give the constant yourself"
        )
    return values


# impute


def _fit_impute(fit: FitInput) -> dict[str, Any]:
    how = fit.params["with"]
    if not isinstance(how, str):
        return {"value": float(how)}
    values = present(fit)
    if how == "median":
        return {"value": float(np.median(values))}
    if how == "mean":
        return {"value": float(np.mean(values))}
    found, counts = np.unique(values, return_counts=True)
    return {"value": float(found[np.argmax(counts)])}


def _lower_impute(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    return b.node("Where", [b.node("IsNaN", [x]), vector(b, calls, "value", np.nan), x])


def _lower_is_null(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return b.cast(b.node("IsNaN", [operands(b, calls)]))


# clip and scale


def _fit_clip(fit: FitInput) -> dict[str, Any]:
    if "quantiles" not in fit.params:
        return {}
    low, high = np.quantile(present(fit), fit.params["quantiles"])
    return {"low": float(low), "high": float(high)}


def _lower_clip(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    # Max and Min of onnxruntime keep NaN (1.20 and 1.31, alone and in batches: tested).
    raised = b.node("Max", [operands(b, calls), vector(b, calls, "low", -np.inf)])
    return b.node("Min", [raised, vector(b, calls, "high", np.inf)])


def _fit_standardize(fit: FitInput) -> dict[str, Any]:
    values = present(fit)
    return {"shift": float(np.mean(values)), "scale": _positive(float(np.std(values)))}


def _fit_min_max(fit: FitInput) -> dict[str, Any]:
    values = present(fit)
    low, high = float(np.min(values)), float(np.max(values))
    return {"shift": low, "scale": _positive(high - low)}


def _fit_robust_scale(fit: FitInput) -> dict[str, Any]:
    q1, median, q3 = (float(q) for q in np.quantile(present(fit), [0.25, 0.5, 0.75]))
    return {"shift": median, "scale": _positive(q3 - q1)}


def _positive(scale: float) -> float:
    """A constant column is shifted only."""
    return scale if scale > 0 else 1.0


def _lower_shift_scale(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    shifted = b.node("Sub", [operands(b, calls), vector(b, calls, "shift", 0.0)])
    return b.node("Div", [shifted, vector(b, calls, "scale", 1.0)])


# functions


def _lower_log(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    return b.node("Log", [b.null_unless(b.node("Greater", [x, b.constant(0.0)]), x)])


def _lower_log1p(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    moved = b.node("Add", [x, b.constant(1.0)])
    # An operand that is never negative needs neither the guard of log(0) nor the magnitude.
    if not all(call.neutral or call.never_negative for call in calls):
        moved = b.null_unless(b.node("Greater", [moved, b.constant(0.0)]), moved)
        x_size = b.node("Abs", [x])
    else:
        x_size = x
    # A column that rides along is "small" always, and so stays what it is.
    small = b.node("Less", [x_size, b.vector([np.inf if c.neutral else TINY for c in calls])])
    return b.node("Where", [small, x, b.node("Log", [moved])])


def _lower_exp(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    # From -745 on the result is 0; onnxruntime 1.20 gives 5.6e-309 for minus infinity.
    fits = b.node("LessOrEqual", [x, b.constant(LARGEST_EXPONENT)])
    return b.node("Exp", [b.node("Max", [b.null_unless(fits, x), b.constant(-746.0)])])


def _lower_sqrt(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    return b.node("Sqrt", [b.null_unless(b.node("GreaterOrEqual", [x, b.constant(0.0)]), x)])


def _lower_power(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    raised = b.node("Pow", [operands(b, calls), vector(b, calls, "exponent", 1.0)])
    return finite(b, raised)


def finite(b: GraphBuilder, tensor: str) -> str:
    """Infinities become null."""
    bounded = b.node("Less", [b.node("Abs", [tensor]), b.constant(np.inf)])
    return b.null_unless(bounded, tensor)


def _simple(op: str) -> Any:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        return b.node(op, [operands(b, calls)])

    return lower


# buckets and one-hot


def _fit_bucketize(fit: FitInput) -> dict[str, Any]:
    if "edges" in fit.params:
        return {}
    shares = np.arange(1, fit.params["bins"]) / fit.params["bins"]
    edges = np.unique(np.quantile(present(fit), shares))
    return {"edges": [float(edge) for edge in edges]}


def _lower_bucketize(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    edges = [list(call.state.get("edges") or call.params["edges"]) for call in calls]
    longest = max(map(len, edges))
    padded = [row + [np.inf] * (longest - len(row)) for row in edges]
    above = b.node("Greater", [b.node("Unsqueeze", [x, b.integers([2])]), b.constant(padded)])
    count = b.node("ReduceSum", [b.cast(above), b.integers([2])], keepdims=0)
    return b.node("Where", [b.node("IsNaN", [x]), x, count])


def _values(expression: Expression, context: Context) -> list[str]:
    return [f"={value:g}" for value in expression.params["values"]]


def _lower_one_hot_values(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return equal_to(b, [(call.columns[0], call.params["values"]) for call in calls])


def equal_to(b: GraphBuilder, wanted: Sequence[tuple[int | None, Sequence[float]]]) -> str:
    """One column per (column, value): 1 where equal, else 0; null equals nothing."""
    columns = [column for column, values in wanted for _ in values if column is not None]
    constants = [float(value) for _, values in wanted for value in values]
    return b.cast(b.node("Equal", [b.tensor(columns), b.vector(constants)]))


# cyclic


def _lower_cyclic(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    columns = [call.columns[0] for call in calls if call.columns[0] is not None for _ in "sc"]
    factors = [2 * np.pi / call.params["period"] for call in calls for _ in "sc"]
    # cos(x) as sin(x + pi/2): Cos has no float64 kernel before onnxruntime 1.28.
    phases = [phase for _ in calls for phase in (0.0, np.pi / 2)]
    angle = b.node("Mul", [b.tensor(columns), b.vector(factors)])
    wave = b.node("Sin", [b.node("Add", [angle, b.vector(phases)])])
    steps = b.node("Round", [b.node("Mul", [wave, b.constant(GRID)])])
    return b.node("Mul", [steps, b.constant(1 / GRID)])


def _cyclic_suffixes(expression: Expression, context: Context) -> list[str]:
    return ["_sin", "_cos"]


NUMERIC_OPS: Final = (
    Op("impute/1", Number, _lower_impute, "impute", "Null becomes a constant or a statistic of the training rows.", "keep", _fit_impute),
    Op("is_null/1", Boolean, _lower_is_null, "is_null", "1 where the value is null, else 0.", "drop"),
    Op("clip/1", Number, _lower_clip, "clip", "Values outside the bounds become the bound.", "keep", _fit_clip),
    Op("standardize/1", Number, _lower_shift_scale, "shift_scale", "(x - mean) / standard deviation.", "keep", _fit_standardize),
    Op("min_max/1", Number, _lower_shift_scale, "shift_scale", "(x - min) / (max - min).", "keep", _fit_min_max),
    Op("robust_scale/1", Number, _lower_shift_scale, "shift_scale", "(x - median) / interquartile range.", "keep", _fit_robust_scale),
    Op("log/1", Number, _lower_log, "log", "Natural logarithm; null for x <= 0.", "mask"),
    Op("log1p/1", Number, _lower_log1p, "log1p", "log(1 + x); null for x <= -1.", "keep"),
    Op("exp/1", Number, _lower_exp, "exp", "e to the x; null above 709.", "mask"),
    Op("sqrt/1", Number, _lower_sqrt, "sqrt", "Square root; null below 0.", "mask"),
    Op("abs/1", Number, _simple("Abs"), "abs", "Magnitude.", "mask"),
    Op("round/1", Number, _simple("Round"), "round", "Nearest integer, halves to even.", "mask"),
    Op("floor/1", Number, _simple("Floor"), "floor", "Largest integer not above x.", "mask"),
    Op("power/1", Number, _lower_power, "power", "x to a constant exponent; null where undefined.", "mask"),
    Op("bucketize/1", Number, _lower_bucketize, "bucketize", "How many edges are below x.", None, _fit_bucketize),
    Op("one_hot_values/1", Columns, _lower_one_hot_values, "one_hot_values", "One column per listed value.", None, None, _values),
    Op("cyclic/1", Columns, _lower_cyclic, "cyclic", "sin and cos over a period.", None, None, _cyclic_suffixes),
)  # fmt: skip
