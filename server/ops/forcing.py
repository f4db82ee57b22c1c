"""Forcing a lower rung: an operator's shortest way to take a model out of service."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from models.times import time_of
from server.facts import ForcedFact, Telling
from server.logs import logger
from server.ops.expiry import Expiries
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError
from server.routes import Forced, Served, said

LONGEST_FORCED_SECONDS: Final = 7 * 86_400
AT_THE_START: Final = "it expired, ended with its version, or a setting says otherwise"

_log = logger("forcing")


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


class Forcing:
    """Takes the calls that force a rung, on the loop that serves.

    Args:
        ledger: of the server.
        now: epoch seconds.
    """

    def __init__(self, ledger: Ledger, *, now: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime
        self._now = now
        self._ends = Expiries("forced", now)

    async def open(self) -> None:
        """Takes up what was said before a restart, now that the models are open."""
        now, routes, facts = self._now(), self._runtime.routes, self._ledger.facts
        left: dict[str, ForcedFact] = {}
        for model, fact in facts.forced.items():
            route = routes.live.get(model)
            if route is None:
                continue
            rung = facts.forced_rung(model, route.bundle.version, now)
            if rung is not None and rung == route.said:
                left[model] = fact
        ended = [
            forced_ended(model, fact, "server", AT_THE_START)
            for model, fact in facts.forced.items()
            if model not in left
        ]
        facts = msgspec.structs.replace(facts, generation=routes.generation, forced=left)
        await self._ledger.write(facts, *ended)
        for model, fact in left.items():
            self._end_later(model, fact)

    def close(self) -> None:
        """Forgets the timers; what expires while no server runs ends at the next start."""
        self._ends.close()

    async def force(self, model: str, asked: ForceFallback, *, who: str) -> Done:
        """Forces a rung for a model, or ends that.

        Raises:
            OperatorError: no such model, not loaded, no such rung, another generation, or no worker
                can serve so.
        """
        async with self._ledger.changing:
            return await self._force(model, asked, who)

    async def _force(self, model: str, asked: ForceFallback, who: str) -> Done:
        """Does it, while nobody else changes anything."""
        forcing = self._checked(model, asked, who)
        route = forcing.route
        done = Done(
            model=model,
            version=route.bundle.version,
            before=route.said,
            after=asked.rung,
            generation=self._runtime.routes.generation,
            changed=self._changes(model, forcing),
            dry_run=asked.dry_run,
        )
        if asked.dry_run or not done.changed:
            return done
        await self._do(model, forcing, who)
        return msgspec.structs.replace(done, generation=self._runtime.routes.generation)

    def _checked(self, model: str, asked: ForceFallback, who: str) -> _Forcing:
        route = self._ledger.live(model)
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
            at=time_of(now),
            reason=asked.reason,
            expires=None if asked.expires_seconds is None else now + asked.expires_seconds,
        )

    def _changes(self, model: str, forcing: _Forcing) -> bool:
        """Whether there is anything to do: another rung, or the same with another end."""
        if forcing.route.said != forcing.asked.rung:
            return True
        known = self._ledger.facts.forced.get(model)
        return forcing.asked.expires_seconds is not None or (
            known is not None and known.expires is not None and forcing.asked.rung is not None
        )

    async def _do(self, model: str, forcing: _Forcing, who: str) -> None:
        others = {n: fact for n, fact in self._ledger.facts.forced.items() if n != model}
        forced = others if forcing.fact is None else {**others, model: forcing.fact}
        route = said(forcing.route, forcing.asked.rung)
        facts: dict[str, Any] = {"reason": forcing.asked.reason}
        if forcing.asked.expires_seconds is not None:
            facts["expires_seconds"] = forcing.asked.expires_seconds
        telling = _telling(model, forcing.route.said, forcing.asked.rung, who, facts)
        await self._ledger.publish(lambda table: table.with_route(route), telling, forced=forced)
        _log.warning("forced", model=model, before=telling.before, after=telling.after, who=who)
        self._end_later(model, forcing.fact)

    def _end_later(self, model: str, fact: ForcedFact | None) -> None:
        expires = None if fact is None else fact.expires
        self._ends.set(model, expires, partial(self._expire, model, fact))

    async def _expire(self, model: str, fact: ForcedFact | None) -> None:
        async with self._ledger.changing:
            if self._ledger.facts.forced.get(model) is fact:  # else somebody said something new
                await self._force(model, ForceFallback(rung=None, reason="it expired"), "server")


def forced_ended(model: str, fact: ForcedFact, who: str, why: str) -> Telling:
    """What the log is told of a forced rung that has ended."""
    return _telling(model, fact.rung, None, who, {"reason": why})


def _telling(
    model: str, before: Forced | None, after: Forced | None, who: str, facts: dict[str, Any]
) -> Telling:
    before_, after_ = before or "model", after or "model"
    return Telling(kind="forced", who=who, model=model, before=before_, after=after_, facts=facts)
