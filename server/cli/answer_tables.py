"""Tables of answers that commands write: CSV, JSON lines, Parquet where pyarrow is installed."""

import csv
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import typer

from models.manifest import OutputSpec
from server.json_lines import Column
from server.tables import Chunk, Columns

OURS: Final = "keelmark_"
"""Put before our columns where the input has one of that name."""

TEXT: Final = Column(str)
"""What every column of a CSV file holds."""

Write = Callable[[Chunk, Columns], None]


@contextmanager
def table_writer(path: Path | None, outputs: Sequence[OutputSpec]) -> Generator[Write]:
    """Takes chunks with the columns to add; a file by its suffix, or CSV on standard output.

    `outputs` are the bundle's: their columns get a type of their own in Parquet.

    Raises:
        BadParameter: a suffix that cannot be written, a file that cannot be made.
    """
    if path is None:
        yield _csv_writer(sys.stdout)
    elif path.suffix == ".parquet":
        with writable(path), path.open("wb") as file, _parquet_writer(file, outputs) as write:
            yield write
    elif path.suffix in (".csv", ".jsonl"):
        with writable(path), path.open("w", newline="", encoding="utf-8") as file:
            yield _csv_writer(file) if path.suffix == ".csv" else _json_writer(file)
    else:
        raise typer.BadParameter(f"{path}: answers are written as .csv, .jsonl or .parquet")


@contextmanager
def writable(path: Path) -> Generator[None]:
    """Says of a file that cannot be written why, and what to do."""
    if not path.parent.is_dir():
        raise typer.BadParameter(
            f"{path} cannot be written: there is no folder {path.parent}; make it, or name another"
        )
    try:
        yield
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be written: {error.strerror or error}; name another file with --out"
        ) from error


def added(columns: Iterable[str], new: Columns) -> Columns:
    """The new columns under names that the input has not."""
    taken = set(columns)
    return {(OURS + name if name in taken else name): values for name, values in new.items()}


def _all_columns(chunk: Chunk, new: Columns) -> Columns:
    columns = chunk.columns if chunk.table is None else chunk.table.to_pydict()
    return columns | added(columns, new)


def _csv_writer(file: IO[str]) -> Write:
    writer = csv.writer(file, lineterminator="\n")
    is_begun = False

    def write(chunk: Chunk, new: Columns) -> None:
        nonlocal is_begun
        columns = _all_columns(chunk, new)
        if not is_begun:
            writer.writerow(columns)
            is_begun = True
        writer.writerows(zip(*columns.values(), strict=True))

    return write


def _json_writer(file: IO[str]) -> Write:
    def write(chunk: Chunk, new: Columns) -> None:
        columns = _all_columns(chunk, new)
        for row in zip(*columns.values(), strict=True):
            record = dict(zip(columns, row, strict=True))
            file.write(msgspec.json.encode(record, enc_hook=str).decode() + "\n")

    return write


@contextmanager
def _parquet_writer(file: IO[bytes], outputs: Sequence[OutputSpec]) -> Generator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {output.name: _arrow_type(output) for output in outputs}
    kinds["prediction"] = _arrow_type(outputs[0])
    writer: pq.ParquetWriter | None = None

    def write(chunk: Chunk, new: Columns) -> None:
        nonlocal writer
        table = _arrow_table(chunk) if chunk.table is None else chunk.table
        names = added(table.column_names, new)
        for own, (name, values) in zip(new, names.items(), strict=True):
            table = table.append_column(name, pa.array(values, kinds.get(own, pa.string())))
        if writer is None:
            writer = pq.ParquetWriter(file, table.schema)
        writer.write_table(table.cast(writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def _arrow_table(chunk: Chunk) -> Any:
    import pyarrow as pa

    columns = {
        name: _arrow_column(name, values, chunk.kinds.get(name, TEXT))
        for name, values in chunk.columns.items()
    }
    return pa.table(columns)


def _arrow_column(name: str, values: list[Any], column: Column) -> Any:
    """A column of the input, with the type that all of it fits; lists and objects as JSON text."""
    import pyarrow as pa

    if column.mix:
        raise typer.BadParameter(
            f"column {name!r} has {column.mix}, and a column of Parquet has one type; write .jsonl "
            "or .csv, or give the column values of one kind"
        )
    if column.kind in (list, dict):
        values = [None if v is None else msgspec.json.encode(v).decode() for v in values]
    by_kind: dict[type, Any] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    try:
        return pa.array(values, by_kind.get(column.kind or str, pa.string()))
    except (ValueError, OverflowError) as error:  # a whole number beyond 64 bits
        raise typer.BadParameter(
            f"column {name!r} cannot be written as Parquet ({error}); write .jsonl or .csv"
        ) from error


def _arrow_type(output: OutputSpec) -> Any:
    """The column type of an output's answers, whether or not any row has one."""
    import pyarrow as pa

    if output.kind in ("class_probabilities", "vector"):
        return pa.list_(pa.float64())
    if output.kind in ("probability", "value"):
        return pa.float64()
    by_class = {str: pa.string(), bool: pa.bool_(), int: pa.int64()}
    if output.classes:
        return by_class[type(output.classes[0])]
    return {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64()}.get(
        output.dtype, pa.float64()
    )
