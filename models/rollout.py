"""When a candidate takes more of the traffic, all of it, or none: the policy of `keelmark deploy`.

Pure: a plan, a state and what was seen so far go in; what is to be done and the next state come
out. Whoever runs it asks again and again, once a second or so (at least ten times a stage: what
comes in one step alone decides nothing), does what it says, and keeps plan and state on the disk.
Time is given with each step, by whatever clock; only time that was watched counts.

A plan has stages: *shadow*, in which the candidate answers copies (or *replay*, in which it answers
kept rows); *canary* stages with a growing share of the callers; and, after it was promoted, *bake*,
in which it has all of them and may still be rolled back. A stage ends when it was watched for its
time, has the requests it needs, and leaves no doubt. Where that does not come about in
`max_wait_seconds`, the deploy holds: nobody is promoted by silence. At every step the tests of
`models/rollout_verdicts.py` may roll it back; over a whole deploy they are wrong about a candidate
that keeps its promises with a chance of at most `alpha`.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta, structs

from models.drift import MIN_ROWS
from models.evidence import Evidence, added
from models.manifest import Manifest, Share, Strict
from models.reference import Reference
from models.rollout_tests import Excursion, Promises, Tests, afresh, counted, next_stage
from models.rollout_verdicts import Reason, judged
from models.shapes import WINDOW_SECONDS

StageKind = Literal["shadow", "replay", "canary", "bake"]
ActionKind = Literal["wait", "advance", "promote", "rollback", "hold", "finish"]
ENDINGS: Final = ("rollback", "hold", "finish")
"""Actions after which a deploy is over."""


class Stage(Strict, frozen=True, kw_only=True):
    """One part of a plan.

    Attributes:
        share: of the traffic that the candidate answers, or, of a shadow, that it gets copies of.
        seconds: to be watched, at least.
        requests: that the candidate must have answered, at least.
    """

    kind: StageKind
    share: Share
    seconds: Annotated[float, Meta(ge=0)]
    requests: Annotated[int, Meta(ge=0)]

    @property
    def name(self) -> str:
        """As people see it."""
        return f"{self.kind} {self.share * 100:g} %" if self.kind == "canary" else self.kind


class Plan(Strict, frozen=True, kw_only=True):
    """How a candidate is to come to all traffic. The last stage is `bake`: it begins promoted."""

    format: Literal[1] = 1
    stages: Annotated[tuple[Stage, ...], Meta(min_length=1)]
    max_wait_seconds: Annotated[float, Meta(gt=0)]
    promises: Promises

    def __post_init__(self) -> None:
        kinds = [stage.kind for stage in self.stages]
        if kinds[-1] != "bake" or kinds.count("bake") != 1:
            raise ValueError(f"a plan with the stages {kinds}; expected one 'bake', as the last")


class State(Strict, frozen=True, kw_only=True):
    """How far a deploy is; all that a restarted server needs beside the plan.

    Attributes:
        stage: place in the plan.
        at: when it was last looked at; seconds of any clock.
        watched_seconds, requests: of this stage.
        zero, seen: evidence at the stage's first step and at the last one.
        ended: the action that ended the deploy, and its reasons.
    """

    format: Literal[1] = 1
    stage: Annotated[int, Meta(ge=0)] = 0
    at: float
    watched_seconds: float = 0.0
    requests: int = 0
    zero: Evidence | None = None
    seen: Evidence | None = None
    tests: Tests = Tests()
    ended: ActionKind | None = None
    reasons: tuple[Reason, ...] = ()


class Action(Strict, frozen=True, kw_only=True):
    """What is to be done now.

    Attributes:
        kind: `wait` and `advance` go on; `promote` makes the candidate live; `rollback` gives its
            callers back to the other one, also after the promotion; `hold` leaves the verdict to
            somebody (exit code 3); `finish` is a deploy that went well.
        stage: that the deploy is in from now on.
        reasons: for `wait` what it waits for.
    """

    kind: ActionKind
    stage: Stage
    reasons: tuple[Reason, ...] = ()


class Stepped(NamedTuple):
    """The state to keep, and what to do. Kept first: its stage says what is to be in force."""

    state: State
    action: Action


def planned(
    promises: Promises,
    *,
    shadow_seconds: float = 600.0,
    canary_percents: Sequence[float] = (1, 10, 50),
    bake_seconds: float = 600.0,
    max_wait_seconds: float = 3600.0,
    requests: int = MIN_ROWS,
    evidence: Literal["live", "replay"] = "live",
) -> Plan:
    """A plan as the command has it.

    Args:
        promises: of the candidate.
        shadow_seconds: 0 leaves the shadow out.
        canary_percents: ascending.
        bake_seconds: for which each share of the canary, and then all traffic, is watched.
        max_wait_seconds: for which a stage may last before the deploy holds.
        requests: that each stage needs.
        evidence: `replay` puts kept rows to the candidate first; the stages after it need no
            requests, and pass on a quiet server.

    Raises:
        ValueError: shares out of order, a stage longer than `max_wait_seconds`, or nothing that
            would be looked at before the promotion.
    """
    _check(shadow_seconds, canary_percents, bake_seconds, max_wait_seconds)
    is_replay = evidence == "replay"
    needed = 0 if is_replay else requests
    stages: list[Stage] = []
    if is_replay:
        stages.append(Stage(kind="replay", share=0.0, seconds=0.0, requests=requests))
    if shadow_seconds:
        stages.append(Stage(kind="shadow", share=1.0, seconds=shadow_seconds, requests=needed))
    stages += [
        Stage(kind="canary", share=percent / 100, seconds=bake_seconds, requests=needed)
        for percent in canary_percents
    ]
    if not stages:
        raise ValueError(
            "nothing would be looked at before the promotion; give --shadow, --canary or "
            "--evidence replay, or use `keelmark promote`, which asks for no evidence"
        )
    if promises.max_changed_decisions is not None and stages[0].kind == "canary":
        raise ValueError(
            "changed decisions are counted where both answer the same rows, and no stage does "
            "that; give --shadow or --evidence replay"
        )
    stages.append(Stage(kind="bake", share=1.0, seconds=bake_seconds, requests=0))
    return Plan(stages=tuple(stages), max_wait_seconds=max_wait_seconds, promises=promises)


def _check(shadow: float, percents: Sequence[float], bake: float, max_wait: float) -> None:
    if any(a >= b for a, b in pairwise([0.0, *percents, 100.0])):
        raise ValueError(
            f"the canary's shares are {list(percents)} %; expected rising ones between 0 and 100, "
            "such as 1,10,50: the promotion is the 100"
        )
    if min(shadow, bake) < 0 or max_wait < max(shadow, bake):
        raise ValueError(
            f"a stage lasts up to {max(shadow, bake):g} s and may wait {max_wait:g} s; give a "
            "--max-wait that is at least as long, and no negative times"
        )


def promises_of(
    candidate: tuple[Manifest, Reference],
    live: tuple[Manifest, Reference],
    *,
    max_changed_decisions: float | None = None,
) -> Promises:
    """What a candidate is judged by: its own objectives, and the training of both bundles."""
    manifest, reference = candidate
    objectives, usual = manifest.objectives, Promises()
    available, degraded = objectives.availability_ratio, objectives.degraded_ratio
    return Promises(
        failing_ratio=usual.failing_ratio if available is None else 1 - available,
        degraded_ratio=usual.degraded_ratio if degraded is None else degraded,
        latency_seconds=objectives.latency_seconds,
        max_changed_decisions=max_changed_decisions,
        trained=_outputs(reference),
        live_trained=_outputs(live[1]),
        usual=_usual(manifest, reference),
    )


def _outputs(reference: Reference) -> dict[str, tuple[int, ...]]:
    if reference.few_rows:
        return {}
    return {shape.of: shape.counts for shape in reference.shapes if shape.subject == "output"}


def _usual(manifest: Manifest, reference: Reference) -> dict[str, tuple[Excursion, ...]]:
    """How far windows of training were, by the rows that each length has; {} without times."""
    training = manifest.training
    if training.first is None or training.last is None:
        return {}
    span = datetime.fromisoformat(training.last) - datetime.fromisoformat(training.first)
    a_second = training.rows / max(span.total_seconds(), 1.0)
    return {
        shape.of: tuple(
            Excursion(rows=a_second * seconds, p95=noise.usual.p95, max=noise.usual.max)
            for length, seconds in WINDOW_SECONDS.items()
            if (noise := shape.windows.get(length)) is not None
        )
        for shape in reference.shapes
        if shape.subject == "output"
    }


def begun(now: float) -> State:
    """The state of a deploy that begins."""
    return State(at=now)


def resumed(state: State, now: float) -> State:
    """The state after the server was away: that time is not watched, its counts begin again."""
    return structs.replace(state, at=now, zero=None, seen=None)


def stopped(state: State, kind: Literal["rollback", "hold"], *reasons: Reason) -> State:
    """The state after somebody else than the policy has ended the deploy."""
    return structs.replace(state, ended=kind, reasons=reasons)


def step(plan: Plan, state: State, evidence: Evidence, now: float) -> Stepped:
    """What to do at `now`, from all evidence so far. A deploy that has ended stays so."""
    stage = plan.stages[state.stage]
    if state.ended is not None:
        return Stepped(state, Action(kind=state.ended, stage=stage, reasons=state.reasons))
    state = _watched(plan, state, evidence, now)
    if broken := _broken(evidence):
        return _ended("rollback", stage, state, broken)
    assert state.zero is not None
    so_far = added(evidence, state.zero) or Evidence()
    alone = stage.kind == "bake"
    verdict = judged(state.tests, so_far, plan.promises, alone=alone)
    state = structs.replace(state, tests=verdict.tests)
    if verdict.against:
        return _ended("rollback", stage, state, verdict.against)
    waits = (*_missing(stage, state), *verdict.doubts)
    if not waits:
        return _next(plan, state)
    if state.watched_seconds >= plan.max_wait_seconds:
        return _ended("hold", stage, state, waits)
    return Stepped(state, Action(kind="wait", stage=stage, reasons=waits))


def _watched(plan: Plan, state: State, evidence: Evidence, now: float) -> State:
    """The state with what was added since the last step."""
    state = structs.replace(
        state, at=now, watched_seconds=state.watched_seconds + max(now - state.at, 0.0)
    )
    more = None if state.seen is None else added(evidence, state.seen)
    if more is None:
        return structs.replace(state, zero=evidence, seen=evidence)
    kind = plan.stages[state.stage].kind
    tests = counted(
        state.tests, more, plan.promises, alone=kind == "bake", in_bursts=kind != "replay"
    )
    requests = state.requests + more.candidate.requests
    return structs.replace(state, seen=evidence, tests=tests, requests=requests)


def _broken(evidence: Evidence) -> tuple[Reason, ...]:
    """What needs no statistics."""
    found: list[Reason] = []
    if evidence.lost is not None:
        sentence = f"the candidate cannot answer any more: {evidence.lost}"
        found.append(Reason(kind="lost", sentence=sentence))
    if evidence.selftest is not None:
        sentence = f"the candidate's golden rows no longer replay: {evidence.selftest}"
        found.append(Reason(kind="selftest", sentence=sentence))
    return tuple(found)


def _missing(stage: Stage, state: State) -> tuple[Reason, ...]:
    found: list[Reason] = []
    if state.requests < stage.requests:
        sentence = f"the candidate has answered {state.requests:,} of {stage.requests:,} requests"
        found.append(Reason(kind="few_requests", sentence=sentence))
    if state.watched_seconds < stage.seconds:
        sentence = f"{state.watched_seconds:.0f} of {stage.seconds:.0f} seconds were watched"
        found.append(Reason(kind="time", sentence=sentence))
    return tuple(found)


def _next(plan: Plan, state: State) -> Stepped:
    stage, place = plan.stages[state.stage], state.stage + 1
    if stage.kind == "bake":
        return _ended("finish", stage, state, ())
    following = plan.stages[place]
    is_promoted = following.kind == "bake"
    tests = next_stage(state.tests)
    state = State(stage=place, at=state.at, tests=afresh(tests) if is_promoted else tests)
    return Stepped(state, Action(kind="promote" if is_promoted else "advance", stage=following))


def _ended(kind: ActionKind, stage: Stage, state: State, reasons: tuple[Reason, ...]) -> Stepped:
    state = structs.replace(state, ended=kind, reasons=reasons)
    return Stepped(state, Action(kind=kind, stage=stage, reasons=reasons))
