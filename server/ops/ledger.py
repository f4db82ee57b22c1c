"""What operators' calls share: the facts on the disk, the event log, and one change at a time.

The order of a change: whoever serves has the new route table, its facts are on the disk, the table
is put into use, the event is written, the caller hears of it. A crash in between leaves what the
facts say, which the next start does; they have the event too, which it tells if the log has not.
"""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from models.errors import ServingError
from server.events import Event, EventLog
from server.facts import SecondFact, SlotsFact, StateFacts, Telling, write_facts
from server.health import Phase
from server.logs import logger
from server.ops.causes import USUAL, cause_of
from server.routes import Second, Served
from server.runtime import Change, Runtime

STATUS: Final = {
    "invalid": 400,
    "unknown_model": 404,
    "unknown_version": 404,
    "conflict": 409,
    "bundle_refused": 422,
}
LONGEST_REASON: Final = 500

_log = logger("ledger")


class OperatorError(Exception):
    """A call that cannot be done as asked; nothing was changed.

    Args:
        code: of `vocabulary.OPS_ERROR_CODES`.
        message: what is wrong, and what to do.
        cause: of `vocabulary.REFUSAL_CAUSES`; None for what the code says already.
    """

    def __init__(self, code: str, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.code: Final = code
        self.status: Final = STATUS[code]
        self.cause: Final = cause or USUAL.get(code, "other")


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
        self._untold: tuple[Telling, ...] = ()
        self._is_telling = asyncio.Lock()

    @property
    def facts(self) -> StateFacts:
        """What operators have said, as it stands."""
        return self._facts

    def catch_up(self) -> None:
        """Tells the log of the last change, if the server was killed before it had done so."""
        for telling in self._facts.events:
            if not any(_tells(event, telling) for event in self.events.behind(telling.behind)):
                self.events.append(**_words(telling, told="at the next start"))

    async def write(self, facts: StateFacts, *tellings: Telling) -> None:
        """Puts facts on the disk, and writes the events that tell of them.

        Raises:
            OSError: the disk did not take them; the old ones stand.
        """
        await self._put(facts, tellings)
        await self._tell_all()

    async def publish(
        self,
        change: Change,
        *tellings: Telling,
        began: float | None = None,
        refusal: str = "conflict",
        **facts: Any,
    ) -> None:
        """Changes the route table, and with it some of the facts; see `Runtime.publish`.

        Args:
            change: makes the next table out of the current one.
            tellings: events that tell of it; they are in the log when this returns, each with the
                `generation` of the table.
            began: `time.monotonic` when the call came of which they tell; they have the `seconds`
                that it took then.
            refusal: the error code where somebody who serves cannot serve so.
            facts: that are changed.

        Raises:
            OperatorError: nothing was changed: somebody cannot serve so, or the disk is full.
        """
        marked: tuple[Telling, ...] = ()

        async def keep(generation: int) -> None:
            nonlocal marked
            marked = tuple(
                msgspec.structs.replace(each, facts=each.facts | {"generation": generation})
                for each in tellings
            )
            changed = msgspec.structs.replace(self._facts, generation=generation, **facts)
            marked = await self._put(changed, marked)

        try:
            await self.runtime.publish(change, keep)
        except ServingError as error:
            raise OperatorError(refusal, str(error), cause_of(error)) from error
        except OSError as error:
            raise OperatorError(
                "conflict",
                f"the state folder did not take it ({error.strerror}), and nothing was changed; "
                "make room there, and ask again",
                "disk",
            ) from error
        seconds = {} if began is None else {"seconds": round(time.monotonic() - began, 4)}
        await self._tell_all(marked, seconds)

    async def tell(self, kind: str, **words: Any) -> None:
        """Writes an event that is of no change; it is on the disk when this returns."""
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

    def check_serving(self) -> None:
        """Refuses what cannot be changed while models are opened, or the server stops.

        Raises:
            OperatorError: it does not serve now.
        """
        if self.runtime.phase is not Phase.SERVING:
            phase = self.runtime.phase.value
            raise OperatorError("conflict", f"the server is {phase}; try again when it serves")

    def check_known(self, model: str) -> None:
        """Refuses a call about a model of which there is nothing.

        Raises:
            OperatorError: there is no such model.
        """
        routes = self.runtime.routes
        if model not in routes.names():
            raise OperatorError("unknown_model", routes.no_such(model))

    def live(self, model: str) -> Served:
        """The route of the version that answers.

        Raises:
            OperatorError: there is no such model, or nothing of it is live.
        """
        routes = self.runtime.routes
        if (route := routes.live.get(model)) is not None:
            return route
        self.check_known(model)
        why = routes.why_not_live(model)
        raise OperatorError("conflict", f"model {model!r} is not loaded: {why}")

    def slots_with(self, model: str, second: Second[Any] | None) -> dict[str, SlotsFact]:
        """The facts of all models' slots, with another second one of a model."""
        routes = self.runtime.routes
        live = routes.live.get(model)
        missing = routes.unavailable.get(model)
        version = live.bundle.version if live is not None else missing and missing.version
        fact = second and SecondFact(
            version=second.version,
            role=second.role,
            was_live=second.was_live,
            canary=second.canary,
            shadow=second.shadow,
        )
        return {**self._facts.slots, model: SlotsFact(live=version, second=fact)}

    async def _put(self, facts: StateFacts, tellings: tuple[Telling, ...]) -> tuple[Telling, ...]:
        """Puts facts on the disk with what is to be told; gives what tells of this change."""
        behind = self.events.head.n
        marked = tuple(msgspec.structs.replace(each, behind=behind) for each in tellings)
        facts = msgspec.structs.replace(facts, events=(*self._untold, *marked))
        await asyncio.to_thread(write_facts, self.folder, facts)
        self._facts = facts
        self._untold = (*self._untold, *marked)  # some may have been told meanwhile
        return marked

    async def _tell_all(
        self, timed: tuple[Telling, ...] = (), seconds: dict[str, float] | None = None
    ) -> None:
        """Tells what is to be told. What the disk does not take stays with the facts.

        Args:
            timed: what of it is told with the `seconds` that it took.
            seconds: see `timed`.
        """
        async with self._is_telling:
            while self._untold:
                telling, *rest = self._untold
                words = _words(telling, **(seconds or {} if telling in timed else {}))
                try:
                    await asyncio.to_thread(self.events.append, **words)
                except OSError as error:  # the change is done: nobody is told that it is not
                    _log.error("event_not_written", kind=telling.kind, reason=str(error))
                    return
                self._untold = tuple(rest)


def _words(telling: Telling, **more: Any) -> dict[str, Any]:
    """What the log is told, with more facts."""
    words = msgspec.structs.asdict(telling)
    del words["behind"]
    return words | {"facts": telling.facts | more}


def _tells(event: Event, telling: Telling) -> bool:
    """Whether an event behind a telling's place in the log is the one."""
    same = event.kind == telling.kind and event.model == telling.model
    return same and event.facts.get("generation") == telling.facts.get("generation")
