"""The encoder of tables (pandas, polars, Arrow, a dict of arrays): whole columns at once, through Arrow.

It gives the bits that the record encoder gives for the same values; where a column's type could only give
other bits (float32, decimals, float codes) it refuses and says what to do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.encoding import (
    EARLIEST,
    LATEST,
    Coding,
    Encoded,
    describe,
    epoch_factor,
    normalizer,
    parse_timestamp,
)
from features.errors import TableError
from features.fields import INVALID, LARGEST_EXACT_INTEGER, MISSING, OUT_OF_BOUNDS, UNKNOWN

Values: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.uint8]

TableLike: TypeAlias = Any
"""pandas or polars DataFrame, pyarrow Table or RecordBatch, or a mapping of column names to arrays."""

_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_ROWS_A_BATCH: Final = 65_536


class TableEncoder:
    """Tables to rows and flags, by the same rules as `RecordEncoder`."""

    def __init__(self, columns: Sequence[Coding]) -> None:
        self._columns = tuple(columns)

    def encode(self, table: TableLike) -> Encoded:
        """Rows float64 (n, F) and flags uint8 (n, F).

        Raises:
            TableError: a column is missing or of a type that the field cannot be read from.
        """
        arrow = to_arrow(table, [coding.field.name for coding in self._columns])
        rows = np.empty((arrow.num_rows, len(self._columns)))
        flags = np.zeros(rows.shape, np.uint8)
        for index, coding in enumerate(self._columns):
            column = arrow.column(coding.field.name)
            for start, chunk in _chunks(column):
                stop = start + len(chunk)
                values, troubles = _ENCODE[coding.field.kind](coding, chunk)
                rows[start:stop, index] = values
                flags[start:stop, index] = troubles
        return Encoded(rows, flags)

    def batches(self, table: TableLike) -> Iterator[Encoded]:
        """The same, in pieces that need little memory."""
        arrow = to_arrow(table, [coding.field.name for coding in self._columns])
        for start in range(0, arrow.num_rows, _MAX_ROWS_A_BATCH):
            yield self.encode(arrow.slice(start, _MAX_ROWS_A_BATCH))


def to_arrow(table: TableLike, names: Sequence[str]) -> pa.Table:
    """The named columns as an Arrow table; NaN of pandas and numpy is null."""
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    available = _column_names(table)
    if missing := [name for name in names if name not in available]:
        raise TableError(
            f"the table has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, available))}. Add them (null where unknown) or change the features"
        )
    try:
        return _select(table, names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TableError(
            f"a column mixes types or has one that Arrow cannot hold: {error}"
        ) from error


def _column_names(table: TableLike) -> list[str]:
    if isinstance(table, pa.Table):
        return list(table.column_names)
    if isinstance(table, Mapping):
        return [str(name) for name in table]
    if hasattr(table, "columns"):
        return [str(name) for name in table.columns]
    raise TableError(
        f"cannot read a table from {type(table).__name__}; expected a pandas or polars DataFrame, a pyarrow "
        "Table, or a dict of arrays"
    )


def _select(table: TableLike, names: Sequence[str]) -> pa.Table:
    if isinstance(table, pa.Table):
        return table.select(list(names))
    if isinstance(table, Mapping):
        arrays = {name: _array(table[name]) for name in names}
        return pa.table(arrays)
    if hasattr(table, "to_arrow"):
        return table.select(list(names)).to_arrow()
    return pa.Table.from_pandas(table[list(names)], preserve_index=False)


def _array(values: Any) -> Any:
    return (
        values
        if isinstance(values, (pa.Array, pa.ChunkedArray))
        else pa.array(values, from_pandas=True)
    )


def _chunks(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    start = 0
    for chunk in column.chunks:
        yield start, chunk
        start += len(chunk)


def _refuse(coding: Coding, column: pa.Array, hint: str) -> TableError:
    field = coding.field
    return TableError(
        f"column {field.name!r} is {column.type}, but the field is a {field.kind} "
        f"({describe(field)}); {hint}"
    )


def _all_null(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    return np.full(len(column), coding.missing_value), np.full(len(column), MISSING, np.uint8)


def _is_null(column: pa.Array) -> NDArray[np.bool_]:
    return column.is_null(nan_is_null=pa.types.is_floating(column.type)).to_numpy(
        zero_copy_only=False
    )


# one function a kind


def _encode_number(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    if pa.types.is_null(column.type):
        return _all_null(coding, column)
    null = _is_null(column)
    flags = np.where(null, np.uint8(MISSING), np.uint8(0))
    values, invalid = _floats(coding, column)
    invalid &= ~null
    values[null | invalid] = np.nan
    flags[invalid] = INVALID
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
    narrow = pa.types.is_floating(kind) and not pa.types.is_float64(kind)
    if narrow or pa.types.is_decimal(kind):
        if not coding.field.from_float32:
            raise _refuse(
                coding,
                column,
                "0.1 as float32 is not the 0.1 that JSON sends: read the column as float64, or declare "
                "number(..., from_float32=True) if the callers hold such values too",
            )
        column = column.cast(pa.float64())
    elif not pa.types.is_float64(kind):
        raise _refuse(coding, column, "convert it to float64 or to integers")
    values = np.array(column.fill_null(np.nan).to_numpy(zero_copy_only=False))
    return values, np.isinf(values)


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
    if pa.types.is_null(column.type):
        return _all_null(coding, column)
    if not pa.types.is_boolean(column.type):
        raise _refuse(coding, column, "convert it to booleans (nullable where needed)")
    null = _is_null(column)
    values = column.fill_null(False).to_numpy(zero_copy_only=False).astype(np.float64)
    values[null] = np.nan
    return values, np.where(null, np.uint8(MISSING), np.uint8(0))


def _encode_category(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    if pa.types.is_null(column.type):
        return _all_null(coding, column)
    indices, texts = texts_of(coding, column)
    # One more entry, the last, for null.
    codes = np.array([*_codes(coding, texts), coding.missing_value])
    values = codes[indices]
    flags = np.where(values == coding.unknown_code, np.uint8(UNKNOWN), np.uint8(0))
    flags[indices == len(texts)] = MISSING
    return values, flags


def texts_of(coding: Coding, column: pa.Array) -> tuple[NDArray[np.int64], list[str]]:
    """Position in the list of distinct normalized texts for each row, int64 (n,), and the list; null is
    the position after its end.

    Two raw values that normalize to one text are two entries here: codes are looked up by text.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not _is_category_type(coding, kind):
        wish = "integers (nullable: pandas 'Int64')" if coding.field.of == "integer" else "strings"
        raise _refuse(coding, column, f"convert it to {wish}; a float code is not what JSON sends")
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    normalize = normalizer(coding.field.normalize)
    raw = encoded.dictionary.to_pylist()
    # A dictionary may itself hold a null: its rows are null too.
    texts = [normalize(str(value)) if value is not None else "" for value in raw]
    indices = encoded.indices.cast(pa.int64()).fill_null(len(texts)).to_numpy(zero_copy_only=False)
    if None in raw:
        indices = np.where(
            np.isin(indices, [i for i, v in enumerate(raw) if v is None]), len(raw), indices
        )
    return indices, texts


