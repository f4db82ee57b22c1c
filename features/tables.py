"""Tables of any make as Arrow: pandas, polars, pyarrow, and dicts of arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import FitError, TableError

TableLike: TypeAlias = Any
"""pandas or polars DataFrame, pyarrow Table or RecordBatch, or a mapping of names to arrays."""


def to_arrow(table: TableLike, names: Sequence[str]) -> pa.Table:
    """The named columns as an Arrow table; NaN of pandas and numpy is null.

    Raises:
        TableError: no table, a column that is missing or there twice, or one Arrow cannot hold.
    """
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    _check_columns(_column_names(table), names)
    try:
        return _select(table, names)
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise TableError(
            f"the columns are not of one length, or one mixes types or has a type that Arrow "
            f"cannot hold: {error}"
        ) from error


def _check_columns(available: Sequence[str], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in available]:
        raise TableError(
            f"the table has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, available))}. Add them, null where unknown, or drop the features"
        )
    if twice := [name for name in names if available.count(name) > 1]:
        raise TableError(
            f"the table has more than one column {', '.join(map(repr, twice))}; "
            "rename or drop the others"
        )


def _column_names(table: TableLike) -> list[str]:
    if isinstance(table, pa.Table):
        return list(table.column_names)
    if isinstance(table, Mapping):
        return [name for name in table if isinstance(name, str)]
    if not hasattr(table, "collect") and hasattr(table, "columns"):
        return [name for name in table.columns if isinstance(name, str)]
    hint = ": call its collect() first" if hasattr(table, "collect") else ""
    raise TableError(
        f"cannot read a table from {type(table).__name__}{hint}; expected a pandas or polars "
        "DataFrame, a pyarrow Table, or a dict of arrays"
    )


def _select(table: TableLike, names: Sequence[str]) -> pa.Table:
    if isinstance(table, pa.Table):
        return table.select(list(names))
    if isinstance(table, Mapping):
        return pa.table({name: _array(table[name]) for name in names})
    if hasattr(table, "to_arrow"):  # polars
        return table.select(list(names)).to_arrow()
    return pa.Table.from_pandas(table[list(names)], preserve_index=False)


def _array(values: Any) -> Any:
    is_arrow = isinstance(values, (pa.Array, pa.ChunkedArray))
    return values if is_arrow else pa.array(values, from_pandas=True)


def chunks(column: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """First row and values of each piece of a column."""
    start = 0
    for chunk in column.chunks:
        yield start, chunk
        start += len(chunk)


def target_of(table: TableLike, target: Any) -> NDArray[np.float64]:
    """The target as float64 (n,), null as NaN: a column of the table, or values.

    Raises:
        FitError: it is neither numeric nor boolean.
    """
    if getattr(target, "ndim", 1) != 1:
        raise FitError(
            f"the target has the shape {tuple(target.shape)}; give one value for each row, of one "
            "dimension: y.ravel(), or one column of a table"
        )
    if isinstance(target, str):
        column = to_arrow(table, [target]).column(target)
    else:
        column = to_arrow({"target": target}, ["target"]).column("target")
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_boolean(kind)):
        raise FitError(f"the target is {kind}; convert it to numbers, or to booleans for 0 and 1")
    values = pc.cast(column, pa.float64(), safe=False)
    return np.array(values.fill_null(np.nan).to_numpy())
