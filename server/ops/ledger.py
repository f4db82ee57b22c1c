"""What operators' calls share: the facts on the disk, the event log, and one change at a time.

The order of a change: whoever serves has the new route table, its facts are on the disk, the table
is put into use, the event is written, the caller hears of it. A crash in between leaves what the
facts say, which the next start does.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from server.events import EventLog
from server.facts import StateFacts, write_facts
from server.runtime import Change, Runtime

STATUS: Final = {
    "invalid": 400,
    "unknown_model": 404,
    "unknown_version": 404,
    "conflict": 409,
    "bundle_refused": 422,
}
LONGEST_REASON: Final = 500


class OperatorError(Exception):
    """A call that cannot be done as asked; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code: Final = code
        self.status: Final = STATUS[code]


class Ledger:
    """The state of a server that its operators may change, on the loop that serves.

    Args:
        runtime: what serves.
        folder: the state folder.
        facts: that were read from it.
        events: the log.

    Attributes:
        folder: the state folder.
        changing: held while a change is checked and made, so that there is one at a time.
    """

    def __init__(self, runtime: Runtime, folder: Path, facts: StateFacts, events: EventLog) -> None:
        self.runtime: Final = runtime
        self.events: Final = events
        self.changing: Final = asyncio.Lock()
        self.folder: Final = folder
        self._facts = facts

    @property
    def facts(self) -> StateFacts:
        """What operators have said, as it stands."""
        return self._facts

    async def write(self, facts: StateFacts) -> None:
        """Puts facts on the disk.

        Raises:
            OSError: the disk did not take them; the old ones stand.
        """
        await asyncio.to_thread(write_facts, self.folder, facts)
        self._facts = facts

    async def publish(self, change: Change, **facts: Any) -> None:
        """Changes the route table, and with it some of the facts; see `Runtime.publish`."""

        async def keep(generation: int) -> None:
            changed = msgspec.structs.replace(self._facts, generation=generation, **facts)
            await self.write(changed)

        await self.runtime.publish(change, keep)

    async def tell(self, kind: str, **words: Any) -> None:
        """Writes an event; it is on the disk when this returns."""
        await asyncio.to_thread(self.events.append, kind, **words)

    def check_generation(self, expected: int | None) -> None:
        """Refuses a call that was meant for another route table.

        Raises:
            OperatorError: somebody has changed something meanwhile.
        """
        generation = self.runtime.routes.generation
        if expected not in (None, generation):
            raise OperatorError(
                "conflict",
                f"the generation is {generation}, not {expected}: somebody has "
                "changed something meanwhile. Look at `keelmark status`, and ask again.",
            )
