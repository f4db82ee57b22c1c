"""Tables of records in files: CSV, JSON lines, and Parquet where pyarrow is installed."""

import csv
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from features.fields import Field
from server.json_lines import Column, Unreadable, records_of, scan

SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
NO_VALUE: Final = ("", "NA", "NaN", "nan", "null", "None")
"""Cells of a CSV file that are no value."""

Columns = dict[str, list[Any]]


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
        Unreadable: there is no such file, or it is damaged; its chunks raise it too.
    """
    if not path.is_file():
        raise Unreadable(f"there is no file {path}")
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
        raise Unreadable(f"{path} cannot be read: {error}") from error


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
        rows = filter(None, csv.reader(file))  # a line with nothing in it is no row
        names = next(rows, [])
        places = [
            (names.index(name), name, read) for name, read in readers.items() if name in names
        ]
        done = 0
        while some := list(islice(rows, size)):
            for number, row in enumerate(some, start=done + 1):
                if len(row) != len(names):
                    raise Unreadable(
                        f"{path}: row {number} has {len(row)} cells and the head {len(names)}; "
                        "give every row as many (a cell with a comma needs quotes)"
                    )
            done += len(some)
            records = [{name: read(row[place]) for place, name, read in places} for row in some]
            yield Chunk({name: [r[i] for r in some] for i, name in enumerate(names)}, records)


def _cell_reader(field: Field) -> Callable[[str], Any]:
    """How a cell becomes what a record would hold; what cannot be read stays text: invalid."""
    if field.kind == "number" or field.epoch:
        read: Callable[[str], Any] = partial(_number, float)
    elif field.kind == "boolean":
        read = {"true": True, "false": False}.__getitem__
    else:
        read = partial(_number, int) if field.of == "integer" else str

    def cell(text: str) -> Any:
        if text in NO_VALUE:
            return None
        try:
            return read(text.lower() if field.kind == "boolean" else text)
        except (ValueError, KeyError):
            return text

    return cell


def _number(kind: Callable[[str], Any], text: str) -> Any:
    """As JSON would have it: Python takes `1_000` for a number too."""
    if "_" in text:
        raise ValueError(text)
    return kind(text)


def _parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        n_rows = file.metadata.num_rows

    def chunks(size: int) -> Iterator[Chunk]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(size):
                table = pa.Table.from_batches([batch])
                yield Chunk({}, [], table)

    return Source(n_rows, chunks)
