"""Windows of the training rows: how much their shares vary without any drift.

Live windows are compared with training, so training is cut into windows too, each length from the
first row on. All arithmetic is on counts per hour, since every window length is whole hours.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bins import FloatArray, IntArray
from models.drift import bin_psi
from models.shapes import WINDOW_SECONDS, Usual, WindowLength, WindowNoise

MIN_WINDOWS: Final = 8
"""With fewer windows of a length nothing is said about it."""

MIN_WINDOW_ROWS: Final = 20
"""A window with fewer rows is left out: its shares tell of its size, not of its time."""

_HOUR: Final = 3_600


@dataclass(frozen=True, slots=True, eq=False)
class Hours:
    """The hours in which rows were, of rows in time order.

    Attributes:
        numbers: hours since the first row, ascending, only those with rows, int64 (n_hours,).
        starts: first row of each, intp (n_hours,).
        n_rows: rows with a time.
    """

    numbers: IntArray
    starts: NDArray[np.intp]
    n_rows: int

    @classmethod
    def of(cls, times: FloatArray) -> "Hours":
        """Hours of ascending epoch seconds; NaN, which must be last, are no rows of any hour."""
        known = times[np.isfinite(times)]
        hours = np.floor((known - known[:1]) / _HOUR).astype(np.int64)
        numbers, starts = np.unique(hours, return_index=True)
        return cls(numbers, starts, len(known))

    def slices(self) -> list[slice]:
        """The rows of each hour."""
        return [slice(a, b) for a, b in pairwise([*self.starts.tolist(), self.n_rows])]

    def sums(self, marks: NDArray[np.bool_]) -> IntArray:
        """Marked rows in each hour, from bool (n, k) to int64 (n_hours, k)."""
        if not len(self.starts):
            return np.zeros((0, marks.shape[1]), np.int64)
        return np.add.reduceat(marks[: self.n_rows], self.starts, axis=0, dtype=np.int64)

    def windows(self, counts: IntArray, length: WindowLength) -> IntArray:
        """Counts per hour, (n_hours, ...), summed to windows with rows, (n_windows, ...).

        The last window is left out unless the rows reach its last hour.
        """
        if not len(self.numbers):
            return counts
        hours = WINDOW_SECONDS[length] // _HOUR
        windows, starts = np.unique(self.numbers // hours, return_index=True)
        sums = np.add.reduceat(counts, starts, axis=0)
        is_whole = (windows + 1) * hours <= self.numbers[-1] + 1
        return sums[is_whole]


def with_enough_rows(windows: IntArray) -> IntArray | None:
    """The windows worth comparing, from counts (n_windows, n_bins); None if they are too few."""
    kept = windows[windows.sum(axis=-1) >= MIN_WINDOW_ROWS]
    return kept if len(kept) >= MIN_WINDOWS else None


def design_effect(windows: IntArray) -> float:
    """How much more the shares of windows vary than those of independent rows would.

    Pearson's statistic of windows against their sum, divided by its degrees of freedom: 1 for
    independent rows, the mean size of a clump for rows that come in clumps of equal values. It is
    the mean of the bins' design effects in the weights with which they enter a PSI (Rao & Scott,
    The Annals of Statistics 12, 1984). 1 where all rows are in one bin.

    Args:
        windows: rows in each bin, int (n_windows, n_bins), no window empty.
    """
    used = windows[:, windows.sum(axis=0) > 0]
    n_windows, n_bins = used.shape
    if n_windows < 2 or n_bins < 2:
        return 1.0
    totals = used.sum(axis=1, keepdims=True)
    expected = totals * (used.sum(axis=0) / used.sum())
    return float(((used - expected) ** 2 / expected).sum()) / ((n_windows - 1) * (n_bins - 1))


def window_noise(reference: IntArray, windows: IntArray) -> WindowNoise | None:
    """What one window length says about a shape; None with too few windows.

    Args:
        reference: all training rows in each bin, int64 (n_bins,).
        windows: rows of each window in each bin, int64 (n_windows, n_bins).
    """
    kept = with_enough_rows(windows)
    if kept is None:
        return None
    scores = bin_psi(reference, kept).sum(axis=-1)
    p5, p50, p95 = np.quantile(scores, [0.05, 0.5, 0.95]).tolist()
    usual = Usual(windows=len(scores), p5=p5, p50=p50, p95=p95, max=float(scores.max()))
    return WindowNoise(design_effect=design_effect(kept), usual=usual)
