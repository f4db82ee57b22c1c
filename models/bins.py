"""Bins: how values of a field or an output are grouped for counting, fixed at training.

Bins never move after training, so counts of any two windows, replicas or versions with equal bins
can be added and compared. Every value has a bin: the outer bins of numbers are open, and categories
have `#other` and `#unknown`. What may enter at all is decided in `models/columns.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_OWN_BINS: Final = 20
"""So many distinct numbers, or most frequent categories, have a bin each."""

MAX_EDGES: Final = 254
"""More than `number_bins` ever makes; a bin's number then fits into the byte that counting uses."""

QUANTILE_BINS: Final = 10
ATOM_SHARE: Final = 0.05
"""A single number with more than this share of the rows has its own bin between the deciles."""

NOT_COUNTED: Final = -1
"""The bin of a code that is not part of the shape: a missing category."""

OTHER: Final = "#other"
UNKNOWN: Final = "#unknown"
EMPTY: Final = "#empty"
"""Label of the empty text: a metric label with an empty value counts as absent."""

MAX_LABEL_BYTES: Final = 64


class NumberBins(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="number",
):
    """Bins between ascending edges: bin i holds edges[i-1] < value <= edges[i]; the outer are open.

    A single value `a` has the two edges `nextafter(a, -inf)` and `a`, where anything lies below it.

    >>> NumberBins(edges=(0.0, 10.0)).index(np.array([-1.0, 0.0, 0.1, 10.0, 11.0])).tolist()
    [0, 0, 1, 1, 2]
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not low < high for low, high in pairwise(self.edges)):
            raise ValueError("edges of bins must ascend")
        if len(self.edges) > MAX_EDGES:
            raise ValueError(f"{len(self.edges)} edges of bins, at most {MAX_EDGES} are possible")

    @property
    def labels(self) -> tuple[str, ...]:
        """`00`, `01`, ...: what the `bin` label of metrics says; the edges are in the reference."""
        return tuple(f"{i:02d}" for i in range(len(self.edges) + 1))

    def index(self, values: FloatArray) -> IntArray:
        """Bin of each value, int64 (n,); NaN is above everything: leave it out before."""
        edges = np.asarray(self.edges, np.float64)
        return edges.searchsorted(values, side="left").astype(np.int64)


class CodeBins(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="codes",
):
    """Bins of small whole numbers: category codes, booleans, classes, hours, weekdays.

    Attributes:
        labels: what the `bin` label of metrics says, one a bin, all different.
        bin_of_code: bin of each code; `NOT_COUNTED` for a code outside the shape.
    """

    labels: tuple[str, ...]
    bin_of_code: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(NOT_COUNTED <= position < len(self.labels) for position in self.bin_of_code):
            raise ValueError("bin_of_code names a bin without a label")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two bins have the same label")

    def index(self, codes: FloatArray) -> IntArray:
        """Bin of each code, int64 (n,); codes outside the table take the nearest code's."""
        table = np.asarray(self.bin_of_code, np.int64)
        return table[np.clip(codes, 0, len(table) - 1).astype(np.int64)]


Bins = NumberBins | CodeBins


def code_bins(labels: Sequence[str]) -> CodeBins:
    """One bin for each code: code i has labels[i]."""
    return CodeBins(labels=tuple(labels), bin_of_code=tuple(range(len(labels))))


BOOLEAN_BINS: Final = code_bins(("false", "true"))
HOUR_BINS: Final = code_bins([f"{hour:02d}" for hour in range(24)])
WEEKDAY_BINS: Final = code_bins(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))


