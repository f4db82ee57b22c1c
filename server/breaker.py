"""The breaker of one model: after too many bad runs it is left alone for a while.

Beside that it holds whether the model is trusted: one that has failed its self-test here is not,
however well it runs (`server.selftest`).

    closed     -- 5 bad ones among the last 20 runs -->  open
    open       -- 5 s later, at the next request    -->  half open: it is run alone, as a probe
    half open  -- the probe was good                -->  closed, with nothing remembered
               -- it was bad                        -->  open, for twice as long, 60 s at most

A run is bad when it raised, or when more than half of its rows had invalid outputs.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from models.planning import Forced
from models.vocabulary import BREAKER_STATES

CLOSED, HALF_OPEN, OPEN = BREAKER_STATES

RUNS: Final = 20
"""Runs that are remembered."""
MOST_BAD: Final = 5
"""So many bad ones among them open the breaker."""
FIRST_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 60.0


class Breaker:
    """Takes in the runs of one model and says whether it may be run. For one thread.

    Args:
        tell: is called with every new state, one of `BREAKER_STATES`.
        clock: monotonic seconds.

    Attributes:
        state: one of `BREAKER_STATES`.
        is_calm: it is closed and remembers no bad run: a good one then need not be told.
        distrusted: the highest rung that gives right answers still; None where all do.
        lets_through: it is closed, and the model is trusted: one test for each request.
    """

    __slots__ = (
        "_clock",
        "_is_bad",
        "_is_probing",
        "_probe_at",
        "_seconds",
        "_tell",
        "distrusted",
        "is_calm",
        "lets_through",
        "state",
    )

    def __init__(
        self, tell: Callable[[str], None] | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._is_bad: deque[bool] = deque(maxlen=RUNS)
        self._is_probing = False
        self._probe_at = 0.0
        self._seconds = FIRST_SECONDS
        self.state = CLOSED
        self.is_calm = True
        self.distrusted: Forced | None = None
        self.lets_through = True

    def admits(self) -> bool:
        """Whether a request may be put to the model now.

        Where the state is half open, an admitted request is the probe: it is run alone, and then
        `probed` is called, or `not_probed` if it was not run after all. Until then nothing else is
        admitted.
        """
        if self.state == CLOSED:
            return True
        if self.state == OPEN and self._clock() >= self._probe_at:
            self._change(HALF_OPEN)
        if self.state == OPEN or self._is_probing:
            return False
        self._is_probing = True
        return True

    def ran(self, *, is_bad: bool) -> None:
        """Takes in a run that was no probe; one that ends after the breaker opened says nothing."""
        if self.state != CLOSED:
            return
        self._is_bad.append(is_bad)
        bad = sum(self._is_bad)
        self.is_calm = not bad
        if bad >= MOST_BAD:
            self._open(FIRST_SECONDS)

    def probed(self, *, is_bad: bool) -> None:
        """Takes in how the probe went."""
        self._is_probing = False
        if is_bad:
            self._open(min(2 * self._seconds, LONGEST_SECONDS))
        else:
            self.is_calm = True
            self._change(CLOSED)

    def not_probed(self) -> None:
        """The probe was not run after all: the next request is one."""
        self._is_probing = False

    def trust(self, below: Forced | None) -> None:
        """Takes in the highest rung that may answer; None for the model."""
        self.distrusted = below
        self.lets_through = below is None and self.state == CLOSED

    def _open(self, seconds: float) -> None:
        self._is_bad.clear()
        self._seconds = seconds
        self._probe_at = self._clock() + seconds
        self.is_calm = False
        self._change(OPEN)

    def _change(self, state: str) -> None:
        self.state = state
        self.lets_through = state == CLOSED and self.distrusted is None
        if self._tell is not None:
            self._tell(state)
