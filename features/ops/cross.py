"""Pairs of two categories as one category: a code per pair, from the two codes.

A grid has a place for each pair of codes, unknown and missing included; in it stands the code of
the pair. 0..P-1 are the pairs that are known, P is unknown and P + 1 missing, as of a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from features.errors import FitError
from features.expressions import Category
from features.nodes import Params
from features.ops.base import Call, Context, FitInput, Op, Text
from features.ops.combine import side

if TYPE_CHECKING:
    from features.graph import GraphBuilder

LARGEST_GRID: Final = 2**21
"""Pairs of codes, 8 bytes each in the graph: two fields of 1,000 texts have half as many."""


def written(text: Text) -> str:
    """A text, or a pair as `UA&EWR`; a pair is written so that no two are written alike."""
    return text if isinstance(text, str) else "&".join(map(_side, text))


def _side(text: str | None) -> str:
    if text is None:
        return "#missing"
    escaped = text.replace("\\", "\\\\").replace("&", "\\&")
    return f"#{escaped}" if escaped.startswith("#") else escaped


# fitting


def _learns_pairs(params: Params) -> bool:
    return "pairs" not in params


def _fit_cross(fit: FitInput) -> dict[str, Any]:
    """The most frequent pairs; equally frequent ones in the order of their codes."""
    left, right = fit.texts
    frame = _frame(len(left), len(right), fit.params, fit.where)
    width = frame.shape[1]
    places = (fit.columns[0] * width + fit.columns[1]).astype(np.int64)
    counts = np.bincount(places, minlength=frame.size)
    counts[frame.ravel() != _NEITHER] = 0
    seen = np.flatnonzero(counts)
    if not len(seen):
        raise FitError(
            f"{fit.where}: no training row has a value in both; check the columns, or declare "
            "cross(..., pairs=[...])"
        )
    chosen = seen[np.argsort(-counts[seen], kind="stable")][: fit.params["max_pairs"]]
    sides = [*left, None, None], [*right, None, None]
    return {"pairs": [[sides[0][place // width], sides[1][place % width]] for place in chosen]}


# the grid


UNKNOWN, MISSING = range(2)
_NEITHER: Final = -1


def _frame(left: int, right: int, params: Params, where: str) -> NDArray[np.int64]:
    """Which pairs of codes are unknown or missing whatever the pairs are, (left + 2, right + 2).

    A null side makes the pair missing, or where null is a value the two of them; else an unknown
    side makes it unknown.
    """
    if (left + 2) * (right + 2) > LARGEST_GRID:
        raise FitError(
            f"{where}: {left:,} texts by {right:,} are too many pairs of codes, at most "
            f"{LARGEST_GRID:,} fit; declare the fields with a smaller max_vocabulary"
        )
    frame = np.full((left + 2, right + 2), _NEITHER)
    frame[left, :] = frame[:, right] = UNKNOWN
    if params.get("null") == "value":
        frame[left + 1, right + 1] = MISSING
    else:
        frame[left + 1, :] = frame[:, right + 1] = MISSING
    return frame


def _grid(call: Call, context: Context) -> NDArray[np.float64]:
    """The code of each pair of codes; pairs of texts that no vocabulary has have no place."""
    assert call.expression is not None
    left, right = map(context.texts, call.expression.args)
    frame = _frame(len(left), len(right), call.params, repr(call.expression))
    pairs = context.texts(call.expression)
    grid = np.where(frame == MISSING, len(pairs) + 1.0, float(len(pairs)))
    rows, columns = _codes(left), _codes(right)
    for code, (one, other) in enumerate(pairs):
        if one in rows and other in columns:
            grid[rows[one], columns[other]] = code
    return grid


def _codes(texts: Sequence[Text]) -> dict[Text | None, int]:
    return {None: len(texts) + 1} | {text: code for code, text in enumerate(texts)}


def _lower_cross(b: GraphBuilder, calls: Sequence[Call], context: Context) -> str:
    """All grids end to end and one Gather; total for any float64 as the tables of categories are.

    The place of a pair is code * width of the other side + other code.
    """
    grids = [_grid(call, context) for call in calls]
    widths = [float(grid.shape[1]) for grid in grids]
    moved = b.node("Mul", [side(b, calls, 0), b.vector(widths)])
    place = b.to_integers(b.node("Add", [moved, side(b, calls, 1)]))
    lengths = np.array([[grid.size for grid in grids]])
    bounded = b.node("Max", [place, b.constant([[0]], np.int32)])
    index = b.node("Min", [bounded, b.constant(lengths - 1, np.int32)])
    if len(grids) > 1:
        starts = np.cumsum(lengths, axis=1) - lengths
        index = b.node("Add", [index, b.constant(starts, np.int32)])
    flat = np.concatenate([grid.ravel() for grid in grids])
    return b.node("Gather", [b.constant(flat), index], axis=0)


CROSS_OPS: Final = (
    Op(
        name="cross/1",
        doc="A category of pairs of two categories.",
        gives=Category,
        lower=_lower_cross,
        params=("pairs", "max_pairs", "null"),
        fit=_fit_cross,
        learns=_learns_pairs,
    ),
)
