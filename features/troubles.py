"""Telling people how many values of a table were not what the fields declare."""

import sys
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import FLAG_NAMES, INVALID, MISSING, OK, OUT_OF_BOUNDS, Field


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


def warn_of_nothing_valid(fields: Sequence[Field], counts: NDArray[np.int64]) -> None:
    """Warns of a field without a valid value among those that are there, also where it is quiet.

    Such a column was mostly read in another way than its field is declared, dates as text say.

    Args:
        fields: in the row's order.
        counts: rows per field and flag.
    """
    for field, of_field in zip(fields, counts.tolist(), strict=True):
        if of_field[INVALID] and of_field[INVALID] + of_field[MISSING] == sum(of_field):
            warnings.warn(
                f"field {field.name!r}: none of its {of_field[INVALID]:,} values is a valid "
                f"{field.kind}, so all count as missing; look at how the column was read (dates "
                "stand as text where pandas was not told to parse them)",
                stacklevel=4,
            )
