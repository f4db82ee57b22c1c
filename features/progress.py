"""A progress bar for whoever waits at a terminal for more than a second."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Self, TextIO, TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with rows done and rows in all."""

PATIENCE_SECONDS: Final = 1.0


class ProgressBar:
    """Rows done of rows in all, on a stream that is a terminal, and only when it takes long.

    Use it as a context manager and call it as a `Progress`. Nothing is drawn before a second has
    passed, and rich is not imported before that.
    """

    def __init__(
        self,
        what: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = clock()
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None and self._is_worth_drawing(done, total):
            self._draw(total)
        if self._bar is not None:
            self._bar.update(0, completed=done, total=total)

    def _is_worth_drawing(self, done: int, total: int) -> bool:
        if done >= total or not self._stream.isatty():
            return False
        return self._clock() - self._started > PATIENCE_SECONDS

    def _draw(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._bar.add_task(self._what, total=total)
        self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def progress_bar(
    what: str, *, quiet: bool, progress: Progress | None = None
) -> AbstractContextManager[Progress]:
    """Where progress goes: to the caller's function, nowhere, or to a terminal."""
    if progress is not None or quiet:
        return nullcontext(progress or _silent)
    return ProgressBar(what)


def _silent(done: int, total: int) -> None:
    pass
