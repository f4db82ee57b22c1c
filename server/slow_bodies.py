"""Ends the wait for bodies that do not arrive, with one timer for all instead of one for each."""

import asyncio
from collections.abc import Callable, Hashable
from time import monotonic


class SlowBodies:
    """Who waits for a body and since when; one timer for all looks for overdue ones.

    One event loop's thread. The timer runs only while somebody waits.
    """

    __slots__ = ("_is_looking", "_seconds", "_waiting")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._is_looking = False

    def begin(
        self, waiter: Hashable, give_up: Callable[[], object], loop: asyncio.AbstractEventLoop
    ) -> None:
        """A body is waited for; `give_up` is called, once, when it has taken too long."""
        self._waiting[waiter] = (monotonic(), give_up)
        if not self._is_looking:
            self._look_later(loop)

    def end(self, waiter: Hashable) -> bool:
        """Nobody waits any more; gives whether it had been waited for and not given up."""
        return self._waiting.pop(waiter, None) is not None

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_looking = True
        loop.call_later(min(1.0, self._seconds / 4), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        limit = monotonic() - self._seconds
        late = [waiter for waiter, (began, _) in self._waiting.items() if began <= limit]
        for waiter in late:
            _, give_up = self._waiting.pop(waiter)
            give_up()
        self._is_looking = False
        if self._waiting:
            self._look_later(loop)