def number_bins(values: FloatArray) -> NumberBins:
    """Bins for numbers such as these: one a value up to 20 distinct ones, else deciles with atoms.

    Args:
        values: float64 (n,), finite; n may be 0 (one bin for everything).

    Edges are training values, never interpolated, so they mean the same on every platform.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= MAX_OWN_BINS:
        return _edges(distinct)
    is_atom = counts > ATOM_SHARE * len(values)
    atoms = distinct[is_atom]
    spread = _quantiles(distinct[~is_atom], counts[~is_atom], len(values))
    with np.errstate(over="ignore"):  # below the lowest float64 is -inf
        below = np.nextafter(atoms, -np.inf)
    edges = np.unique(np.concatenate([spread, below, atoms]))
    return _edges(_without_empty_bins(edges, distinct))


def _edges(edges: FloatArray) -> NumberBins:
    # -inf bounds nothing; adding 0.0 turns -0.0 into 0.0.
    return NumberBins(edges=tuple((edges[np.isfinite(edges)] + 0.0).tolist()))


def _quantiles(distinct: FloatArray, counts: IntArray, total: int) -> FloatArray:
    """Inner quantiles of values that are no atoms: as many bins as they have tenths of all rows."""
    below = np.cumsum(counts)
    if not len(below):
        return distinct
    n_bins = max(1, round(QUANTILE_BINS * int(below[-1]) / total))
    ranks = below[-1] * np.arange(1, n_bins) / n_bins
    return distinct[np.searchsorted(below, ranks, side="left")]


def _without_empty_bins(edges: FloatArray, distinct: FloatArray) -> FloatArray:
    """Leaves out each edge with no training value between its lower neighbour and itself."""
    held = np.searchsorted(distinct, edges, side="right")
    return edges[np.diff(held, prepend=0) > 0]


def category_bins(
    vocabulary: Sequence[str], counts: IntArray, *, sensitive: bool = False
) -> CodeBins:
    """The 20 categories with the most training rows, `#other`, `#unknown`.

    Args:
        vocabulary: texts in code order (V,).
        counts: training rows of each code, int64 (V,).
        sensitive: labels are codes instead of texts.

    The table has V + 2 codes: known ones, V for unknown, V + 1 for missing, which is not counted.
    """
    own = _largest(counts)
    table = [len(own)] * len(vocabulary) + [len(own) + 1, NOT_COUNTED]
    for position, code in enumerate(own):
        table[code] = position
    labels = _own_labels(own, vocabulary, sensitive=sensitive)
    return CodeBins(labels=(*labels, OTHER, UNKNOWN), bin_of_code=tuple(table))


def class_bins(classes: Sequence[str], counts: IntArray) -> CodeBins:
    """One bin a class of an output; beyond 20 the most frequent ones and `#other`.

    A model cannot answer outside its classes, so there is no `#unknown`: code V (a class that the
    manifest does not list) is not counted.
    """
    own = _largest(counts)
    table = [len(own)] * len(classes) + [NOT_COUNTED]
    for position, code in enumerate(own):
        table[code] = position
    labels = _own_labels(own, classes, sensitive=False)
    rest = () if len(own) == len(classes) else (OTHER,)
    return CodeBins(labels=(*labels, *rest), bin_of_code=tuple(table))


def _largest(counts: IntArray) -> list[int]:
    """The codes with the highest counts in descending order; among equals the lower code."""
    return np.argsort(-counts, kind="stable")[:MAX_OWN_BINS].tolist()


def _own_labels(own: list[int], texts: Sequence[str], *, sensitive: bool) -> list[str]:
    if sensitive:
        return [str(code) for code in own]
    return unique_labels([texts[code] for code in own])


def unique_labels(texts: Sequence[str]) -> list[str]:
    """Metric labels of texts: escaped, at most 64 bytes, all different.

    >>> unique_labels(["JFK", "#other", ""])
    ['JFK', '##other', '#empty']
    """
    labels: list[str] = []
    for text in texts:
        whole = EMPTY if text == "" else "#" + text if text.startswith("#") else text
        label = _cut(whole, MAX_LABEL_BYTES)
        twins = 0
        while label in labels:  # two long texts with the same beginning
            twins += 1
            tail = f"~{twins}"
            label = _cut(whole, MAX_LABEL_BYTES - len(tail)) + tail
        labels.append(label)
    return labels


def _cut(text: str, max_bytes: int) -> str:
    """The longest beginning of a text with at most so many bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
