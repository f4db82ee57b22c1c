"""A loose program: what a worker of Spark or Ray does with a mapper it was sent.

    python map_features.py MAPPER ROWS OUT iterator|table

It unpickles the mapper, gives it the rows of an Arrow file as record batches or as a table, and
writes what it gives. The libraries that only authors have cannot be imported here.
"""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

OF_AUTHORS = ("lightgbm", "onnx", "polars", "sklearn")


def main(mapper: str, rows: str, out: str, how: str) -> None:
    for library in OF_AUTHORS:
        sys.modules[library] = None  # pyright: ignore[reportArgumentType]  (importing it raises)
    mapped: Any = pickle.loads(Path(mapper).read_bytes())
    table = pa.ipc.open_file(rows).read_all()
    made = mapped(table) if how == "table" else pa.Table.from_batches(mapped(batches(table)))
    with pa.ipc.new_file(out, made.schema) as file:
        file.write_table(made)


def batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Of uneven sizes, and an empty one."""
    yield from table.slice(0, 0).to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
    yield from table.to_batches(max_chunksize=77)


if __name__ == "__main__":
    main(*sys.argv[1:])
