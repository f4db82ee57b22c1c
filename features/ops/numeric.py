"""Operators on one number: imputing, clipping, scaling, logarithms, buckets.

All arithmetic is float64. Undefined results are null, so that a later `impute` catches them; what
overflows in + - * is infinite until the end, where it is null.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from features.encoding import shortest
from features.errors import FitError
from features.nodes import Expression, Params
from features.numbers import PERIODS, Boolean, Columns, Number
from features.ops.base import Call, Context, FitInput, FloatColumn, Lower, Op

if TYPE_CHECKING:
    from features.graph import Column, GraphBuilder

GRID: Final = 2.0**24
"""sin and cos are rounded to multiples of 1 / GRID: equal bits from every runtime's routine."""

SMALLEST_NORMAL: Final = sys.float_info.min
"""2.2e-308. Below it, onnxruntime 1.20 and 1.31 have different logarithms and exponentials."""

LARGEST_EXPONENT: Final = 709.0
SMALLEST_EXPONENT: Final = -708.0
"""Where e to the x still is a normal number, and far below the smallest float32."""

TINY: Final = 1e-8
"""Up to this, log(1 + x) and x agree better in float64 than log(1 + x) computed as written."""

SPLIT: Final = 2.0**29
"""x + x * SPLIT has 24 bits of x left: 53 in all, less 29."""


def operands(b: GraphBuilder, calls: Sequence[Call]) -> str:
    """The tensor of the calls' first operands."""
    return b.tensor([call.operand for call in calls])


def vector(b: GraphBuilder, calls: Sequence[Call], name: str, neutral: float) -> str:
    """One constant per call, from its state or parameters; what it lacks is neutral."""
    found = [call.state.get(name, call.params.get(name)) for call in calls]
    return b.vector([neutral if value is None else float(value) for value in found])


def present(fit: FitInput) -> FloatColumn:
    """The values that are finite; at least one, or the operator cannot learn."""
    values = fit.values[np.isfinite(fit.values)]
    if not len(values):
        raise FitError(
            f"{fit.where}: every training value is null, so there is nothing to learn from; "
            "check the column, or give the constant yourself"
        )
    return values


# impute


def _imputes_a_statistic(params: Params) -> bool:
    return isinstance(params["with"], str)


def _fit_impute(fit: FitInput) -> dict[str, Any]:
    return {"value": _STATISTICS[fit.params["with"]](present(fit))}


def _median(values: FloatColumn) -> float:
    return float(np.median(values))


def _mean(values: FloatColumn) -> float:
    """Exact before one rounding, so that the order of rows does not matter."""
    return math.fsum(values.tolist()) / len(values)


def _mode(values: FloatColumn) -> float:
    found, counts = np.unique(values, return_counts=True)
    return float(found[np.argmax(counts)])


_STATISTICS: Final = {"median": _median, "mean": _mean, "mode": _mode}


def imputed_value(params: Params, state: Any) -> float:
    return float(state["value"] if _imputes_a_statistic(params) else params["with"])


