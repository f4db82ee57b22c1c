"""Checks and rules in a bundle: what may be declared, and that golden rows exercise each."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import boolean, category, number
from features.encoding import Encoded
from models.bundle import Bundle
from models.cases import cases_of
from models.conditions import read_checks, read_rules
from models.convert import convert
from models.declared import full_default
from models.draft import Draft, Settled
from models.errors import PackingError
from models.examples import public_record
from models.golden import coverage, golden_of
from models.ladder import Ladder
from models.manifest import LONGEST_TEXT, Fallback, Golden, OutputSpec
from models.packing import Session
from models.policies import resolve
from models.reached import exercising
from models.rules import Rules
from models.training_rows import Rows, read_rows
from tests.packed import booster, full_bundle, packed, trained, trips

DISTANCE = number("distance", unit="km", low=0, high=100)
WEEKEND = boolean("is_weekend", nullable=False)
CARRIER = category("carrier")
PROBABILITY = OutputSpec(
    name="probability", kind="probability", dtype="float32", classes=(0, 1), positive=1, low=0.0,
    high=1.0,
)  # fmt: skip
LABEL = OutputSpec(name="label", kind="label", dtype="int64", classes=(False, True))
CLASSES = OutputSpec(
    name="classes", kind="class_probabilities", dtype="float32", shape=(-1, 2), classes=(0, 1)
)
AUTHOR = OutputSpec(name="value", kind="value", dtype="float32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(full_bundle(tmp_path_factory.mktemp("store")))


# what is declared


def test_a_check_is_an_expression_or_says_more():
    plain, whole = read_checks(
        {
            "near": DISTANCE < 50,
            "far": {"holds": DISTANCE > 1, "policy": "reject", "example": {"distance": 0}},
        },
        has_baseline=False,
    )
    assert (plain.check.policy, plain.example) == ("rules", None)
    assert plain.check.expression == (DISTANCE < 50).to_json()
    assert plain.check.text == "distance < 50"
    assert (whole.check.policy, whole.example) == ("reject", {"distance": 0})


def test_a_failing_row_goes_to_the_next_rung():
    (check,) = read_checks({"near": DISTANCE < 50}, has_baseline=True)
    assert check.check.policy == "baseline"
    with pytest.raises(PackingError, match="but there is none"):
        read_checks({"near": {"holds": DISTANCE < 50, "policy": "baseline"}}, has_baseline=False)


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ({"Near home": DISTANCE < 50}, "lower-case letters"),
        ({"x" * 65: DISTANCE < 50}, "lower-case letters"),
        ({"near": DISTANCE}, "is no condition"),
        ({"near": "distance < 50"}, "is no condition"),
        ({"near": {"policy": "reject"}}, "is no condition"),
        ({"near": {"holds": DISTANCE < 50, "policy": "repair"}}, "not a policy of checks"),
        ({"near": {"holds": DISTANCE < 50, "else": 1}}, "has entries ['else']"),
        ({"near": {"holds": DISTANCE < 50, "example": 3}}, "expected a record"),
    ],
)
def test_checks_that_make_no_sense_are_refused(checks: Any, words: str):
    with pytest.raises(PackingError) as caught:
        read_checks(checks, has_baseline=True)
    assert words in str(caught.value)


def test_a_rule_may_answer_with_a_bare_value():
    (rule,) = read_rules([{"name": "a", "when": "true", "outputs": 0.5}], [PROBABILITY])
    assert rule.rule.outputs == {"probability": 0.5}
    (rule,) = read_rules([{"name": "a", "when": "true", "outputs": True}], [LABEL, CLASSES])
    assert rule.rule.outputs == {"label": 1, "classes": None}
    assert rule.rule.outputs["label"].__class__ is int, "as the model gives it"


def test_a_usual_label_is_written_as_the_model_gives_it():
    """Of a target of booleans the classes are booleans, and the output is int64."""
    chosen = full_default([LABEL], None, {"label": True})
    assert [value.__class__ for value in chosen.values()] == [int]
    assert chosen == {"label": 1}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("true", "expected such as"),
        ({"name": "a", "when": "true"}, "lacks ['outputs']"),
        ({"when": "true", "outputs": 1}, "rule 0 lacks ['name']"),
        ({"name": "a", "when": True, "outputs": 1}, "are texts"),
        ({"name": "a", "when": "true", "outputs": 1, "then": 2}, "has entries ['then']"),
        (
            {"name": "a", "when": "true", "outputs": {"value": 1, "probability": 1}, "example": 2},
            "expected a record",
        ),
        ({"name": "a", "when": "true", "outputs": 1}, "has no value for ['value']"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: Any, words: str):
    with pytest.raises(PackingError) as caught:
        read_rules([rule], [PROBABILITY, AUTHOR])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"checks": {"near": number("speed") < 50}}, "number('speed')"),
        ({"checks": {"near": number("distance") < 50}}, "as declared there"),
        ({"rules": [{"name": "a", "when": "r.speed > 1.0", "outputs": 0.5}]}, "'speed'"),
        ({"rules": [{"name": "a", "when": "r.distance >", "outputs": 0.5}]}, "no CEL expression"),
        ({"rules": [{"name": "a", "when": "true", "outputs": 1.5}]}, "not a valid answer"),
        ({"rules": [{"name": "default", "when": "true", "outputs": 0.5}]}, "'default'"),
    ],
)
def test_what_the_fields_do_not_have_is_refused(tmp_path: Path, settings: Any, words: str):
    with pytest.raises(PackingError) as caught:
        packed(tmp_path, **settings)
    assert words in str(caught.value)


# records that exercise them


@cache
def rows() -> Rows:
    return read_rows(trained()[0], trips(), "late", None)


def settled(checks: Any, rules: Any) -> tuple[Settled, Any, Any]:
    """The model of the tests with these, as `pack` settles it before golden rows are made."""
    fitted = trained()[0]
    own_checks = read_checks(checks, has_baseline=False)
    converted = convert(booster(), len(fitted.feature_names))
    fused = fitted.fuse(converted.model, checks=[check.expression for check in own_checks])
    own_rules = read_rules(rules, converted.outputs)
    fallback = Fallback(
        format=1,
        policies=resolve(
            fitted.fields, {"carrier": {"unknown": "rules"}, "distance": {"missing": "rules"}}
        ),
        checks=tuple(check.check for check in own_checks),
        rules=tuple(rule.rule for rule in own_rules),
        default={"probability": 0.25},
    )
    ladder = Ladder(
        converted.outputs,
        None,
        fallback,
        fitted.fields,
        fitted.record_encoder.encode,
        rules=Rules(
            fallback.rules, fallback.default, fitted.fields, fitted.vocabularies, converted.outputs
        ),
    )
    draft = Draft(fitted, Session(fused.SerializeToString()), converted.outputs)
    return Settled(draft, fallback, None, ladder), own_checks, own_rules


def made(checks: Any = None, rules: Any = ()) -> tuple[Golden, Any]:
    """The golden rows that `pack` would make, and the shares of training rows."""
    found, own_checks, own_rules = settled(checks, rules)
    holds = found.draft.run_all(rows().encoded.rows).checks
    others = len(own_checks) + len(own_rules) + 1
    cases = cases_of(trained()[0], rows(), others=others)
    chosen, shares = exercising(found, rows(), holds, cases, own_checks, own_rules)
    return golden_of(found, trained()[0], chosen), shares


def named(golden: Golden, name: str) -> Any:
    return next(row for row in golden.rows if row.name == name)


def test_a_training_record_fails_the_check():
    golden, shares = made({"near": DISTANCE < 75})
    row = named(golden, "check near: fails")
    assert row.record["distance"] >= 75
    assert row.record in [{**row.record, "distance": d} for d in trips()["distance"]]
    assert row.expected.failed_checks == ("near",)
    assert (row.expected.rung, row.expected.reasons) == ("rules", ("check:near",))
    beyond = float((trips()["distance"] >= 75).mean())
    assert shares.failed == {"near": pytest.approx(beyond)}


def test_a_mixture_of_training_records_fails_the_check():
    """Only weekend trips go further than 60 km here, but there are other trips."""
    rare = WEEKEND | (DISTANCE < 60)
    table = trips()
    table["is_weekend"] = np.where(table["distance"] >= 60, True, table["is_weekend"])
    mixed = read_rows(trained()[0], table, "late", None)
    found, checks, _ = settled({"near": rare}, ())
    holds = found.draft.run_all(mixed.encoded.rows).checks
    assert holds is not None
    assert holds.all()
    cases = cases_of(trained()[0], mixed)
    edges = found.run(found.encoder.encode([record for _, record in cases.edges]).rows)
    assert edges.checks is not None
    assert edges.checks.all(), "no single field does it"
    chosen, _ = exercising(found, mixed, holds, cases, checks, ())
    record = next(case.record for case in chosen if case.name == "check near: fails")
    assert not record["is_weekend"]
    assert record["distance"] >= 60


def test_an_edge_case_may_fail_the_check():
    golden, _ = made({"moves": DISTANCE > 0})
    assert "moves" in named(golden, "distance: low").expected.failed_checks


def test_the_owners_example_fails_the_check():
    unseen = CARRIER.is_null() | (DISTANCE < 99.5)
    example = {"carrier": "UA", "distance": 99.75, "is_weekend": False}
    golden, _ = made({"near": {"holds": unseen, "example": example}})
    assert named(golden, "check near: fails").record == example


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ({"any": DISTANCE >= 0}, "holds for every training row, for 16,384 mixtures"),
        ({"none": DISTANCE.is_null() & ~DISTANCE.is_null()}, "holds for no golden row"),
        (
            {"near": {"holds": DISTANCE < 90, "example": {"distance": 3}}},
            "holds for its example {'distance': 3}",
        ),
    ],
)
def test_checks_that_nothing_exercises_are_refused(checks: Any, words: str):
    with pytest.raises(PackingError) as caught:
        made(checks)
    assert words in str(caught.value)


def test_an_owners_example_keeps_nobodys_private_values():
    """Nor what is no field; the value of a sensitive one is generated, as in sample rows."""
    private = {"distance": 99.75, "driver": "badge 7781", "is_weekend": True, "note": "Ann's"}
    golden, _ = made(
        {"near": {"holds": DISTANCE < 99, "example": private}},
        [rule("r.carrier == 'Icarus Air'", example={**private, "carrier": "Icarus Air"})],
    )
    for called in ("check near: fails", "rule first: answers"):
        record = named(golden, called).record
        assert record["driver"].startswith("generated-")
        assert "note" not in record
        assert (record["distance"], record["is_weekend"]) == (99.75, True)


def test_what_is_generated_need_not_reach_a_rule():
    example = {"driver": "badge 7781", "distance": 3.0, "is_weekend": True}
    with pytest.raises(PackingError, match=r"values of \['driver'\], which are sensitive, are gen"):
        made(rules=[rule("r.driver == 'badge 7781'", example=example)])


def test_a_sensitive_value_that_the_declaration_has_stays():
    declared = [
        category("plan", sensitive="drop", vocabulary=["small", "large"]),
        category("who", sensitive="hash", example="Jane Doe"),
        number("age", sensitive="drop"),
    ]
    fields = [field.field for field in declared if field.field is not None]
    given = {"plan": "large", "who": "Jane Doe", "age": None}
    assert public_record(given, fields) == given
    other = public_record({"plan": "other", "who": "Ann", "age": 31.0}, fields)
    assert (other["plan"], other["who"]) == ("small", "Jane Doe")
    assert other["age"] not in (None, 31.0)


def test_a_checks_text_is_cut_to_what_answers_can_carry():
    long = DISTANCE < 1
    for _ in range(60):
        long = long | number("distance", unit="km", low=0, high=100).is_null()
    (check,) = read_checks({"long": long}, has_baseline=False)
    assert len(check.check.text) == LONGEST_TEXT
    assert check.check.text.startswith("distance < 1 or distance is null or")
    assert check.check.text.endswith("…")


def rule(when: str, name: str = "first", **more: Any) -> dict[str, Any]:
    return {"name": name, "when": when, "outputs": 0.5, **more}


def test_a_training_record_reaches_the_rule():
    """One that is no sample."""
    samples = {record["distance"] for _, record in cases_of(trained()[0], rows()).samples}
    distances = trips()["distance"]
    rare = next(d for d in distances.tolist() if d == d and d not in samples)  # noqa: PLR0124
    golden, shares = made(rules=[rule(f"r.distance == {rare}")])
    row = named(golden, "rule first: answers")
    assert row.record["distance"] == rare
    assert (row.expected.rule, row.expected.rules) == ("first", {"probability": 0.5})
    assert [other.name for other in golden.rows if other.expected.rule == "first"] == [row.name]
    assert shares.matched == {"first": pytest.approx(float((distances == rare).mean()))}


def test_a_rule_may_ask_for_the_reason():
    """One that a record brings about, and one that only happens while serving."""
    rules = [rule("reason == 'deadline'"), rule("reason == 'carrier:unknown'", "second")]
    golden, _ = made(rules=rules)
    assert named(golden, "rule first: answers").expected.reason == "deadline"
    assert named(golden, "carrier: unknown").expected.rule == "second"
    assert named(golden, "sample 0").expected.rule == "default"


def test_the_owners_example_reaches_the_rule():
    example = {"distance": 12.5, "carrier": "Icarus Air", "is_weekend": True}
    golden, _ = made(rules=[rule("r.carrier == 'Icarus Air'", example=example)])
    row = named(golden, "rule first: answers")
    assert (row.record, row.expected.rule) == (example, "first")
    assert (row.expected.rung, row.expected.reasons) == ("rules", ("carrier:unknown",))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([rule("r.carrier == 'Icarus Air'")], "matches no golden row and none of 1,500 training"),
        (
            [rule("r.distance > 50.0"), rule("r.distance > 60.0", "second")],
            "'second' answers no record that was tried: wherever it matches, ['first'] answer",
        ),
        ([rule("reason != 'nothing'")], "so the default is never reached"),
        (
            [rule("r.distance > 50.0", example={"distance": 3})],
            "does not answer its own example {'distance': 3}, 'default' does",
        ),
        ([rule("int(r.carrier) == 3 || r.distance > 50.0")], "cannot be told for golden row"),
    ],
)
def test_rules_that_nothing_exercises_are_refused(rules: Any, words: str):
    with pytest.raises(PackingError) as caught:
        made(rules=rules)
    assert words in str(caught.value)


# in a bundle


def test_golden_rows_exercise_everything(bundle: Bundle):
    found = coverage(bundle)
    assert found.missing == []
    assert set(found.rungs) == {"model", "baseline", "rules", "rejected"}
    assert set(found.rules) == {"long_weekend", "unknown_carrier", "too_late", "default"}
    assert set(found.checks) == {
        "far_from_home: fails (reject)",
        "far_from_home: holds",
        "workday_or_near: fails (baseline)",
        "workday_or_near: holds",
    }


def test_checks_are_a_last_output_of_the_model(bundle: Bundle):
    assert bundle.manifest.checks == ("far_from_home", "workday_or_near")
    encoded: Encoded = trained()[0].encode_table(trips())
    holds = bundle.run(encoded.rows).checks
    assert holds is not None
    distance, weekend = trips()["distance"], trips()["is_weekend"]
    assert holds[:, 0].tolist() == (~(distance >= 90)).tolist(), "null holds"
    assert holds[:, 1].tolist() == (~(weekend & (distance >= 70))).tolist()
