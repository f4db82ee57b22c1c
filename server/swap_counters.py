"""How often operators have loaded, promoted, rolled back and unloaded, and how long it took."""

from itertools import chain, product
from typing import Final

from models.vocabulary import REFUSAL_CAUSES, SWAP_RESULTS, SWAPS
from server import catalogue
from server.deploy_counters import DeployCounters
from server.histogram import Histogram
from server.lines import Counts, Page, counted, histogram_template, single
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
        self._results: Counts = {(*each,): 0 for each in product(SWAPS, SWAP_RESULTS)}
        self._causes: Counts = {(cause,): 0 for cause in REFUSAL_CAUSES}
        self._durations: Final[dict[str, Histogram]] = {swap: Histogram(BOUNDS) for swap in SWAPS}

    def done(self, swap: str, seconds: float) -> None:
        """Something was changed."""
        self._results[swap, "done"] += 1
        self._durations[swap].observe(seconds)

    def refused(self, swap: str, cause: str) -> None:
        """Nothing was; why is of `vocabulary.REFUSAL_CAUSES`."""
        self._results[swap, "refused"] += 1
        self._causes[cause,] += 1

    def page(self, generation: int) -> Page:
        """Their series, and the generation of the route table."""
        numbers = chain.from_iterable(each.numbers for each in self._durations.values())
        page = {catalogue.SWAP_DURATION.name: _DURATIONS % tuple(numbers)}
        page |= counted(catalogue.SWAPS, self._results)
        page |= counted(catalogue.SWAP_REFUSALS, self._causes)
        page |= self.deploys.page() | self.releases.page() | self.wishes.page()
        return page | single(catalogue.GENERATION, generation)
