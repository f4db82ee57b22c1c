"""How often operators have loaded, promoted, rolled back and unloaded, and how long it took."""

from itertools import accumulate, product
from typing import Final

from models.vocabulary import SWAP_RESULTS, SWAPS
from server import catalogue
from server.series import Page

BOUNDS: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds: a promotion takes milliseconds, a load what opening takes, twice and more."""


class SwapCounters:
    """On the loop."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], int] = dict.fromkeys(product(SWAPS, SWAP_RESULTS), 0)
        self._buckets: dict[str, list[int]] = {swap: [0] * (len(BOUNDS) + 1) for swap in SWAPS}
        self._seconds: dict[str, float] = dict.fromkeys(SWAPS, 0.0)

    def done(self, swap: str, seconds: float) -> None:
        """Something was changed."""
        self._results[swap, "done"] += 1
        self._buckets[swap][sum(seconds > bound for bound in BOUNDS)] += 1
        self._seconds[swap] += seconds

    def refused(self, swap: str) -> None:
        """Nothing was."""
        self._results[swap, "refused"] += 1

    def page(self, generation: int) -> Page:
        """Their series, and the generation of the route table."""
        name = catalogue.SWAPS.name
        results = "".join(
            f'{name}{{swap="{swap}",result="{result}"}} {count}\n'
            for (swap, result), count in self._results.items()
        )
        seconds = "".join(map(self._histogram, SWAPS))
        number = f"{catalogue.GENERATION.name} {generation}\n"
        return {
            name: results,
            catalogue.SWAP_DURATION.name: seconds,
            catalogue.GENERATION.name: number,
        }

    def _histogram(self, swap: str) -> str:
        name = catalogue.SWAP_DURATION.name
        counts = list(accumulate(self._buckets[swap]))
        lines = [
            f'{name}_bucket{{swap="{swap}",le="{bound}"}} {count}\n'
            for bound, count in zip((*map(repr, BOUNDS), "+Inf"), counts, strict=True)
        ]
        lines.append(f'{name}_sum{{swap="{swap}"}} {self._seconds[swap]!r}\n')
        lines.append(f'{name}_count{{swap="{swap}"}} {counts[-1]}\n')
        return "".join(lines)
