"""Telling people how many values of a table were not what the fields declare."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import FLAG_NAMES, INVALID, OK, OUT_OF_BOUNDS, Field


def count_flags(encoded: Encoded) -> NDArray[np.int64]:
    """Rows per field and flag, int64 (F, 5)."""
    flags = encoded.flags
    counts = np.zeros((flags.shape[1], len(FLAG_NAMES)), np.int64)
    counts[:, OK] = len(flags)
    for field in np.flatnonzero(flags.any(axis=0)).tolist():  # most fields have no trouble
        counts[field] = np.bincount(flags[:, field], minlength=len(FLAG_NAMES))
    return counts


def report(fields: Sequence[Field], counts: NDArray[np.int64], what: str) -> None:
    """One line on stderr for each field with values that were invalid or out of bounds."""
    for field, row in zip(fields, counts.tolist(), strict=True):
        found = [f"{row[f]:,} {FLAG_NAMES[f]}" for f in (INVALID, OUT_OF_BOUNDS) if row[f]]
        if found:
            sys.stderr.write(f"{what}: {field.name}: {' and '.join(found)} of {sum(row):,} rows\n")
