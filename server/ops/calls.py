"""What calls of operators have in common: what a body may have, what is counted, what is told."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from server.events import shortened
from server.logs import logger
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError

_log = logger("calls")

Reason = Annotated[str, msgspec.Meta(max_length=LONGEST_REASON)]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bodies of all these calls may have.

    `if_generation` refuses the call where the route table has another generation; `dry_run` says
    what would be done; `reason` stands in the event log.
    """

    reason: Reason = ""
    if_generation: int | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Call:
    """A call under way.

    Attributes:
        swap: what is asked for, of `vocabulary.SWAPS`.
        began: `time.monotonic`.
    """

    swap: str
    model: str
    who: str
    asked: Asked
    began: float

    @property
    def words(self) -> dict[str, Any]:
        """What its event says of it, whatever comes of it."""
        words: dict[str, Any] = {"swap": self.swap}
        version = getattr(self.asked, "version", None)
        if version is not None:
            words["version"] = shortened(version)
        if self.asked.reason:
            words["reason"] = self.asked.reason
        return words


@asynccontextmanager
async def called(
    ledger: Ledger, swap: str, model: str, asked: Asked, who: str
) -> AsyncGenerator[Call]:
    """Begins a call; one that is refused is counted and told of.

    Args:
        ledger: of the server.
        swap: what is asked for, of `vocabulary.SWAPS`.
        model: it is about.
        asked: the body.
        who: asks.
    """
    call = Call(swap, model, who, asked, time.monotonic())
    try:
        yield call
    except OperatorError as error:
        if not asked.dry_run:
            ledger.runtime.swaps.refused(swap, error.cause)
            facts = call.words | {"code": error.code, "cause": error.cause, "why": str(error)}
            _log.warning("swap_refused", model=model, who=who, **facts)
            try:
                await ledger.tell("swap_refused", who=who, model=shortened(model), facts=facts)
            except OSError as unwritten:  # a full disk, say, which may be why it is refused
                _log.error("event_not_written", kind="swap_refused", reason=str(unwritten))
        raise
