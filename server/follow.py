"""How a server follows its store, from its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from server.durations import seconds_or_zero
from server.settings import Settings, SettingsError

EXAMPLE: Final[str] = Settings.model_fields["follow_plan"].default


@dataclass(frozen=True, slots=True)
class Follow:
    """How wishes are followed.

    Attributes:
        seconds: between two looks.
        plan: fields of `server.ops.deploys.Deploy`; None to promote without a deploy.
    """

    seconds: float
    plan: Mapping[str, Any] | None = None


def follow_of(settings: Settings) -> Follow | None:
    """How, or None to follow nothing.

    Raises:
        SettingsError: the plan is none.
    """
    if not settings.follow:
        return None
    plan = plan_of(settings.follow_plan) if settings.follow_with == "deploy" else None
    return Follow(settings.follow_seconds, plan)


def plan_of(text: str) -> dict[str, Any]:
    """A plan as the setting `follow_plan` has it.

    >>> plan_of("shadow=0 canary=10,50 requests=500")
    {'shadow_seconds': 0.0, 'canary_percents': (10.0, 50.0), 'requests': 500}

    Raises:
        SettingsError: a part that is none.
    """
    plan: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        try:
            plan |= _part(name, value)
        except ValueError as error:
            raise SettingsError(
                f"--follow-plan: {part!r} is no part of a plan; write parts as in {EXAMPLE!r}"
            ) from error
    return plan


def _part(name: str, value: str) -> dict[str, Any]:
    if name in ("shadow", "bake", "max-wait"):
        return {f"{name.replace('-', '_')}_seconds": seconds_or_zero(value)}
    if name == "canary":
        shares = [] if value == "none" else value.split(",")
        return {"canary_percents": tuple(float(share) for share in shares)}
    if name == "requests":
        return {"requests": int(value)}
    raise ValueError(name)
