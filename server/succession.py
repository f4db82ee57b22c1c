"""Replacing workers that keep a bundle because letting go of it would hold up their requests.

Letting go of a large model stops a process for milliseconds. A worker that would stop for longer
than `max_stall_ms` keeps the bundle and is replaced: its successor never opens it, its idle
connections move there, its requests are answered, and the old process ends with the bundle. One
worker after the other, so that all others answer meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from server.fleet import Fleet
from server.logs import logger

WHY: Final = "release"
"""Of `vocabulary.REPLACEMENT_REASONS`."""
PAUSES_SECONDS: Final = (1.0, 5.0, 15.0)
"""Before another try where a successor did not become ready; then workers let go themselves."""
WORKER_SECONDS: Final = 60.0
"""So long whoever waits for memory waits for one worker's successor."""

_log = logger("succession")


class Succession:
    """Has the workers of one fleet replaced; on its loop.

    Args:
        fleet: of workers.
        gave_up: is called when successors do not become ready, as where there is no memory for
            them: then workers are to let go of what they keep themselves.

    Attributes:
        is_over: nobody is to be replaced.
    """

    def __init__(self, fleet: Fleet, gave_up: Callable[[], None]) -> None:
        self._fleet = fleet
        self._gave_up = gave_up
        self._newest = 0
        self._reason = ""
        self._task: asyncio.Task[None] | None = None
        self.is_over = True

    @property
    def patience_seconds(self) -> float:
        """How long it may take yet; 0 when nobody is to be replaced."""
        left = self._fleet.states_until(self._newest)
        return 0.0 if self.is_over else WORKER_SECONDS * len(left)

    def begin(self, reason: str) -> None:
        """Every worker that there is now is to be replaced; those begun later need not be.

        Args:
            reason: for the event log.
        """
        self._newest, self._reason = self._fleet.newest, reason
        if self.is_over:
            self.is_over = False
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._has_ended)

    def stop(self) -> None:
        """No worker is replaced any more."""
        if self._task is not None:
            self._task.cancel()

    def _has_ended(self, _: asyncio.Task[None]) -> None:
        self.is_over = True
        self._fleet.wake()

    async def _run(self) -> None:
        fleet, pauses = self._fleet, list(PAUSES_SECONDS)
        while states := fleet.states_until(self._newest):
            if "ready" not in states:  # they start, or leave already
                await fleet.until(lambda states=states: fleet.states_until(self._newest) != states)
                continue
            try:
                await fleet.replace("server", self._reason, why=WHY, newest=self._newest)
            except ChildProcessError as error:
                _log.warning("no_successor", reason=str(error))
                if not pauses:
                    self._gave_up()
                    return
                await asyncio.sleep(pauses.pop(0))
