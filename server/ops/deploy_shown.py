"""A deploy as it is shown: where it is, what it waits for, and what both bundles have answered."""

from collections.abc import Sequence
from typing import Final

import msgspec

from models.evidence import Arm, Evidence, added, quantile
from models.rollout import Stage
from models.rollout_verdicts import Reason
from server.deploy_records import DeployRecord

LOADING: Final = "load"
"""Of `vocabulary.DEPLOY_STAGES`: before the stages of the plan."""
ENDINGS: Final = {"finish": "promoted", "rollback": "rolled_back", "hold": "held"}
"""What became of a deploy, by the action that ended it."""


class StageShown(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of the plan."""

    name: str
    kind: str
    share: float
    seconds: float
    requests: int


class ArmShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle has answered in the stage that goes on; times in seconds."""

    requests: int
    rows: int
    failing: int
    degraded: int
    p50: float
    p99: float


class DeployShown(msgspec.Struct, frozen=True, kw_only=True):
    """One deploy.

    Attributes:
        live: the version that it is compared with.
        stage: `load` or the name of a stage of `stages`.
        place: of the stage; None while the candidate is being loaded.
        watched_seconds, requests: of the stage that goes on.
        reasons: what it waits for, or why it has ended.
        result: `vocabulary.DEPLOY_RESULTS`; None while it goes on.
        ended: when it had done what its end asks for; None until then.
        changed: of `compared` rows, which both answered, those that are decided otherwise.
    """

    id: str
    model: str
    version: str
    live: str
    by: str
    at: str
    reason: str
    stages: list[StageShown]
    stage: str
    place: int | None
    watched_seconds: float
    requests: int
    reasons: list[Reason]
    result: str | None
    ended: str | None
    candidate: ArmShown
    beside: ArmShown
    compared: int
    changed: int


def shown(record: DeployRecord, waits: Sequence[Reason] = ()) -> DeployShown:
    """A deploy as it stands.

    Args:
        record: of it.
        waits: what it waits for.
    """
    state = record.state
    so_far = Evidence()
    if state is not None and state.zero is not None and state.seen is not None:
        so_far = added(state.seen, state.zero) or Evidence()
    stage = None if state is None else record.plan.stages[state.stage]
    result = None if state is None or state.ended is None else ENDINGS[state.ended]
    return DeployShown(
        id=record.id,
        model=record.model,
        version=record.version,
        live=record.live,
        by=record.by,
        at=record.at,
        reason=record.reason,
        stages=[_stage(each) for each in record.plan.stages],
        stage=LOADING if stage is None else stage.name,
        place=None if state is None else state.stage,
        watched_seconds=0.0 if state is None else state.watched_seconds,
        requests=0 if state is None else state.requests,
        reasons=list(waits if state is None or state.ended is None else state.reasons),
        result=result,
        ended=record.ended,
        candidate=_arm(so_far.candidate),
        beside=_arm(so_far.live),
        compared=so_far.compared,
        changed=so_far.changed,
    )


def _stage(stage: Stage) -> StageShown:
    return StageShown(
        name=stage.name,
        kind=stage.kind,
        share=stage.share,
        seconds=stage.seconds,
        requests=stage.requests,
    )


def _arm(arm: Arm) -> ArmShown:
    return ArmShown(
        requests=arm.requests,
        rows=arm.rows,
        failing=arm.failing,
        degraded=arm.degraded,
        p50=quantile(arm.bounds, arm.latency, 0.5),
        p99=quantile(arm.bounds, arm.latency, 0.99),
    )
