"""Where operators' calls are taken: one at a time, each checked, written down, then done.

See `server.ops.ledger` for the order of a change, `server.ops.swaps` for those of slots, and
`server.ops.forcing` and `server.ops.overriding` for those of who answers.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec

from models.store import Store
from server.events import EventLog
from server.facts import StateFacts
from server.follow import Follow
from server.ops.deploys import Deploys
from server.ops.follower import Follower, WishStatus
from server.ops.forcing import Forcing
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError
from server.ops.overriding import Overriding
from server.ops.selftesting import Selftesting
from server.ops.swaps import Swaps
from server.runtime import CannotReplace, Runtime


class ReplaceWorkers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to replace all workers."""

    reason: Annotated[str, msgspec.Meta(max_length=LONGEST_REASON)] = ""


class Replaced(msgspec.Struct, frozen=True):
    """How many workers have a successor."""

    replaced: int


class Desk:
    """Changes what is served, on the loop that serves.

    Args:
        runtime: what serves.
        folder: the state folder.
        facts: that were read from it.
        events: the log.
        store: that has the bundles.
        now: epoch seconds.
        follow: how the store's wishes are followed; None to follow none.

    Attributes:
        forcing: takes the calls that force a lower rung.
        overriding: takes those that change policies, values and rules for a time.
        selftesting: takes those that say what follows where a self-test fails.
        swaps: takes those that change which bundle answers.
        deploys: takes those that bring a version to all traffic in stages.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        facts: StateFacts,
        events: EventLog,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
        follow: Follow | None = None,
    ) -> None:
        self.events: Final = events
        self._runtime = runtime
        self._ledger = Ledger(runtime, folder, facts, events)
        self.forcing: Final = Forcing(self._ledger, now=now)
        self.overriding: Final = Overriding(self._ledger, now=now)
        self.selftesting: Final = Selftesting(self._ledger)
        self.swaps: Final = Swaps(self._ledger, store)
        self.deploys: Final = Deploys(self._ledger, self.swaps, store)
        self._follower: Follower | None = None
        if follow is not None:
            self._follower = Follower(self._ledger, self.swaps, store, self.deploys, follow)

    @property
    def facts(self) -> StateFacts:
        """What operators have said, as it stands."""
        return self._ledger.facts

    def catch_up(self) -> None:
        """Takes up what a server that was killed could not tell or end; before anything else."""
        self._ledger.catch_up()
        self.deploys.read()

    async def open(self) -> None:
        """Takes up what was said before a restart, now that the models are open."""
        await self.forcing.open()
        await self.overriding.open()
        await self.selftesting.open()
        await self.swaps.open()
        await self.deploys.open()
        if self._follower is not None:
            self._follower.open()

    @property
    def wishes(self) -> list[WishStatus]:
        """How the server stands to the wishes of its store, where it follows them."""
        return [] if self._follower is None else self._follower.wishes

    def drain(self) -> None:
        """Begins nothing more by itself: the server stops."""
        self.deploys.drain()
        if self._follower is not None:
            self._follower.drain()

    async def until_quiet(self) -> None:
        """Waits until what it does by itself has ended."""
        await self.deploys.until_quiet()
        if self._follower is not None:
            await self._follower.until_quiet()

    def close(self) -> None:
        """Forgets the timers; what expires while no server runs ends at the next start."""
        self.forcing.close()
        self.overriding.close()

    async def replace_workers(self, asked: ReplaceWorkers, *, who: str) -> Replaced:
        """Replaces all workers, one by one.

        Raises:
            OperatorError: there are none, or one cannot be replaced.
        """
        try:
            return Replaced(await self._runtime.replace_workers(who, asked.reason))
        except CannotReplace as error:
            raise OperatorError("conflict", str(error)) from error
