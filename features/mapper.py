"""Features in other engines: a callable over Arrow data that Spark and Ray send to their workers.

A worker needs numpy, onnxruntime and pyarrow: the graph is compiled before it leaves.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.encode_table import TableEncoder
from features.errors import DeclarationError, TableError
from features.runtime import Session, run_in_chunks


class ArrowMapper:
    """Records in Arrow to feature columns, float32, the bits of `Fitted.transform`.

    Made by `Fitted.arrow_mapper`. It pickles without its session: each process opens one of its
    own, with one thread, when the first rows come. NaN stays NaN and is not null.
    """

    def __init__(
        self, encoder: TableEncoder, model: bytes, features: Sequence[str], keep: Sequence[str]
    ) -> None:
        if isinstance(keep, str):
            raise DeclarationError(f"keep={keep!r} is a text; list the columns: keep=[{keep!r}]")
        if taken := sorted({name for name in keep if name in features or keep.count(name) > 1}):
            raise DeclarationError(
                f"column {', '.join(map(repr, taken))} to keep would be there twice: features have "
                "that name, or `keep` says it twice; rename the column before, or leave it out"
            )
        self._encoder = encoder
        self._model = model
        self._features = tuple(features)
        self._keep = tuple(keep)

    def __call__(self, data: Any) -> Any:
        """A table to a table, a record batch to a record batch, an iterator to an iterator.

        Raises:
            TableError: a column is missing or of a type that its field cannot be read from.
        """
        if isinstance(data, (pa.Table, pa.RecordBatch)):
            return self._mapped(data)
        return map(self._mapped, data)

    def _mapped(self, batch: Any) -> Any:
        names: list[str] = batch.schema.names
        if missing := [name for name in self._keep if name not in names]:
            raise TableError(
                f"there is no column {', '.join(map(repr, missing))} to keep; the columns are "
                f"{', '.join(map(repr, names))}"
            )
        columns = [pa.array(column) for column in np.ascontiguousarray(self._rows(batch).T)]
        schema = pa.schema(
            [batch.schema.field(name) for name in self._keep]
            + [pa.field(name, pa.float32()) for name in self._features]
        )
        kept = [batch.column(name) for name in self._keep]
        return type(batch).from_arrays([*kept, *columns], schema=schema)

    def _rows(self, batch: Any) -> NDArray[np.float32]:
        """Features float32 (n, K)."""
        parts = [np.empty((0, len(self._features)), np.float32)]
        for piece in self._encoder.batches(self._encoder.to_arrow(batch)):
            parts += [outputs[0] for outputs in run_in_chunks(self._session, piece.rows)]
        return np.concatenate(parts)

    @cached_property
    def _session(self) -> Session:
        return Session(self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}
