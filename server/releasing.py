"""Letting go of a bundle: when nobody holds it any more, and in a pause of the traffic.

Taking a large model apart stops every thread of Python, in whatever thread it is done: onnxruntime
keeps the interpreter to itself meanwhile. A request that comes then waits for all of it. That is
longer than a unit of spare work may be, so it is not put between two requests: it waits until none
has come for a moment. Where that moment does not come it is done all the same.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from time import perf_counter
from typing import Any, Final

PAUSE_SECONDS: Final = 0.003
"""A loop to which no request comes for so long has a pause."""
LATE_SECONDS: Final = 0.002
"""A timer that is later was held up; timers move in whole milliseconds."""
PATIENCE_SECONDS: Final = 2.0
"""So long a pause is waited for."""

Traffic = Callable[[], int | None]
"""A number that grows with every request; None while one waits or is under way."""
Gone = Callable[[float], None]
"""Hears, on the loop, that a bundle has gone, and how many seconds that stopped the process."""


class Releases:
    """What lets bundles go in one process. On its loop.

    Args:
        max_stall_seconds: what takes longer waits for a pause.
        traffic: of this process.
    """

    def __init__(self, max_stall_seconds: float, traffic: Traffic) -> None:
        self._max_stall = max_stall_seconds
        self._traffic = traffic

    def let_go(self, bundle: Any, seconds: float, then: Gone) -> None:
        """Takes a bundle apart when nobody holds it any more.

        Args:
            bundle: a dataclass that is in no table any more; the caller forgets it.
            seconds: that it takes, as its gate has measured.
            then: is told how many it took.
        """
        # Its parts are held so that the last request to hold the bundle does not take them apart.
        parts = [getattr(bundle, each.name) for each in fields(bundle)]
        loop = asyncio.get_running_loop()
        is_long = seconds > self._max_stall
        take_apart = partial(_take_apart, parts, then)
        wait = partial(self._wait, take_apart, perf_counter() + PATIENCE_SECONDS)
        when_gone(bundle, loop, wait if is_long else take_apart)

    def _wait(self, take_apart: Callable[[], None], until: float) -> None:
        """Looks a moment later whether anything has come."""
        loop = asyncio.get_running_loop()
        due = perf_counter() + PAUSE_SECONDS
        loop.call_later(PAUSE_SECONDS, self._look, take_apart, until, self._traffic(), due)

    def _look(
        self, take_apart: Callable[[], None], until: float, before: int | None, due: float
    ) -> None:
        now = perf_counter()
        is_pause = before is not None and before == self._traffic() and now - due < LATE_SECONDS
        if is_pause or now > until:
            take_apart()
        else:
            self._wait(take_apart, until)


def _take_apart(parts: list[Any], then: Gone) -> None:
    began = perf_counter()
    parts.clear()
    then(perf_counter() - began)


def when_gone(held: Any, loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    """Calls something on the loop when nobody holds an object any more, in whatever thread."""

    def soon() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(then)

    weakref.finalize(held, soon).atexit = False
