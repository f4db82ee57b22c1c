"""How often operators have loaded, promoted, rolled back and unloaded, and how long it took."""

from bisect import bisect_left
from itertools import accumulate, chain, product
from typing import Final

from models.vocabulary import REFUSAL_CAUSES, SWAP_RESULTS, SWAPS
from server import catalogue
from server.deploy_counters import DeployCounters
from server.lines import Page, histogram_template, single
from server.release_counters import ReleaseCounters
from server.wish_counters import WishCounters

BOUNDS: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds: a promotion takes milliseconds, a load what opening takes, twice and more."""

_DURATIONS: Final = histogram_template(
    catalogue.SWAP_DURATION, [(swap,) for swap in SWAPS], BOUNDS, total="%r"
)


class SwapCounters:
    """On the loop.

    Attributes:
        deploys: of all models.
        releases: of what was loaded before.
        wishes: of the store, where it is followed.
    """

    def __init__(self) -> None:
        self.deploys = DeployCounters()
        self.releases = ReleaseCounters()
        self.wishes = WishCounters()
        self._results: dict[tuple[str, str], int] = dict.fromkeys(product(SWAPS, SWAP_RESULTS), 0)
        self._causes: dict[str, int] = dict.fromkeys(REFUSAL_CAUSES, 0)
        self._buckets: dict[str, list[int]] = {swap: [0] * (len(BOUNDS) + 1) for swap in SWAPS}
        self._seconds: dict[str, float] = dict.fromkeys(SWAPS, 0.0)

    def done(self, swap: str, seconds: float) -> None:
        """Something was changed."""
        self._results[swap, "done"] += 1
        self._buckets[swap][bisect_left(BOUNDS, seconds)] += 1
        self._seconds[swap] += seconds

    def refused(self, swap: str, cause: str) -> None:
        """Nothing was; why is of `vocabulary.REFUSAL_CAUSES`."""
        self._results[swap, "refused"] += 1
        self._causes[cause] += 1

    def page(self, generation: int) -> Page:
        """Their series, and the generation of the route table."""
        name = catalogue.SWAPS.name
        results = "".join(
            f'{name}{{swap="{swap}",result="{result}"}} {count}\n'
            for (swap, result), count in self._results.items()
        )
        refusals = catalogue.SWAP_REFUSALS.name
        causes = "".join(
            f'{refusals}{{cause="{cause}"}} {count}\n' for cause, count in self._causes.items()
        )
        durations = _DURATIONS % tuple(chain.from_iterable(map(self._numbers, SWAPS)))
        page = {name: results, refusals: causes, catalogue.SWAP_DURATION.name: durations}
        page |= self.deploys.page() | self.releases.page() | self.wishes.page()
        return page | single(catalogue.GENERATION, generation)

    def _numbers(self, swap: str) -> list[float]:
        """Of its histogram: counts up to every bound, sum, count."""
        counts = list(accumulate(self._buckets[swap]))
        return [*counts, self._seconds[swap], counts[-1]]
