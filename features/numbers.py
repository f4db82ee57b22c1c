"""Numbers and truth values, and what is an operand of them."""

from collections.abc import Sequence
from typing import Any, Final, Literal, Self

import numpy as np

from features.constants import finite, quantile_pair
from features.errors import DeclarationError
from features.nodes import Expression

PERIODS: Final = {
    "minute/1": 60.0,
    "hour/1": 24.0,
    "weekday/1": 7.0,
    "day/1": 31.0,
    "month/1": 12.0,
}
"""Of the parts of the calendar; none is above its period."""


class Nullable(Expression):
    """What may be null."""

    def is_null(self) -> "Boolean":
        """True where the value is null (missing, invalid, or out of bounds under `null`)."""
        return Boolean("is_null/1", [self])


class _Arithmetic(Nullable):
    """Operators shared by numbers and truth values (1, 0 or null in arithmetic)."""

    def __add__(self, other: Any) -> "Number":
        return arithmetic("add/1", self, other)

    def __radd__(self, other: Any) -> "Number":
        return arithmetic("add/1", other, self)

    def __sub__(self, other: Any) -> "Number":
        return arithmetic("subtract/1", self, other)

    def __rsub__(self, other: Any) -> "Number":
        return arithmetic("subtract/1", other, self)

    def __mul__(self, other: Any) -> "Number":
        return arithmetic("multiply/1", self, other)

    def __rmul__(self, other: Any) -> "Number":
        return arithmetic("multiply/1", other, self)

    def __truediv__(self, other: Any) -> "Number":
        if isinstance(other, (int, float)) and other == 0:
            raise DeclarationError(f"{self!r} / 0 is null for every value; leave it out")
        return arithmetic("divide/1", self, other)

    def __rtruediv__(self, other: Any) -> "Number":
        return arithmetic("divide/1", other, self)

    def __pow__(self, exponent: float) -> "Number":
        return _power(self, exponent)

    def __abs__(self) -> "Number":
        return Number("abs/1", [self])

    def __neg__(self) -> "Number":
        return arithmetic("subtract/1", 0.0, self)

    def impute(self, value: float | Literal["median", "mean", "mode"] = "median") -> "Number":
        """Null becomes a constant, or a statistic of the training rows.

        The mode of several equally frequent values is the smallest of them.
        """
        if isinstance(value, str) and value not in ("median", "mean", "mode"):
            raise DeclarationError(f"impute({value!r}): use 'median', 'mean', 'mode' or a number")
        chosen = value if isinstance(value, str) else finite(value, "impute()")
        return Number("impute/1", [self], {"with": chosen})


class Number(_Arithmetic):
    """One float64 column; null is NaN, and every operator gives null for what is undefined."""

    kind = "number"

    def clip(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        quantiles: tuple[float, float] | None = None,
    ) -> "Number":
        """Values below `low` or above `high` become the bound.

        `quantiles=(0.005, 0.995)` learns both from the training rows.
        """
        if quantiles is not None:
            if low is not None or high is not None:
                raise DeclarationError("clip(): give bounds or quantiles, not both")
            return Number("clip/1", [self], {"quantiles": quantile_pair(quantiles)})
        if low is None and high is None:
            raise DeclarationError("clip(): give low, high or quantiles")
        if low is not None and high is not None and low > high:
            raise DeclarationError(f"clip(): low={low} is above high={high}")
        given = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
        bounds = {name: finite(bound, "clip()") for name, bound in given.items()}
        return Number("clip/1", [self], bounds)

    def log1p(self) -> "Number":
        """log(1 + x), accurate near 0; null for x <= -1."""
        return Number("log1p/1", [self])

    def log(self) -> "Number":
        """Natural logarithm; null for x <= 0, and below the smallest normal float64, 2.2e-308."""
        return Number("log/1", [self])

    def exp(self) -> "Number":
        """E to the x; null above 709, where it would overflow."""
        return Number("exp/1", [self])

    def sqrt(self) -> "Number":
        """Square root; null for x < 0."""
        return Number("sqrt/1", [self])

    def abs(self) -> "Number":
        """The magnitude."""
        return Number("abs/1", [self])

    def power(self, exponent: float) -> "Number":
        """X to a constant exponent; null where it is undefined or overflows."""
        return _power(self, exponent)

    def round(self) -> "Number":
        """To the nearest integer, halves to even."""
        return Number("round/1", [settled(self)])

    def floor(self) -> "Number":
        """The largest integer not above x."""
        return Number("floor/1", [settled(self)])

    def standardize(self) -> "Number":
        """(x - mean) / standard deviation (population) of the training rows; nulls do not count."""
        return Number("standardize/1", [self])

    def min_max(self) -> "Number":
        """(x - min) / (max - min) of the training rows; later values may lie outside 0 to 1."""
        return Number("min_max/1", [self])

    def robust_scale(self) -> "Number":
        """(x - median) / interquartile range of the training rows."""
        return Number("robust_scale/1", [self])

    def bucketize(
        self, edges: Sequence[float] | None = None, *, bins: int | None = None
    ) -> "Number":
        """Index of the bucket: how many edges are below x; `bins=10` learns deciles as edges."""
        if (edges is None) == (bins is None):
            raise DeclarationError("bucketize(): give either edges or bins")
        if bins is not None:
            if not 2 <= bins <= 1000:
                raise DeclarationError(f"bucketize(bins={bins}): use 2 to 1000")
            return Number("bucketize/1", [settled(self)], {"bins": bins})
        values = [finite(edge, "bucketize()") for edge in edges or ()]
        if not values or sorted(set(values)) != values:
            raise DeclarationError(
                f"bucketize(): edges must be ascending and distinct, got {values}"
            )
        return Number("bucketize/1", [settled(self)], {"edges": values})

    def one_hot(self, values: Sequence[float]) -> "Columns":
        """One column per listed value, 1 where x equals it, else 0 (null: 0 in all)."""
        listed = [finite(value, "one_hot()") for value in values]
        if not listed or len(set(listed)) != len(listed):
            raise DeclarationError(
                f"one_hot(): values must be distinct and at least one, got {listed}"
            )
        return Columns("one_hot_values/1", [settled(self)], {"values": listed})

    def cyclic(self, period: float | None = None) -> "Columns":
        """Sin and cos of 2 pi x / period, on a grid of 2^-24; the calendar knows its periods."""
        default = PERIODS.get(self.op)
        if period is None and default is None:
            raise DeclarationError("cyclic(): give the period of this number, such as cyclic(24)")
        chosen = finite(default if period is None else period, "cyclic()")
        if chosen <= 0:
            raise DeclarationError(f"cyclic(period={chosen}): it must be above 0")
        return Columns("cyclic/1", [self], {"period": chosen})

    def passthrough(self) -> Self:
        """The value itself: `number("x").passthrough()` tells readers that nothing is missing."""
        return self

    def __lt__(self, other: Any) -> "Boolean":
        return comparison("less/1", self, other)

    def __le__(self, other: Any) -> "Boolean":
        return comparison("less_equal/1", self, other)

    def __gt__(self, other: Any) -> "Boolean":
        return comparison("less/1", other, self)

    def __ge__(self, other: Any) -> "Boolean":
        return comparison("less_equal/1", other, self)

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        return comparison("equal/1", self, other)

    def __ne__(self, other: object) -> "Boolean":  # type: ignore[override]
        return ~comparison("equal/1", self, other)

    def __hash__(self) -> int:
        return id(self)


