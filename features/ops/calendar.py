"""Operators on timestamps: the calendar in a frozen zone, and the time between two instants.

Local time is counted in whole seconds since the first day of a 400-year era, a Monday, one era
before the year 1. It is positive for every valid instant, so remainders need no care for signs;
whole, because `floor(local / 86400)` of a fraction just below midnight would round up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from features.expressions import Number
from features.ops.base import Call, Context, Op
from features.zones import Zone

if TYPE_CHECKING:
    from features.graph import Column, GraphBuilder

DAY: Final = 86_400.0
ERA_YEARS: Final = 400
ERA_DAYS: Final = 146_097
"""Days in 400 years, whole weeks: the Gregorian calendar repeats exactly."""

EPOCH: Final = (date(1970, 1, 1).toordinal() - 1 + ERA_DAYS) * DAY
"""Seconds from the beginning of local time to 1970-01-01."""

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": DAY}


# local time


def _zone(call: Call, context: Context) -> Zone:
    """The zone of the timestamp that a calendar operator reads; UTC when none was declared."""
    return context.zones[call.source.tz or "UTC"]


class _Clock:
    """Local time of every timestamp that some calls read, one column per timestamp and zone."""

    def __init__(self, b: GraphBuilder, calls: Sequence[Call], context: Context) -> None:
        by_zone: dict[Zone, list[Column]] = {}
        for call in calls:
            columns = by_zone.setdefault(_zone(call, context), [])
            if call.operand not in columns:
                columns.append(call.operand)
        tensors = [_local_seconds(b, zone, columns) for zone, columns in by_zone.items()]
        tensor = tensors[0] if len(tensors) == 1 else b.node("Concat", tensors, axis=1)
        read = [(zone.name, column) for zone, columns in by_zone.items() for column in columns]
        made = b.new_columns(tensor, len(read))
        self._b = b
        self._context = context
        self._columns = dict(zip(read, made, strict=True))

    def seconds(self, calls: Sequence[Call]) -> str:
        """Whole local seconds, a column a call; a single one where all calls read the same."""
        keys = [(_zone(call, self._context).name, call.operand) for call in calls]
        columns = [self._columns[key] for key in keys]
        return self._b.tensor(columns[:1] if len(set(columns)) == 1 else columns)

    def days(self, calls: Sequence[Call]) -> str:
        """Whole local days."""
        return whole_part(self._b, self.seconds(calls), DAY)


def _local_seconds(b: GraphBuilder, zone: Zone, columns: Sequence[Column]) -> str:
    """UTC seconds plus the zone's offset, and the way to 1970; a null stays null.

    All are whole numbers far below 2^53, so any order of summation is exact.
    """
    utc = b.node("Floor", [b.tensor(columns)])
    if not zone.transitions:
        return b.node("Add", [utc, b.constant(EPOCH + zone.offsets[0])])
    # Flat: a tree reads one column.
    is_flat = len(columns) == 1
    flat = utc if is_flat else b.node("Reshape", [utc, b.integers([-1, 1])])
    shifted = b.node("Add", [flat, b.constant(EPOCH)])
    local = b.node("Add", [shifted, b.cast(_offset(b, zone, flat))])
    return local if is_flat else b.node("Reshape", [local, b.integers([-1, len(columns)])])


def _offset(b: GraphBuilder, zone: Zone, utc: str) -> str:
    """The zone's offset, float32 [n, 1]: a binary search, as a decision tree.

    To compare with each of the 300 transitions and to sum the steps costs eight times as much in a
    batch, and more for one row too. Offsets are whole seconds of less than a day, exact in float32.
    """
    return b.search(utc, zone.transitions, zone.offsets)


def whole_part(b: GraphBuilder, value: str, divisor: float) -> str:
    """floor(value / divisor), exact for whole numbers."""
    return b.node("Floor", [b.node("Div", [value, b.constant(divisor)])])


def modulo(b: GraphBuilder, value: str, divisor: float) -> str:
    """The exact remainder; of value's sign, which is positive here."""
    return b.node("Mod", [value, b.constant(divisor)], fmod=1)


# parts


