"""Timestamps: the calendar in a field's zone, and the time between two."""

from typing import Any, Literal

from features.errors import DeclarationError
from features.numbers import Boolean, Nullable, Number, comparison


class Timestamp(Nullable):
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
        return comparison("less/1", self, other)

    def __le__(self, other: "Timestamp") -> Boolean:
        return comparison("less_equal/1", self, other)

    def __gt__(self, other: "Timestamp") -> Boolean:
        return comparison("less/1", other, self)

    def __ge__(self, other: "Timestamp") -> Boolean:
        return comparison("less_equal/1", other, self)

    def __sub__(self, other: Any) -> Number:
        """Seconds since the other instant; `elapsed` has other units."""
        if not isinstance(other, Timestamp):
            raise DeclarationError(f"{self!r} - {other!r}: only another timestamp can be taken off")
        return Number("elapsed/1", [other, self], {"unit": "s"})

    def __eq__(self, other: object) -> "Boolean":  # type: ignore[override]
        return comparison("equal/1", self, other)

    def __hash__(self) -> int:
        return id(self)


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
