"""Shapes: the training distribution of one measured thing, as `reference.json` holds it.

A shape is of a field (a number's value, a category's code, the lead, hour and weekday of a
timestamp) or of a model output. Live counts are made in the same bins and compared with it.
"""

from typing import Final, Literal

import msgspec

from models.bins import Bins

Subject = Literal["field", "output"]
Part = Literal["value", "lead", "hour", "weekday"]
WindowLength = Literal["1h", "6h", "24h", "7d"]

WINDOW_SECONDS: Final[dict[WindowLength, int]] = {
    "1h": 3_600,
    "6h": 6 * 3_600,
    "24h": 24 * 3_600,
    "7d": 7 * 24 * 3_600,
}


class Usual(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far windows of the training rows were from all training rows: quantiles of their PSI."""

    windows: int
    p5: float
    p50: float
    p95: float
    max: float


class WindowNoise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one window length says about a shape without any drift.

    Attributes:
        design_effect: variance of window shares over that of independent rows, as measured; values
            below 1 count as 1 wherever it is used.
    """

    design_effect: float
    usual: Usual


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bins and training counts of one measured thing.

    Attributes:
        of: the field or output.
        part: what of it is counted; `lead` is seconds from arrival (in training: from the time
            column) to the timestamp, `hour` and `weekday` are of its zone.
        counts: training rows in each bin.
        mean, sd: of the values counted; null where a mean says nothing (codes) or there is none.
        windows: noise at each window length; null below 8 training windows of it.
    """

    subject: Subject
    of: str
    part: Part
    bins: Bins
    counts: tuple[int, ...]
    mean: float | None
    sd: float | None
    windows: dict[WindowLength, WindowNoise | None]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bins.labels):
            raise ValueError(
                f"{self.name}: {len(self.counts)} counts for {len(self.bins.labels)} bins"
            )

    @property
    def name(self) -> str:
        """`distance`, `sched_dep.lead`: what the `field` or `output` label of metrics says."""
        return self.of if self.part == "value" else f"{self.of}.{self.part}"