def _lower_impute(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    values = [np.nan if call.neutral else imputed_value(call.params, call.state) for call in calls]
    return b.node("Where", [b.node("IsNaN", [x]), b.vector(values), x])


def _lower_is_null(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return b.cast(b.node("IsNaN", [operands(b, calls)]))


# clip and scale


def _clips_at_quantiles(params: Params) -> bool:
    return "quantiles" in params


def _fit_clip(fit: FitInput) -> dict[str, Any]:
    low, high = np.quantile(present(fit), fit.params["quantiles"])
    return {"low": float(low), "high": float(high)}


def _lower_clip(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    # Max and Min of onnxruntime keep NaN (1.20 and 1.31, alone and in batches: tested).
    raised = operands(b, calls)
    if not all(call.neutral or (call.never_negative and _low(call) <= 0) for call in calls):
        raised = b.node("Max", [raised, vector(b, calls, "low", -np.inf)])
    return b.node("Min", [raised, vector(b, calls, "high", np.inf)])


def _low(call: Call) -> float:
    low = {**call.params, **call.state}.get("low")
    return -np.inf if low is None else float(low)


def _fit_standardize(fit: FitInput) -> dict[str, Any]:
    values = present(fit)
    if values.min() == values.max():
        # The mean of equal values is not always their value, and its error would be the scale.
        return {"shift": float(values[0]), "scale": 1.0}
    mean = _mean(values)
    return {"shift": mean, "scale": _positive(math.sqrt(_mean((values - mean) ** 2)))}


def _fit_min_max(fit: FitInput) -> dict[str, Any]:
    values = present(fit)
    low, high = float(np.min(values)), float(np.max(values))
    return {"shift": low, "scale": _positive(high - low)}


def _fit_robust_scale(fit: FitInput) -> dict[str, Any]:
    q1, median, q3 = (float(q) for q in np.quantile(present(fit), [0.25, 0.5, 0.75]))
    return {"shift": median, "scale": _positive(q3 - q1)}


def _positive(scale: float) -> float:
    """A constant column is shifted only."""
    return 1.0 if scale == 0 else scale


def _lower_shift_scale(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    shifted = b.node("Sub", [operands(b, calls), vector(b, calls, "shift", 0.0)])
    return b.node("Div", [shifted, vector(b, calls, "scale", 1.0)])


# functions


def _lower_log(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    is_normal = b.node("GreaterOrEqual", [x, b.constant(SMALLEST_NORMAL)])
    return b.node("Log", [b.null_unless(is_normal, x)])


def _lower_log1p(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = size = operands(b, calls)
    moved = b.node("Add", [x, b.constant(1.0)])
    # An operand that is never negative needs neither the guard of log(0) nor the magnitude.
    if not all(call.neutral or call.never_negative for call in calls):
        moved = b.null_unless(b.node("Greater", [moved, b.constant(0.0)]), moved)
        size = b.node("Abs", [x])
    # A column that rides along is "small" always, and so stays what it is.
    bounds = b.vector([np.inf if call.neutral else TINY for call in calls])
    return b.node("Where", [b.node("LessOrEqual", [size, bounds]), x, b.node("Log", [moved])])


def _lower_exp(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    fits = b.node("LessOrEqual", [x, b.constant(LARGEST_EXPONENT)])
    raised = b.node("Max", [b.null_unless(fits, x), b.constant(SMALLEST_EXPONENT)])
    return b.node("Exp", [raised])


def _lower_sqrt(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    return b.node("Sqrt", [b.null_unless(b.node("GreaterOrEqual", [x, b.constant(0.0)]), x)])


def _lower_power(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    # Paired, or a lone exponent would take onnxruntime's shortcut x * x * x in batches alone.
    return finite(b, b.node("Pow", [operands(b, calls), vector(b, calls, "exponent", 1.0)]))


def finite(b: GraphBuilder, tensor: str) -> str:
    """Infinities become null."""
    bounded = b.node("Less", [b.node("Abs", [tensor]), b.constant(np.inf)])
    return b.null_unless(bounded, tensor)


def _lower_settle(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    x = operands(b, calls)
    far = b.node("Mul", [x, b.constant(SPLIT)])
    return b.node("Sub", [b.node("Add", [x, far]), far])


def _one_node(op: str) -> Lower:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        return b.node(op, [operands(b, calls)])

    return lower


# buckets and one-hot


def _learns_edges(params: Params) -> bool:
    return "bins" in params


def _fit_bucketize(fit: FitInput) -> dict[str, Any]:
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
    if all(call.never_null for call in calls):
        return count
    return b.node("Where", [b.node("IsNaN", [x]), x, count])


def _lower_one_hot(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return equal_to(b, [(call.operand, call.params["values"]) for call in calls])


def _value_suffixes(expression: Expression, context: Context) -> list[str]:
    return [f"={shortest(value)}" for value in expression.params["values"]]


def equal_to(b: GraphBuilder, wanted: Sequence[tuple[Column, Sequence[float]]]) -> str:
    """One column per (column, value): 1 where equal, else 0; null equals nothing."""
    columns = [column for column, values in wanted for _ in values]
    return ones_where(b, b.tensor(columns), wanted)


def ones_where(
    b: GraphBuilder, tensor: str, wanted: Sequence[tuple[Column, Sequence[float]]]
) -> str:
    """The same, where `tensor` has each column as often as it has values."""
    constants = [float(value) for _, values in wanted for value in values]
    return b.cast(b.node("Equal", [tensor, b.vector(constants)]))


# cyclic


def _lower_cyclic(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    # Twice each column: sin and cos. cos(x) is sin(x + pi/2), as Cos has no float64 kernel before
    # onnxruntime 1.28.
    x = b.tensor([call.operand for call in calls for _ in _WAVES])
    reach = [_reach(call) for call in calls for _ in _WAVES]
    if any(map(math.isfinite, reach)):
        x = b.node("Mod", [x, b.vector(reach)], fmod=1)
    factors = [2 * math.pi / call.params["period"] for call in calls for _ in _WAVES]
    phases = [phase for _ in calls for phase in _WAVES.values()]
    angle = b.node("Mul", [x, b.vector(factors)])
    wave = b.node("Sin", [b.node("Add", [angle, b.vector(phases)])])
    steps = b.node("Round", [b.node("Mul", [wave, b.constant(GRID)])])
    return b.node("Mul", [steps, b.constant(1 / GRID)])


_WAVES: Final = {"sin": 0.0, "cos": math.pi / 2}


def _reach(call: Call) -> float:
    """Where a number starts again: runtimes differ in the sines of large angles.

    A part of the calendar never gets there, and its remainder by infinity is itself.
    """
    assert call.expression is not None
    return math.inf if call.expression.args[0].op in PERIODS else call.params["period"]


def _cyclic_suffixes(expression: Expression, context: Context) -> list[str]:
    return [f"_{name}" for name in _WAVES]


NUMERIC_OPS: Final = (
    Op(
        name="impute/1",
        doc="Null becomes a constant or a statistic of the training rows.",
        gives=Number,
        lower=_lower_impute,
        params=("with",),
        riders="keep",
        fit=_fit_impute,
        learns=_imputes_a_statistic,
    ),
    Op(
        name="is_null/1",
        doc="1 where the value is null, else 0.",
        gives=Boolean,
        lower=_lower_is_null,
        riders="drop",
    ),
    Op(
        name="clip/1",
        doc="Values outside the bounds become the bound.",
        gives=Number,
        lower=_lower_clip,
        params=("low", "high", "quantiles"),
        riders="keep",
        fit=_fit_clip,
        learns=_clips_at_quantiles,
    ),
    Op(
        name="standardize/1",
        doc="(x - mean) / standard deviation.",
        gives=Number,
        lower=_lower_shift_scale,
        group="shift_scale",
        riders="keep",
        fit=_fit_standardize,
    ),
    Op(
        name="min_max/1",
        doc="(x - min) / (max - min).",
        gives=Number,
        lower=_lower_shift_scale,
        group="shift_scale",
        riders="keep",
        fit=_fit_min_max,
    ),
    Op(
        name="robust_scale/1",
        doc="(x - median) / interquartile range.",
        gives=Number,
        lower=_lower_shift_scale,
        group="shift_scale",
        riders="keep",
        fit=_fit_robust_scale,
    ),
    Op(
        name="log/1",
        doc="Natural logarithm; null for x <= 0 and below 2.2e-308.",
        gives=Number,
        lower=_lower_log,
        riders="mask",
        paired=True,
    ),
    Op(
        name="log1p/1",
        doc="log(1 + x); null for x <= -1.",
        gives=Number,
        lower=_lower_log1p,
        riders="keep",
        paired=True,
    ),
    Op(
        name="exp/1",
        doc="e to the x; null above 709.",
        gives=Number,
        lower=_lower_exp,
        riders="mask",
        paired=True,
    ),
    Op(
        name="sqrt/1",
        doc="Square root; null below 0.",
        gives=Number,
        lower=_lower_sqrt,
        riders="mask",
    ),
    Op(
        name="abs/1",
        doc="Magnitude.",
        gives=Number,
        lower=_one_node("Abs"),
        riders="mask",
    ),
    Op(
        name="round/1",
        doc="Nearest integer, halves to even.",
        gives=Number,
        lower=_one_node("Round"),
        riders="mask",
    ),
    Op(
        name="floor/1",
        doc="Largest integer not above x.",
        gives=Number,
        lower=_one_node("Floor"),
        riders="mask",
    ),
    Op(
        name="power/1",
        doc="x to a constant exponent; null where undefined.",
        gives=Number,
        lower=_lower_power,
        params=("exponent",),
        riders="mask",
        paired=True,
    ),
    Op(
        name="settle/1",
        doc="x to 24 significant bits, before a step; null beyond 3e299.",
        gives=Number,
        lower=_lower_settle,
        riders="mask",
    ),
    Op(
        name="bucketize/1",
        doc="How many edges are below x.",
        gives=Number,
        lower=_lower_bucketize,
        params=("edges", "bins"),
        fit=_fit_bucketize,
        learns=_learns_edges,
    ),
    Op(
        name="one_hot_values/1",
        doc="One column per listed value.",
        gives=Columns,
        lower=_lower_one_hot,
        params=("values",),
        suffixes=_value_suffixes,
    ),
    Op(
        name="cyclic/1",
        doc="sin and cos over a period.",
        gives=Columns,
        lower=_lower_cyclic,
        params=("period",),
        suffixes=_cyclic_suffixes,
    ),
)
