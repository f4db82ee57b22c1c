"""Thousands of simulated deploys: how often a good one is rolled back, how soon a bad one is."""

from typing import Final

import numpy as np
import pytest

from models.rollout import planned
from models.sequential import against_live, against_promise, log_stake
from tests.rollouts import PROMISES, Behaviour, World, deployed

QUICK: Final = planned(
    PROMISES, shadow_seconds=30, canary_percents=(10, 50), bake_seconds=30, max_wait_seconds=300
)
CANARY: Final = planned(
    PROMISES, shadow_seconds=0, canary_percents=(1, 10, 50), bake_seconds=60, max_wait_seconds=900
)
BETTER: Final = Behaviour(shift=0.15, slower=1.3, degraded=0.006)
"""Answers otherwise, a little slower, and within its promises: no reason to roll back."""


def good_worlds(count: int) -> list[World]:
    """Candidates that keep their promises, in all weathers and at many rates."""
    rng = np.random.default_rng(7)
    return [
        World(
            candidate=BETTER if seed % 3 == 0 else Behaviour(),
            rate=float(rng.choice([30.0, 100.0, 400.0])),
            weather=float(rng.normal(0, 0.4)),
            trouble=0.03 if seed % 10 == 0 else 0.0,
            changed=float(rng.uniform(0, 0.4)),
            seed=seed,
        )
        for seed in range(count)
    ]


def rolled_back(count: int) -> list[str]:
    ended = [deployed(QUICK, world, tick=3.0) for world in good_worlds(count)]
    assert {one.action.kind for one in ended} <= {"finish", "hold", "rollback"}
    assert sum(one.action.kind == "finish" for one in ended) > 0.98 * count
    return [one.action.reasons[0].sentence for one in ended if one.action.kind == "rollback"]


def test_good_candidates_are_promoted():
    assert rolled_back(80) == []


@pytest.mark.trial
@pytest.mark.timeout(1_800)
def test_good_candidates_are_rolled_back_once_in_a_thousand_deploys_at_most():
    count = 6_000
    allowed = count * QUICK.promises.alpha
    assert len(rolled_back(count)) <= allowed + 3 * np.sqrt(allowed)


FAULTS: Final = {
    "failing": Behaviour(failing=0.02),
    "faults": Behaviour(faults=0.02),
    "slower": Behaviour(slower=3.0),
    "shifted": Behaviour(shift=1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("rate", [40.0, 400.0])
def test_faults_are_found_before_2000_requests_or_60_seconds(fault: str, rate: float):
    for seed in range(3):
        world = World(candidate=FAULTS[fault], rate=rate, seed=seed)
        ended = deployed(CANARY, world, tick=2.0)
        assert ended.action.kind == "rollback"
        assert ended.canary <= 2_000 or ended.seconds <= 60
        assert ended.action.reasons[0].kind == ("failing" if fault == "faults" else fault)


def test_a_canary_of_three_times_the_latency_is_found_wherever_the_buckets_are():
    """Also where all of live's latencies, and three times them, fall into one wide bucket."""
    for place, median in enumerate(np.geomspace(2e-5, 0.008, 12)):
        live = Behaviour(median=float(median), spread=0.4)
        slow = Behaviour(median=float(median), spread=0.4, slower=3.0)
        world = World(candidate=slow, live=live, rate=200.0, seed=place)
        ended = deployed(CANARY, world, tick=2.0)
        assert ended.action.kind == "rollback", median
        assert ended.canary <= 2_000 or ended.seconds <= 60, median


# the arithmetic, many games at once

GAMES: Final = 2_000
STEPS: Final = 120


def ever_above(gains: np.ndarray, stake: float) -> float:
    """Share of games (GAMES, STEPS, 8) whose stake ever reaches this."""
    sums = gains.cumsum(axis=1)
    top = sums.max(axis=2, keepdims=True)
    stakes = top[..., 0] + np.log(np.exp(sums - top).mean(axis=2))
    return float((stakes.max(axis=1) >= np.log(stake)).mean())


def test_a_kept_promise_is_doubted_as_seldom_as_the_stake_says():
    """At the promise itself, the hardest case, looked at after every step."""
    rng = np.random.default_rng(1)
    rows = rng.integers(1, 60, (GAMES, STEPS))
    bad = rng.binomial(rows, 0.01)
    for stake in (20, 100):
        assert ever_above(against_promise(bad, rows, 0.01), stake) <= 1.2 / stake
    assert ever_above(against_promise(bad, rows, 0.005), 20) > 0.7


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("ratio", [0.01, 0.4])
def test_a_candidate_like_live_is_doubted_as_seldom_as_the_stake_says(share: float, ratio: float):
    """Whatever share it has, also where what is bad is common, and varies for both together."""
    rng = np.random.default_rng(2)
    rows = rng.integers(20, 200, (GAMES, STEPS))
    own = rng.binomial(rows, share)
    now = ratio * rng.uniform(0, 2, (1, STEPS))
    bad, live_bad = rng.binomial(own, now), rng.binomial(rows - own, now)
    gains = against_live(bad, own, live_bad, rows - own, tolerated=1.0)
    assert ever_above(gains, 20) <= 1.2 / 20
    assert ever_above(gains, 100) <= 1.2 / 100
    worse = rng.binomial(own, np.minimum(now * 5, 1.0))
    assert ever_above(against_live(worse, own, live_bad, rows - own, tolerated=1.0), 20) > 0.5


def test_without_rows_on_both_sides_nothing_is_learned():
    assert not against_live(5, 10, 0, 0, tolerated=1.0).any()
    assert not against_live(0, 0, 5, 10, tolerated=1.0).any()
    assert log_stake(np.zeros(8)) == pytest.approx(0.0)


def test_the_best_step_can_be_left_out():
    gains = against_promise(30, 30, 0.01)
    assert log_stake(gains) > 50
    assert log_stake(gains, np.maximum(gains, 0.0)) <= 0.0
