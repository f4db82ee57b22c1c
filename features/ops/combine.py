"""Operators on two or three numbers: arithmetic, comparisons, logic, choice.

A null operand gives null, except in `and`, `or` (three-valued: false and null is false) and the
branch that `where` does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from features.expressions import Boolean, Number
from features.ops.base import Call, Context, Lower, Op
from features.ops.numeric import finite, operands

if TYPE_CHECKING:
    from features.graph import GraphBuilder


def side(b: GraphBuilder, calls: Sequence[Call], index: int) -> str:
    """The tensor, or the vector of constants, of one operand; a group's calls agree which."""
    columns = [column for call in calls if (column := call.columns[index]) is not None]
    if columns:
        return b.tensor(columns)
    return b.vector([value for call in calls if (value := call.constants[index]) is not None])


def _binary(op: str) -> Lower:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        return b.node(op, [side(b, calls, 0), side(b, calls, 1)])

    return lower


def _lower_divide(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    quotient = b.node("Div", [side(b, calls, 0), side(b, calls, 1)])
    never_zero = all(call.constants[1] for call in calls)
    return quotient if never_zero else finite(b, quotient)


def _lower_safe_div(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    above, below = side(b, calls, 0), side(b, calls, 1)
    defaults = b.vector([float(call.params["default"]) for call in calls])
    # default + (a - a): null when a is null, whatever b.
    at_zero = b.node("Add", [b.node("Sub", [above, above]), defaults])
    zero = b.node("Equal", [below, b.constant(0.0)])
    return b.node("Where", [zero, at_zero, finite(b, b.node("Div", [above, below]))])


def _comparison(op: str) -> Lower:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        left, right = side(b, calls, 0), side(b, calls, 1)
        answer = b.cast(b.node(op, [left, right]))
        if all(call.never_null for call in calls):
            return answer
        smaller = b.node("Min", [left, right])  # null if either is
        return b.null_unless(b.node("Equal", [smaller, smaller]), answer)

    return lower


# Truth as 0, null, 1 = 0, 1/2, 1 (Kleene): "and" is the minimum, "or" the maximum, 1/2 null again.


def _lower_and(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return _from_halves(b, b.node("Min", [_halves(b, calls, 0), _halves(b, calls, 1)]))


def _lower_or(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return _from_halves(b, b.node("Max", [_halves(b, calls, 0), _halves(b, calls, 1)]))


def _halves(b: GraphBuilder, calls: Sequence[Call], index: int) -> str:
    x = side(b, calls, index)
    return b.node("Where", [b.node("IsNaN", [x]), b.constant(0.5), x])


def _from_halves(b: GraphBuilder, tensor: str) -> str:
    half = b.node("Equal", [tensor, b.constant(0.5)])
    return b.node("Where", [half, b.constant(np.nan), tensor])


def _lower_not(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    return b.node("Sub", [b.constant(1.0), operands(b, calls)])


def _lower_where(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    condition, then, otherwise = (side(b, calls, index) for index in range(3))
    chosen = b.node("Where", [b.node("Equal", [condition, b.constant(1.0)]), then, otherwise])
    if all(call.never_null for call in calls):
        return chosen
    return b.node("Where", [b.node("IsNaN", [condition]), condition, chosen])


COMBINING_OPS: Final = (
    Op(
        name="add/1",
        doc="a + b.",
        gives=Number,
        lower=_binary("Add"),
    ),
    Op(
        name="subtract/1",
        doc="a - b.",
        gives=Number,
        lower=_binary("Sub"),
    ),
    Op(
        name="multiply/1",
        doc="a * b.",
        gives=Number,
        lower=_binary("Mul"),
    ),
    Op(
        name="divide/1",
        doc="a / b; null where b is 0.",
        gives=Number,
        lower=_lower_divide,
    ),
    Op(
        name="safe_div/1",
        doc="a / b, a default where b is 0.",
        gives=Number,
        lower=_lower_safe_div,
        params=("default",),
    ),
    Op(
        name="minimum/1",
        doc="The smaller of two.",
        gives=Number,
        lower=_binary("Min"),
    ),
    Op(
        name="maximum/1",
        doc="The larger of two.",
        gives=Number,
        lower=_binary("Max"),
    ),
    Op(
        name="less/1",
        doc="a < b.",
        gives=Boolean,
        lower=_comparison("Less"),
    ),
    Op(
        name="less_equal/1",
        doc="a <= b.",
        gives=Boolean,
        lower=_comparison("LessOrEqual"),
    ),
    Op(
        name="equal/1",
        doc="a = b.",
        gives=Boolean,
        lower=_comparison("Equal"),
    ),
    Op(
        name="and/1",
        doc="Both are true.",
        gives=Boolean,
        lower=_lower_and,
    ),
    Op(
        name="or/1",
        doc="At least one is true.",
        gives=Boolean,
        lower=_lower_or,
    ),
    Op(
        name="not/1",
        doc="True becomes false, false true.",
        gives=Boolean,
        lower=_lower_not,
    ),
    Op(
        name="where/1",
        doc="A choice by a condition.",
        gives=Number,
        lower=_lower_where,
    ),
)
