"""Waiting for the memory of a bundle that was unloaded, and telling what that has cost."""

from typing import Final, NamedTuple

from server.ops.calls import Call
from server.ops.ledger import Ledger
from server.release_counters import Releases

RELEASE_SECONDS: Final = 5.0
"""So long an unload waits for requests that hold the bundle; it is let go of when they end. Where
workers are replaced for it, it waits for that too."""


class Freed(NamedTuple):
    """What became of a bundle's memory.

    Attributes:
        released: whether it has been given back by now.
        stall_seconds: for which a process stood still to let go of it, the longest of them; None
            where none did.
        successors: of workers that were replaced instead.
    """

    released: bool
    stall_seconds: float | None
    successors: int


async def freed(ledger: Ledger, call: Call, since: Releases, *, is_heavy: bool) -> Freed:
    """Waits until a bundle has gone that is in no table any more.

    Args:
        ledger: of the server.
        call: that took it out of the table.
        since: what had been let go of before.
        is_heavy: letting go of it stops a process for longer than it may: there is an event of it.
    """
    released = await ledger.runtime.settled(RELEASE_SECONDS)
    counters = ledger.runtime.swaps.releases
    stall = counters.longest(since)
    successors = counters.now.successors - since.successors
    if is_heavy:
        facts = {"released": released, "stall_seconds": stall, "successors": successors}
        await ledger.tell("released", who=call.who, model=call.model, facts=call.words | facts)
    return Freed(released, stall, successors)
