"""What the health paths say, computed from what is served; nothing here has an effect."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from server.breaker import CLOSED
from server.findings import Findings
from server.routes import AnyRoutes

Question = Literal["live", "ready", "startup"]


class Phase(StrEnum):
    """Where the server is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to one health question."""

    is_good: bool
    body: dict[str, Any]

    @property
    def status(self) -> int:
        return 200 if self.is_good else 503


def readiness(
    phase: Phase, routes: AnyRoutes, required: Iterable[str] | None, golden: Findings
) -> Health:
    """Whether traffic should come: serving, and every required model is live.

    A breaker that is not closed, a forced rung and a self-test that fails are told and change
    nothing: lower rungs answer. What fails on one instance may fail on all of them, and an answer
    by a lower rung is better than none.

    Args:
        phase: of the server.
        routes: the current table.
        required: models without which it is not ready; None for all it is meant to serve. One of
            which there is a candidate only is none of those.
        golden: what self-tests have found.
    """
    wanted = sorted({*routes.live, *routes.unavailable} if required is None else required)
    missing = [name for name in wanted if name not in routes.live]
    has_some = bool(wanted) or required is not None  # else the store that it follows is empty yet
    is_ready = phase is Phase.SERVING and not missing and has_some
    models = {name: _state_of(name, routes, golden) for name in sorted({*routes.names(), *wanted})}
    return Health(
        is_ready, {"ready": is_ready, "phase": phase.value, "required": wanted, "models": models}
    )


def liveness() -> Health:
    """The process answers: that is all a restart could help with."""
    return Health(is_good=True, body={"live": True})


def startup(phase: Phase) -> Health:
    """Whether opening the models is over, however it ended."""
    return Health(phase is not Phase.STARTING, {"started": phase is not Phase.STARTING})


def _state_of(name: str, routes: AnyRoutes, golden: Findings) -> dict[str, Any]:
    if route := routes.live.get(name):
        state: dict[str, Any] = {"state": "live", "version": route.bundle.version}
        if route.breaker.state != CLOSED:
            state["breaker"] = route.breaker.state
        if route.forced is not None:
            state["forced"] = route.forced
        if golden.of(route.bundle.digest) is not None:
            state["selftest"] = "failing"
        return state
    if missing := routes.unavailable.get(name):
        return {"state": "not_loaded", "version": missing.version, "why": missing.why}
    if second := routes.second.get(name):
        return {"state": second.role, "version": second.version}
    return {"state": "not_in_store"}
