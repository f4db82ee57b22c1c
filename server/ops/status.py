"""What a server is doing, in one answer: for `keelmark status`, and for who is called at night."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from models.times import time_of
from server.events import Head
from server.facts import StateFacts
from server.findings import Finding
from server.ops.deploy_shown import DeployShown
from server.ops.deploys import Deploys
from server.ops.follower import WishStatus
from server.ops.overriding import OverrideShown, shown
from server.routes import Forced, Second, Served
from server.runtime import Runtime, WorkerStatus
from server.version import installed_version


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `breaker` and what follows are of its live version; None where it has none.

    Attributes:
        state: `live` or `not_loaded`; `why` says why not.
        second: the candidate or the previous version, if one is loaded.
        forced: the highest rung that may answer, if an operator wants a lower one than the model.
        forced_by: who said so with `force-fallback`, when, why and until when; None for a setting.
        override: what an operator has changed for a time, which may be the rung too.
    """

    model: str
    version: str | None
    state: str
    why: str | None = None
    digest: str | None = None
    features: str | None = None
    signature: str | None = None
    owner: str | None = None
    contact: str | None = None
    breaker: str | None = None
    forced: Forced | None = None
    forced_by: dict[str, Any] | None = None
    override: OverrideShown | None = None
    second: "SecondStatus | None" = None


class SecondStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's second slot holds; `was_live` if it was rolled back from.

    `canary` and `shadow` are its shares of the requests, from 0 to 1.
    """

    version: str
    slot: str
    was_live: bool
    canary: float
    shadow: float
    digest: str
    breaker: str


class EventsHead(msgspec.Struct, frozen=True):
    """How far the event log goes. Noted elsewhere, it shows whether its end was cut off."""

    n: int
    sha256: str


class SelftestStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded bundle whose self-test fails.

    Attributes:
        finding: what was found last.
        slots: of the workers in which it fails; 0 where there are none.
        action: what follows, of `vocabulary.SELFTEST_ACTIONS`.
    """

    model: str
    version: str
    finding: Finding
    slots: list[int]
    action: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Of the server as a whole; without workers where one process does everything.

    `wishes` has those of the store that the server follows; none where it follows none. `deploys`
    are those that go on.
    """

    keelmark: str
    phase: str
    generation: int
    models: list[ModelStatus]
    workers: list[WorkerStatus]
    events: EventsHead
    wishes: list[WishStatus]
    selftests: list[SelftestStatus] = []
    deploys: list[DeployShown] = []


def status_of(
    runtime: Runtime,
    facts: StateFacts,
    head: Head,
    wishes: Iterable[WishStatus] = (),
    deploys: Deploys | None = None,
) -> Status:
    """The status of what serves.

    Args:
        runtime: what serves.
        facts: what operators have said.
        head: of the event log.
        wishes: how it stands to those of its store, where it follows them.
        deploys: of the server.
    """
    routes = runtime.routes
    return Status(
        keelmark=installed_version(),
        phase=runtime.phase.value,
        generation=routes.generation,
        models=[
            msgspec.structs.replace(
                _live(routes.live[name], facts) if name in routes.live else _missing(runtime, name),
                second=_second(routes.second.get(name)),
            )
            for name in routes.names()
        ],
        workers=runtime.workers,
        events=EventsHead(head.n, head.sha256),
        selftests=list(_selftests(runtime)),
        wishes=list(wishes),
        deploys=[] if deploys is None else deploys.going_on,
    )


def _selftests(runtime: Runtime) -> Iterator[SelftestStatus]:
    for route in runtime.routes.loaded:
        bundle = route.bundle
        finding = runtime.golden.of(bundle.digest)
        if finding is not None:
            yield SelftestStatus(
                model=bundle.name,
                version=bundle.version,
                finding=finding,
                slots=runtime.golden.slots(bundle.digest),
                action=route.on_selftest,
            )


def _live(route: Served, facts: StateFacts) -> ModelStatus:
    bundle = route.bundle
    return ModelStatus(
        model=bundle.name,
        version=bundle.version,
        state="live",
        digest=bundle.digest,
        features=bundle.manifest.features.identity or None,
        signature="unsigned",
        owner=bundle.manifest.owner or None,
        contact=bundle.manifest.contact or None,
        breaker=route.breaker.state,
        forced=route.forced,
        forced_by=_said(route, facts),
        override=shown(route.override),
    )


def _said(route: Served, facts: StateFacts) -> dict[str, Any] | None:
    fact = facts.forced.get(route.bundle.name)
    if route.said is None or fact is None:
        return None
    return {
        "by": fact.by,
        "at": fact.at,
        "reason": fact.reason,
        "expires": None if fact.expires is None else time_of(fact.expires),
    }


def _missing(runtime: Runtime, name: str) -> ModelStatus:
    missing = runtime.routes.unavailable.get(name)
    if missing is None:
        return ModelStatus(model=name, version=None, state="not_loaded", why="nothing is live yet")
    return ModelStatus(model=name, version=missing.version, state="not_loaded", why=missing.why)


def _second(second: Second[Any] | None) -> SecondStatus | None:
    if second is None:
        return None
    return SecondStatus(
        version=second.version,
        slot=second.role,
        was_live=second.was_live,
        canary=second.canary,
        shadow=second.shadow,
        digest=second.route.bundle.digest,
        breaker=second.route.breaker.state,
    )
