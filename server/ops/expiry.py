"""What ends by itself: timers for what operators have said for a time only."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from server.logs import logger

LOOK_SECONDS: Final = 60.0
"""A timer runs no longer at a time: the clock of the day, which decides, may be set meanwhile."""
AGAIN_SECONDS: Final = 5.0
"""After this what could not be ended is tried again."""

_log = logger("expiry")

End = Callable[[], Awaitable[None]]
"""Ends it; it may raise."""


class Expiries:
    """Calls what ends something when its time is over. On the loop.

    Args:
        what: that ends, for the log.
        now: epoch seconds.
    """

    def __init__(self, what: str, now: Callable[[], float] = time.time) -> None:
        self._what = what
        self._now = now
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def set(self, name: str, expires: float | None, end: End) -> None:
        """Ends something at `expires` (epoch seconds; None for never), in place of the last word.

        What cannot be ended then is tried again until it can: `end` finds out itself whether there
        is still anything to do.
        """
        if timer := self._timers.pop(name, None):
            timer.cancel()
        if expires is not None:
            self._look_after(name, expires, end, max(0.0, expires - self._now()))

    def close(self) -> None:
        """Forgets all of them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _look_after(self, name: str, expires: float, end: End, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        seconds = min(seconds, LOOK_SECONDS)
        self._timers[name] = loop.call_later(seconds, self._look, name, expires, end)

    def _look(self, name: str, expires: float, end: End) -> None:
        left = expires - self._now()
        if left > 0:
            self._look_after(name, expires, end, left)
            return
        del self._timers[name]
        task = asyncio.get_running_loop().create_task(self._end(name, expires, end))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, name: str, expires: float, end: End) -> None:
        try:
            await end()
        except Exception as error:  # noqa: BLE001  (whatever keeps it from ending, it is to end)
            _log.error("not_ended", what=self._what, model=name, reason=str(error))
            if name not in self._timers:  # else somebody has said something new meanwhile
                self._look_after(name, expires, end, AGAIN_SECONDS)
