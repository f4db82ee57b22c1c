"""Operators on timestamps: the calendar in a frozen zone, and the time between two instants.

Local time is counted in whole seconds since 0001-01-01, a Monday and the first day of a 400-year era. It is
positive for every valid instant, so remainders need no care for signs; whole, because `floor(local / 86400)`
of a fraction just below midnight would round up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.expressions import Expression, Number
from features.ops.base import Call, Context, Op
from features.zones import Zone

if TYPE_CHECKING:
    from features.graph import Column, GraphBuilder

DAY: Final = 86_400.0
ERA_DAYS: Final = 146_097
"""Days in 400 years: the Gregorian calendar repeats exactly."""

EPOCH: Final = (date(1970, 1, 1) - date(1, 1, 1)).days * DAY
"""Seconds from 0001-01-01 to 1970-01-01."""

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": DAY}
_PARTS: Final = ("month", "day", "year")


def _zone(expression: Expression, context: Context) -> Zone:
    """The zone of the timestamp that a calendar operator reads; UTC when none was declared."""
    field = expression.args[0].field
    assert field is not None
    return context.zones[field.tz or "UTC"]


def _lower_calendar(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    """All calendar parts of all timestamps: local seconds and days are computed once for each of them."""
    wanted: dict[str, list[Call]] = {}
    for call in calls:
        wanted.setdefault(_part(call), []).append(call)
    clock = _Clock(b, calls, context)
    order = [part for part in _LOWER if part in wanted]
    tensors = {part: _LOWER[part](b, clock, wanted[part]) for part in order}
    columns: dict[int, Column] = {}
    for part in order:
        made = b.define(tensors[part], [b.new_column() for _ in wanted[part]])
        columns |= {id(call): column for call, column in zip(wanted[part], made, strict=True)}
    return b.tensor([columns[id(call)] for call in calls])


def _part(call: Call) -> str:
    assert call.expression is not None
    return call.expression.op.split("/")[0]


class _Clock:
    """Local days and seconds of the day, one column per timestamp and zone."""

    def __init__(self, b: GraphBuilder, calls: Sequence[Call], context: Context) -> None:
        self._b = b
        by_zone: dict[Zone, list[Column]] = {}
        for call in calls:
            assert call.expression is not None
            column = call.columns[0]
            assert column is not None
            known = by_zone.setdefault(_zone(call.expression, context), [])
            if column not in known:
                known.append(column)
        order = [(zone, column) for zone, columns in by_zone.items() for column in columns]
        locals_ = [_local_seconds(b, zone, columns) for zone, columns in by_zone.items()]
        local = locals_[0] if len(locals_) == 1 else b.node("Concat", locals_, axis=1)
        self._context = context
        self._local = self._columns(local, order)

    def _columns(
        self, tensor: str, order: Sequence[tuple[Zone, Column]]
    ) -> dict[tuple[str, Column], Column]:
        made = self._b.define(tensor, [self._b.new_column() for _ in order])
        return {(zone.name, column): new for (zone, column), new in zip(order, made, strict=True)}

    def local(self, calls: Sequence[Call]) -> str:
        """Whole local seconds since 0001-01-01."""
        return self._b.tensor([self._local[self._key(call)] for call in calls])

    def days(self, calls: Sequence[Call]) -> str:
        """Whole days since 0001-01-01 on the local calendar."""
        return whole_part(self._b, self.local(calls), DAY)

    def seconds_of_day(self, calls: Sequence[Call]) -> str:
        return modulo(self._b, self.local(calls), DAY)

    def _key(self, call: Call) -> tuple[str, Column]:
        assert call.expression is not None and call.columns[0] is not None
        return _zone(call.expression, self._context).name, call.columns[0]


def _local_seconds(b: GraphBuilder, zone: Zone, columns: Sequence[Column]) -> str:
    """UTC seconds plus the zone's offset: the steps between offsets, summed by a product with 0 and 1.

    Steps are whole numbers far below 2^53, so any order of summation is exact. The first step, at minus
    infinity, is the first offset and the way to the year 1; a null passes none and stays null.
    """
    utc = b.node("Floor", [b.tensor(columns)])
    if not zone.transitions:
        return b.node("Add", [utc, b.constant(EPOCH + zone.offsets[0])])
    single = utc if len(columns) == 1 else b.node("Reshape", [utc, b.integers([-1, 1])])
    starts = b.vector([-np.inf, *map(float, zone.transitions)])
    steps = b.constant([[EPOCH + zone.offsets[0]], *([s] for s in np.diff(zone.offsets))])
    offset = b.node("MatMul", [b.cast(b.node("GreaterOrEqual", [single, starts])), steps])
    local = b.node("Add", [single, offset])
    return (
        local if len(columns) == 1 else b.node("Reshape", [local, b.integers([-1, len(columns)])])
    )


def whole_part(b: GraphBuilder, value: str, divisor: float) -> str:
    """floor(value / divisor), exact for whole numbers."""
    return b.node("Floor", [b.node("Div", [value, b.constant(divisor)])])


def modulo(b: GraphBuilder, value: str, divisor: float) -> str:
    """The exact remainder; of value's sign, which is positive here."""
    return b.node("Mod", [value, b.constant(divisor)], fmod=1)


