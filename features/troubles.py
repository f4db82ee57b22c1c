"""Telling people how many values of a table were not what the fields declare."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import FLAG_NAMES, INVALID, OUT_OF_BOUNDS, Field


def count_flags(encoded: Encoded) -> NDArray[np.int64]:
    """Rows per field and flag, int64 (F, 5)."""
    counts = [(encoded.flags == flag).sum(axis=0) for flag in range(len(FLAG_NAMES))]
    return np.stack(counts, axis=1).astype(np.int64)


def report(fields: Sequence[Field], counts: NDArray[np.int64], what: str) -> None:
    """One line on stderr for each field with values that were invalid or out of bounds."""
    for field, row in zip(fields, counts.tolist(), strict=True):
        found = [f"{row[f]:,} {FLAG_NAMES[f]}" for f in (INVALID, OUT_OF_BOUNDS) if row[f]]
        if found:
            sys.stderr.write(f"{what}: {field.name}: {' and '.join(found)} of {sum(row):,} rows\n")
