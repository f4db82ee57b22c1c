"""The encoder of tables (pandas, polars, Arrow, a dict of arrays): whole columns at once.

It gives the bits that the record encoder gives for the same values; where a column's type could
only give other bits (float32, decimals, float codes) it refuses and says what to do.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.encoding import Coding, Encoded, describe, epoch_factor
from features.errors import TableError
from features.fields import INVALID, LARGEST_EXACT_INTEGER, MISSING, OK, OUT_OF_BOUNDS, UNKNOWN
from features.normalization import normalizer
from features.tables import TableLike, chunks, to_arrow
from features.timestamps import EARLIEST, LATEST, timestamp_parser

Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.uint8]

_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
BATCH_ROWS: Final = 16_384


class TableEncoder:
    """Tables to rows and flags, by the same rules as `RecordEncoder`."""

    def __init__(self, columns: Sequence[Coding]) -> None:
        self._columns = tuple(columns)

    def encode(self, table: TableLike) -> Encoded:
        """Rows float64 (n, F) and flags uint8 (n, F).

        Raises:
            TableError: a column is missing or of a type that the field cannot be read from.
        """
        arrow = self.to_arrow(table)
        shape = (arrow.num_rows, len(self._columns))
        rows, flags = np.empty(shape), np.zeros(shape, np.uint8)
        for index, coding in enumerate(self._columns):
            for start, chunk in chunks(arrow.column(coding.field.name)):
                part = slice(start, start + len(chunk))
                rows[part, index], flags[part, index] = _encode(coding, chunk)
        return Encoded(rows, flags)

    def to_arrow(self, table: TableLike) -> pa.Table:
        """The columns of the fields, as an Arrow table."""
        return to_arrow(table, [coding.field.name for coding in self._columns])

    def batches(self, table: pa.Table) -> Iterator[Encoded]:
        """What `encode` gives, in pieces that need little memory."""
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield self.encode(table.slice(start, BATCH_ROWS))


def _encode(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    if pa.types.is_null(column.type) or _has_nothing(column):
        return _fill(len(column), coding.missing_value), np.full(len(column), MISSING, np.uint8)
    return _ENCODE[coding.field.kind](coding, column)


def _has_nothing(column: pa.Array) -> bool:
    """Whether every value is null: whatever the type, as that of an empty column is a guess."""
    return len(column) > 0 and all(_is_null(some).all() for some in (column[:1], column))


def _fill(length: int, value: float) -> Values:
    return np.full(length, value)


def _refuse(coding: Coding, column: pa.Array, hint: str) -> TableError:
    field = coding.field
    return TableError(
        f"column {field.name!r} is {column.type}, but the field is a {field.kind} "
        f"({describe(field)}); {hint}"
    )


def _is_null(column: pa.Array) -> NDArray[np.bool_]:
    is_floating = pa.types.is_floating(column.type)
    return column.is_null(nan_is_null=is_floating).to_numpy(zero_copy_only=False)


def _flags(null: NDArray[np.bool_], invalid: NDArray[np.bool_]) -> Flags:
    flags = np.where(invalid, np.uint8(INVALID), np.uint8(OK))
    flags[null] = MISSING
    return flags


# numbers


def _encode_number(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    values, invalid = _floats(coding, column)
    null = _is_null(column)
    values[null | invalid] = np.nan
    flags = _flags(null, invalid)
    _apply_bounds(coding, values, flags)
    return values, flags


def _floats(coding: Coding, column: pa.Array) -> tuple[Values, NDArray[np.bool_]]:
    """The column as float64, and where a value is none that JSON could send."""
    kind = column.type
    if pa.types.is_integer(kind):
        filled = column.fill_null(0).to_numpy(zero_copy_only=False)
        beyond = filled > LARGEST_EXACT_INTEGER
        if pa.types.is_signed_integer(kind):
            beyond |= filled < -LARGEST_EXACT_INTEGER
        return filled.astype(np.float64), beyond
    is_narrow = pa.types.is_floating(kind) and not pa.types.is_float64(kind)
    if is_narrow or pa.types.is_decimal(kind):
        column = _widened(coding, column)
    elif not pa.types.is_float64(kind):
        raise _refuse(coding, column, "convert it to float64 or to integers")
    values = np.array(column.fill_null(np.nan).to_numpy(zero_copy_only=False))
    return values, np.isinf(values)


def _widened(coding: Coding, column: pa.Array) -> pa.Array:
    if not coding.field.from_float32:
        raise _refuse(
            coding,
            column,
            "0.1 as float32 is not the 0.1 that JSON sends: read the column as float64, or declare "
            "number(..., from_float32=True) if the callers hold such values too",
        )
    if pa.types.is_decimal(column.type):
        # By way of text, as JSON sends it: the direct cast does not round to the nearest float64.
        column = column.cast(pa.string())
    return column.cast(pa.float64())


def _apply_bounds(coding: Coding, values: Values, flags: Flags) -> None:
    low, high = coding.lowest, coding.highest
    below, above = values < low, values > high
    outside = below | above
    if not outside.any():
        return
    flags[outside] = OUT_OF_BOUNDS
    if coding.field.out_of_bounds == "null":
        values[outside] = np.nan
    elif coding.field.out_of_bounds == "clip":
        values[below], values[above] = low, high


def _encode_boolean(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    if not pa.types.is_boolean(column.type):
        raise _refuse(coding, column, "convert it to booleans (nullable where needed)")
    null = _is_null(column)
    values = column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.float64)
    values[null] = np.nan
    return values, np.where(null, np.uint8(MISSING), np.uint8(OK))


# categories


def _encode_category(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    indices, texts = _texts(coding, column)
    known = [coding.codes.get(text, coding.unknown_code) for text in texts]
    # One more entry, the last, for null.
    values = np.array([*known, coding.missing_value], np.float64)[indices]
    flags = np.where(values == coding.unknown_code, np.uint8(UNKNOWN), np.uint8(OK))
    flags[indices == len(texts)] = MISSING
    return values, flags


def _texts(coding: Coding, column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Each row's position in the list of distinct texts, int64 (n,), and the list.

    Null is the position after its end. Two raw values that normalize to one text are two entries.
    """
    if not _is_category_type(coding, _value_type(column)):
        wish = "integers (nullable: pandas 'Int64')" if coding.field.of == "integer" else "strings"
        raise _refuse(coding, column, f"convert it to {wish}; a float code is not what JSON sends")
    indices, values = _distinct(column)
    normalize = normalizer(coding.field.normalize)
    return indices, [normalize(str(value)) for value in values]


