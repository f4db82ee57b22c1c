"""Expressions: operators over fields, one method or function for each of the catalogue.

distance = number("distance", unit="mi", low=0, high=6000)
distance.impute("median").log1p().standardize()
(number("a") - number("b")) / 2
"""

from typing import Any, Final

from features.categories import Category, cross
from features.constants import finite
from features.instants import Timestamp, elapsed
from features.nodes import Expression
from features.numbers import Boolean, Columns, Number, arithmetic, operand, truth_value

__all__ = [
    "LEAVES",
    "Boolean",
    "Category",
    "Columns",
    "Expression",
    "Number",
    "Timestamp",
    "cross",
    "elapsed",
    "maximum",
    "minimum",
    "safe_div",
    "where",
]

LEAVES: Final[dict[str, type[Expression]]] = {
    "number": Number,
    "boolean": Boolean,
    "category": Category,
    "timestamp": Timestamp,
}


def where(condition: Boolean, then: Any, otherwise: Any) -> Number:
    """`then` where the condition is true, `otherwise` where it is false, null where it is null."""
    truth_value(condition, "where()")
    return Number("where/1", [condition, operand(then), operand(otherwise)])


def minimum(a: Any, b: Any) -> Number:
    """The smaller of the two; null if either is."""
    return arithmetic("minimum/1", a, b)


def maximum(a: Any, b: Any) -> Number:
    """The larger of the two; null if either is."""
    return arithmetic("maximum/1", a, b)


def safe_div(a: Any, b: Any, *, default: float) -> Number:
    """A / b, and `default` where b is 0; null if either is null."""
    divided = arithmetic("safe_div/1", a, b)
    return Number("safe_div/1", divided.args, {"default": finite(default, "safe_div()")})
