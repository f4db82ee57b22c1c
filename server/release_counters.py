"""How long processes that answer stood still to let bundles go, and who was replaced instead."""

from collections import deque
from typing import Final, NamedTuple

from server import catalogue
from server.lines import Page
from server.own_counts import Histogram

BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
"""Seconds: a small model is let go of in less than one millisecond, a very large one in fifty."""
REMEMBERED: Final = 256
"""So many stalls are remembered one by one."""


class Releases(NamedTuple):
    """How many there have been.

    Attributes:
        stalls: bundles that a process which answers has let go of.
        successors: of workers that kept a bundle and were replaced.
    """

    stalls: int
    successors: int


class ReleaseCounters:
    """On the loop.

    Attributes:
        successors: of workers that kept a bundle and were replaced.
    """

    def __init__(self) -> None:
        self.successors = 0
        self._stalls: Final = Histogram(catalogue.RELEASE_STALL, BOUNDS)
        self._last: deque[float] = deque(maxlen=REMEMBERED)

    def stalled(self, seconds: float) -> None:
        """A process that answers has stood still for so long to let go of a bundle."""
        self._stalls.observe(seconds)
        self._last.append(seconds)

    @property
    def now(self) -> Releases:
        """What there has been up to now."""
        return Releases(self._stalls.count, self.successors)

    def longest(self, since: Releases) -> float | None:
        """Seconds of the longest stall since then; None where there was none."""
        count = self.now.stalls - since.stalls
        return max(list(self._last)[-count:], default=None) if count else None

    def page(self) -> Page:
        """Their series."""
        return {catalogue.RELEASE_STALL.name: self._stalls.lines}
