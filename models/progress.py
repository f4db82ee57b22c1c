"""What a long job says while it works: one line a step, on a terminal only."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]
"""Says that so many more units of the step are done."""


class Steps:
    """Shows the steps of a job with their progress; silent where nobody watches."""

    def __init__(self, *, shown: bool) -> None:
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, what: str, total: int = 1) -> Generator[Advance]:
        """One step of `total` units; complete when it ends without an error."""
        task = self._progress.add_task(what, total=total)
        yield lambda done: self._progress.advance(task, done)
        self._progress.update(task, completed=total)
