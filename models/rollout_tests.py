"""The tests of a deploy as they stand: what was counted, and what the bets on it have become.

`models/rollout_verdicts.py` says what they test and when they have spoken.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct, structs

from models.drift import MIN_ROWS
from models.evidence import Evidence, above, above_scaled, common_bounds, folded
from models.manifest import Share, Strict
from models.sequential import (
    TOLERATED_ODDS,
    WORSE,
    FloatArray,
    against_live,
    against_promise,
    log_stake,
)

TESTS: Final = 9
"""That share the error of a deploy."""
LATE_RATIO: Final = 0.01
"""A latency objective is for 99 of 100 requests."""
AFTER_PROMOTE: Final = 2.0
"""What live did, times this, may be a promise too low for the candidate that took its place."""

Counts = tuple[int, ...]
NOTHING: Final = (0.0,) * len(WORSE)


class Excursion(Strict, frozen=True, kw_only=True):
    """How far windows of the candidate's own training were from all of it: quantiles of their PSI.

    `rows` is what such a window has on average.
    """

    rows: Annotated[float, Meta(gt=0)]
    p95: float
    max: float


NOWHERE: Final = Excursion(rows=1e-9, p95=0.0, max=0.0)
"""Of a training whose windows are not known."""


class Promises(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a candidate is judged by.

    Attributes:
        failing_ratio, degraded_ratio: share of its rows that may fail, and that its model may leave
            to others.
        latency_seconds: for 99 of 100 requests; None promises nothing.
        slower: how many times live's latency its own may be.
        max_changed_decisions: share of rows that may be decided otherwise than by live; None for
            any.
        trained, live_trained: per output, the rows of each bin in the training of both.
        usual: per output, by growing rows, how far the candidate's windows were in training.
        alpha: chance that a deploy rolls back a candidate that keeps all of it.
    """

    failing_ratio: Share = 0.001
    degraded_ratio: Share = 0.01
    latency_seconds: Annotated[float, Meta(gt=0)] | None = None
    slower: Annotated[float, Meta(gt=1)] = 2.0
    max_changed_decisions: Share | None = None
    trained: dict[str, Counts] = {}
    live_trained: dict[str, Counts] = {}
    usual: dict[str, tuple[Excursion, ...]] = {}
    alpha: Annotated[float, Meta(gt=0, lt=0.5)] = 0.001

    @property
    def enough(self) -> float:
        """The logarithm of the stake at which a test has spoken."""
        return math.log(TESTS / self.alpha)


class Tally(Strict, frozen=True, kw_only=True):
    """One test of bad rows: what was counted, and the stakes of its bets (logarithms).

    `promise_best` and `versus_best` are the best single steps, which do not count.
    """

    bad: float = 0.0
    rows: float = 0.0
    live_bad: float = 0.0
    live_rows: float = 0.0
    promise: tuple[float, ...] = NOTHING
    promise_best: tuple[float, ...] = NOTHING
    versus: tuple[float, ...] = NOTHING
    versus_best: tuple[float, ...] = NOTHING

    @property
    def ratio(self) -> float:
        return self.bad / self.rows if self.rows else 0.0

    @property
    def live_ratio(self) -> float:
        return self.live_bad / self.live_rows if self.live_rows else 0.0

    def against_promise(self) -> float:
        return log_stake(np.array(self.promise), np.array(self.promise_best))

    def against_live(self) -> float:
        return log_stake(np.array(self.versus), np.array(self.versus_best))


class Slowness(Strict, frozen=True, kw_only=True):
    """The test of latency: requests by bucket over the whole deploy, and a stake for each bound."""

    bounds: tuple[float, ...] = ()
    candidate: tuple[float, ...] = ()
    live: tuple[float, ...] = ()
    versus: tuple[tuple[float, ...], ...] = ()
    best: tuple[tuple[float, ...], ...] = ()


class Looks(Strict, frozen=True, kw_only=True):
    """How often outputs were looked at, and at how many rows of the stage they are next."""

    done: int = 0
    at: float = MIN_ROWS


class Tests(Strict, frozen=True, kw_only=True):
    """All tests of a deploy, as they stand."""

    failing: Tally = Tally()
    degraded: Tally = Tally()
    late: Tally = Tally()
    changed: Tally = Tally()
    slowness: Slowness = Slowness()
    looks: Looks = Looks()


def afresh(tests: Tests) -> Tests:
    """The tests of the time after the promotion, of the candidate alone: what live did is kept."""
    return structs.replace(
        tests,
        **{
            name: structs.replace(
                getattr(tests, name), promise=NOTHING, promise_best=NOTHING, bad=0.0, rows=0.0
            )
            for name in ("failing", "degraded", "late")
        },
    )


def next_stage(tests: Tests) -> Tests:
    """Outputs are counted for each stage: within one, both arms saw the same hours."""
    return structs.replace(tests, looks=Looks(done=tests.looks.done))


