"""How a bundle's breaker and runner stand: a word for each, beside the rows' counters.

Rows are counted in the ring; these are no rows. Each worker writes the words of its own region, one
store each, and readers sum workers. A successor takes over its predecessor's totals, and begins
with a closed breaker and an idle runner: those of the dead are gone.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from models.vocabulary import BREAKER_STATES
from server.layout import STANDING_AT
from server.regions import Region

_BREAKER, _OPENINGS, _QUEUED, _ABANDONED, _ABANDONED_ACTIVE = range(STANDING_AT, STANDING_AT + 5)


NOBODY: Final = -1
"""Stands for the breaker's state where no worker has the region."""


class Standing(NamedTuple):
    """What workers say of one bundle, summed.

    Attributes:
        breakers: workers whose breaker is in each of `BREAKER_STATES`.
        openings: times that a breaker has opened.
        queued: requests that wait for the runner's thread.
        abandoned: runs that were given up because their deadline was over.
        abandoned_active: those of them that have not ended yet.
    """

    breakers: tuple[int, ...]
    openings: int = 0
    queued: int = 0
    abandoned: int = 0
    abandoned_active: int = 0


AT_REST: Final = Standing((1, *[0] * (len(BREAKER_STATES) - 1)))
"""One worker to which nothing has happened."""


class Notice:
    """Where one worker says how a bundle stands. For one thread: the words' only writer."""

    __slots__ = ("_words",)

    def __init__(self, region: Region) -> None:
        self._words = region.words
        self._words[_BREAKER] = self._words[_QUEUED] = self._words[_ABANDONED_ACTIVE] = 0

    def breaker(self, state: str) -> None:
        """The breaker is in this one of `BREAKER_STATES` from now on."""
        if state == "open":
            self._words[_OPENINGS] += 1
        self._words[_BREAKER] = BREAKER_STATES.index(state)

    def queued(self, requests: int) -> None:
        """So many requests wait for the runner's thread."""
        self._words[_QUEUED] = requests

    def abandoned(self) -> None:
        """A run was given up, and goes on."""
        self._words[_ABANDONED] += 1
        self._words[_ABANDONED_ACTIVE] += 1

    def ended(self) -> None:
        """A run that had been given up has ended."""
        self._words[_ABANDONED_ACTIVE] -= 1


def leave(region: Region) -> None:
    """Says that no worker has the region: its totals stand, nothing of it waits or is open.

    For whoever made it, or waited for its dead worker.
    """
    region.words[_BREAKER] = NOBODY
    region.words[_QUEUED] = region.words[_ABANDONED_ACTIVE] = 0


def state_of(standing: Standing) -> str:
    """The worst state of the workers' breakers."""
    found = [state for state, n in zip(BREAKER_STATES, standing.breakers, strict=True) if n]
    return found[-1] if found else BREAKER_STATES[0]


def read_standing(regions: Iterable[Region]) -> Standing:
    """What the workers of one bundle say just now."""
    words = [region.words for region in regions]
    breakers = [each[_BREAKER] for each in words]
    return Standing(
        tuple(breakers.count(code) for code in range(len(BREAKER_STATES))),
        *(sum(each[at] for each in words) for at in range(_OPENINGS, _ABANDONED_ACTIVE + 1)),
    )
