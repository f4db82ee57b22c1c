"""Expressions: operators over fields, one method or function for each of the catalogue.

distance = number("distance", unit="mi", low=0, high=6000)
distance.impute("median").log1p().standardize()
(number("a") - number("b")) / 2
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

import numpy as np

from features.errors import DeclarationError
from features.fields import check_texts
from features.nodes import Expression
from features.pairs import LARGEST_CROSS, Pair, check_pairs, in_order


class _Nullable(Expression):
    """What may be null."""

    def is_null(self) -> "Boolean":
        """True where the value is null (missing, invalid, or out of bounds under `null`)."""
        return Boolean("is_null/1", [self])


class _Arithmetic(_Nullable):
    """Operators shared by numbers and truth values (1, 0 or null in arithmetic)."""

    def __add__(self, other: Any) -> "Number":
        return _number("add/1", self, other)

    def __radd__(self, other: Any) -> "Number":
        return _number("add/1", other, self)

    def __sub__(self, other: Any) -> "Number":
        return _number("subtract/1", self, other)

    def __rsub__(self, other: Any) -> "Number":
        return _number("subtract/1", other, self)

    def __mul__(self, other: Any) -> "Number":
        return _number("multiply/1", self, other)

    def __rmul__(self, other: Any) -> "Number":
        return _number("multiply/1", other, self)

    def __truediv__(self, other: Any) -> "Number":
        if isinstance(other, (int, float)) and other == 0:
            raise DeclarationError(f"{self!r} / 0 is null for every value; leave it out")
        return _number("divide/1", self, other)

    def __rtruediv__(self, other: Any) -> "Number":
        return _number("divide/1", other, self)

    def __pow__(self, exponent: float) -> "Number":
        return _power(self, exponent)

    def __abs__(self) -> "Number":
        return Number("abs/1", [self])

    def __neg__(self) -> "Number":
        return _number("subtract/1", 0.0, self)

    def impute(self, value: float | Literal["median", "mean", "mode"] = "median") -> "Number":
        """Null becomes a constant, or a statistic of the training rows.

        The mode of several equally frequent values is the smallest of them.
        """
        if isinstance(value, str) and value not in ("median", "mean", "mode"):
            raise DeclarationError(f"impute({value!r}): use 'median', 'mean', 'mode' or a number")
        chosen = value if isinstance(value, str) else _finite(value, "impute()")
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
            return Number("clip/1", [self], {"quantiles": _quantiles(quantiles)})
        if low is None and high is None:
            raise DeclarationError("clip(): give low, high or quantiles")
        if low is not None and high is not None and low > high:
            raise DeclarationError(f"clip(): low={low} is above high={high}")
        given = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
        bounds = {name: _finite(bound, "clip()") for name, bound in given.items()}
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
        values = [_finite(edge, "bucketize()") for edge in edges or ()]
        if not values or sorted(set(values)) != values:
            raise DeclarationError(
                f"bucketize(): edges must be ascending and distinct, got {values}"
            )
        return Number("bucketize/1", [settled(self)], {"edges": values})

    def one_hot(self, values: Sequence[float]) -> "Columns":
        """One column per listed value, 1 where x equals it, else 0 (null: 0 in all)."""
        listed = [_finite(value, "one_hot()") for value in values]
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
        chosen = _finite(default if period is None else period, "cyclic()")
        if chosen <= 0:
            raise DeclarationError(f"cyclic(period={chosen}): it must be above 0")
        return Columns("cyclic/1", [self], {"period": chosen})

    def passthrough(self) -> Self:
        """The value itself: `number("x").passthrough()` tells readers that nothing is missing."""
        return self

    def __lt__(self, other: Any) -> "Boolean":
        return _comparison("less/1", self, other)

    def __le__(self, other: Any) -> "Boolean":
        return _comparison("less_equal/1", self, other)

    def __gt__(self, other: Any) -> "Boolean":
        return _comparison("less/1", other, self)

    def __ge__(self, other: Any) -> "Boolean":
        return _comparison("less_equal/1", other, self)

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        return _comparison("equal/1", self, other)

    def __ne__(self, other: object) -> "Boolean":  # type: ignore[override]
        return ~_comparison("equal/1", self, other)

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


class Category(_Nullable):
    """A text from a vocabulary. In the row it is a code: 0..V-1, V unknown, V + 1 missing."""

    kind = "category"

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        raise DeclarationError(
            f"{self!r} == {other!r}: categories are compared by lookup({{{other!r}: 1}}, default=0)"
        )

    def __hash__(self) -> int:
        return id(self)

    def one_hot(self, *, unknown: bool = False, missing: bool = False) -> "Columns":
        """One column per text of the vocabulary; `unknown` and `missing` add a column each.

        An unknown or missing value is 0 in every column that is not its own.
        """
        extra = {"unknown": unknown or None, "missing": missing or None}
        return Columns("one_hot/1", [self], extra)

    def ordinal(self) -> Number:
        """Position in the vocabulary, 0..V-1, most frequent first when learned.

        Unknown is -1, missing is null.
        """
        return Number("ordinal/1", [self])

    def frequency(self) -> Number:
        """Share of the training rows that had this value; unknown 0, missing its own share."""
        return Number("frequency/1", [self])

    def target_mean(self, smoothing: float = 20.0) -> Number:
        """Mean of the target for this value, shrunk towards the mean of all rows.

        (sum + smoothing * prior) / (count + smoothing); unknown is the prior, missing has its own
        mean. `fit_transform` cross-fits it: a training row never sees its own target. Source:
        Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD
        Explorations (2001).
        """
        chosen = _finite(smoothing, "target_mean()")
        if chosen < 0:
            raise DeclarationError(f"target_mean(smoothing={chosen}): it must not be negative")
        return Number("target_mean/1", [self], {"smoothing": chosen})

    def lookup(
        self, table: Mapping[str, float] | Mapping[Pair, float], *, default: float | None = None
    ) -> Number:
        """A constant number for each text; others, unknown and missing give `default`, else null.

        A text outside the vocabulary is unknown even if the table has it. Of a cross the table has
        pairs of texts.
        """
        if not table:
            raise DeclarationError("lookup(): the table is empty")
        other = None if default is None else _finite(default, "lookup()")
        values = [_finite(value, "lookup()") for value in table.values()]
        numbers: Any
        if self.field is None:
            pairs = check_pairs(self, list(table), "lookup()")
            numbers = in_order([*pair, value] for pair, value in zip(pairs, values, strict=True))
        else:
            numbers = dict(zip(map(str, table), values, strict=True))
            check_texts(self.field, list(numbers), "lookup()")
        return Number("lookup/1", [self], {"table": numbers, "default": other})


class Timestamp(_Nullable):
    """Seconds since 1970 in UTC; the calendar of a field is that of its zone."""

    kind = "timestamp"

    def minute(self) -> Number:
        """Minute of the hour, 0-59, in the field's zone."""
        return Number("minute/1", [self])

    def hour(self) -> Number:
        """Hour of the day, 0-23, in the field's zone."""
        return Number("hour/1", [self])

    def weekday(self) -> Number:
        """0 Monday to 6 Sunday, in the field's zone."""
        return Number("weekday/1", [self])

    def day(self) -> Number:
        """Day of the month, 1-31, in the field's zone."""
        return Number("day/1", [self])

    def month(self) -> Number:
        """1-12, in the field's zone."""
        return Number("month/1", [self])

    def year(self) -> Number:
        """The Gregorian year, in the field's zone."""
        return Number("year/1", [self])

    def __lt__(self, other: "Timestamp") -> Boolean:
        return _comparison("less/1", self, other)

    def __le__(self, other: "Timestamp") -> Boolean:
        return _comparison("less_equal/1", self, other)

    def __gt__(self, other: "Timestamp") -> Boolean:
        return _comparison("less/1", other, self)

    def __ge__(self, other: "Timestamp") -> Boolean:
        return _comparison("less_equal/1", other, self)

    def __sub__(self, other: Any) -> Number:
        """Seconds since the other instant; `elapsed` has other units."""
        if not isinstance(other, Timestamp):
            raise DeclarationError(f"{self!r} - {other!r}: only another timestamp can be taken off")
        return Number("elapsed/1", [other, self], {"unit": "s"})

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        return _comparison("equal/1", self, other)

    def __hash__(self) -> int:
        return id(self)


