"""Background: a few training rows that explanations compare a record with."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from features.fields import Field
from models.bins import FloatArray

N_ROWS: Final = 15
SAMPLE_ROWS: Final = 500
"""The medoid is the most central of so many rows: the distance of every pair is computed."""

EncodedRow = tuple[float | None, ...]


class Background(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Encoded training rows in the order of the fields; null is a null number.

    Attributes:
        medoid: the row nearest to all others.
        rows: up to 15 others, taken at random.

    Values of sensitive fields are not those of any row: the mean, or the most frequent code.
    """

    medoid: EncodedRow
    rows: tuple[EncodedRow, ...]


def background(fields: Sequence[Field], rows: FloatArray, *, seed: int) -> Background | None:
    """The background of encoded training rows (n, F); None without rows or fields."""
    if not rows.size:
        return None
    random = np.random.default_rng(seed)
    chosen = random.choice(len(rows), min(len(rows), SAMPLE_ROWS), replace=False)
    sample = rows[chosen]
    medoid = int(np.argmin(_distances(fields, sample).sum(axis=1)))
    others = [i for i in range(len(sample)) if i != medoid][:N_ROWS]
    shown = _without_sensitive(fields, rows, sample)
    return Background(medoid=_plain(shown[medoid]), rows=tuple(_plain(shown[i]) for i in others))


def _distances(fields: Sequence[Field], rows: FloatArray) -> FloatArray:
    """Distance of every pair of rows (n, n), after Gower (Biometrics 27, 1971).

    Codes differ by 0 or 1, numbers by the difference of their ranks, a missing number by 1.
    """
    total = np.zeros((len(rows), len(rows)))
    for position, field in enumerate(fields):
        column = rows[:, position]
        if field.kind in ("number", "timestamp"):
            total += _rank_distances(column)
        else:
            total += column[:, None] != column[None, :]
    return total


def _rank_distances(column: FloatArray) -> FloatArray:
    is_null = np.isnan(column)
    known = np.sort(column[~is_null])
    ranks = np.searchsorted(known, column) / max(len(known), 1)
    distances = np.abs(ranks[:, None] - ranks[None, :])
    one_null = is_null[:, None] != is_null[None, :]
    distances[one_null] = 1.0
    return distances


def _without_sensitive(fields: Sequence[Field], rows: FloatArray, sample: FloatArray) -> FloatArray:
    shown = sample.copy()
    for position, field in enumerate(fields):
        if field.sensitive is not None:
            shown[:, position] = _typical(field, rows[:, position])
    return shown


def _typical(field: Field, column: FloatArray) -> float:
    known = column[np.isfinite(column)]
    if not len(known):
        return np.nan
    if field.kind in ("number", "timestamp"):
        return float(known.mean())
    codes, counts = np.unique(known, return_counts=True)
    return float(codes[counts.argmax()])


def _plain(row: FloatArray) -> EncodedRow:
    return tuple(value if np.isfinite(value) else None for value in row.tolist())
