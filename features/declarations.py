"""Fields as people declare them: one function a kind, each giving an expression to go on with.

distance = number("distance", unit="mi", low=0, high=6000)
carrier = category("carrier")
leaves = timestamp("sched_dep", tz="America/New_York")
"""

import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from features.errors import DeclarationError
from features.expressions import Boolean, Category, Number, Timestamp
from features.fields import EpochUnit, Field, OutOfBounds, Sensitivity
from features.zones import check_zone


def number(
    name: str,
    *,
    unit: str | None = None,
    low: float | None = None,
    high: float | None = None,
    out_of_bounds: OutOfBounds = "null",
    nullable: bool = True,
    from_float32: bool = False,
    description: str = "",
    sensitive: Sensitivity | None = None,
    example: float | None = None,
) -> Number:
    """A field of numbers. JSON: integer or float; tables: integers, float64."""
    field = Field(
        name=name,
        kind="number",
        unit=unit,
        low=_bound(name, "low", low),
        high=_bound(name, "high", high),
        out_of_bounds=out_of_bounds,
        nullable=nullable,
        from_float32=from_float32,
        description=description,
        sensitive=sensitive,
        example=example,
    )
    return Number("field", field=field)


def _bound(field: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, Decimal)):
        raise DeclarationError(f"field {field!r}: {name}={value!r}; use a number")
    return float(value)


def _text(value: Any) -> Any:
    """An integer as its text, anything else for the field to look at."""
    is_integer = type(value) is not bool and isinstance(value, numbers.Integral)
    return str(value) if is_integer else value


def boolean(
    name: str,
    *,
    nullable: bool = True,
    description: str = "",
    sensitive: Sensitivity | None = None,
    example: bool | None = None,
) -> Boolean:
    """A field of true and false."""
    field = Field(
        name=name,
        kind="boolean",
        nullable=nullable,
        description=description,
        sensitive=sensitive,
        example=example,
    )
    return Boolean("field", field=field)


def category(
    name: str,
    *,
    of: Literal["string", "integer"] = "string",
    normalize: Sequence[str] = (),
    vocabulary: Sequence[str | int] | None = None,
    max_vocabulary: int = 1000,
    nullable: bool = True,
    description: str = "",
    sensitive: Sensitivity | None = None,
    example: str | int | None = None,
) -> Category:
    """A field of texts, or of integers (`of="integer"`), with a vocabulary, declared or learned."""
    if isinstance(vocabulary, str):
        raise DeclarationError(
            f"field {name!r}: its vocabulary is the text {vocabulary!r}; list its texts: [...]"
        )
    field = Field(
        name=name,
        kind="category",
        of=of,
        normalize=tuple(normalize),
        vocabulary=None if vocabulary is None else tuple(map(_text, vocabulary)),
        max_vocabulary=max_vocabulary,
        nullable=nullable,
        description=description,
        sensitive=sensitive,
        example=example,
    )
    return Category("field", field=field)


def timestamp(
    name: str,
    *,
    tz: str | None = None,
    unit: EpochUnit | None = None,
    nullable: bool = True,
    description: str = "",
    sensitive: Sensitivity | None = None,
    example: str | float | None = None,
) -> Timestamp:
    """A field of instants: ISO 8601 text, or with `unit` a number since 1970.

    `tz` is the zone of texts without an offset, and of the calendar.
    """
    field = Field(
        name=name,
        kind="timestamp",
        tz=tz,
        epoch=unit,
        nullable=nullable,
        description=description,
        sensitive=sensitive,
        example=example,
    )
    if tz is not None:
        check_zone(tz)
    return Timestamp("field", field=field)
