"""Rows of a table as the records that a caller would send, without anybody's private values."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encode_table import to_arrow
from features.fields import EPOCH_UNITS, Field

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
NANOS: Final = 1_000_000_000
GENERATED_FROM: Final = 1_577_836_800
"""2020-01-01: where generated timestamps begin."""


def records_of(
    table: Any, rows: NDArray[np.int64], fields: Sequence[Field]
) -> list[dict[str, Any]]:
    """The given rows as JSON records.

    Encoded, they give the bits of the table's rows, but for sensitive fields, whose values are
    generated.

    Args:
        table: pandas or polars DataFrame, pyarrow Table, or dict of arrays.
        rows: positions, (n,).
        fields: what the records have, in this order.
    """
    arrow = to_arrow(table, [field.name for field in fields]).take(rows)
    columns = {
        field.name: [generated(field, int(row)) for row in rows]
        if field.sensitive
        else [as_json(field, value) for value in _values(arrow.column(field.name))]
        for field in fields
    }
    return [{name: column[i] for name, column in columns.items()} for i in range(len(rows))]


def public_record(record: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """An owner's record without anybody's private values, which no bundle has.

    A value of a sensitive field that the declaration has anyway, as its example or in its
    vocabulary, stays; others are generated. What is no field is left out.
    """
    kept = {field.name: record[field.name] for field in fields if field.name in record}
    return kept | {
        field.name: generated(field, 0)
        for field in fields
        if field.sensitive and not _is_public(field, kept.get(field.name))
    }


def _is_public(field: Field, value: Any) -> bool:
    if value is None or (field.example is not None and value == field.example):
        return True
    return isinstance(value, str | int) and str(value) in (field.vocabulary or ())


def _values(column: Any) -> list[Any]:
    """A column's values; timestamps as nanoseconds since 1970 and whether they have a zone."""
    import pyarrow as pa

    if not pa.types.is_timestamp(column.type):
        return column.to_pylist()
    zoned = column.type.tz is not None
    per_tick = {"s": NANOS, "ms": 1_000_000, "us": 1_000, "ns": 1}[column.type.unit]
    ticks = column.cast(pa.int64()).to_pylist()
    return [None if tick is None else Instant(tick * per_tick, zoned=zoned) for tick in ticks]


class Instant:
    """Nanoseconds since 1970, of the wall clock when it has no zone."""

    __slots__ = ("nanos", "zoned")

    def __init__(self, nanos: int, *, zoned: bool) -> None:
        self.nanos = nanos
        self.zoned = zoned


def as_json(field: Field, value: Any) -> Any:
    """A table's value as JSON has it; what JSON has not becomes a text, which is as invalid."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Instant):
        return stamp(field, value.nanos, zoned=value.zoned)
    number = float(value)
    if np.isnan(number):
        return None
    return number if np.isfinite(number) else str(number)


def stamp(field: Field, nanos: int, *, zoned: bool = True) -> str | int | float:
    """An instant as this field takes it: ISO text (with Z, or wall-clock time), or a number."""
    if field.epoch is not None:
        units, rest = divmod(nanos * EPOCH_UNITS[field.epoch], NANOS)
        return units if not rest else nanos / (NANOS // EPOCH_UNITS[field.epoch])
    seconds, rest = divmod(nanos, NANOS)
    text = (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    text = text.rjust(19, "0")  # years before 1000
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{text}{fraction}{'Z' if zoned else ''}"


def generated(field: Field, seed: int) -> Any:
    """A plausible value that is nobody's, the same for the same seed."""
    if field.example is not None:
        return field.example
    draw = np.random.default_rng(seed)
    if field.kind == "boolean":
        return bool(draw.integers(2))
    if field.vocabulary:
        text = field.vocabulary[seed % len(field.vocabulary)]  # declared, so no secret
        return int(text) if field.of == "integer" else text
    if field.kind == "category":
        return int(draw.integers(1_000)) if field.of == "integer" else f"generated-{seed % 1_000}"
    if field.kind == "timestamp":
        day = int(draw.integers(365))
        return stamp(field, (GENERATED_FROM + day * 86_400) * NANOS)
    low = field.low if field.low is not None else min(0.0, field.high or 0.0)
    high = field.high if field.high is not None else low + 100.0
    return round(float(draw.uniform(low, high)), 3) if high - low > 1 else (low + high) / 2
