"""How a bundle's breaker and runner stand: a word for each, beside the rows' counters.

Rows are counted in the ring; these are no rows. Each worker writes the words of its own region, one
store each, and readers sum workers. A successor takes over its predecessor's totals, and begins
with a closed breaker and an idle runner: those of the dead are gone.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final, NamedTuple

from models.vocabulary import BREAKER_STATES
from server.layout import BATCH_BOUNDS, STANDING_AT
from server.regions import Region

_BREAKER, _OPENINGS, _QUEUED, _ABANDONED, _ABANDONED_ACTIVE, _QUEUED_ROWS = range(
    STANDING_AT, STANDING_AT + 6
)
_BATCH_ROWS: Final = STANDING_AT + 6
_BATCHES: Final = _BATCH_ROWS + 1
_BATCH_LIMIT: Final = _BATCHES + len(BATCH_BOUNDS) + 1
_GOLDEN_SAME, _GOLDEN_DIFFERENT, _GOLDEN_FAILING, _GOLDEN_PASSED = range(
    _BATCH_LIMIT + 1, _BATCH_LIMIT + 5
)

NOBODY: Final = -1
"""Stands for the breaker's state where no worker has the region."""


class Queued(NamedTuple):
    """Requests that wait for the runner's thread, and their rows."""

    requests: int
    rows: int


class Standing(NamedTuple):
    """What workers say of one bundle, summed.

    Attributes:
        breakers: workers whose breaker is in each of `BREAKER_STATES`.
        openings: times that a breaker has opened.
        queued: requests that wait for the runner's thread.
        abandoned: runs that were given up because their deadline was over.
        abandoned_active: those of them that have not ended yet.
        queued_rows: rows of the requests that wait.
        batches: runs of the thread by their rows, in the buckets that `BATCH_BOUNDS` ends, and one.
        batch_rows: rows of all these runs.
        batch_limit: rows of several requests that a run may have, in the worker that allows most.
        golden_same, golden_different: golden rows that were replayed while the bundle served.
        golden_failing: workers in which the self-test finds a difference.
        golden_passed: epoch seconds of the latest pass of all golden rows that was good, of the
            worker where that was longest ago; 0 where one has had none.
    """

    breakers: tuple[int, ...]
    openings: int = 0
    queued: int = 0
    abandoned: int = 0
    abandoned_active: int = 0
    queued_rows: int = 0
    batches: tuple[int, ...] = (0,) * (len(BATCH_BOUNDS) + 1)
    batch_rows: int = 0
    batch_limit: int = 0
    golden_same: int = 0
    golden_different: int = 0
    golden_failing: int = 0
    golden_passed: int = 0


AT_REST: Final = Standing((1, *[0] * (len(BREAKER_STATES) - 1)))
"""One worker to which nothing has happened."""


class Notice:
    """Where one worker says how a bundle stands. For one thread: the words' only writer."""

    __slots__ = ("_words",)

    def __init__(self, region: Region) -> None:
        self._words = region.words
        _nothing_waits(region)
        self._words[_BREAKER] = 0
        self._words[_GOLDEN_PASSED] = 0

    def breaker(self, state: str) -> None:
        """The breaker is in this one of `BREAKER_STATES` from now on."""
        if state == "open":
            self._words[_OPENINGS] += 1
        self._words[_BREAKER] = BREAKER_STATES.index(state)

    def queued(self, queued: Queued) -> None:
        """So much waits for the runner's thread."""
        self._words[_QUEUED], self._words[_QUEUED_ROWS] = queued

    def may_share(self, rows: int) -> None:
        """So many rows of several requests may be in one run."""
        self._words[_BATCH_LIMIT] = rows

    def ran(self, rows: int) -> None:
        """The thread has made a run of so many rows."""
        self._words[_BATCHES + bisect_left(BATCH_BOUNDS, rows)] += 1
        self._words[_BATCH_ROWS] += rows

    def abandoned(self) -> None:
        """A run was given up, and goes on."""
        self._words[_ABANDONED] += 1
        self._words[_ABANDONED_ACTIVE] += 1

    def ended(self) -> None:
        """A run that had been given up has ended."""
        self._words[_ABANDONED_ACTIVE] -= 1

    def replayed(self, *, is_same: bool) -> None:
        """A golden row was put to the bundle."""
        self._words[_GOLDEN_SAME if is_same else _GOLDEN_DIFFERENT] += 1

    def failing(self, *, is_so: bool) -> None:
        """Whether the self-test finds a difference from now on."""
        self._words[_GOLDEN_FAILING] = int(is_so)

    def passed(self, at: float) -> None:
        """All golden rows were good, one after the other; epoch seconds."""
        self._words[_GOLDEN_PASSED] = int(at)


def leave(region: Region) -> None:
    """Says that no worker has the region: its totals stand, nothing of it waits or is open.

    For whoever made it, or waited for its dead worker.
    """
    region.words[_BREAKER] = NOBODY
    _nothing_waits(region)


def _nothing_waits(region: Region) -> None:
    for word in (_QUEUED, _QUEUED_ROWS, _ABANDONED_ACTIVE, _GOLDEN_FAILING):
        region.words[word] = 0


def state_of(standing: Standing) -> str:
    """The worst state of the workers' breakers."""
    found = [state for state, n in zip(BREAKER_STATES, standing.breakers, strict=True) if n]
    return found[-1] if found else BREAKER_STATES[0]


def read_standing(regions: Iterable[Region]) -> Standing:
    """What the workers of one bundle say just now."""
    words = [region.words for region in regions]
    breakers = [each[_BREAKER] for each in words]

    def total(word: int) -> int:
        return sum(each[word] for each in words)

    return Standing(
        tuple(breakers.count(code) for code in range(len(BREAKER_STATES))),
        openings=total(_OPENINGS),
        queued=total(_QUEUED),
        abandoned=total(_ABANDONED),
        abandoned_active=total(_ABANDONED_ACTIVE),
        queued_rows=total(_QUEUED_ROWS),
        batches=tuple(total(_BATCHES + place) for place in range(len(BATCH_BOUNDS) + 1)),
        batch_rows=total(_BATCH_ROWS),
        batch_limit=max((each[_BATCH_LIMIT] for each in words), default=0),
        golden_same=total(_GOLDEN_SAME),
        golden_different=total(_GOLDEN_DIFFERENT),
        golden_failing=total(_GOLDEN_FAILING),
        golden_passed=min(
            (each[_GOLDEN_PASSED] for each in words if each[_BREAKER] != NOBODY), default=0
        ),
    )
