"""What the steps of a request cost on this machine, as they were measured before it serves."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.gate import max_batch

LOOP_SECONDS: Final = 250e-6
"""What may happen on the event loop at a time before other callbacks get their turn: a flush's
`run`, or a whole request."""

LOOP_NS: Final = round(LOOP_SECONDS * 1e9)
FEW_ROWS: Final = 65


@dataclass(frozen=True, slots=True)
class RunCost:
    """The curve of something that takes rows: the model's runs, or the answers of lower rungs.

    Attributes:
        rows, seconds: the measured points; both rise.
        flush_share: share of a flush's 250 µs that a row takes in a batch that fills it.
        few_ns: nanoseconds by number of rows, for small ones, so that nothing is computed.
        max_batch: rows at which the cost of a row stops falling; 1 where it does not fall.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    flush_share: float
    few_ns: tuple[float, ...]
    max_batch: int = 1

    def predict_seconds(self, rows: int) -> float:
        """Time of a run of so many rows: between the measured points, beyond them in proportion."""
        return _on_curve(self.rows, self.seconds, rows)

    def predict_ns(self, rows: int) -> float:
        """The same in nanoseconds."""
        if rows < FEW_ROWS:
            return self.few_ns[rows]
        return _on_curve(self.rows, self.seconds, rows) * 1e9


@dataclass(frozen=True, slots=True)
class ReadCost:
    """What reading a body costs.

    Attributes:
        byte_ns: decoding, a byte.
        row_ns: encoding, a row.
        row_bytes: of a golden record as JSON: how many rows a body may have that is not decoded.
    """

    byte_ns: float
    row_ns: float
    row_bytes: float


UNREAD: Final = ReadCost(byte_ns=5.0, row_ns=10_000.0, row_bytes=500.0)
"""What reading costs a bundle that nobody has measured: about what a wide record takes."""


def curve(run_seconds: Mapping[int, float]) -> RunCost:
    """From seconds by number of rows; a point below its predecessor is noise and is lifted to it.

    Without a point it is `UNMEASURED`.

    >>> cost = curve({1: 10e-6, 64: 100e-6, 128: 400e-6})
    >>> round(1 / cost.flush_share)
    96
    >>> cost.max_batch
    64
    >>> cost.predict_seconds(256)
    0.0008
    """
    if not run_seconds:
        return UNMEASURED
    rows = tuple(sorted(run_seconds))
    lifted = np.maximum.accumulate([run_seconds[count] for count in rows])
    seconds = tuple(float(time) for time in lifted)
    few_ns = tuple(_on_curve(rows, seconds, count) * 1e9 for count in range(FEW_ROWS))
    best = max_batch(dict(run_seconds)) if 1 in run_seconds else 1
    return RunCost(rows, seconds, 1 / _rows_within(rows, seconds), few_ns, best)


def one_by_one(cost: RunCost) -> RunCost:
    """The curve where batches are not allowed: as many runs as rows."""
    return curve({1: cost.predict_seconds(1)})


def _on_curve(all_rows: tuple[int, ...], all_seconds: tuple[float, ...], rows: int) -> float:
    place = bisect_left(all_rows, rows)
    if place == len(all_rows):
        return all_seconds[-1] * rows / all_rows[-1]
    if place == 0:
        return all_seconds[0]
    few, many = all_rows[place - 1], all_rows[place]
    less, more = all_seconds[place - 1], all_seconds[place]
    return less + (more - less) * (rows - few) / (many - few)


def _rows_within(rows: tuple[int, ...], seconds: tuple[float, ...]) -> float:
    """How many rows a run of a flush's time has, at least one."""
    if seconds[-1] < LOOP_SECONDS:
        return rows[-1] * LOOP_SECONDS / seconds[-1]
    return max(1.0, float(np.interp(LOOP_SECONDS, seconds, rows)))


UNMEASURED: Final = curve({1: LOOP_SECONDS})
"""What a bundle costs whose gate measured no runs: a row fills a flush."""

UNMEASURED_BELOW: Final = curve({1: 5e-6})
"""What lower rungs cost a bundle that nobody has measured: about what a constant takes."""
