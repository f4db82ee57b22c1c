"""The policy of a deploy: when it goes on, waits, promotes, rolls back, holds, and what it says."""

import itertools
import json
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from models.evidence import (
    Arm,
    Evidence,
    above,
    above_scaled,
    added,
    common_bounds,
    folded,
    quantile,
)
from models.manifest import MANIFEST, REFERENCE, Manifest, Objectives, read
from models.reference import Reference
from models.rollout import (
    ActionKind,
    Plan,
    Promises,
    StageKind,
    State,
    Stepped,
    begun,
    planned,
    promises_of,
    resumed,
    step,
)
from models.rollout_tests import Excursion, Looks, Tests
from models.rollout_verdicts import judged
from models.vocabulary import (
    OUTCOMES,
    ROLLOUT_ACTIONS,
    ROLLOUT_REASONS,
    ROLLOUT_STAGES,
)
from tests.rollouts import BOUNDS, PROMISES, Behaviour, World, buckets, deployed, deploys

SHORT = planned(
    PROMISES,
    shadow_seconds=20,
    canary_percents=(10, 50),
    bake_seconds=20,
    max_wait_seconds=200,
)


def arm(requests: int, failed: int = 0, *, rows: int | None = None, faults: int = 0) -> Arm:
    rows = requests if rows is None else rows
    return Arm(
        requests=requests,
        outcomes=(rows - failed - faults, 0, faults, 0, failed),
        faults=faults,
        bounds=BOUNDS,
        latency=(0, 0, 0, requests, *[0] * (len(BOUNDS) - 3)),
        outputs={"probability": (requests // 10,) * 10},
    )


def both(candidate: Arm, live: Arm, **more: Any) -> Evidence:
    return Evidence(candidate=candidate, live=live, **more)


def walked(plan: Plan, evidence: list[Evidence], seconds: float = 1.0) -> list[Stepped]:
    """Steps with given evidence, some seconds apart."""
    state, steps = begun(0.0), list[Stepped]()
    for place, one in enumerate(evidence):
        steps.append(step(plan, state, one, place * seconds))
        state = steps[-1].state
    return steps


def kinds(steps: list[Stepped]) -> list[str]:
    return [stepped.action.kind for stepped in steps]


# plans


def test_a_plan_goes_from_shadow_over_rising_shares_to_all_callers():
    plan = planned(PROMISES)
    assert [(stage.name, stage.seconds, stage.requests) for stage in plan.stages] == [
        ("shadow", 600, 200),
        ("canary 1 %", 600, 200),
        ("canary 10 %", 600, 200),
        ("canary 50 %", 600, 200),
        ("bake", 600, 0),
    ]
    assert [stage.share for stage in plan.stages] == [1.0, 0.01, 0.1, 0.5, 1.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"canary_percents": (10, 1)}, "expected rising ones"),
        ({"canary_percents": (0, 1)}, "expected rising ones"),
        ({"canary_percents": (50, 100)}, "the promotion is the 100"),
        ({"max_wait_seconds": 60}, "--max-wait that is at least as long"),
        ({"bake_seconds": -1}, "no negative times"),
        ({"shadow_seconds": 0, "canary_percents": ()}, "nothing would be looked at"),
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        planned(PROMISES, **given)


def test_a_plan_ends_with_all_traffic():
    for stages in (SHORT.stages[:-1], (SHORT.stages[-1], *SHORT.stages)):
        with pytest.raises(ValueError, match="expected one 'bake', as the last"):
            structs.replace(SHORT, stages=stages)


def test_changed_decisions_need_a_stage_in_which_both_answer():
    promises = structs.replace(PROMISES, max_changed_decisions=0.1)
    with pytest.raises(ValueError, match="give --shadow or --evidence replay"):
        planned(promises, shadow_seconds=0)
    assert planned(promises, shadow_seconds=0, evidence="replay").stages[0].kind == "replay"


def test_a_candidate_is_judged_by_its_own_promises():
    folder = Path(__file__).parent.parent / "models/shipped/flights/1"
    manifest = read(Manifest, (folder / MANIFEST).read_bytes(), what=MANIFEST)
    reference = read(Reference, (folder / REFERENCE).read_bytes(), what=REFERENCE)
    one = manifest, reference
    promises = promises_of(one, one, max_changed_decisions=0.2)
    assert promises.failing_ratio == pytest.approx(0.001)
    assert (promises.degraded_ratio, promises.latency_seconds) == (0.01, 0.025)
    assert promises.max_changed_decisions == 0.2
    assert sum(promises.trained["probability"]) > 1_000
    assert promises.trained == promises.live_trained
    rows = [one.rows for one in promises.usual["probability"]]
    assert rows == sorted(rows)
    assert rows[2] == pytest.approx(105_475 / 120, rel=0.01)  # a day
    assert all(one.p95 < one.max for one in promises.usual["probability"])
    bare = structs.replace(manifest, objectives=Objectives())
    few = structs.replace(reference, few_rows=True)
    usual = promises_of((bare, few), one)
    assert usual.trained == {}
    assert (usual.failing_ratio, usual.degraded_ratio) == (0.001, 0.01)
    assert (usual.latency_seconds, usual.max_changed_decisions) == (None, None)


# going on


def test_a_good_candidate_goes_through_all_stages():
    world = World(seed=1)
    seen = [
        (stepped.action.kind, stepped.action.stage.name) for stepped, _ in deploys(SHORT, world)
    ]
    assert [one for one in seen if one[0] != "wait"] == [
        ("advance", "canary 10 %"),
        ("advance", "canary 50 %"),
        ("promote", "bake"),
        ("finish", "bake"),
    ]


def test_a_stage_needs_its_time_and_its_requests():
    fast = walked(SHORT, [both(arm(n * 50), arm(n * 50)) for n in range(21)])
    assert kinds(fast) == ["wait"] * 20 + ["advance"]
    waits = [reason.sentence for reason in fast[3].action.reasons]
    assert waits == [
        "the candidate has answered 150 of 200 requests",
        "3 of 20 seconds were watched",
    ]
    slow = walked(SHORT, [both(arm(n * 5), arm(n * 5)) for n in range(41)])
    assert kinds(slow) == ["wait"] * 40 + ["advance"]


def test_a_deploy_without_requests_holds_and_is_never_promoted():
    ended = deployed(SHORT, World(rate=0.2))
    assert ended.action.kind == "hold"
    assert [reason.kind for reason in ended.action.reasons] == ["few_requests"]
    assert "of 200 requests" in ended.action.reasons[0].sentence
    again = step(SHORT, ended.state, Evidence(), 10_000.0)
    assert again == (ended.state, ended.action)


def test_replayed_rows_decide_on_a_quiet_server():
    plan = planned(
        PROMISES, shadow_seconds=0, canary_percents=(50,), bake_seconds=10, evidence="replay"
    )
    quiet = [both(arm(256), arm(256))] * 23
    went = [kind for kind, _ in itertools.groupby(kinds(walked(plan, [Evidence(), *quiet])))]
    assert went == ["wait", "advance", "wait", "promote", "wait", "finish"]
    bad = both(arm(256, failed=40), arm(256))
    steps = walked(plan, [structs.replace(bad, candidate=arm(0), live=arm(0)), bad])
    assert kinds(steps)[-1] == "rollback"
    few = walked(plan, [both(arm(0), arm(0)), *[both(arm(64), arm(64))] * 40], seconds=100.0)
    assert kinds(few)[-1] == "hold"


def test_time_that_nobody_watched_does_not_count():
    state = walked(SHORT, [both(arm(n * 50), arm(n * 50)) for n in range(11)])[-1].state
    away = resumed(state, 5_000.0)
    stepped = step(SHORT, away, both(arm(0), arm(0)), 5_000.0)
    assert stepped.action.kind == "wait"
    assert stepped.state.watched_seconds == 10.0
    assert stepped.state.requests == 500
    back = step(SHORT, stepped.state, both(arm(0), arm(0)), 4_000.0)
    assert back.state.watched_seconds == 10.0


def test_counts_that_begin_again_take_nothing_back():
    before = walked(SHORT, [both(arm(0), arm(0)), both(arm(300, failed=3), arm(300))])[-1]
    restarted = step(SHORT, before.state, both(arm(2), arm(3)), 2.0)
    assert restarted.state.requests == 300
    assert restarted.state.tests.failing.bad == 3
    more = step(SHORT, restarted.state, both(arm(12), arm(13)), 3.0)
    assert more.state.requests == 310


# rolling back


@pytest.mark.parametrize("facts", [{"selftest": "golden row 'x'"}, {"lost": "worker 1 died"}])
def test_what_is_certain_rolls_back_at_once(facts: dict[str, str]):
    for stage in range(len(SHORT.stages)):
        state = State(stage=stage, at=0.0)
        stepped = step(SHORT, state, both(arm(0), arm(0), **facts), 1.0)
        assert stepped.action.kind == "rollback"
        (reason,) = stepped.action.reasons
        assert reason.kind == next(iter(facts))
        assert next(iter(facts.values())) in reason.sentence


FAULTS = {
    "failing": Behaviour(failing=0.02),
    "slower": Behaviour(slower=3.0),
    "shifted": Behaviour(shift=1.0),
    "degraded": Behaviour(degraded=0.06),
    "late": Behaviour(median=0.02),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_rolled_back_for_its_reason(kind: str):
    live = Behaviour(median=0.012) if kind == "late" else Behaviour()
    ended = deployed(SHORT, World(candidate=FAULTS[kind], live=live, seed=3))
    assert ended.action.kind == "rollback"
    assert kind in [reason.kind for reason in ended.action.reasons]


def test_a_model_that_leaves_its_rows_to_the_rules_is_failing():
    ended = deployed(SHORT, World(candidate=Behaviour(faults=0.02), seed=3))
    assert ended.action.kind == "rollback"
    assert [reason.kind for reason in ended.action.reasons] == ["failing"]


def test_a_fault_that_begins_after_the_promotion_is_rolled_back():
    world, last = World(seed=4), None
    for last, _ in deploys(SHORT, world):
        if last.action.stage.kind == "bake":
            world.counters[0].how = Behaviour(failing=0.05)
    assert last is not None
    assert last.action.kind == "rollback"
    assert last.action.stage.kind == "bake"


@pytest.mark.parametrize(
    "world",
    [
        World(trouble=0.05, seed=5),
        World(weather=1.0, seed=5),
        World(candidate=Behaviour(degraded=0.06), live=Behaviour(degraded=0.06), seed=5),
        World(candidate=Behaviour(median=0.02), live=Behaviour(median=0.02), seed=5),
        World(changed=0.4, seed=5),
        World(candidate=Behaviour(slower=1.4), seed=5),
    ],
    ids=["failing", "shifted", "degraded", "late", "better", "a bit slower"],
)
def test_what_live_does_too_or_nobody_promised_is_no_fault(world: World):
    assert deployed(SHORT, world).action.kind == "finish"


def usual(most: float) -> Plan:
    """A plan for a candidate whose outputs went so far in training, within 500 rows and within
    5,000 a tenth of it."""
    windows = tuple(
        Excursion(rows=rows, p95=share * most / 2, max=share * most)
        for rows, share in ((500.0, 1.0), (5_000.0, 0.1))
    )
    return structs.replace(
        SHORT, promises=structs.replace(PROMISES, usual={"probability": windows})
    )


def test_outputs_may_go_as_far_as_they_went_in_training():
    """Beyond all of it is a fault; beyond most of it a doubt, for which more rows are waited."""
    world = World(candidate=Behaviour(shift=0.8), rate=60.0, seed=8)
    near, _ = next((one, now) for one, now in deploys(usual(3.0), world) if now == 20.0)
    assert near.action.kind == "advance"
    late = deployed(usual(3.0), World(candidate=Behaviour(shift=0.8), rate=400.0, seed=8))
    assert [reason.kind for reason in late.action.reasons] == ["shifted"]
    assert "so far was the candidate in training: 0.300" in late.action.reasons[0].sentence
    world = World(candidate=Behaviour(shift=0.8), rate=60.0, seed=8)
    doubted, _ = next((one, now) for one, now in deploys(usual(0.8), world) if now == 20.0)
    assert (doubted.action.kind, doubted.action.reasons[0].kind) == ("wait", "shifted")


def test_each_look_at_the_outputs_spends_less_of_the_error():
    shifted = both(arm(0), arm(0))
    skewed = structs.replace(arm(400), outputs={"probability": (220, *[20] * 9)})
    stage = structs.replace(shifted, candidate=skewed, live=arm(400))

    def by_chance(looks: int) -> float:
        tests = Tests(looks=Looks(done=looks))
        verdict = judged(tests, stage, PROMISES, alone=False)
        assert verdict.tests.looks == Looks(done=looks + 1, at=600.0)
        found = re.search(r"chance up to ([\d.]+)", verdict.against[0].sentence)
        assert found
        return float(found[1])

    assert by_chance(0) < by_chance(1) < by_chance(10)


def test_changed_decisions_gate_where_the_owner_gave_a_bound():
    bound = structs.replace(PROMISES, max_changed_decisions=0.1)
    plan = structs.replace(SHORT, promises=bound)
    ended = deployed(plan, World(changed=0.3, seed=6))
    assert ended.action.kind == "rollback"
    (reason,) = ended.action.reasons
    assert reason.kind == "changed_decisions"
    assert "compared rows were decided otherwise than by live, allowed are 10 %" in reason.sentence
    assert deployed(plan, World(changed=0.05, seed=6)).action.kind == "finish"
    undecided = deployed(plan, World(changed=0.13, seed=6))
    assert undecided.action.kind in ("hold", "rollback")


def test_one_burst_of_bad_rows_decides_nothing_and_a_second_does():
    good = [both(arm(n * 100), arm(n * 100)) for n in range(4)]
    burst = [both(arm(350, failed=40), arm(350))]
    after = [both(arm(350 + n * 30, failed=40), arm(350 + n * 30)) for n in range(1, 14)]
    assert set(kinds(walked(SHORT, [*good, *burst, *after]))) == {"wait"}
    twice = [both(arm(400, failed=80), arm(400))]
    steps = walked(SHORT, [*good, *burst, *twice])
    assert kinds(steps)[-1] == "rollback"


def test_the_rows_of_a_list_count_as_one_request():
    """Lists of 500 rows that fail whole are a few bad requests among hundreds of good ones."""

    def lists(n: int, bad: int) -> Arm:
        one = arm(n * 100 + bad, failed=500 * bad, rows=n * 100 + 500 * bad)
        return structs.replace(one, squares=n * 100 + 500**2 * bad)

    evidence = [both(lists(n, n // 5), arm(n * 100)) for n in range(16)]
    last = walked(SHORT, evidence)[-1]
    assert last.action.kind == "wait"
    assert last.state.tests.failing.bad == pytest.approx(3.6, abs=0.1)


def test_reasons_have_the_numbers_to_check_them():
    ended = [both(arm(n * 40, failed=n), arm(n * 400, failed=n // 4)) for n in range(12)]
    last = walked(structs.replace(SHORT, stages=SHORT.stages[1:]), ended)[-1]
    assert last.action.kind == "rollback"
    sentence = last.action.reasons[0].sentence
    found = re.fullmatch(
        r"(\d+) of (\d+) \(2\.5 %\) of the candidate's rows failed, or its model could not answer "
        r"them; it promises at most 0\.1 %, and of live's it were (\d) of ([\d,]+) \(0\.0\d+ %\); "
        r"by chance at most once in [\d,]+ deploys",
        sentence,
    )
    assert found, sentence
    assert int(found[2]) == 40 * int(found[1])


# resuming


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    candidate=st.sampled_from([Behaviour(), *FAULTS.values()]),
    rate=st.sampled_from([5.0, 60.0]),
)
def test_a_deploy_saved_and_loaded_after_every_step_does_the_same(
    seed: int, candidate: Behaviour, rate: float
):
    """Plan, state and evidence go through JSON, as in the state folder of a server."""
    plan = structs.replace(SHORT, max_wait_seconds=60)
    stored_plan = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert stored_plan == plan
    world = World(candidate=candidate, rate=rate, seed=seed)
    stored = begun(0.0)
    for stepped, now in deploys(plan, world):
        again = step(stored_plan, stored, world.evidence(), now)
        assert again.action == stepped.action
        stored = msgspec.json.decode(msgspec.json.encode(again.state), type=State)
        assert stored == stepped.state


def test_a_step_changes_nothing_that_it_was_given():
    state = walked(SHORT, [both(arm(n * 50), arm(n * 50)) for n in range(5)])[-1].state
    before = msgspec.json.encode(state)
    one = step(SHORT, state, both(arm(400, failed=9), arm(400)), 9.0)
    assert msgspec.json.encode(state) == before
    assert step(SHORT, state, both(arm(400, failed=9), arm(400)), 9.0) == one


# evidence


def test_evidence_adds_up_and_says_where_it_cannot():
    before, now = both(arm(10, failed=1), arm(5)), both(arm(30, failed=2), arm(9))
    more = added(now, before)
    assert more is not None
    assert (more.candidate.requests, more.candidate.failing, more.live.rows) == (20, 1, 4)
    assert added(before, now) is None
    other_bins = structs.replace(now, live=structs.replace(now.live, outputs={"p": (1, 2)}))
    assert added(other_bins, before) is None


def test_an_arm_knows_its_failing_degraded_and_joined_rows():
    one = Arm(requests=5, outcomes=(6, 1, 3, 2, 1), faults=2)
    assert len(one.outcomes) == len(OUTCOMES)
    assert (one.rows, one.failing, one.degraded, one.together) == (13, 3, 7, 5 / 13)
    assert structs.replace(one, squares=39).together == 13 / 39
    assert Arm().together == 1.0


def test_histograms_are_brought_to_their_common_bounds():
    bounds = common_bounds((1.0, 2.0, 3.0), (1.0, 3.0, 4.0))
    assert bounds == (1.0, 3.0)
    assert folded((1.0, 2.0, 3.0), (1, 2, 3, 4), bounds).tolist() == [1, 5, 4]
    assert folded((1.0, 3.0, 4.0), (1, 2, 3, 4), bounds).tolist() == [1, 2, 7]
    assert folded((1.0,), (), (1.0,)).tolist() == [0, 0]
    assert above((1.0, 2.0, 3.0), (1, 2, 3, 4), 1.5) == (7, 2.0)
    assert above((1.0,), (1, 2), 5.0) == (0, 5.0)


@given(seed=st.integers(0, 1_000), times=st.sampled_from([1.5, 2.0, 3.0]))
def test_requests_above_a_scaled_bound_are_between_those_of_its_neighbours(seed: int, times: float):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, len(BOUNDS) + 1)
    history = rng.integers(0, 50, len(BOUNDS) + 1) * rng.integers(0, 2)
    found = above_scaled(BOUNDS, counts.astype(float), times, history.astype(float))
    for bound, number in zip(BOUNDS, found, strict=True):
        lower = max((b for b in BOUNDS if b <= bound / times), default=0.0)
        upper = min(b for b in BOUNDS if b >= bound / times)
        most = counts.sum() if not lower else above(BOUNDS, counts.tolist(), lower)[0]
        assert above(BOUNDS, counts.tolist(), upper)[0] - 1e-9 <= number <= most + 1e-9
    assert np.all(np.diff(found) <= 1e-9)


@pytest.mark.parametrize("median", [2.69e-3, 4e-3, 7e-3])
def test_a_wide_bucket_is_divided_as_latencies_mostly_are(median: float):
    """From 2.5 to 10 ms there is no bound; how many are above 5 ms comes from both ends."""
    counts = 100_000 * buckets(Behaviour(median=median, spread=0.4))
    found = above_scaled(BOUNDS, counts, 2.0, counts)[BOUNDS.index(0.01)]
    true = 100_000 * (1 - NormalDist(np.log(median), 0.4).cdf(float(np.log(0.005))))
    assert found == pytest.approx(true, rel=0.03)


def test_quantiles_come_from_buckets():
    assert quantile((1.0, 2.0), (10, 10, 0), 0.5) == pytest.approx(1.0)
    assert 1.0 < quantile((1.0, 2.0), (10, 10, 0), 0.75) < 2.0
    assert quantile((1.0, 2.0), (0, 0, 5), 0.99) == 2.0
    assert quantile((1.0,), (0, 0), 0.99) == 0.0


# words


def test_the_closed_sets_are_those_of_the_vocabulary():
    assert get_args(ActionKind) == ROLLOUT_ACTIONS
    assert set(get_args(StageKind)) == set(ROLLOUT_STAGES)


def test_every_reason_and_action_is_documented():
    text = (Path(__file__).parent.parent / "docs/deploys.md").read_text("utf-8")
    for word in itertools.chain(ROLLOUT_ACTIONS, ROLLOUT_REASONS, ROLLOUT_STAGES):
        assert f"`{word}`" in text


def test_promises_are_plain_data():
    promises = structs.replace(PROMISES, max_changed_decisions=0.1)
    assert msgspec.json.decode(msgspec.json.encode(promises), type=Promises) == promises
    assert json.loads(msgspec.json.encode(promises))["alpha"] == 0.001