class Columns(Expression):
    """Several columns at once (one-hot, sin and cos); they are features, not operands."""

    kind = "number"


PERIODS: Final = {
    "minute/1": 60.0,
    "hour/1": 24.0,
    "weekday/1": 7.0,
    "day/1": 31.0,
    "month/1": 12.0,
}
"""Of the parts of the calendar; none is above its period."""

LEAVES: Final[dict[str, type[Expression]]] = {
    "number": Number,
    "boolean": Boolean,
    "category": Category,
    "timestamp": Timestamp,
}


def where(condition: Boolean, then: Any, otherwise: Any) -> Number:
    """`then` where the condition is true, `otherwise` where it is false, null where it is null."""
    _truth_value(condition, "where()")
    return Number("where/1", [condition, operand(then), operand(otherwise)])


def minimum(a: Any, b: Any) -> Number:
    """The smaller of the two; null if either is."""
    return _number("minimum/1", a, b)


def maximum(a: Any, b: Any) -> Number:
    """The larger of the two; null if either is."""
    return _number("maximum/1", a, b)


def safe_div(a: Any, b: Any, *, default: float) -> Number:
    """A / b, and `default` where b is 0; null if either is null."""
    divided = _number("safe_div/1", a, b)
    return Number("safe_div/1", divided.args, {"default": _finite(default, "safe_div()")})


