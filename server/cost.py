"""What a run costs by its number of rows, as a bundle's gate measured it on this machine."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

FLUSH_SECONDS: Final = 250e-6
"""`run` time that one flush may take before other callbacks get their turn."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """The warm-up curve of a bundle.

    Attributes:
        rows, seconds: the measured points; both rise.
        flush_share: share of a flush's 250 µs that a row takes in a batch that fills it.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    flush_share: float

    def predict_seconds(self, rows: int) -> float:
        """Time of a run of so many rows: between the measured points, beyond them in proportion."""
        place = bisect_left(self.rows, rows)
        if place == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        if place == 0:
            return self.seconds[0]
        few, many = self.rows[place - 1], self.rows[place]
        less, more = self.seconds[place - 1], self.seconds[place]
        return less + (more - less) * (rows - few) / (many - few)


UNMEASURED: Final = RunCost(rows=(1,), seconds=(FLUSH_SECONDS,), flush_share=1.0)
"""What a bundle costs whose gate measured no runs: a row fills a flush."""


def curve(run_seconds: Mapping[int, float]) -> RunCost:
    """From seconds by number of rows; a point below its predecessor is noise and is lifted to it.

    Without a point it is `UNMEASURED`.

    >>> cost = curve({1: 10e-6, 64: 100e-6, 128: 400e-6})
    >>> round(1 / cost.flush_share)
    96
    >>> cost.predict_seconds(256)
    0.0008
    """
    if not run_seconds:
        return UNMEASURED
    rows = tuple(sorted(run_seconds))
    lifted = np.maximum.accumulate([run_seconds[count] for count in rows])
    seconds = tuple(float(time) for time in lifted)
    return RunCost(rows, seconds, 1 / _rows_within(rows, seconds))


def _rows_within(rows: tuple[int, ...], seconds: tuple[float, ...]) -> float:
    """How many rows a run of a flush's time has, at least one."""
    if seconds[-1] < FLUSH_SECONDS:
        return rows[-1] * FLUSH_SECONDS / seconds[-1]
    return max(1.0, float(np.interp(FLUSH_SECONDS, seconds, rows)))
