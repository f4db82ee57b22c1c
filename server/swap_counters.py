"""How often operators have loaded, promoted, rolled back and unloaded, and how long it took."""

from itertools import product
from typing import Final

from models.vocabulary import REFUSAL_CAUSES, SWAP_RESULTS, SWAPS
from server import catalogue
from server.deploy_counters import DeployCounters
from server.lines import Page, single
from server.own_counts import Counts, Histogram
from server.release_counters import ReleaseCounters
from server.wish_counters import WishCounters

BOUNDS: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds: a promotion takes milliseconds, a load what opening takes, twice and more."""


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
        self._results: Final = Counts(catalogue.SWAPS, product(SWAPS, SWAP_RESULTS))
        causes = ((each,) for each in REFUSAL_CAUSES)
        self._causes: Final = Counts(catalogue.SWAP_REFUSALS, causes)
        self._durations: Final[dict[str, Histogram]] = {
            swap: Histogram(catalogue.SWAP_DURATION, BOUNDS, swap) for swap in SWAPS
        }

    def done(self, swap: str, seconds: float) -> None:
        """Something was changed."""
        self._results.add(swap, "done")
        self._durations[swap].observe(seconds)

    def refused(self, swap: str, cause: str) -> None:
        """Nothing was; why is of `vocabulary.REFUSAL_CAUSES`."""
        self._results.add(swap, "refused")
        self._causes.add(cause)

    def page(self, generation: int) -> Page:
        """Their series, and the generation of the route table."""
        durations = "".join(each.lines for each in self._durations.values())
        page = {catalogue.SWAP_DURATION.name: durations} | self._results.page | self._causes.page
        page |= self.deploys.page() | self.releases.page() | self.wishes.page()
        return page | single(catalogue.GENERATION, generation)
