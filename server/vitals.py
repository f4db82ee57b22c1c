"""How one worker does as a process: how late its loop is, how busy its thread, what it spares.

A few words of its own memory, beside its HTTP counters, so that readers sum workers and a successor
goes on where its predecessor stopped.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable
from itertools import product
from time import perf_counter_ns
from typing import Final, NamedTuple, Protocol

from models.vocabulary import SPARE_KINDS, SPARE_RESULTS

LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the histogram of lags, in seconds; timers move in whole milliseconds."""

LOOK_SECONDS: Final = 0.05
"""How often the loop is asked how late it is."""

_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in LAG_BOUNDS)
_LAGS: Final = slice(0, len(LAG_BOUNDS) + 1)
_LAG_NS, _BUSY_NS, _DEATHS = range(_LAGS.stop, _LAGS.stop + 3)

SPARE: Final = tuple(product(SPARE_KINDS, SPARE_RESULTS))
"""Kinds of spare work, each with what may become of it."""
_SPARE: Final = slice(_DEATHS + 1, _DEATHS + 1 + len(SPARE))
_SPARE_AT: Final[dict[tuple[str, str], int]] = {
    each: at for at, each in enumerate(SPARE, _SPARE.start)
}

WORDS: Final = _SPARE.stop


class Read(NamedTuple):
    """What workers say, summed.

    Attributes:
        lags: looks at the loop by how late it was, in the buckets that `LAG_BOUNDS` ends, and one.
        lag_ns: all of it together.
        busy_ns: time that threads have worked.
        deaths: threads that came to an end and were replaced.
        spare: units of spare work, in the order of `SPARE`.
    """

    lags: tuple[int, ...]
    lag_ns: int
    busy_ns: int
    deaths: int
    spare: tuple[int, ...] = (0,) * len(SPARE)


class Vitals:
    """Where one worker says how it does. For one thread: the words' only writer.

    Args:
        words: `WORDS` of them, zero or as a predecessor left them.
    """

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def late(self, ns: int) -> None:
        """The loop was so late."""
        self._words[bisect_left(_BOUNDS_NS, ns)] += 1
        self._words[_LAG_NS] += ns

    def worked(self, busy_ns: int, deaths: int) -> None:
        """The thread has worked so much longer, and ended so often, since the last time."""
        self._words[_BUSY_NS] += busy_ns
        self._words[_DEATHS] += deaths

    def spared(self, kind: str, result: str, units: int) -> None:
        """So much became of units of spare work."""
        self._words[_SPARE_AT[kind, result]] += units

    @property
    def words(self) -> list[int]:
        """A copy."""
        return self._words.tolist()


def read_vitals(vitals: Iterable[Vitals]) -> Read:
    """What the workers say up to now."""
    words = [sum(each) for each in zip(*(one.words for one in vitals), strict=True)]
    return Read(
        tuple(words[_LAGS]),
        words[_LAG_NS],
        words[_BUSY_NS],
        words[_DEATHS],
        tuple(words[_SPARE]),
    )


class Works(Protocol):
    """What is to be known of the runner."""

    @property
    def busy_ns(self) -> int: ...
    @property
    def deaths(self) -> int: ...
    @property
    def is_stopping(self) -> bool: ...


class Pulse:
    """Looks at the loop and the runner, a few times a second, until the runner stops.

    How late a timer is, is how long a request would have waited that came when it was due.
    """

    def __init__(self, vitals: Vitals, runner: Works) -> None:
        self._vitals = vitals
        self._runner = runner
        self._busy_ns = self._deaths = self._due_ns = 0
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """From now on. On the loop."""
        self._due_ns = perf_counter_ns() + round(LOOK_SECONDS * 1e9)
        self._loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._vitals.late(max(0, perf_counter_ns() - self._due_ns))
        # Time that goes on is counted by what it is now, and never less than it was.
        busy_ns = max(self._busy_ns, self._runner.busy_ns)
        deaths = self._runner.deaths
        self._vitals.worked(busy_ns - self._busy_ns, deaths - self._deaths)
        self._busy_ns, self._deaths = busy_ns, deaths
        if not self._runner.is_stopping:
            self.start()
