"""Generated edge cases: what real rows show too rarely, and what goes wrong first.

Each case is one clean record with one thing changed, so that a difference names its cause.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from features.fields import LARGEST_EXACT_INTEGER, Field
from features.zones import Zone
from models.examples import NANOS, stamp

Record = dict[str, Any]
Case = tuple[str, Record]

INVALID: Final[Mapping[str, Any]] = {
    "number": "not a number",
    "boolean": "yes",
    "category": 1.5,
    "timestamp": "not a time",
}
"""A value of another type, by the kind of the field."""

LAST_TRANSITION: Final = int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
INSTANTS: Final = {
    "epoch 0": datetime(1970, 1, 1, tzinfo=UTC),
    "leap day": datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC),
    "day after a leap day": datetime(2024, 3, 1, tzinfo=UTC),
    "no leap year": datetime(2100, 3, 1, tzinfo=UTC),
    "year end": datetime(2023, 12, 31, 23, 59, 59, tzinfo=UTC),
    "new year": datetime(2024, 1, 1, tzinfo=UTC),
    "year 1900": datetime(1900, 1, 1, tzinfo=UTC),
    "year 2100": datetime(2100, 12, 31, 23, 59, 59, tzinfo=UTC),
}


def edge_cases(
    fields: Sequence[Field],
    vocabularies: Mapping[str, Sequence[str]],
    zones: Mapping[str, Zone],
    base: Record,
) -> list[Case]:
    """All cases for these fields, named `field: what`; `base` is a clean record."""
    cases: list[Case] = [
        ("all missing", {}),
        ("all null", dict.fromkeys(field.name for field in fields)),
        ("all invalid", {field.name: INVALID[field.kind] for field in fields}),
    ]
    for field in fields:
        for what, value in _values(field, vocabularies.get(field.name, ()), zones):
            cases.append((f"{field.name}: {what}", {**base, field.name: value}))
    return cases


def _values(
    field: Field, vocabulary: Sequence[str], zones: Mapping[str, Zone]
) -> Iterator[tuple[str, Any]]:
    yield "missing", None
    yield "invalid", INVALID[field.kind]
    if field.kind == "number":
        yield from _numbers(field)
    elif field.kind == "boolean":
        yield from (("true", True), ("false", False))
    elif field.kind == "category":
        yield from _categories(field, vocabulary)
    else:
        yield from _instants(field, zones)


def _numbers(field: Field) -> Iterator[tuple[str, float | int]]:
    yield "integer beyond 2^53", LARGEST_EXACT_INTEGER + 1
    for name, bound in (("low", field.low), ("high", field.high)):
        if bound is not None:
            yield name, bound
            yield f"{name} - 1 ulp", math.nextafter(bound, -math.inf)
            yield f"{name} + 1 ulp", math.nextafter(bound, math.inf)
    if field.low is None:
        yield "very small", -1e300
    if field.high is None:
        yield "very large", 1e300
    if (field.low or -1.0) < 0 < (field.high or 1.0):
        yield "zero", 0.0
        yield "minus zero", -0.0


def _categories(field: Field, vocabulary: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if field.of == "integer":
        yield "unknown", next(n for n in range(10**9, 2 * 10**9) if str(n) not in vocabulary)
    else:
        yield "unknown", next(t for t in _never_seen() if t not in vocabulary)
        yield "empty text", ""
    if vocabulary and not field.sensitive:
        for name, text in (("most frequent", vocabulary[0]), ("rarest", vocabulary[-1])):
            yield name, int(text) if field.of == "integer" else text


def _never_seen() -> Iterator[str]:
    yield "never seen"
    yield from (f"never seen {number}" for number in range(10**9))


def _instants(field: Field, zones: Mapping[str, Zone]) -> Iterator[tuple[str, Any]]:
    for name, at in INSTANTS.items():
        yield name, stamp(field, int(at.timestamp()) * NANOS)
    yield "fraction of a second", stamp(field, GENERATED + NANOS // 8)
    zone = zones.get(field.tz or "")
    if zone is not None:
        yield from _transitions(field, zone)


GENERATED: Final = int(INSTANTS["leap day"].timestamp()) * NANOS


def _transitions(field: Field, zone: Zone) -> Iterator[tuple[str, Any]]:
    """The last change to each side: seconds around it, and a wall-clock time it makes strange."""
    seen = set[str]()
    steps = list(zip(zone.transitions, pairwise(zone.offsets), strict=True))
    for at, (before, after) in reversed([step for step in steps if step[0] < LAST_TRANSITION]):
        name = "a gap" if after > before else "an overlap"
        if name in seen:
            continue
        seen.add(name)
        yield f"last second before {name}", stamp(field, (at - 1) * NANOS)
        yield f"first second after {name}", stamp(field, at * NANOS)
        if field.epoch is None:
            middle = at + (before + after) // 2
            yield f"wall-clock time in {name}", stamp(field, middle * NANOS, zoned=False)
