"""A histogram that one process counts in, on its loop."""

from bisect import bisect_left
from typing import Final

from server.lines import observed


class Histogram:
    """How often there were values up to each bound.

    Args:
        bounds: upper ones of all buckets but the last, rising.

    Attributes:
        count: of all values.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.count = 0
        self._bounds: Final = bounds
        self._buckets: Final = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def numbers(self) -> tuple[float, ...]:
        """What the template of its lines takes."""
        return observed(self._buckets, self._sum)