def counted(
    tests: Tests, step: Evidence, promises: Promises, *, alone: bool, in_bursts: bool
) -> Tests:
    """The tests after one more step of evidence.

    Args:
        tests: before it.
        step: what was added.
        promises: of the candidate.
        alone: no live answers beside it any more.
        in_bursts: rows may come in bursts, so that the best step does not count.
    """
    candidate, live = step.candidate, step.live
    one, other = candidate.together, live.together
    late = tests.late
    if promises.latency_seconds is not None:
        slow = [
            above(arm.bounds, arm.latency, promises.latency_seconds)[0] for arm in (candidate, live)
        ]
        late = _tallied(
            late,
            (slow[0], sum(candidate.latency), slow[1], sum(live.latency)),
            allowed_ratio(LATE_RATIO, late, alone=alone),
            in_bursts=in_bursts,
        )
    return Tests(
        failing=_tallied(
            tests.failing,
            (
                candidate.failing * one,
                candidate.rows * one,
                live.failing * other,
                live.rows * other,
            ),
            allowed_ratio(promises.failing_ratio, tests.failing, alone=alone),
            in_bursts=in_bursts,
        ),
        degraded=_tallied(
            tests.degraded,
            (
                candidate.degraded * one,
                candidate.rows * one,
                live.degraded * other,
                live.rows * other,
            ),
            allowed_ratio(promises.degraded_ratio, tests.degraded, alone=alone),
            in_bursts=in_bursts,
        ),
        late=late,
        changed=_tallied(
            tests.changed,
            (step.changed, step.compared, 0, 0),
            promises.max_changed_decisions,
            in_bursts=in_bursts,
        ),
        slowness=_slower(tests.slowness, step, promises.slower, in_bursts=in_bursts),
        looks=tests.looks,
    )


def allowed_ratio(promised: float, tally: Tally, *, alone: bool) -> float:
    """What a candidate may do: as promised, and, without live beside it, twice what live did."""
    return max(promised, AFTER_PROMOTE * tally.live_ratio) if alone else promised


def _tallied(
    tally: Tally,
    step: tuple[float, float, float, float],
    promised: float | None,
    *,
    in_bursts: bool,
) -> Tally:
    bad, rows, live_bad, live_rows = step
    if not rows and not live_rows:
        return tally
    promise, promise_best = tally.promise, tally.promise_best
    if promised is not None:
        gain = against_promise(bad, rows, promised)
        promise, promise_best = _staked(promise, promise_best, gain, in_bursts=in_bursts)
    gain = against_live(*step, tolerated=TOLERATED_ODDS)
    versus, versus_best = _staked(tally.versus, tally.versus_best, gain, in_bursts=in_bursts)
    return Tally(
        bad=tally.bad + bad,
        rows=tally.rows + rows,
        live_bad=tally.live_bad + live_bad,
        live_rows=tally.live_rows + live_rows,
        promise=promise,
        promise_best=promise_best,
        versus=versus,
        versus_best=versus_best,
    )


def _staked(
    gained: Sequence[float], best: Sequence[float], gain: FloatArray, *, in_bursts: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    gains: list[float] = gain.tolist()
    summed = tuple(a + b for a, b in zip(gained, gains, strict=True))
    if not in_bursts:
        return summed, tuple(best)
    return summed, tuple(max(a, b) for a, b in zip(best, gains, strict=True))


def _slower(slowness: Slowness, step: Evidence, times: float, *, in_bursts: bool) -> Slowness:
    candidate, live = step.candidate, step.live
    bounds = common_bounds(candidate.bounds, live.bounds)
    if not bounds or not sum(candidate.latency):
        return slowness
    one = folded(candidate.bounds, candidate.latency, bounds)
    other = folded(live.bounds, live.latency, bounds)
    if slowness.bounds != bounds:
        none = ((0.0,) * len(WORSE),) * len(bounds)
        empty = (0.0,) * (len(bounds) + 1)
        slowness = Slowness(bounds=bounds, candidate=empty, live=empty, versus=none, best=none)
    gain = against_live(
        one[::-1].cumsum()[-2::-1],
        one.sum(),
        above_scaled(bounds, other, times, np.array(slowness.live)),
        other.sum(),
        tolerated=1.0,
    )
    best = np.array(slowness.best)
    return Slowness(
        bounds=bounds,
        candidate=_sum(slowness.candidate, one),
        live=_sum(slowness.live, other),
        versus=_rows(np.array(slowness.versus) + gain),
        best=_rows(np.maximum(best, gain) if in_bursts else best),
    )


def _sum(totals: Sequence[float], more: FloatArray) -> tuple[float, ...]:
    return tuple((np.array(totals) + more).tolist())


def _rows(matrix: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