class Boolean(_Arithmetic):
    """Truth values: 1, 0 or null. A comparison with a null side is null."""

    kind = "boolean"

    def __and__(self, other: "Boolean") -> "Boolean":
        return _logic("and/1", self, other)

    def __or__(self, other: "Boolean") -> "Boolean":
        return _logic("or/1", self, other)

    def __invert__(self) -> "Boolean":
        return Boolean("not/1", [self])

    def passthrough(self) -> Self:
        """The value itself."""
        return self

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        raise DeclarationError(
            f"{self!r} == {other!r}: a truth value is itself the condition; use it, or ~ for not"
        )

    def __hash__(self) -> int:
        return id(self)


class Columns(Expression):
    """Several columns at once (one-hot, sin and cos); they are features, not operands."""

    kind = "number"


# operands

_INEXACT: Final = frozenset({"log/1", "log1p/1", "exp/1", "power/1", "onnx/1"})
"""Operators whose last bit is, or may be, the processor's and the library's affair."""

_STEPS: Final = frozenset(
    {"settle/1", "round/1", "floor/1", "bucketize/1", "less/1", "less_equal/1", "equal/1"}
)
"""Operators that jump, and so would make a last bit the difference between two features."""


def settled(expression: Expression) -> Expression:
    """The operand of a step: rounded to 24 bits if it went through a logarithm or the like.

    The edges of `x.log1p().bucketize(bins=10)` are logarithms of training values, and values equal
    to an edge are common. Without this, a logarithm of another last bit, on another processor,
    would put all of them into the next bucket.
    """
    return Number("settle/1", [expression]) if _is_inexact(expression) else expression


def _is_inexact(expression: Expression) -> bool:
    if expression.op in _INEXACT:
        return True
    return expression.op not in _STEPS and any(map(_is_inexact, expression.args))


def arithmetic(op: str, a: Any, b: Any) -> Number:
    left, right = operand(a), operand(b)
    if left.op == right.op == "constant":
        raise DeclarationError(f"{left!r} and {right!r} are both constants; compute it in Python")
    return Number(op, [left, right])


def _power(base: Expression, exponent: float) -> Number:
    chosen = finite(exponent, "power()")
    if chosen == 0:
        raise DeclarationError("power(0): it would be 1 for every value, null too; leave it out")
    return Number("power/1", [base], {"exponent": chosen})


def comparison(op: str, a: Any, b: Any) -> Boolean:
    return Boolean(op, [settled(operand(a)), settled(operand(b))])


def _logic(op: str, a: Any, b: Any) -> Boolean:
    return Boolean(op, [truth_value(a, "& and |"), truth_value(b, "& and |")])


def truth_value(value: Any, what: str) -> Boolean:
    if not isinstance(value, Boolean):
        raise DeclarationError(
            f"{what}: {value!r} is no truth value; compare it first, as in x > 0"
        )
    return value


def operand(value: Any) -> Expression:
    """What an operator on numbers reads: an expression, or a constant that becomes one."""
    if isinstance(value, Columns):
        raise DeclarationError(
            f"{value!r} is several columns and cannot be an operand; make columns last"
        )
    if isinstance(value, Expression) and value.kind != "category":
        return value
    if isinstance(value, Expression):
        raise DeclarationError(
            f"{value!r} is a category; make a number of it first, with ordinal(), frequency(), "
            "target_mean() or lookup()"
        )
    if isinstance(value, (int, float, np.integer, np.floating)):
        return Number("constant", params={"value": finite(value, "a constant")})
    raise DeclarationError(
        f"{value!r} cannot be an operand; use a number, or an expression over fields"
    )
