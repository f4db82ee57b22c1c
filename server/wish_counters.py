"""How a server stands to the wishes of its store, and what became of those it has heeded."""

from typing import Final

from models.vocabulary import WISH_RESULTS, WISH_STATES
from server import catalogue
from server.lines import Counts, Page, counted, standing


class WishCounters:
    """On the loop. Models come in when their wish is first seen; without `--follow` none do."""

    def __init__(self) -> None:
        self._states: Final[dict[str, str]] = {}
        self._results: Counts = {(result,): 0 for result in WISH_RESULTS}

    def stands(self, model: str, state: str) -> None:
        """To the wish for this model so, of `vocabulary.WISH_STATES`, from now on."""
        self._states[model] = state

    def forget(self, model: str) -> None:
        """There is no wish for it any more."""
        self._states.pop(model, None)

    def ended(self, result: str) -> None:
        """One more wish came to this end, of `vocabulary.WISH_RESULTS`."""
        self._results[result,] += 1

    def page(self) -> Page:
        """Their series."""
        states = standing(catalogue.WISH_STATE, self._states, WISH_STATES)
        return states | counted(catalogue.WISHES, self._results)