def _lower_calendar(
    b: GraphBuilder, calls: Sequence[Call], context: Context
) -> list[tuple[str, int]]:
    """All calendar parts of all timestamps: local seconds are computed once for each of them.

    Calls come part by part, as their operators are ranked.
    """
    clock = _Clock(b, calls, context)
    parts = groupby(calls, key=lambda call: _BY_ERA.get(call.op, _lower_cycles))
    groups = [(lower, list(group)) for lower, group in parts]
    return [(lower(b, clock, group), len(group)) for lower, group in groups]


LowerPart: TypeAlias = "Callable[[GraphBuilder, _Clock, Sequence[Call]], str]"


CYCLES: Final = {"minute/1": (60.0, 60.0), "hour/1": (3600.0, 24.0), "weekday/1": (DAY, 7.0)}
"""Seconds of a step, and steps of a cycle; local time begins with a Monday."""


def _lower_cycles(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
    """Minutes, hours and weekdays of any timestamps: three nodes for all of them."""
    steps, lengths = zip(*(CYCLES[call.op] for call in calls), strict=True)
    done = b.node("Floor", [b.node("Div", [clock.seconds(calls), b.vector(steps)])])
    return b.node("Mod", [done, b.vector(lengths)], fmod=1)


def _by_era(part: str) -> LowerPart:
    """Month, day or year of the era, from a table over its 146,097 days."""

    def lower(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
        day = modulo(b, clock.days(calls), float(ERA_DAYS))
        # A null, and only it, is not below: it reads entry 0 and becomes null again.
        known = b.node("Less", [day, b.constant(float(ERA_DAYS))])
        index = b.to_integers(b.node("Where", [known, day, b.constant(0.0)]))
        table = era_table(part)
        value = b.cast(b.node("Gather", [b.constant(table, table.dtype), index], axis=0))
        return b.null_unless(known, value)

    return lower


def _lower_year(b: GraphBuilder, clock: _Clock, calls: Sequence[Call]) -> str:
    eras = whole_part(b, clock.days(calls), float(ERA_DAYS))
    started = b.node("Mul", [eras, b.constant(float(ERA_YEARS))])
    return b.node("Add", [_by_era("year")(b, clock, calls), started])


@cache
def era_table(part: str) -> NDArray[Any]:
    """Month 1-12, day 1-31 (uint8) or year (int16) for each day of the era, (146097,).

    The first era is that of the years -399 to 0: the year of its days is that minus 400.
    """
    days = [date.fromordinal(1 + index) for index in range(ERA_DAYS)]
    if part == "year":
        return np.array([day.year - ERA_YEARS for day in days], np.int16)
    return np.array([getattr(day, part) for day in days], np.uint8)


_BY_ERA: Final[dict[str, LowerPart]] = {
    "month/1": _by_era("month"),
    "day/1": _by_era("day"),
    "year/1": _lower_year,
}


# time between


def _lower_elapsed(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    starts = b.tensor([call.operand for call in calls])
    ends = b.tensor([column for call in calls if (column := call.columns[1]) is not None])
    seconds = b.node("Sub", [ends, starts])
    units = [UNITS[call.params["unit"]] for call in calls]
    return seconds if set(units) == {1.0} else b.node("Div", [seconds, b.vector(units)])


def _part_op(part: str, doc: str) -> Op:
    name = f"{part}/1"
    return Op(
        name=name,
        doc=f"{doc}, in the field's zone.",
        gives=Number,
        lower=_lower_calendar,
        group="calendar",
        rank=[*CYCLES, *_BY_ERA].index(name),
    )


CALENDAR_OPS: Final = (
    _part_op("minute", "Minute of the hour, 0-59"),
    _part_op("hour", "Hour of the day, 0-23"),
    _part_op("weekday", "0 Monday to 6 Sunday"),
    _part_op("day", "Day of the month, 1-31"),
    _part_op("month", "Month of the year, 1-12"),
    _part_op("year", "The Gregorian year"),
    Op(
        name="elapsed/1",
        doc="Time from one instant to another.",
        gives=Number,
        lower=_lower_elapsed,
        params=("unit",),
    ),
)
