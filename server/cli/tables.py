"""Tables that commands read and write: CSV, JSON lines, and Parquet where pyarrow is installed."""

import csv
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import typer

from features.fields import Field
from models.manifest import OutputSpec
from server.cli.json_lines import Column, records_of, scan

NO_VALUE: Final = ("", "NA", "NaN", "nan", "null", "None")
"""Cells of a CSV file that are no value."""

OURS: Final = "keelmark_"
"""Put before our columns where the input has one of that name."""

Columns = dict[str, list[Any]]
TEXT: Final = Column(str)
"""What every column of a CSV file holds."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows: `columns` as they were read, and `records` or a `table` for the encoder.

    `kinds` says what the columns hold in all of the input, where that is not text.
    """

    columns: Columns
    records: list[dict[str, Any]]
    table: Any = None
    kinds: Mapping[str, Column] = field(default_factory=dict[str, Column])


@dataclass(frozen=True, slots=True)
class Source:
    """A table to read: about how many rows it has, and chunks of so many rows."""

    n_rows: int | None
    chunks: Callable[[int], Iterator[Chunk]]


def open_source(path: Path, fields: Iterable[Field]) -> Source:
    """The table in a file, by its suffix.

    Raises:
        BadParameter: there is no such file.
    """
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {path}")
    with readable(path):
        source = _source(path, fields)
    return Source(source.n_rows, lambda size: _guarded(path, source.chunks(size)))


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Says of a file that cannot be read that it is the caller's to look at."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError, csv.Error) as error:
        # pyarrow's errors are of these kinds too.
        raise typer.BadParameter(f"{path} cannot be read: {error}") from error


def _guarded(path: Path, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    with readable(path):
        some = next(chunks, None)
    while some is not None:
        yield some
        with readable(path):
            some = next(chunks, None)


def _source(path: Path, fields: Iterable[Field]) -> Source:
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".jsonl":
        return _json_lines(path)
    readers = {field.name: _cell_reader(field) for field in fields}
    return Source(max(0, _lines(path) - 1), lambda size: _csv(path, readers, size))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))


def _json_lines(path: Path) -> Source:
    found = scan(path)

    def chunks(size: int) -> Iterator[Chunk]:
        records = records_of(path)
        while some := list(islice(records, size)):
            columns = {name: [record.get(name) for record in some] for name in found.columns}
            yield Chunk(columns, some, kinds=found.columns)

    return Source(found.rows, chunks)


def _csv(path: Path, readers: dict[str, Callable[[str], Any]], size: int) -> Iterator[Chunk]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        places = [
            (names.index(name), name, read) for name, read in readers.items() if name in names
        ]
        done = 0
        while some := list(islice(rows, size)):
            for number, row in enumerate(some, start=done + 1):
                if len(row) != len(names):
                    raise typer.BadParameter(
                        f"{path}: row {number} has {len(row)} cells and the head {len(names)}; "
                        "give every row as many (a cell with a comma needs quotes)"
                    )
            done += len(some)
            records = [{name: read(row[place]) for place, name, read in places} for row in some]
            yield Chunk({name: [r[i] for r in some] for i, name in enumerate(names)}, records)


def _cell_reader(field: Field) -> Callable[[str], Any]:
    """How a cell becomes what a record would hold; what cannot be read stays text: invalid."""
    if field.kind == "number" or field.epoch:
        read: Callable[[str], Any] = float
    elif field.kind == "boolean":
        read = {"true": True, "false": False}.__getitem__
    else:
        read = int if field.of == "integer" else str

    def cell(text: str) -> Any:
        if text in NO_VALUE:
            return None
        try:
            return read(text.lower() if field.kind == "boolean" else text)
        except (ValueError, KeyError):
            return text

    return cell


def _parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)

    def chunks(size: int) -> Iterator[Chunk]:
        for batch in file.iter_batches(size):
            table = pa.Table.from_batches([batch])
            yield Chunk({}, [], table)

    return Source(file.metadata.num_rows, chunks)


# writing

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
