"""Overrides in a process that answers: policies and lower rungs are exchanged, not the model.

Bundle, counters, breaker and pace of a route stay; a changed route is another one, so that no run
is shared across the edge of an override.
"""

from collections.abc import Callable
from typing import Any, Protocol

from models.bundle import Bundle
from models.errors import ServingError
from models.overrides import Changes, Effect, Override, overridden
from server.facts import StateFacts
from server.logs import logger
from server.notes import NoteWriter
from server.routes import Rungs
from server.warm_up import below_cost

_log = logger("overrides")


class Overrider(Protocol):
    """What a runtime does with overrides; see `server.runtime.Runtime`."""

    async def try_override(self, route: Any, changes: Changes, standing: Changes) -> Effect: ...
    async def with_override(self, route: Any, override: Override) -> Callable[[Any], Any]: ...


def rungs_of(bundle: Bundle, override: Override) -> Rungs:
    """What answers by an override, that has been tried; in a thread, as rules are compiled.

    What lower rungs cost is measured anew: rules of an operator may take longer, and requests are
    placed by it.

    Raises:
        OverrideRefused: it cannot be applied.
    """
    changed = overridden(bundle, override.changes, is_tried=True)
    has_rules = override.changes.rules is not None
    notes = NoteWriter(bundle, has_operators_rules=has_rules)
    return Rungs(override, changed, notes, below_cost(changed))


async def as_before(runtime: Overrider, route: Any, facts: StateFacts, now: float) -> Any:
    """A route that is opened at the start, with the override that stood before.

    One that cannot be applied any more is left out: the model answers as it was packed, and the log
    says so.

    Args:
        runtime: that opens it.
        route: without an override.
        facts: that were read from the state folder.
        now: epoch seconds.
    """
    bundle = route.bundle
    override = facts.overrides.get(bundle.name)
    if override is None or not override.holds(bundle.version, now):
        return route
    try:
        await runtime.try_override(route, override.changes, Changes())
        put_on = await runtime.with_override(route, override)
        return put_on(route)
    except (ServingError, OSError) as error:
        _log.error("override_not_applied", model=bundle.name, reason=str(error))
        return route
