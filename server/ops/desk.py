"""Where operators' calls are taken: one at a time, each checked, written down, then done.

See `server.ops.ledger` for the order of a change, and `server.ops.swaps` for those of slots.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from models.errors import ServingError
from models.store import Store
from server.events import EventLog
from server.facts import ForcedFact, StateFacts
from server.logs import logger
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError
from server.ops.swaps import Swaps
from server.routes import Forced, Served
from server.runtime import CannotReplace, Runtime

LONGEST_FORCED_SECONDS: Final = 7 * 86_400

_log = logger("desk")


class ForceFallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to force a rung, or, with `rung` null, to let the model answer again.

    `if_generation` refuses the call where the route table has another generation; `dry_run` says
    what would be done.
    """

    rung: Literal["baseline", "rules"] | None
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REASON)]
    expires_seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_FORCED_SECONDS)] | None = None
    if_generation: int | None = None
    dry_run: bool = False


class ReplaceWorkers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to replace all workers."""

    reason: Annotated[str, msgspec.Meta(max_length=LONGEST_REASON)] = ""


class Replaced(msgspec.Struct, frozen=True):
    """How many workers have a successor."""

    replaced: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to; asked twice, nothing is changed the second time."""

    model: str
    version: str
    before: Forced | None
    after: Forced | None
    generation: int
    changed: bool
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Forcing:
    """A call that can be done."""

    route: Any
    asked: ForceFallback
    fact: ForcedFact | None


class Desk:
    """Changes what is served, on the loop that serves.

    Args:
        runtime: what serves.
        folder: the state folder.
        facts: that were read from it.
        events: the log.
        store: that has the bundles.
        now: epoch seconds.

    Attributes:
        swaps: takes the calls that change which bundle answers.
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
    ) -> None:
        self.events: Final = events
        self._runtime = runtime
        self._ledger = Ledger(runtime, folder, facts, events)
        self.swaps: Final = Swaps(self._ledger, store)
        self._now = now
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def facts(self) -> StateFacts:
        """What operators have said, as it stands."""
        return self._ledger.facts

    async def open(self) -> None:
        """Takes up what was said before a restart, now that the models are open."""
        now, routes = self._now(), self._runtime.routes
        left: dict[str, ForcedFact] = {}
        for model, fact in self.facts.forced.items():
            route = routes.live.get(model)
            if route is None:
                continue
            rung = self.facts.forced_rung(model, route.bundle.version, now)
            if rung is not None and rung == route.forced:
                left[model] = fact
        for model, fact in self.facts.forced.items():
            if model not in left:
                why = "it expired, ended with its version, or a setting says otherwise"
                await self._tell("server", model, fact.rung, None, {"reason": why})
        facts = msgspec.structs.replace(self.facts, generation=routes.generation, forced=left)
        await self._ledger.write(facts)
        for model, fact in left.items():
            self._end_later(model, fact)
        await self.swaps.open()

    def close(self) -> None:
        """Forgets the timers; what expires while no server runs ends at the next start."""
        for timer in self._ends.values():
            timer.cancel()

    async def force(self, model: str, asked: ForceFallback, *, who: str) -> Done:
        """Forces a rung for a model, or ends that.

        Raises:
            OperatorError: no such model, not loaded, no such rung, another generation, or no worker
                can serve so.
        """
        async with self._ledger.changing:
            forcing = self._checked(model, asked, who)
            route = forcing.route
            done = Done(
                model=model,
                version=route.bundle.version,
                before=route.forced,
                after=asked.rung,
                generation=self._runtime.routes.generation,
                changed=self._changes(model, forcing),
                dry_run=asked.dry_run,
            )
            if asked.dry_run or not done.changed:
                return done
            try:
                await self._do(model, forcing, who)
            except ServingError as error:
                raise OperatorError("conflict", str(error)) from error
            return msgspec.structs.replace(done, generation=self._runtime.routes.generation)

    async def replace_workers(self, asked: ReplaceWorkers, *, who: str) -> Replaced:
        """Replaces all workers, one by one.

        Raises:
            OperatorError: there are none, or one cannot be replaced.
        """
        try:
            return Replaced(await self._runtime.replace_workers(who, asked.reason))
        except CannotReplace as error:
            raise OperatorError("conflict", str(error)) from error

    def _checked(self, model: str, asked: ForceFallback, who: str) -> _Forcing:
        routes = self._runtime.routes
        route = routes.live.get(model)
        if route is None:
            missing = routes.unavailable.get(model)
            if missing is None:
                raise OperatorError("unknown_model", routes.no_such(model))
            raise OperatorError("conflict", f"model {model!r} is not loaded: {missing.why}")
        self._ledger.check_generation(asked.if_generation)
        if asked.rung == "baseline" and route.bundle.manifest.baseline is None:
            raise OperatorError(
                "invalid",
                f"version {route.bundle.version} of {model!r} has no baseline; force its rules",
            )
        return _Forcing(route, asked, self._fact(route, asked, who))

    def _fact(self, route: Served, asked: ForceFallback, who: str) -> ForcedFact | None:
        if asked.rung is None:
            return None
        now = self._now()
        return ForcedFact(
            version=route.bundle.version,
            rung=asked.rung,
            by=who,
            at=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            reason=asked.reason,
            expires=None if asked.expires_seconds is None else now + asked.expires_seconds,
        )

    def _changes(self, model: str, forcing: _Forcing) -> bool:
        """Whether there is anything to do: another rung, or the same with another end."""
        if forcing.route.forced != forcing.asked.rung:
            return True
        known = self.facts.forced.get(model)
        return forcing.asked.expires_seconds is not None or (
            known is not None and known.expires is not None and forcing.asked.rung is not None
        )

    async def _do(self, model: str, forcing: _Forcing, who: str) -> None:
        others = {name: fact for name, fact in self.facts.forced.items() if name != model}
        forced = others if forcing.fact is None else {**others, model: forcing.fact}
        route = replace(forcing.route, forced=forcing.asked.rung)
        await self._ledger.publish(lambda table: table.with_route(route), forced=forced)
        self._end_later(model, forcing.fact)
        generation = self._runtime.routes.generation
        facts: dict[str, Any] = {"reason": forcing.asked.reason, "generation": generation}
        if forcing.asked.expires_seconds is not None:
            facts["expires_seconds"] = forcing.asked.expires_seconds
        await self._tell(who, model, forcing.route.forced, forcing.asked.rung, facts)

    async def _tell(
        self,
        who: str,
        model: str,
        before: Forced | None,
        after: Forced | None,
        facts: dict[str, Any],
    ) -> None:
        _log.warning("forced", model=model, before=before, after=after, who=who)
        words = {"who": who, "model": model, "before": before or "model", "after": after or "model"}
        await self._ledger.tell("forced", **words, facts=facts)

    def _end_later(self, model: str, fact: ForcedFact | None) -> None:
        if timer := self._ends.pop(model, None):
            timer.cancel()
        if fact is None or fact.expires is None:
            return
        seconds = max(0.0, fact.expires - self._now())
        loop = asyncio.get_running_loop()
        self._ends[model] = loop.call_later(seconds, self._end, model, fact)

    def _end(self, model: str, fact: ForcedFact) -> None:
        if self.facts.forced.get(model) is not fact:
            return
        task = asyncio.create_task(self._expire(model))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _expire(self, model: str) -> None:
        try:
            await self.force(model, ForceFallback(rung=None, reason="it expired"), who="server")
        except (OperatorError, OSError) as error:
            _log.error("forced_not_ended", model=model, reason=str(error))
