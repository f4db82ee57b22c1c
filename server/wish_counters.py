"""How a server stands to the wishes of its store, and what became of those it has heeded."""

from typing import Final

from models.vocabulary import WISH_RESULTS, WISH_STATES
from server import catalogue
from server.lines import Page
from server.own_counts import Counts, States


class WishCounters:
    """On the loop. Models come in when their wish is first seen; without `--follow` none do."""

    def __init__(self) -> None:
        self._states: Final = States(catalogue.WISH_STATE, WISH_STATES)
        self._results: Final = Counts(catalogue.WISHES, ((each,) for each in WISH_RESULTS))

    def stands(self, model: str, state: str) -> None:
        """To the wish for this model so, of `vocabulary.WISH_STATES`, from now on."""
        self._states.put(model, state)

    def forget(self, model: str) -> None:
        """There is no wish for it any more."""
        self._states.forget(model)

    def ended(self, result: str) -> None:
        """One more wish came to this end, of `vocabulary.WISH_RESULTS`."""
        self._results.add(result)

    def page(self) -> Page:
        """Their series."""
        return self._states.page | self._results.page
