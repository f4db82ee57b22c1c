"""How much slower than measured a model is just now, as its own runs tell."""

from time import monotonic
from typing import Final

WEIGHT: Final = 1 / 8
"""Of a run in what is expected of the next one."""
PROBE_SECONDS: Final = 1.0
"""A model that has become too slow is tried so often, with one request."""


class Pace:
    """The smoothed ratio of actual to measured time of runs. For the loop's thread only.

    One slow run alone says nothing, something else had the processor; the second in a row is
    believed. So of a run and the one before it the quicker counts.

    Attributes:
        ratio: how many times as long as measured the next run is expected to take.
        last_ns: what the last run took.
    """

    __slots__ = ("_last", "_next_probe", "last_ns", "ratio")

    def __init__(self) -> None:
        self.ratio = 1.0
        self._last = 1.0
        self.last_ns = 0
        self._next_probe = 0.0

    def took(self, run_ns: int, measured_ns: float, is_trial: bool) -> None:  # noqa: FBT001
        """Takes in a run, and how long one of as many rows took when it was measured.

        A trial that was quicker than expected is believed: a slow machine does not do that.
        """
        ratio = run_ns / measured_ns
        quicker = ratio if ratio < self._last else self._last  # noqa: FURB136  (a third of min)
        self._last = ratio
        self.last_ns = run_ns
        if is_trial and ratio < self.ratio:
            self.ratio = ratio
        else:
            self.ratio += (quicker - self.ratio) * WEIGHT

    def may_probe(self, now: float | None = None) -> bool:
        """Whether a request may be tried although it is expected to be too slow; once a second."""
        now = monotonic() if now is None else now
        if now < self._next_probe:
            return False
        self._next_probe = now + PROBE_SECONDS
        return True
