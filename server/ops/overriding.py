"""Overrides of a model that serves: tried on its golden rows, put to use for a time, ended."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from models.errors import OverrideRefused, ServingError
from models.overrides import (
    LONGEST_SECONDS,
    NO_CHANGES,
    Changes,
    Effect,
    Override,
    expiry,
)
from models.times import time_of
from server.facts import Telling
from server.logs import logger
from server.ops.calls import Asked, Call, called
from server.ops.causes import cause_of
from server.ops.expiry import Expiries
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError
from server.routes import AnyRoutes, Served

MOST_APART_SECONDS: Final = 60.0
MOST_APART_RATIO: Final = 0.05
"""Two calls mean the same end where the ends are no farther apart, in seconds and by their time: it
is the same call, sent twice."""
EXPIRED: Final = "it expired"
AT_THE_START: Final = "it expired while no server ran, its version is not live, or it does not fit"

_log = logger("overriding")


class AskOverride(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to override, or, with `changes` null, to end the override that stands.

    Nothing is changed but with `dry_run` false: what it would do to the golden rows is to be seen
    first.
    """

    changes: Changes | None
    # Needed here; the fields are given by name, so that it may come behind others.
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REASON)]  # pyright: ignore[reportGeneralTypeIssues]
    expires_seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)] | None = None
    dry_run: bool = True


class OverrideShown(msgspec.Struct, frozen=True, kw_only=True):
    """An override as answers, status and events show it; `expires` is ISO 8601 in UTC."""

    changes: Changes
    by: str
    at: str
    reason: str
    expires: str


