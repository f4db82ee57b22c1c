"""Who answers a row, by the troubles of its fields and what the model says."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import boolean, category, number, timestamp
from features.encoding import Encoded
from features.feature_set import FeatureSet
from features.fields import FLAG_NAMES
from models.errors import PackingError
from models.ladder import MODEL, NO_REASON, REJECTED, RULES, Ladder
from models.manifest import Fallback, OutputSpec, Policy, Threshold
from models.outputs import NO_DECISION, ModelOutputs
from models.planning import NONE, Plan, deciding
from models.policies import default_policy, repair, resolve, troubles_of
from models.vocabulary import REASONS

FITTED = FeatureSet(
    "f",
    version=1,
    features={
        "size": number("size", low=0, high=10),
        "weight": number("weight", low=0, high=10),
        "colour": category("colour").one_hot(),
        "is_new": boolean("is_new", nullable=False).passthrough(),
        "at": timestamp("at").hour(),
    },
).fit(
    {
        "size": [1.0, 2.0],
        "weight": [1.0, 2.0],
        "colour": ["red", "blue"],
        "is_new": [True, False],
        "at": ["2024-01-01T00:00Z"] * 2,
    },
    quiet=True,
)
FIELDS = {field.name: field for field in FITTED.fields}
GOOD = {"size": 1.0, "weight": 2.0, "colour": "red", "is_new": True, "at": "2024-01-01T00:00Z"}
PROBABILITY = OutputSpec(name="probability", kind="probability", dtype="float32", low=0, high=1)
STEPS = (
    Threshold(name="low", below=0.2),
    Threshold(name="middle", below=0.5),
    Threshold(name="high"),
)


def ladder(
    policies: Mapping[str, Any] | None = None,
    *,
    max_repaired: int | None = None,
    outputs: tuple[OutputSpec, ...] = (PROBABILITY,),
    default: Mapping[str, Any] | None = None,
    decision: Any = STEPS,
) -> Ladder:
    fallback = Fallback(
        format=1,
        policies=resolve(FITTED.fields, policies),
        max_repaired=max_repaired,
        default=dict(default or {"probability": 0.3}),
    )
    return Ladder(outputs, decision, fallback, FITTED.fields, FITTED.record_encoder.encode)


def encoded(*records: Mapping[str, Any]) -> Encoded:
    return FITTED.record_encoder.encode(records)


def said(*probabilities: float) -> ModelOutputs:
    return ModelOutputs([np.asarray(probabilities, np.float32)])


def reasons(plan: Plan) -> dict[int, list[str]]:
    return {row: [fall.text for fall in falls] for row, falls in plan.falls.items()}


def counted(plan: Plan) -> dict[int, str]:
    return {row: REASONS[deciding(falls).code] for row, falls in plan.falls.items()}


# policies


def test_a_clean_request_goes_to_the_model_as_it_is():
    request = encoded(GOOD, GOOD)
    plan = ladder().plan(request)
    assert plan.rung is None
    assert plan.rows is request.rows
    assert plan.asks_model
    assert plan.repaired is plan.falls is plan.serious is NONE


def test_what_clean_requests_share_cannot_be_written_to():
    with pytest.raises(TypeError, match="shared"):
        ladder().plan(encoded(GOOD)).falls[0] = []  # pyright: ignore[reportIndexIssue]


def test_accepted_troubles_leave_no_mark():
    plan = ladder().plan(encoded({**GOOD, "size": None, "colour": "green"}))
    assert plan.rung is None
    assert (plan.repaired, plan.falls) == ({}, {})


def test_a_repaired_row_is_the_models_and_marked():
    request = encoded({**GOOD, "size": 50.0, "weight": "heavy"})
    plan = ladder().plan(request)
    assert plan.rung is None
    assert plan.repaired == {0: {"size": "out_of_bounds", "weight": "invalid"}}
    assert plan.rows is request.rows, "without a value of its own it is the encoder's row"


def test_a_repair_can_put_in_a_value_of_its_own():
    policies = {"size": {"out_of_bounds": repair(8.5)}, "colour": {"unknown": repair("blue")}}
    request = encoded(GOOD, {**GOOD, "size": 50.0, "colour": "green"}, {**GOOD, "size": "x"})
    plan = ladder(policies).plan(request)
    expected = encoded({**GOOD, "size": 8.5, "colour": "blue"}).rows[0]
    assert plan.rows[1].tolist() == expected.tolist()
    assert np.isnan(plan.rows[2, 0]), "another trouble of the field has another policy"
    assert np.isnan(request.rows[1, 0]), "what was encoded stays: it is what is counted"
    assert plan.repaired[1] == {"size": "out_of_bounds", "colour": "unknown"}


@pytest.mark.parametrize("value", [1, 1.0, True, "1"])
def test_a_value_of_its_own_keeps_its_type_in_the_file(value: Any):
    """A category of integers takes 1, and neither 1.0 nor true."""
    kept = msgspec.json.decode(msgspec.json.encode(repair(value)), type=Policy)
    assert (kept, type(kept.value)) == (repair(value), type(value))


def test_the_rules_answer_with_their_reason():
    plan = ladder().plan(encoded(GOOD, {**GOOD, "is_new": None}))
    assert plan.rung == [MODEL, RULES]
    assert reasons(plan) == {1: ["is_new:missing"]}
    assert counted(plan) == {1: "missing"}


def test_a_rejected_row_names_every_bad_field():
    policies = {"size": {"invalid": "reject"}}
    record = {**GOOD, "size": "x", "weight": 99.0, "is_new": "yes"}
    plan = ladder(policies).plan(encoded(record))
    assert plan.rung == [REJECTED]
    assert not plan.asks_model
    named = [(FITTED.fields[place].name, FLAG_NAMES[flag]) for place, flag in plan.serious[0]]
    assert named == [("size", "invalid"), ("weight", "out_of_bounds"), ("is_new", "invalid")]
    assert counted(plan) == {0: "invalid"}


def test_the_severest_policy_wins_and_all_are_reported():
    policies = {"size": {"out_of_bounds": "repair"}, "colour": {"unknown": "rules"}}
    plan = ladder(policies).plan(encoded({**GOOD, "size": 99.0, "colour": "green", "at": "?"}))
    assert plan.rung == [RULES]
    assert reasons(plan) == {0: ["colour:unknown"]}
    assert plan.repaired == {0: {"size": "out_of_bounds", "at": "invalid"}}
    assert counted(plan) == {0: "unknown"}


@pytest.mark.parametrize(("troubles", "rung"), [(1, None), (2, None), (3, [RULES])])
def test_too_many_repaired_fields_are_too_many(troubles: int, rung: list[int] | None):
    bad = dict(list({"size": 99.0, "weight": 99.0, "at": "?"}.items())[:troubles])
    plan = ladder(max_repaired=2).plan(encoded({**GOOD, **bad}))
    assert plan.rung == rung
    assert reasons(plan) == ({0: ["too_many_repaired"]} if rung else {})


def test_one_bad_row_of_many_leaves_the_others_alone():
    records = [dict(GOOD) for _ in range(100)]
    records[41] = {**GOOD, "is_new": 7}
    plan = ladder().plan(encoded(*records))
    answers = ladder().judge(plan, said(*[0.1] * 100))
    assert [row for row, code in enumerate(answers.outcome) if code != MODEL] == [41]
    alone = ladder().judge(ladder().plan(encoded(GOOD)), said(0.1))
    others = [value for row, value in enumerate(answers.values[0]) if row != 41]
    assert others == alone.values[0] * 99


POLICY = st.sampled_from(["accept", "repair", "rules", "reject"])
POLICIES = st.fixed_dictionaries(
    {
        name: st.fixed_dictionaries(dict.fromkeys(troubles_of(f), POLICY))
        for name, f in FIELDS.items()
    }
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([1.0, None, 99.0]),
            "weight": st.sampled_from([1.0, None, 99.0]),
            "colour": st.sampled_from(["red", "green", None]),
            "is_new": st.sampled_from([True, None]),
            "at": st.sampled_from(["2024-01-01T00:00Z", "?", None]),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(POLICIES, RECORDS, st.sampled_from([None, 0, 1, 2]))
def test_a_table_is_planned_as_its_records_are(
    policies: dict[str, Any], records: list[dict[str, Any]], max_repaired: int | None
):
    table: dict[str, Any] = {name: [record[name] for record in records] for name in GOOD}
    table["size"] = np.asarray([np.nan if v is None else v for v in table["size"]])
    table["weight"] = np.asarray([np.nan if v is None else v for v in table["weight"]])
    rungs = ladder(policies, max_repaired=max_repaired)
    by_record, by_table = (
        rungs.plan(encoded(*records)),
        rungs.plan_table(FITTED.encode_table(table)),
    )
    for name in ("rung", "repaired", "falls", "serious"):
        assert getattr(by_record, name) == getattr(by_table, name)
    assert by_record.rows.tobytes() == by_table.rows.tobytes()


@given(POLICIES, RECORDS)
def test_a_row_is_planned_alone_as_among_others(policies: dict[str, Any], records: list[Any]):
    rungs = ladder(policies)
    plan = rungs.plan(encoded(*records))
    for row, record in enumerate(records):
        alone = rungs.plan(encoded(record))
        assert (plan.rung or [MODEL] * len(records))[row] == (alone.rung or [MODEL])[0]
        assert plan.falls.get(row) == alone.falls.get(0)
        assert plan.repaired.get(row) == alone.repaired.get(0)
        assert plan.serious.get(row) == alone.serious.get(0)


# answers


@pytest.mark.parametrize(
    ("probability", "decision"),
    [(0.0, "low"), (0.2, "middle"), (0.49, "middle"), (0.5, "high"), (1.0, "high")],
)
def test_the_decision_is_the_first_threshold_above_the_answer(probability: float, decision: str):
    outputs = ModelOutputs([np.asarray([probability], np.float64)])
    answers = ladder().judge(ladder().plan(encoded(GOOD)), outputs)
    assert answers.decision == [decision]
    assert answers.decision_code == [[s.name for s in STEPS].index(decision)]
    assert (answers.outcome, answers.reason) == ([MODEL], [NO_REASON])
    assert answers.values == [[probability]]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), -0.1, 1.1])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_an_invalid_output_goes_to_the_rules(wrong: float, rows: int):
    plan = ladder().plan(encoded(*[GOOD] * rows))
    answers = ladder().judge(plan, said(wrong, *[0.1] * (rows - 1)))
    assert answers.outcome == [RULES] + [MODEL] * (rows - 1)
    assert answers.values[0][0] == 0.3
    assert answers.decision[0] == "middle"
    assert answers.reasons == {0: ["output_invalid"]}
    assert answers.reason == [REASONS.index("output_invalid")] + [NO_REASON] * (rows - 1)


def test_without_a_range_only_finite_numbers_are_valid():
    value = OutputSpec(name="value", kind="value", dtype="float32")
    rungs = ladder(outputs=(value,), default={"value": 0.0}, decision=None)
    plan = rungs.plan(encoded(GOOD, GOOD, GOOD))
    outputs = ModelOutputs([np.asarray([-1e30, np.inf, np.nan], np.float32)])
    assert rungs.judge(plan, outputs).outcome == [MODEL, RULES, RULES]


@pytest.mark.parametrize("rows", [1, 40])
def test_a_bound_is_the_same_for_one_row_and_for_many(rows: int):
    """0.1 as float32 is above 0.1: also where numpy would compare in float32."""
    value = OutputSpec(name="value", kind="value", dtype="float32", low=0, high=0.1)
    rungs = ladder(outputs=(value,), default={"value": 0.0}, decision=None)
    outputs = ModelOutputs([np.full(rows, 0.1, np.float32)])
    plan = rungs.plan(encoded(*[GOOD] * rows))
    assert rungs.judge(plan, outputs).outcome == [RULES] * rows


def test_one_invalid_number_spoils_a_list():
    classes = OutputSpec(
        name="p", kind="class_probabilities", dtype="float32", shape=(-1, 2), low=0, high=1
    )
    rungs = ladder(outputs=(classes,), default={"p": None}, decision=None)
    outputs = ModelOutputs([np.asarray([[0.5, 0.5], [np.nan, 1.0]], np.float32)])
    answers = rungs.judge(rungs.plan(encoded(GOOD, GOOD)), outputs)
    assert answers.values == [[[0.5, 0.5], None]]
    assert answers.outcome == [MODEL, RULES]


def test_labels_decide_by_their_class():
    label = OutputSpec(name="label", kind="label", dtype="string", classes=("a", "b"))
    rungs = ladder(outputs=(label,), default={"label": "b"}, decision="classes")
    answers = rungs.judge(
        rungs.plan(encoded(GOOD, {**GOOD, "is_new": None})),
        ModelOutputs([np.asarray(["a", "a"], object)]),
    )
    assert answers.values == [["a", "b"]]
    assert answers.decision == ["a", "b"]
    assert answers.decision_code == [0, 1]


def test_a_model_that_failed_leaves_its_rows_to_the_rules():
    rungs = ladder({"size": {"invalid": "reject"}})
    plan = rungs.plan(encoded(GOOD, {**GOOD, "is_new": None}, {**GOOD, "size": "x"}))
    answers = rungs.judge(plan, None)
    assert answers.outcome == [RULES, RULES, REJECTED]
    assert answers.reasons == {0: ["model_error"], 1: ["is_new:missing"], 2: ["size:invalid"]}
    assert answers.values == [[0.3, 0.3, None]]
    assert answers.decision == ["middle", "middle", None]
    assert answers.decision_code[2] == NO_DECISION


def test_a_reason_for_not_asking_the_model_can_be_given():
    answers = ladder().judge(ladder().plan(encoded(GOOD)), None, failed="deadline")
    assert answers.reasons == {0: ["deadline"]}
    assert answers.reason == [REASONS.index("deadline")]


def test_answers_do_not_write_into_the_plan():
    plan = ladder().plan(encoded(GOOD, {**GOOD, "is_new": None}))
    ladder().judge(plan, said(0.1, float("nan")))
    ladder().judge(plan, None)
    assert plan.rung == [MODEL, RULES]
    assert reasons(plan) == {1: ["is_new:missing"]}


def test_no_rows_have_no_answers():
    plan = ladder().plan(encoded())
    answers = ladder().judge(plan, said())
    assert (answers.outcome, answers.values, answers.decision) == ([], [[]], [])


# declaring


def test_defaults_by_nullability():
    size, is_new = FIELDS["size"], FIELDS["is_new"]
    assert [default_policy(size, t).policy for t in ("missing", "unknown")] == ["accept"] * 2
    assert [default_policy(size, t).policy for t in ("invalid", "out_of_bounds")] == ["repair"] * 2
    assert default_policy(is_new, "missing").policy == "rules"
    assert default_policy(is_new, "missing", has_baseline=True).policy == "baseline"


def test_a_policy_for_a_whole_field():
    policies = resolve(FITTED.fields, {"size": "reject"})["size"]
    assert {trouble: p.policy for trouble, p in policies.items()} == dict.fromkeys(
        ("missing", "invalid", "out_of_bounds"), "reject"
    )


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"length": "accept"}, "unknown fields ['length']"),
        ({"size": {"unknown": "accept"}}, "cannot have"),
        ({"colour": {"out_of_bounds": "accept"}}, "cannot have"),
        ({"size": "ignore"}, "is not a policy"),
        ({"size": "baseline"}, "no baseline"),
    ],
)
def test_policies_that_make_no_sense_are_refused(policies: Any, words: str):
    with pytest.raises(PackingError) as caught:
        resolve(FITTED.fields, policies)
    assert words in str(caught.value)
