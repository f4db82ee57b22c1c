"""Operators on two or three numbers: arithmetic, comparisons, logic, choice.

A null operand gives null, except in `and`, `or` (three-valued: false and null is false) and the branch that
`where` does not take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from features.expressions import Boolean, Number
from features.ops.base import Call, Context, Op
from features.ops.numeric import finite, operands

if TYPE_CHECKING:
    from features.graph import GraphBuilder


def side(b: GraphBuilder, calls: Sequence[Call], index: int) -> str:
    """The tensor, or the vector of constants, of one operand. Calls of a group agree which it is."""
    columns = [call.columns[index] for call in calls]
    if columns[0] is None and all(column is None for column in columns):
        return b.vector([_constant(call, index) for call in calls])
    return b.tensor([column for column in columns if column is not None])


def _constant(call: Call, index: int) -> float:
    value = call.constants[index]
    assert value is not None
    return value


def _binary(op: str) -> Any:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        return b.node(op, [side(b, calls, 0), side(b, calls, 1)])

    return lower


def _lower_divide(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    quotient = _binary("Div")(b, calls, context)
    never_zero = all(call.columns[1] is None and call.constants[1] for call in calls)
    return quotient if never_zero else finite(b, quotient)


def _lower_safe_div(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    above, below = side(b, calls, 0), side(b, calls, 1)
    defaults = b.vector([float(call.params["default"]) for call in calls])
    # default + (a - a): null when a is null, whatever b.
    at_zero = b.node("Add", [b.node("Sub", [above, above]), defaults])
    zero = b.node("Equal", [below, b.constant(0.0)])
    return b.node("Where", [zero, at_zero, finite(b, b.node("Div", [above, below]))])


def _comparison(op: str) -> Any:
    def lower(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
        left, right = side(b, calls, 0), side(b, calls, 1)
        answer = b.cast(b.node(op, [left, right]))
        known = b.node("Equal", [b.node("Add", [left, right])] * 2)
        return b.null_unless(known, answer)

    return lower


def _lower_and(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    # 0, null, 1 as 0, 1/2, 1: and is the minimum, or the maximum (Kleene), 1/2 is null again.
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
    return b.node("Where", [b.node("IsNaN", [condition]), condition, chosen])


COMBINING_OPS: Final = (
    Op("add/1", Number, _binary("Add"), "add", "a + b."),
    Op("subtract/1", Number, _binary("Sub"), "subtract", "a - b."),
    Op("multiply/1", Number, _binary("Mul"), "multiply", "a * b."),
    Op("divide/1", Number, _lower_divide, "divide", "a / b; null where b is 0."),
    Op("safe_div/1", Number, _lower_safe_div, "safe_div", "a / b, a default where b is 0."),
    Op("minimum/1", Number, _binary("Min"), "minimum", "The smaller of two."),
    Op("maximum/1", Number, _binary("Max"), "maximum", "The larger of two."),
    Op("less/1", Boolean, _comparison("Less"), "less", "a < b."),
    Op("less_equal/1", Boolean, _comparison("LessOrEqual"), "less_equal", "a <= b."),
    Op("equal/1", Boolean, _comparison("Equal"), "equal", "a = b."),
    Op("and/1", Boolean, _lower_and, "and", "Both are true."),
    Op("or/1", Boolean, _lower_or, "or", "At least one is true."),
    Op("not/1", Boolean, _lower_not, "not", "True becomes false, false true."),
    Op("where/1", Number, _lower_where, "where", "A choice by a condition."),
)  # fmt: skip
