"""Generated edge cases: what real rows show too rarely, and what goes wrong first.

Each case is one clean record with one thing changed, so that a difference names its cause. A model
of many fields would have as many cases as all its fields have edges, each with all its fields: it
changes one thing of each of several fields in a case, as many as it takes to stay within a limit.
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
    *,
    most: int | None = None,
) -> list[Case]:
    """All cases for these fields.

    Args:
        fields: of the model.
        vocabularies: of its categories.
        zones: of its timestamps.
        base: a clean record.
        most: cases there should be, at least those of the field that has most; None for no limit.

    Returns:
        Named `field: what`, or where a case is of several fields `fields a to z: edges 3`.
    """
    cases: list[Case] = [
        ("all missing", {}),
        ("all null", dict.fromkeys(field.name for field in fields)),
        ("all invalid", {field.name: INVALID[field.kind] for field in fields}),
    ]
    edges = {
        field.name: list(_values(field, vocabularies.get(field.name, ()), zones))
        for field in fields
    }
    for names in _groups(edges, None if most is None else most - len(cases)):
        if len(names) == 1:
            (name,) = names
            cases += [(f"{name}: {what}", {**base, name: value}) for what, value in edges[name]]
        else:
            cases += _together(names, edges, base)
    return cases


def _groups(edges: Mapping[str, Sequence[Any]], most: int | None) -> list[list[str]]:
    """Fields that share their cases: as few together as the limit allows, of like many edges."""
    by_edges = sorted(edges, key=lambda name: -len(edges[name]))
    for size in range(1, len(by_edges) + 1):
        groups = [by_edges[at : at + size] for at in range(0, len(by_edges), size)]
        if most is None or sum(len(edges[first]) for first, *_ in groups) <= most:
            return [[name] for name in edges] if size == 1 else groups
    return [by_edges] if by_edges else []


def _together(
    names: Sequence[str], edges: Mapping[str, Sequence[tuple[str, Any]]], base: Record
) -> Iterator[Case]:
    """Cases that each take every field to one of its edges, until all have been at all of theirs.

    A field that has fewer than another begins again.
    """
    for place in range(len(edges[names[0]])):
        values = {name: edges[name][place % len(edges[name])][1] for name in names}
        yield f"fields {names[0]} to {names[-1]}: edges {place}", {**base, **values}


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