def cross(
    a: Category,
    b: Category,
    *,
    max_pairs: int | None = None,
    pairs: Sequence[Pair] | None = None,
    null: Literal["missing", "value"] = "missing",
) -> Category:
    """A category of the pairs of two categories, for what one of them alone does not tell.

    Args:
        a: a field.
        b: another.
        max_pairs: how many pairs are learned at most, the most frequent first, 1,000 unless given;
            the others are unknown, as is a pair with an unknown side.
        pairs: declares them instead, in the order of their codes.
        null: a pair with a null side is missing ("missing"), or null is a value like others
            ("value"): it pairs as `None`, and only the pair of two nulls is missing.
    """
    for side in (a, b):
        if not isinstance(side, Category) or side.field is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(
                f"cross(): {side!r} is no field with texts; declare it with category()"
            )
    if a.key == b.key:
        raise DeclarationError(f"cross(): {a!r} is on both sides; cross two fields")
    if null not in ("missing", "value"):
        raise DeclarationError(f"cross(null={null!r}): use 'missing' or 'value'")
    params: dict[str, Any] = {"null": None if null == "missing" else null}
    if pairs is None:
        params["max_pairs"] = 1000 if max_pairs is None else max_pairs
        if not 1 <= params["max_pairs"] <= LARGEST_CROSS:
            raise DeclarationError(f"cross(max_pairs={max_pairs}): use 1 to {LARGEST_CROSS:,}")
        return Category("cross/1", [a, b], params)
    if max_pairs is not None:
        raise DeclarationError("cross(): give pairs or max_pairs, not both")
    params["pairs"] = check_pairs(Category("cross/1", [a, b], params), pairs, "cross(pairs=)")
    return Category("cross/1", [a, b], params)


def elapsed(
    start: Timestamp, end: Timestamp, *, unit: Literal["s", "min", "h", "d"] = "s"
) -> Number:
    """End - start in seconds, minutes, hours or days; negative when end is before start."""
    for side in (start, end):
        if not isinstance(side, Timestamp):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DeclarationError(
                f"elapsed(): {side!r} is no timestamp; declare its field with timestamp()"
            )
    if unit not in ("s", "min", "h", "d"):
        raise DeclarationError(f"elapsed(unit={unit!r}): use 's', 'min', 'h' or 'd'")
    return Number("elapsed/1", [start, end], {"unit": unit})


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


def _number(op: str, a: Any, b: Any) -> Number:
    left, right = operand(a), operand(b)
    if left.op == right.op == "constant":
        raise DeclarationError(f"{left!r} and {right!r} are both constants; compute it in Python")
    return Number(op, [left, right])


def _power(base: Expression, exponent: float) -> Number:
    chosen = _finite(exponent, "power()")
    if chosen == 0:
        raise DeclarationError("power(0): it would be 1 for every value, null too; leave it out")
    return Number("power/1", [base], {"exponent": chosen})


def _comparison(op: str, a: Any, b: Any) -> Boolean:
    return Boolean(op, [settled(operand(a)), settled(operand(b))])


def _logic(op: str, a: Any, b: Any) -> Boolean:
    return Boolean(op, [_truth_value(a, "& and |"), _truth_value(b, "& and |")])


def _truth_value(value: Any, what: str) -> Boolean:
    if not isinstance(value, Boolean):
        raise DeclarationError(
            f"{what}: {value!r} is no truth value; compare it first, as in x > 0"
        )
    return value


def operand(value: Any) -> Expression:
    """What an operator on numbers reads: an expression, or a constant that becomes one."""
    if isinstance(value, (Number, Boolean, Timestamp)):
        return value
    if isinstance(value, Columns):
        raise DeclarationError(
            f"{value!r} is several columns and cannot be an operand; make columns last"
        )
    if isinstance(value, Category):
        raise DeclarationError(
            f"{value!r} is a category; make a number of it first, with ordinal(), frequency(), "
            "target_mean() or lookup()"
        )
    if isinstance(value, (int, float, np.integer, np.floating)):
        return Number("constant", params={"value": _finite(value, "a constant")})
    raise DeclarationError(
        f"{value!r} cannot be an operand; use a number, or an expression over fields"
    )


def _finite(value: Any, what: str) -> float:
    """A number that people wrote, as float64."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    is_number = is_number and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DeclarationError(f"{what}: expected a finite number, got {value!r}")
    return number


def _quantiles(quantiles: tuple[float, float]) -> list[float]:
    low, high = (_finite(quantile, "clip(quantiles=)") for quantile in quantiles)
    if not 0 <= low < high <= 1:
        raise DeclarationError(f"clip(quantiles={quantiles}): expected 0 <= low < high <= 1")
    return [low, high]