def _lower_hour(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
    return whole_part(b, clock.seconds_of_day(calls), 3600.0)


def _lower_minute(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
    return whole_part(b, modulo(b, clock.local(calls), 3600.0), 60.0)


def _lower_weekday(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
    return modulo(b, clock.days(calls), 7.0)


def _by_era(part: str) -> Any:
    """Month, day or year from a table over the 146,097 days of a 400-year era."""

    def lower(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
        days = clock.days(calls)
        day = modulo(b, days, float(ERA_DAYS))
        # A null, and only it, is not below: it reads entry 0 and becomes null again.
        known = b.node("Less", [day, b.constant(float(ERA_DAYS))])
        index = b.to_integers(b.node("Where", [known, day, b.constant(0.0)]))
        table = era_table(part)
        value = b.cast(b.node("Gather", [b.constant(table, table.dtype), index], axis=0))
        if part == "year":
            started = b.node("Mul", [whole_part(b, days, float(ERA_DAYS)), b.constant(400.0)])
            value = b.node("Add", [value, b.node("Add", [started, b.constant(1.0)])])
        return b.null_unless(known, value)

    return lower


@cache
def era_table(part: str) -> NDArray[Any]:
    """Month 1-12, day 1-31 (uint8) or years since year 1 (int16) for each day since 0001-01-01, (146097,)."""
    days = [date.fromordinal(1 + index) for index in range(ERA_DAYS)]
    if part == "year":
        return np.array([day.year - 1 for day in days], np.int16)
    return np.array([getattr(day, part) for day in days], np.uint8)


_LOWER: Final[dict[str, Any]] = {
    "minute": _lower_minute,
    "hour": _lower_hour,
    "weekday": _lower_weekday,
    **{part: _by_era(part) for part in _PARTS},
}


def _lower_elapsed(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    starts = b.tensor([call.columns[0] for call in calls if call.columns[0] is not None])
    ends = b.tensor([call.columns[1] for call in calls if call.columns[1] is not None])
    seconds = b.node("Sub", [ends, starts])
    units = [UNITS[call.params["unit"]] for call in calls]
    return seconds if set(units) == {1.0} else b.node("Div", [seconds, b.vector(units)])


CALENDAR_OPS: Final = (
    Op("minute/1", Number, _lower_calendar, "calendar", "Minute of the hour, 0-59."),
    Op("hour/1", Number, _lower_calendar, "calendar", "Hour of the day, 0-23."),
    Op("weekday/1", Number, _lower_calendar, "calendar", "0 Monday to 6 Sunday."),
    Op("day/1", Number, _lower_calendar, "calendar", "Day of the month, 1-31."),
    Op("month/1", Number, _lower_calendar, "calendar", "1-12."),
    Op("year/1", Number, _lower_calendar, "calendar", "The Gregorian year."),
    Op("elapsed/1", Number, _lower_elapsed, "elapsed", "Time from one instant to another."),
)  # fmt: skip
