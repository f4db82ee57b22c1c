"""Every trouble of every kind of field under every policy, every trigger, and every two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ladder import BASELINE, MODEL, NO_REASON, REJECTED, RULES, Ladder
from models.manifest import CheckPolicy, Fallback, OutputSpec, Policy, Trouble
from models.outputs import Invalid, ModelOutputs
from models.planning import Forced, Plan
from models.policies import repair, resolve, troubles_of
from models.vocabulary import REASONS
from tests import rungs as small
from tests.rungs import (
    BAD,
    CHECKS,
    FIELDS,
    FITTED,
    GOOD,
    PLACES,
    answered,
    baseline,
    encoded,
    ladder,
    said,
)

REPAIRS: Mapping[str, Any] = {
    "size": 2.0,
    "colour": "blue",
    "gate": 2,
    "is_new": False,
    "at": "2024-01-01T01:00Z",
    "seen": 1000,
    "in stock": 4.0,
}
RUNG = {"accept": MODEL, "repair": MODEL, "baseline": BASELINE, "rules": RULES, "reject": REJECTED}

# fields, troubles and policies


def test_the_table_has_every_trouble_of_every_kind_of_field():
    kinds = {(FIELDS[name].kind, trouble) for name, trouble in BAD}
    possible = {(f.kind, trouble) for f in FIELDS.values() for trouble in troubles_of(f)}
    assert kinds == possible


@pytest.mark.parametrize("has_baseline", [True, False])
@pytest.mark.parametrize("policy", ["accept", "repair", "value", "baseline", "rules", "reject"])
@pytest.mark.parametrize(("name", "trouble"), BAD)
def test_a_policy_does_what_it_says(name: str, trouble: Trouble, policy: str, has_baseline: bool):
    if policy == "baseline" and not has_baseline:
        return  # refused: `test_a_baseline_that_there_is_not`
    own = repair(REPAIRS[name]) if policy == "value" else Policy(policy=policy)  # pyright: ignore[reportArgumentType]
    simple = baseline({"size": ("missing", "invalid", "out_of_bounds")}) if has_baseline else None
    rungs = ladder({name: {trouble: own}}, below=simple)
    record = {**GOOD, name: BAD[name, trouble]}
    plan = rungs.plan(encoded(GOOD, record), [GOOD, record])
    answers = rungs.judge(plan, said(0.375, 0.75))

    rung = RUNG[own.policy]
    assert answers.outcome == [MODEL, rung]
    given = {"small": 0.125, "lost": 0.875}.get(answers.rule.get(1, ""))
    of_baseline = 0.5 if name == "size" else 0.625
    expected = {MODEL: 0.75, BASELINE: of_baseline, RULES: given, REJECTED: None}[rung]
    assert answers.values == [[0.375, expected]]
    assert answers.repaired == ({1: {name: trouble}} if own.policy == "repair" else {})
    assert answers.reasons == ({1: [f"{name}:{trouble}"]} if rung != MODEL else {})
    assert answers.reason == [NO_REASON, REASONS.index(trouble) if rung != MODEL else NO_REASON]
    place = PLACES[name]
    assert answers.bad == ({1: [(place, REASONS.index(trouble) + 1)]} if rung == REJECTED else {})
    if policy == "value":
        assert plan.rows[1, place] == encoded({**GOOD, name: REPAIRS[name]}).rows[0, place]
    else:
        assert plan.rows is plan.encoded.rows
    assert answered(answers, 0) == answered(rungs.judge(rungs.plan(encoded(GOOD)), said(0.375)), 0)


def test_a_baseline_that_there_is_not():
    with pytest.raises(ValueError, match=r"check 'baseline'.*there is no baseline"):
        ladder({}, checked=["baseline"])
    policies = resolve(FITTED.fields, {"size": "baseline"}, has_baseline=True)
    fallback = Fallback(format=1, policies=policies, default={"probability": 0.5})
    with pytest.raises(ValueError, match=r"'size'.*there is no baseline"):
        Ladder((small.PROBABILITY,), None, fallback, FITTED.fields, FITTED.record_encoder.encode)


# triggers


@dataclass(frozen=True)
class Trigger:
    """Something that sends a row down; `rung` is where to, with a baseline and without."""

    text: str
    rung: int
    policies: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    max_repaired: int | None = None
    breaks: CheckPolicy | None = None
    probability: float | None = None
    failed: str | None = None
    forced: Forced | None = None

    @property
    def code(self) -> int:
        return REASONS.index(self.text.split(":")[-1 if self.policies else 0])

    @property
    def ends_the_run(self) -> bool:
        """Nothing that the graph says is known."""
        return bool(self.failed or self.forced)


TRIGGERS = (
    Trigger("colour:unknown", BASELINE, {"colour": "baseline"}, {"colour": "green"}),
    Trigger("gate:invalid", RULES, {"gate": "rules"}, {"gate": "x"}),
    Trigger("at:missing", REJECTED, {"at": "reject"}, {"at": None}),
    *(
        Trigger(f"check:{policy}", RUNG[policy], breaks=policy)
        for policy in ("baseline", "rules", "reject")
    ),
    Trigger("too_many_repaired", BASELINE, record={"weight": 99.0}, max_repaired=0),
    Trigger("output_invalid", BASELINE, probability=1.5),
    *(
        Trigger(failed, BASELINE, failed=failed)
        for failed in ("model_error", "deadline", "overload", "breaker")
    ),
    Trigger("operator", BASELINE, forced="baseline"),
    Trigger("operator", RULES, forced="rules"),
)
"""In the order of decisions."""


def applying(triggers: Sequence[Trigger]) -> list[Trigger]:
    """Those of them that happen to a row to which all of them are done."""
    ended = any(trigger.ends_the_run for trigger in triggers)
    found: list[Trigger] = []
    for trigger in triggers:
        is_rejected = any(one.policies and one.rung == REJECTED for one in found)
        if trigger.breaks and (ended or is_rejected):
            continue
        if trigger.forced and is_rejected:
            continue
        if trigger.probability is not None and (ended or found):
            continue
        if trigger.failed and found:
            continue
        found.append(trigger)
    return found


def judged(triggers: Sequence[Trigger], *, has_baseline: bool) -> tuple[Ladder, Any, Any]:
    """A good row and one to which the triggers are done, in one batch and alone."""
    policies = {key: value for trigger in triggers for key, value in trigger.policies.items()}
    record = dict(GOOD)
    for trigger in triggers:
        record |= trigger.record
    if not has_baseline:
        policies = {
            key: "rules" if value == "baseline" else value for key, value in policies.items()
        }
    rungs = ladder(
        policies,
        checked=CHECKS if has_baseline else CHECKS[1:],
        max_repaired=0 if any(trigger.max_repaired == 0 for trigger in triggers) else None,
        below=baseline() if has_baseline else None,
    )
    broken = {trigger.breaks for trigger in triggers}
    holds = [policy not in broken for policy in (CHECKS if has_baseline else CHECKS[1:])]
    probability = next((t.probability for t in triggers if t.probability is not None), 0.375)
    failed = next((trigger.failed for trigger in triggers if trigger.failed), None)
    forced: Forced | None = next((trigger.forced for trigger in triggers if trigger.forced), None)

    def judge(records: list[Any], outputs: ModelOutputs) -> Any:
        plan = rungs.plan(encoded(*records), records, forced=forced)
        asks = plan.asks_model and not failed
        return rungs.judge(plan, outputs if asks else None, failed=failed or "model_error")

    good = [True] * len(holds)
    batch = judge([GOOD, record, GOOD], said(0.1, probability, 0.2, holds=[good, holds, good]))
    alone = judge([record], said(probability, holds=[holds]))
    return rungs, batch, alone


def compatible(triggers: Sequence[Trigger]) -> bool:
    """One run ends in one way; without a baseline there is no check that asks for it."""
    return sum(trigger.ends_the_run for trigger in triggers) < 2


PAIRS = [pair for pair in combinations(TRIGGERS, 2) if compatible(pair)]
TRIPLES = [triple for triple in combinations(TRIGGERS, 3) if compatible(triple)]


def check_triggers(triggers: Sequence[Trigger], *, has_baseline: bool) -> None:
    _, batch, alone = judged(triggers, has_baseline=has_baseline)
    lowest = BASELINE if has_baseline else RULES
    found = applying(triggers)
    rungs = [max(lowest, trigger.rung) for trigger in found]
    assert batch.outcome[1] == max(rungs)
    assert batch.reasons[1] == [trigger.text for trigger in found]
    assert batch.reason[1] == found[rungs.index(max(rungs))].code
    assert (1 in batch.rule) == (max(rungs) == RULES)
    assert (1 in batch.bad) == (max(rungs) == REJECTED)
    broken = tuple(trigger.breaks for trigger in found if trigger.breaks)
    assert batch.failed_checks.get(1, ()) == broken
    assert batch.bad_checks.get(1, []) == [name for name in broken if name == "reject"]
    assert (1 in batch.invalid_outputs) == any(t.probability is not None for t in found)
    assert answered(batch, 1) == answered(alone, 0)
    if not any(trigger.ends_the_run for trigger in triggers):
        assert [batch.outcome[0], batch.outcome[2]] == [MODEL, MODEL]


@pytest.mark.parametrize("has_baseline", [True, False])
@pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda t: f"{t.text} {t.rung}")
def test_every_trigger(trigger: Trigger, has_baseline: bool):
    if has_baseline or trigger.breaks != "baseline":
        check_triggers([trigger], has_baseline=has_baseline)


@pytest.mark.parametrize("has_baseline", [True, False])
@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: " and ".join(f"{t.text} {t.rung}" for t in p))
def test_every_two_triggers(pair: Sequence[Trigger], has_baseline: bool):
    if has_baseline or all(trigger.breaks != "baseline" for trigger in pair):
        check_triggers(pair, has_baseline=has_baseline)


@given(st.sampled_from(TRIPLES))
def test_three_triggers(triple: Sequence[Trigger]):
    check_triggers(triple, has_baseline=True)


def test_a_check_that_rejects_names_the_bad_fields_too():
    rungs = ladder(checked=CHECKS[1:])
    record = {**GOOD, "weight": 99.0}
    answers = rungs.judge(
        rungs.plan(encoded(record, GOOD)), said(0.1, 0.1, holds=[[False] * 2] * 2)
    )
    assert answers.outcome == [REJECTED, REJECTED]
    assert answers.bad == {0: [(PLACES["weight"], 3)], 1: []}
    assert answers.failed_checks == {0: ("rules", "reject"), 1: ("rules", "reject")}
    assert answers.bad_checks == {0: ["reject"], 1: ["reject"]}
    assert answers.decision == [None, None]


def test_two_checks_of_one_rung_count_the_row_under_the_first():
    rungs = ladder(checked=["rules", "rules"])
    answers = rungs.judge(rungs.plan(encoded(GOOD)), said(0.1, holds=[[False, False]]))
    assert answers.reasons == {0: ["check:rules", "check:rules"]}
    assert answers.reason == [REASONS.index("check")]


# who is asked


@pytest.mark.parametrize("checked", [(), CHECKS[1:]])
def test_the_graph_runs_for_the_model_and_for_checks(checked: Sequence[CheckPolicy]):
    rungs = ladder({"gate": "rules", "at": "reject"}, checked=checked)
    good, lower, rejected = GOOD, {**GOOD, "gate": "x"}, {**GOOD, "at": "x"}

    def asks(*records: Any, forced: Forced | None = None) -> bool:
        return rungs.plan(encoded(*records), forced=forced).asks_model

    assert asks(good)
    assert asks(lower) is bool(checked)
    assert not asks(rejected)
    assert asks(rejected, lower) is bool(checked)
    assert asks(rejected, good)
    assert not asks(good, forced="rules")
    assert not asks(good, forced="baseline")


def test_a_forced_rung_takes_no_answer_of_the_model():
    rungs = ladder(checked=["reject"])
    plan = rungs.plan(encoded(GOOD), forced="rules")
    answers = rungs.judge(plan, said(0.9, holds=[[False]]))
    assert (answers.outcome, answers.values) == ([RULES], [[0.125]])


def test_without_checks_in_its_outputs_none_is_applied():
    """As for those of a tensor bundle, or a run from before there were checks."""
    rungs = ladder(checked=["reject"])
    assert rungs.judge(rungs.plan(encoded(GOOD)), said(0.9)).outcome == [MODEL]


def test_a_repaired_row_stays_repaired_on_every_rung():
    own = {"size": {"out_of_bounds": repair(7.0)}, "colour": {"unknown": "rules"}}
    rungs = ladder(own)
    record = {**GOOD, "size": 99.0, "colour": "green"}
    plan = rungs.plan(encoded(record), [record])
    answers = rungs.judge(plan, None)
    assert answers.repaired == {0: {"size": "out_of_bounds"}}
    assert answers.rule == {0: "default"}, "the rules see the 7.0 that the model would have got"


# alone and in a batch

RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([0.0, 1.0, 3.0, 9.0, None, "x", 99.0]),
            "weight": st.sampled_from([1.0, 99.0]),
            "colour": st.sampled_from(["red", " green ", None, 3]),
            "gate": st.sampled_from([1, 17, None]),
            "is_new": st.sampled_from([True, None, 1]),
            "at": st.sampled_from(["2024-01-01T00:00Z", "?"]),
            "seen": st.sampled_from([5, None]),
            "in stock": st.sampled_from([1.0, 1.0, 1.0, None]),
        }
    ),
    min_size=1,
    max_size=6,
)
POLICY = st.sampled_from(["accept", "repair", "baseline", "rules", "reject"])
POLICIES = st.dictionaries(st.sampled_from(list(FIELDS)), POLICY)
PROBABILITY = st.sampled_from([0.0, 0.5, 1.0, np.nan, np.inf, -np.inf, -0.1, 1.1])
HOLDS = st.lists(st.booleans(), min_size=3, max_size=3)


@given(
    POLICIES,
    RECORDS,
    st.sampled_from([None, 0, 1]),
    st.booleans(),
    st.sampled_from([None, "baseline", "rules"]),
    st.data(),
)
def test_a_row_has_the_same_answer_alone_and_in_a_batch(
    policies: dict[str, Any],
    records: list[Any],
    max_repaired: int | None,
    has_checks: bool,
    forced: Forced | None,
    data: st.DataObject,
):
    rungs = ladder(
        policies,
        max_repaired=max_repaired,
        checked=CHECKS if has_checks else (),
        below=baseline({"size": ("missing",)}),
    )
    count = len(records)
    outputs = ModelOutputs(
        [np.asarray(data.draw(st.lists(PROBABILITY, min_size=count, max_size=count)), np.float32)],
        checks=np.asarray(data.draw(st.lists(HOLDS, min_size=count, max_size=count)))
        if has_checks
        else None,
    )

    def judge(plan: Plan, of_model: ModelOutputs) -> Any:
        return rungs.judge(plan, of_model if plan.asks_model else None)

    together = judge(rungs.plan(encoded(*records), records, forced=forced), outputs)
    for row, record in enumerate(records):
        alone = judge(
            rungs.plan(encoded(record), [record], forced=forced), outputs.part(row, row + 1)
        )
        assert answered(together, row) == answered(alone, 0)
        assert_sound(together, row)


def assert_sound(answers: Any, row: int) -> None:
    """An answer is of some rung, valid, and counted under one of its reasons."""
    outcome, value = answers.outcome[row], answers.values[0][row]
    reasons = answers.reasons.get(row, [])
    assert (row in answers.rule) == (outcome == RULES)
    assert (row in answers.bad) == (outcome == REJECTED)
    if outcome == REJECTED:
        assert value is None
        assert answers.bad[row] or answers.bad_checks[row]
    else:
        assert 0 <= value <= 1
        assert answers.decision[row] in ("low", "high")
    if outcome == MODEL:
        assert (reasons, answers.reason[row]) == ([], NO_REASON)
    else:
        words = [part for reason in reasons for part in reason.split(":")]
        assert REASONS[answers.reason[row]] in words
        assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -0.5, 1.5])
@pytest.mark.parametrize("place", [0, 1])
def test_the_first_invalid_output_is_told(rows: int, wrong: float, place: int):
    """In any output, a number or a list, in any place of the list."""
    specs = (
        OutputSpec(name="label", kind="label", dtype="string"),
        OutputSpec(name="p", kind="value", dtype="float64", low=0, high=1),
        OutputSpec(name="v", kind="vector", dtype="float32", shape=(-1, 2), low=0, high=1),
    )
    fallback = Fallback(
        format=1,
        policies=resolve(FITTED.fields, None),
        default={"label": "none", "p": 0.0, "v": [0.0, 0.0]},
    )
    rungs = Ladder(specs, None, fallback, FITTED.fields, FITTED.record_encoder.encode)
    numbers, vectors = np.full(rows, 0.5), np.full((rows, 2), 0.5, np.float32)
    vectors[0, place] = wrong
    plan = rungs.plan(encoded(*[GOOD] * rows))
    labels = np.asarray(["a"] * rows, object)
    answers = rungs.judge(plan, ModelOutputs([labels, numbers, vectors]))
    assert answers.outcome == [RULES] + [MODEL] * (rows - 1)
    trouble = "out_of_range" if np.isfinite(wrong) else "not_finite"
    assert answers.invalid_outputs == {0: Invalid(2, trouble)}
    assert [column[0] for column in answers.values] == ["none", 0.0, [0.0, 0.0]]
    numbers[0] = wrong
    answers = rungs.judge(plan, ModelOutputs([labels, numbers, vectors]))
    assert answers.invalid_outputs == {0: Invalid(1, trouble)}
