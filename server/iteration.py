"""What one turn of the event loop brought: requests that share a flush, and so a run."""

import asyncio
from collections import deque
from typing import Final

from server.asked import Asked
from server.core import Core

FLUSH_REQUESTS: Final = 64
"""Requests that a flush answers at most; 250 µs of `run` is the other bound (`server.cost`)."""


class Iteration:
    """Collects requests while the sockets of one poll are read, then settles them together.

    The first request schedules the flush with `call_soon`: it runs after everything that the same
        poll made ready, and waits for nothing. What is more than a flush may take goes to the
        loop's next turn, after others have had theirs. One loop, one thread.
    """

    __slots__ = ("_core", "_is_scheduled", "_waiting")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: deque[Asked] = deque()
        self._is_scheduled = False
        core.requests.append(self._waiting)

    def add(self, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting.append(asked)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        taken = take(self._waiting)
        self._is_scheduled = bool(self._waiting)
        if self._waiting:
            loop.call_soon(self._flush, loop)
        self._core.settle(taken)


def take(waiting: deque[Asked]) -> list[Asked]:
    """The requests of one flush: the first, and those after it that fit into its bounds."""
    if len(waiting) == 1:
        return [waiting.popleft()]
    taken: list[Asked] = []
    share = 0.0
    while waiting and len(taken) < FLUSH_REQUESTS:
        asked = waiting[0]
        share += len(asked.records) * asked.route.cost.flush_share * asked.route.pace.ratio
        if taken and share > 1.0:
            break
        taken.append(waiting.popleft())
    return taken
