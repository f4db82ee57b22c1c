"""What shadows have counted of one bundle: of the rows that it and another both answered.

A bundle counts here as the candidate that answers copies, and as the live one beside which another
answers them: of every compared row both count, one right after the other, each in words of its own
region, so that the workers' parts are summed and a successor goes on as in all that is counted.
Nothing of it is in the metrics of what callers got. Whoever judges a candidate reads both:

    candidate, live = read_shadow(regions of the one), read_shadow(regions of the other)
    Evidence(candidate=candidate.arm, live=live.arm,
             compared=candidate.compared, changed=candidate.changed)

The counts only grow, also over several shadows: what is added since a moment is of the shadow that
goes on (`models.evidence.added`). A worker that is killed may have counted a row for one of both
alone.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from models.bins import NOT_COUNTED, Bins, NumberBins
from models.evidence import Arm
from models.vocabulary import OUTCOMES
from server.layout import DIFFERENCE_BOUNDS, SHADOW_WORDS, Layout
from server.pace import Pace
from server.regions import Region

_REQUESTS, _SQUARES, _FAULTS, _COMPARED, _CHANGED, _RUN_NS = range(6)
_OUTCOMES: Final = 6
_RUNS: Final = SHADOW_WORDS
"""Here the histograms begin: runs, then differences; then the bins of outputs."""


class Shadow(NamedTuple):
    """What was counted of one bundle in shadows; `a + b` sums it.

    Attributes:
        words: as they lie in its region, summed over the workers' parts.
        difference: sum of how far the answers of compared rows were apart.
        layout: of the bundle.
    """

    words: tuple[int, ...]
    difference: float
    layout: Layout

    def __add__(self, other: "Shadow") -> "Shadow":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Not a longer tuple: both together."""
        words = tuple(a + b for a, b in zip(self.words, other.words, strict=True))
        return Shadow(words, self.difference + other.difference, self.layout)

    @property
    def compared(self) -> int:
        """Rows that both answered, of those it answered as candidate."""
        return self.words[_COMPARED]

    @property
    def changed(self) -> int:
        """Those with another decision, or without decisions another answer."""
        return self.words[_CHANGED]

    @property
    def outcomes(self) -> tuple[int, ...]:
        """Rows by `vocabulary.OUTCOMES`."""
        return self.words[_OUTCOMES : _OUTCOMES + len(OUTCOMES)]

    @property
    def runs(self) -> tuple[int, ...]:
        """Runs of one row by their time, in buckets of `Layout.total_bounds`, and one."""
        return self.words[_RUNS : _RUNS + len(self.layout.total_bounds) + 1]

    @property
    def run_ns(self) -> int:
        """What they took together."""
        return self.words[_RUN_NS]

    @property
    def differences(self) -> tuple[int, ...]:
        """Compared rows by how far answers were apart, in buckets of `DIFFERENCE_BOUNDS`."""
        start = _RUNS + len(self.layout.total_bounds) + 1
        return self.words[start : start + len(DIFFERENCE_BOUNDS) + 1]

    @property
    def arm(self) -> Arm:
        """The same as evidence."""
        return Arm(
            requests=self.words[_REQUESTS],
            squares=self.words[_SQUARES],
            outcomes=self.outcomes,
            faults=self.words[_FAULTS],
            bounds=self.layout.total_bounds,
            latency=self.runs,
            outputs=self._outputs(),
        )

    def _outputs(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        at = _RUNS + len(self.layout.total_bounds) + 1 + len(DIFFERENCE_BOUNDS) + 1
        for measure in self.layout.measures.measures:
            if measure.subject == "output":
                found[measure.of] = self.words[at : at + len(measure.labels)]
                at += len(measure.labels)
        return found


def nothing(layout: Layout) -> Shadow:
    """No shadow."""
    (n_words,) = layout.places["shadow"].shape
    return Shadow((0,) * n_words, 0.0, layout)


def read_shadow(regions: Sequence[Region]) -> Shadow:
    """What was counted of a bundle up to now.

    Args:
        regions: of the bundle, one for each worker slot; at least one.
    """
    words = np.sum([region.shadow for region in regions], axis=0).tolist()
    difference = math.fsum(float(region.shadow_difference[0]) for region in regions)
    return Shadow(tuple(words), difference, regions[0].layout)


class ShadowCounter:
    """Counts for one bundle in one region. On the loop: the words' only writer.

    Attributes:
        pace: of its runs in shadows: those that callers wait for have one of their own.
        scale: standard deviation of its first measured output in training; 1 where it had none.
    """

    __slots__ = ("_bins", "_bounds", "_differences", "_outputs", "_region", "pace", "scale")

    def __init__(self, region: Region) -> None:
        layout = region.layout
        self._region = region
        self._bounds = layout.bounds_ns.tolist()
        self._differences = _RUNS + len(self._bounds) + 1
        self._outputs = self._differences + len(DIFFERENCE_BOUNDS) + 1
        outputs = [m for m in layout.measures.measures if m.subject == "output"]
        self._bins: list[Bins] = [measure.bins for measure in outputs]
        self.scale = outputs[0].sd if outputs else 1.0
        self.pace = Pace()

    def row(self, outcome: int, *, is_fault: bool, outputs: Sequence[float] | None) -> None:
        """One row.

        Args:
            outcome: code of `OUTCOMES`.
            is_fault: a lower rung answered because of the model (`evidence.FAULT_REASONS`).
            outputs: from `Measures.output_columns`, one a measured output; None where the model
                itself has not answered.
        """
        words = self._region.shadow
        words[_OUTCOMES + outcome] += 1
        if is_fault:
            words[_FAULTS] += 1
        if outputs is not None:
            at = self._outputs
            for bins, value in zip(self._bins, outputs, strict=True):
                position = _position(bins, value)
                if position != NOT_COUNTED:
                    words[at + position] += 1
                at += len(bins.labels)

    def run(self, ns: int) -> None:
        """A run of one row took so long."""
        words = self._region.shadow
        words[_RUNS + bisect_left(self._bounds, ns)] += 1
        words[_RUN_NS] += ns

    def request(self, rows: int) -> None:
        """So many rows of one request were answered."""
        words = self._region.shadow
        words[_SQUARES] += rows * rows
        words[_REQUESTS] += 1

    def compared(self, *, is_changed: bool, difference: float | None) -> None:
        """A row that live has answered too.

        Args:
            is_changed: see `Shadow.changed`.
            difference: how far the answers are apart; None where they are no numbers.
        """
        words = self._region.shadow
        if is_changed:
            words[_CHANGED] += 1
        words[_COMPARED] += 1
        if difference is not None:
            self._region.shadow_difference[0] += difference
            words[self._differences + bisect_left(DIFFERENCE_BOUNDS, difference)] += 1


def _position(bins: Bins, value: float) -> int:
    """The bin of one value; `NOT_COUNTED` where it is not finite, or none of its bins."""
    if not math.isfinite(value):
        return NOT_COUNTED
    if isinstance(bins, NumberBins):
        return bisect_left(bins.edges, value)
    table = bins.bin_of_code
    return table[min(max(int(value), 0), len(table) - 1)]