def _is_category_type(coding: Coding, kind: pa.DataType) -> bool:
    if coding.field.of == "integer":
        return pa.types.is_integer(kind)
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _codes(coding: Coding, texts: Sequence[str]) -> list[float]:
    return [float(coding.codes.get(text, coding.unknown_code)) for text in texts]


def _encode_timestamp(coding: Coding, column: pa.Array) -> tuple[Values, Flags]:
    if pa.types.is_null(column.type):
        return _all_null(coding, column)
    null = _is_null(column)
    values = _seconds(coding, column)
    outside = ~((values >= EARLIEST) & (values <= LATEST + 1))
    values[null | outside] = np.nan
    flags = np.where(null, np.uint8(MISSING), np.where(outside, np.uint8(INVALID), np.uint8(0)))
    return values, flags.astype(np.uint8)


def _seconds(coding: Coding, column: pa.Array) -> Values:
    """UTC seconds; anything for null, NaN for what is no instant."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _from_instants(coding, column)
    if coding.field.epoch is not None:
        return _from_epoch(coding, column)
    if pa.types.is_dictionary(kind) or _is_category_type(coding, kind):
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        parsed = [
            np.nan
            if value is None or (found := parse_timestamp(value, coding.zone)) is None
            else found
            for value in encoded.dictionary.to_pylist()
        ]
        return np.array([*parsed, np.nan])[
            encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        ]
    raise _refuse(coding, column, "convert it to timestamps or to ISO 8601 text")


def _from_instants(coding: Coding, column: pa.Array) -> Values:
    if column.type.tz is None and coding.zone is None:
        raise _refuse(
            coding,
            column,
            "it has no zone: localize it, or declare timestamp(..., tz='...') for wall-clock times",
        )
    per_second = _PER_SECOND[column.type.unit]
    ticks = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    seconds, rest = np.divmod(ticks, per_second)
    if column.type.tz is None and coding.zone is not None:
        seconds = coding.zone.local_to_utc(seconds)
    nanos = rest * (1_000_000_000 // per_second)
    return seconds.astype(np.float64) + nanos / 1e9


def _from_epoch(coding: Coding, column: pa.Array) -> Values:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_float64(kind)):
        raise _refuse(coding, column, "convert it to integers, float64 or timestamps")
    values, invalid = _floats(coding, column)
    values[invalid] = np.nan
    return values / epoch_factor(coding.field)


_ENCODE: Final[dict[str, Callable[[Coding, pa.Array], tuple[Values, Flags]]]] = {
    "number": _encode_number,
    "boolean": _encode_boolean,
    "category": _encode_category,
    "timestamp": _encode_timestamp,
}


def count_texts(coding: Coding, table: TableLike) -> dict[str, int]:
    """How often each normalized text of a category occurs."""
    counts: dict[str, int] = {}
    column = to_arrow(table, [coding.field.name]).column(coding.field.name)
    for _, chunk in _chunks(column):
        if pa.types.is_null(chunk.type):
            continue
        indices, texts = texts_of(coding, chunk)
        found = np.bincount(indices, minlength=len(texts) + 1)
        for text, count in zip(texts, found[: len(texts)].tolist(), strict=True):
            if count:
                counts[text] = counts.get(text, 0) + count
    return counts


def numbers_of(table: TableLike, name: str) -> Values:
    """A numeric or boolean column, such as a target, as float64 (n,) with null as NaN."""
    column = pc.cast(to_arrow(table, [name]).column(name), pa.float64())
    return np.array(column.fill_null(np.nan).to_numpy())