class Overrode(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to; asked twice, nothing is changed the second time.

    Attributes:
        effect: on the golden rows, in place of what stood before; None where nothing was to be
            done.
    """

    model: str
    version: str
    before: OverrideShown | None
    after: OverrideShown | None
    generation: int
    changed: bool
    dry_run: bool
    effect: Effect | None = None


class Overriding:
    """Takes the calls about overrides, on the loop that serves.

    Args:
        ledger: of the server.
        now: epoch seconds.
    """

    def __init__(self, ledger: Ledger, *, now: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime
        self._now = now
        self._ends = Expiries("override", now)

    async def open(self) -> None:
        """Takes up what stood before a restart, now that the models are open with it."""
        facts, live = self._ledger.facts, self._runtime.routes.live
        left = {
            model: override
            for model, override in facts.overrides.items()
            if model in live and live[model].override == override
        }
        ended = [
            override_ended(model, override, "server", AT_THE_START)
            for model, override in facts.overrides.items()
            if model not in left
        ]
        if ended:
            await self._ledger.write(msgspec.structs.replace(facts, overrides=left), *ended)
        for model, override in left.items():
            self._end_later(model, override)

    def close(self) -> None:
        """Forgets the timers; what expires while no server runs ends at the next start."""
        self._ends.close()

    async def override(self, model: str, asked: AskOverride, *, who: str) -> Overrode:
        """Tries an override, and puts it to use where it is to be; or ends the one that stands.

        Others may change something while it is tried: where that is the version or the override, it
        is refused then.

        Raises:
            OperatorError: no such model, not loaded, another generation, or it cannot be applied.
        """
        async with called(self._ledger, "override", model, asked, who) as call:
            route = self._checked(model, asked)
            override = self._said(route, asked, who)
            done = Overrode(
                model=model,
                version=route.bundle.version,
                before=shown(route.override),
                after=shown(override),
                generation=self._runtime.routes.generation,
                changed=not _is_same(route.override, override, self._now()),
                dry_run=asked.dry_run,
            )
            if not done.changed:
                return msgspec.structs.replace(done, after=done.before)
            put_on, effect = await self._tried(route, override)
            done = msgspec.structs.replace(done, effect=effect)
            if asked.dry_run:
                return done
            async with self._ledger.changing:
                now = self._checked(model, asked)
                if now.bundle is not route.bundle or now.override is not route.override:
                    raise OperatorError(
                        "conflict",
                        f"somebody has changed {model!r} while this was tried; look at `keelmark "
                        "status`, and ask again",
                    )
                await self._put(call, done, override, put_on)
                generation = self._runtime.routes.generation
                return msgspec.structs.replace(done, generation=generation)

    # what may be done

    def _checked(self, model: str, asked: AskOverride) -> Served:
        self._ledger.check_serving()
        route = self._ledger.live(model)
        self._ledger.check_generation(asked.if_generation)
        return route

    def _said(self, route: Served, asked: AskOverride, who: str) -> Override | None:
        if asked.changes is None:
            return None
        if asked.changes == NO_CHANGES:
            raise OperatorError(
                "invalid",
                "nothing is changed; name a policy, a value, rules or a rung, or end the override "
                "with `changes` null (--end)",
            )
        now = self._now()
        return Override(
            version=route.bundle.version,
            changes=asked.changes,
            by=who,
            at=time_of(now),
            reason=asked.reason,
            expires=expiry(now, asked.expires_seconds),
        )

    async def _tried(
        self, route: Served, override: Override | None
    ) -> tuple[Callable[[Any], Any], Effect]:
        """What puts it on a route, and its effect on the golden rows."""
        standing = NO_CHANGES if route.override is None else route.override.changes
        changes = NO_CHANGES if override is None else override.changes
        try:
            effect = await self._runtime.try_override(route, changes, standing)
            if override is None:
                return lambda route: route.without_override(), effect
            return await self._runtime.with_override(route, override), effect
        except OverrideRefused as error:
            raise OperatorError("invalid", str(error)) from error
        except (ServingError, OSError) as error:
            raise OperatorError("conflict", str(error), cause_of(error)) from error

    # doing it

    async def _put(
        self,
        call: Call,
        done: Overrode,
        override: Override | None,
        put_on: Callable[[Any], Any],
    ) -> None:
        model = call.model
        effect = {} if done.effect is None else {"golden_rows_changed": done.effect.changed}
        telling = Telling(
            kind="overridden",
            who=call.who,
            model=model,
            before=msgspec.to_builtins(done.before),
            after=msgspec.to_builtins(done.after),
            facts=call.words | {"version": done.version} | effect,
        )
        await self._publish(model, override, put_on, telling, began=call.began)
        self._runtime.swaps.done(call.swap, time.monotonic() - call.began)
        _log.warning("overridden", model=model, who=call.who, **call.words)

    async def _publish(
        self,
        model: str,
        override: Override | None,
        put_on: Callable[[Any], Any],
        telling: Telling,
        *,
        began: float | None = None,
    ) -> None:
        overrides = {n: one for n, one in self._ledger.facts.overrides.items() if n != model}
        if override is not None:
            overrides[model] = override

        def change(table: AnyRoutes) -> AnyRoutes:
            return table.with_route(put_on(table.live[model]))

        await self._ledger.publish(change, telling, began=began, overrides=overrides)
        self._end_later(model, override)

    def _end_later(self, model: str, override: Override | None) -> None:
        expires = None if override is None else override.expires
        self._ends.set(model, expires, partial(self._expire, model, override))

    async def _expire(self, model: str, override: Override | None) -> None:
        async with self._ledger.changing:
            if self._ledger.facts.overrides.get(model) is not override or override is None:
                return  # it has ended by itself, or with its version, or another stands
            telling = override_ended(model, override, "server", EXPIRED)
            await self._publish(model, None, lambda route: route.without_override(), telling)
            _log.warning("override_ended", model=model, why=EXPIRED)


def shown(override: Override | None) -> OverrideShown | None:
    """An override for people."""
    if override is None:
        return None
    return OverrideShown(
        changes=override.changes,
        by=override.by,
        at=override.at,
        reason=override.reason,
        expires=time_of(override.expires),
    )


def override_ended(model: str, override: Override, who: str, why: str) -> Telling:
    """What the log is told of an override that has ended."""
    return Telling(
        kind="override_ended",
        who=who,
        model=model,
        before=msgspec.to_builtins(shown(override)),
        facts={"version": override.version, "why": why},
    )


def _is_same(standing: Override | None, asked: Override | None, now: float) -> bool:
    """Whether there is nothing to do: the same changes, with as good as the same end."""
    if standing is None or asked is None:
        return standing is asked
    # As text: 1, 1.0 and true are equal in Python, and not the same value of a field.
    encode = msgspec.json.Encoder(order="deterministic").encode
    apart = abs(asked.expires - standing.expires)
    most = min(MOST_APART_SECONDS, MOST_APART_RATIO * (asked.expires - now))
    return encode(standing.changes) == encode(asked.changes) and apart <= most