def _value_type(column: pa.Array) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def _distinct(column: pa.Array) -> tuple[NDArray[np.int64], list[object]]:
    """Each row's position in the list of distinct values, and the list; null is after its end."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    # A dictionary may itself hold a null: its rows are null too.
    known = [value for value in values if value is not None]
    places = iter(range(len(known)))
    moved = [len(known) if value is None else next(places) for value in values]
    indices = encoded.indices.cast(pa.int64()).fill_null(len(values))
    return np.array([*moved, len(known)])[indices.to_numpy(zero_copy_only=False)], known


def _is_category_type(coding: Coding, kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) if coding.field.of == "integer" else _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def count_texts(coding: Coding, table: TableLike) -> dict[str, int]:
    """How often each normalized text of a category occurs."""
    counts: dict[str, int] = {}
    for _, chunk in chunks(to_arrow(table, [coding.field.name]).column(coding.field.name)):
        if pa.types.is_null(chunk.type):
            continue
        indices, texts = _texts(coding, chunk)
        found = np.bincount(indices, minlength=len(texts))
        for text, count in zip(texts, found.tolist(), strict=False):
            if count:
                counts[text] = counts.get(text, 0) + count
    return counts


# timestamps


def _encode_timestamp(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    values = _seconds(coding, column)
    null = _is_null(column)
    invalid = ~((values >= EARLIEST) & (values <= LATEST))
    values[null | invalid] = np.nan
    return values, _flags(null, invalid)


def _seconds(coding: Coding, column: pa.Array) -> Values:
    """UTC seconds; anything for null, NaN for what is no instant."""
    if pa.types.is_timestamp(column.type):
        return _from_instants(coding, column)
    if coding.field.epoch is not None:
        return _from_epoch(coding, column)
    if _is_text(_value_type(column)):
        return _from_texts(coding, column)
    raise _refuse(coding, column, "convert it to timestamps or to ISO 8601 text")


def _from_instants(coding: Coding, column: pa.Array) -> Values:
    is_local = column.type.tz is None
    if is_local and coding.zone is None:
        raise _refuse(
            coding,
            column,
            "it has no zone: localize it, or declare timestamp(..., tz='...') for wall-clock times",
        )
    per_second = _PER_SECOND[column.type.unit]
    ticks = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    seconds, rest = np.divmod(ticks, per_second)
    if is_local and coding.zone is not None:
        seconds = coding.zone.local_to_utc(seconds)
    if coding.field.epoch is not None:
        return _in_units(seconds * per_second + rest, per_second, epoch_factor(coding.field))
    nanos = rest * (1_000_000_000 // per_second)
    return seconds.astype(np.float64) + nanos / 1e9


def _in_units(ticks: NDArray[np.int64], per_second: int, units: float) -> Values:
    """Seconds by way of the number that a caller would send, in the field's unit of time."""
    steps = per_second / units
    if steps <= 1:
        return ticks.astype(np.float64) / steps / units
    whole, rest = np.divmod(ticks, round(steps))
    return (whole.astype(np.float64) + rest / steps) / units


def _from_epoch(coding: Coding, column: pa.Array) -> Values:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_float64(kind)):
        raise _refuse(coding, column, "convert it to integers, float64 or timestamps")
    values, invalid = _floats(coding, column)
    values[invalid] = np.nan
    return values / epoch_factor(coding.field)


def _from_texts(coding: Coding, column: pa.Array) -> Values:
    indices, texts = _distinct(column)
    parsed = map(timestamp_parser(coding.zone), map(str, texts))
    seconds = [np.nan if value is None else value for value in (*parsed, None)]
    return np.array(seconds)[indices]


_ENCODE: Final[dict[str, Callable[[Coding, pa.Array], tuple[Values, Flags]]]] = {
    "number": _encode_number,
    "boolean": _encode_boolean,
    "category": _encode_category,
    "timestamp": _encode_timestamp,
}
