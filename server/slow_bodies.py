"""Ends the wait for bodies that do not arrive, at 0.1 µs a request instead of a timer each."""

import asyncio
from time import monotonic
from typing import Any, Final

MESSAGE: Final = "body timeout"


class SlowBodies:
    """Tasks that wait for a body and since when; one timer for all looks for overdue ones.

    An overdue task is cancelled, and learns by `took_too_long` that it was this that cancelled it.
    One event loop's thread. The timer runs only while somebody waits.
    """

    __slots__ = ("_began", "_is_looking", "_overdue", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._is_looking = False

    def begin(self, task: asyncio.Task[Any]) -> None:
        self._began[task] = monotonic()
        if not self._is_looking:
            self._look_later(task.get_loop())

    def end(self, task: asyncio.Task[Any]) -> None:
        del self._began[task]

    def took_too_long(self, task: asyncio.Task[Any]) -> bool:
        """Whether the cancellation that `task` just got was ours; then it is taken back."""
        if task not in self._overdue:
            return False
        self._overdue.discard(task)
        task.uncancel()
        return True

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_looking = True
        loop.call_later(min(1.0, self._seconds / 4), self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        limit = monotonic() - self._seconds
        late = [task for task, began in self._began.items() if began <= limit]
        for task in late:
            if task not in self._overdue:
                self._overdue.add(task)
                task.cancel(MESSAGE)
        self._is_looking = False
        if self._began:
            self._look_later(loop)
