"""What operators may change about a model that serves; what is refused; what a dry run shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from models.bundle import Bundle
from models.errors import OverrideRefused
from models.golden import answer
from models.manifest import Rule
from models.overrides import (
    LONGEST_SECONDS,
    NO_CHANGES,
    Changes,
    Effect,
    Override,
    applied,
    dry_run,
    expiry,
    overridden,
)
from models.policies import troubles_of
from models.tensor_packing import pack_tensors
from models.vocabulary import OUTCOMES, POLICIES
from tests.packed import full_bundle
from tests.test_tensor_packing import EXAMPLES, two_inputs

GOOD = {
    "distance": 12.5,
    "driver": "badge 7781",
    "carrier": "UA",
    "is_weekend": False,
    "leaves": "2013-02-01T12:00:00Z",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(full_bundle(tmp_path_factory.mktemp("store")))


def said(bundle: Bundle, **changed: Any) -> tuple[str, float, list[str]]:
    """Who answers a record, what, and why."""
    answers = answer(bundle, [{**GOOD, **changed}]).answers
    return (
        OUTCOMES[answers.outcome[0]],
        answers.values[0][0],
        list(answers.reasons.get(0, ())),
    )


def rule(when: str, answer: float = 0.5, name: str = "mine") -> Rule:
    return Rule(name=name, when=when, outputs={"probability": answer})


# applying


def test_a_policy_holds_for_the_trouble_that_is_named_and_no_other(whole: Bundle):
    changed = overridden(whole, Changes(policies={"distance": {"missing": "rules"}}))
    assert said(whole, distance=None)[0] == "model"
    assert said(changed, distance=None) == ("rules", 0.25, ["distance:missing", "operator"])
    assert said(changed) == said(whole)
    assert said(changed, distance="far") == said(whole, distance="far")
    assert said(changed, distance=-1)[0] == "rejected"


def test_a_milder_policy_lets_the_model_answer_again(whole: Bundle):
    changed = overridden(whole, Changes(policies={"carrier": {"unknown": "accept"}}))
    assert said(whole, carrier="ZZ")[0] == "rules"
    assert said(changed, carrier="ZZ")[0] == "model"


def test_a_value_is_put_in_wherever_the_field_is_repaired(whole: Bundle):
    changed = overridden(
        whole,
        Changes(policies={"distance": {"missing": "repair"}}, values={"distance": 40.0}),
    )
    assert said(changed, distance=None)[1] == said(whole, distance=40.0)[1]
    assert said(changed, distance="far")[1] == said(whole, distance=40.0)[1]
    assert said(changed, distance=40.0) == said(whole, distance=40.0)


def test_other_rules_answer_and_say_that_they_are_an_operators(whole: Bundle):
    changed = overridden(whole, Changes(rules=(rule("flag.carrier == 'unknown'", 0.125),)))
    assert said(whole, carrier="ZZ") == ("rules", 0.5, ["carrier:unknown"])
    assert said(changed, carrier="ZZ") == ("rules", 0.125, ["carrier:unknown", "operator"])
    assert changed.ladder.rules.names == ("mine", "default")
    none = overridden(whole, Changes(rules=()))
    assert said(none, carrier="ZZ")[1] == 0.25


def test_an_overridden_bundle_shares_the_model_and_leaves_the_other_alone(whole: Bundle):
    before = msgspec.json.encode(whole.fallback)
    changed = overridden(whole, Changes(policies={"distance": {"missing": "reject"}}))
    assert changed.session is whole.session
    assert changed.digest == whole.digest
    assert msgspec.json.encode(whole.fallback) == before
    assert said(whole, distance=None)[0] == "model"


def test_a_forced_rung_names_the_operator_once(whole: Bundle):
    changed = overridden(whole, Changes(policies={"distance": {"missing": "baseline"}}))
    records = [{**GOOD, "distance": None}]
    plan = changed.ladder.plan(changed.encoder.encode(records), records, forced="rules")
    answers = changed.ladder.judge(plan, None)
    assert answers.reasons[0] == ["distance:missing", "operator"]
    assert OUTCOMES[answers.outcome[0]] == "rules"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_what_is_not_named_stays(whole: Bundle, data: st.DataObject):
    """Any policies: the named ones are in force, and nothing else differs."""
    fields = {field.name: troubles_of(field) for field in whole.fields}
    names = st.sampled_from([(name, t) for name, own in fields.items() for t in own])
    policies: dict[str, Any] = {}
    for name, trouble in data.draw(st.lists(names, max_size=6)):
        policies.setdefault(name, {})[trouble] = data.draw(st.sampled_from(POLICIES))
    after = applied(whole.fallback, Changes(policies=policies))
    for name, own in whole.fallback.policies.items():
        for trouble, policy in own.items():
            said = policies.get(name, {}).get(trouble)
            got = after.policies[name][trouble]
            assert got.policy == (said or policy.policy)
            if said in (None, policy.policy):
                assert got == policy
    assert (after.rules, after.default, after.checks) == (
        whole.fallback.rules,
        whole.fallback.default,
        whole.fallback.checks,
    )


# refusing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(), "nothing is changed"),
        (Changes(policies={"speed": {"missing": "rules"}}), "unknown fields.*'speed'.*are"),
        (Changes(values={"speed": 1}), "unknown fields"),
        (Changes(policies={"distance": {"unknown": "rules"}}), "cannot be .*'unknown'.*it can be"),
        (Changes(policies={"is_weekend": {"out_of_bounds": "rules"}}), "cannot be"),
        (Changes(values={"is_weekend": True}), "never repaired.*Add the policy 'repair'"),
        (Changes(values={"distance": 500.0}), "500.0, which is to repair it, is itself out_of"),
        (Changes(values={"distance": "far"}), "is itself invalid"),
        (Changes(rules=(rule("r.speed > 1.0"),)), "unknown field 'speed'"),
        (Changes(rules=(rule("r.distance >"),)), "no CEL expression"),
        (Changes(rules=(rule("true"), rule("false"))), "needs a name of its own"),
        (Changes(rules=(rule("true", 7.0),)), "not a valid answer"),
        (Changes(rules=(Rule(name="a", when="true", outputs={}),)), "must answer the outputs"),
        (Changes(rules=(rule("r.distance"),)), "cannot be told for golden row.*true or false"),
    ],
)
def test_what_pack_would_refuse_is_refused(whole: Bundle, changes: Changes, message: str):
    with pytest.raises(OverrideRefused, match=message):
        overridden(whole, changes)
    with pytest.raises(OverrideRefused):
        dry_run(whole, changes)


@pytest.mark.parametrize(
    "changes", [Changes(policies={"distance": {"missing": "baseline"}}), Changes(rung="baseline")]
)
def test_a_baseline_that_is_not_there_is_refused(whole: Bundle, changes: Changes):
    bare = replace(whole, baseline=None)
    with pytest.raises(OverrideRefused, match=r"baseline.*'rules'"):
        overridden(bare, changes)


def test_a_policy_that_is_none_does_not_come_in():
    for wrong in (
        b'{"policies": {"distance": {"missing": "guess"}}}',
        b'{"policies": {"distance": {"late": "rules"}}}',
        b'{"rung": "model"}',
        b'{"colour": 1}',
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Changes)


# time


def test_an_override_ends_after_a_day_and_lasts_a_week_at_most():
    assert expiry(1_000.0) == 1_000.0 + 86_400
    assert expiry(1_000.0, 60) == 1_060.0
    assert expiry(0.0, LONGEST_SECONDS) == LONGEST_SECONDS
    for seconds in (0.0, -1.0, LONGEST_SECONDS + 1, float("nan")):
        with pytest.raises(OverrideRefused, match=r"at most 604,800"):
            expiry(0.0, seconds)


def test_an_override_ends_with_its_time_and_its_version():
    one = Override(
        version="7",
        changes=Changes(rung="rules"),
        by="ada",
        at="2026-01-01T00:00:00+00:00",
        reason="the upstream is broken",
        expires=100.0,
    )
    assert one.holds("7", 99.0)
    assert not one.holds("7", 100.0)
    assert not one.holds("8", 99.0)
    assert msgspec.json.decode(msgspec.json.encode(one), type=Override) == one


# the dry run


def test_a_dry_run_shows_which_rows_go_where(whole: Bundle):
    effect = dry_run(whole, Changes(policies={"distance": {"missing": "rules"}}))
    missing = [
        row.name
        for row in whole.golden.rows
        if row.flags[0] == 1 and row.expected.rung in ("model", "baseline")
    ]
    assert effect.rows == len(whole.golden.rows)
    assert effect.changed == len(missing) > 0
    assert [example.name for example in effect.examples] == missing[:5]
    assert effect.after["rules"] - effect.before["rules"] == effect.changed
    assert sum(effect.before.values()) == sum(effect.after.values()) == effect.rows
    assert {(one.before, one.after) for one in effect.moved} <= {
        ("model", "rules"),
        ("baseline", "rules"),
    }
    assert effect.unseen == ()
    assert "distance:missing" in effect.examples[0].reasons


def test_a_dry_run_sees_other_answers_of_the_same_rung(whole: Bundle):
    effect = dry_run(whole, Changes(rules=(rule("true", 0.625),)))
    assert effect.changed == effect.same_rung > 0
    assert effect.moved == ()
    assert effect.before == effect.after


def test_a_dry_run_of_a_forced_rung_moves_all_but_the_rejected(whole: Bundle):
    effect = dry_run(whole, Changes(rung="rules"))
    assert set(effect.after) == {"rules", "rejected"}
    assert effect.after["rejected"] == sum(
        row.expected.rung == "rejected" and bool(row.expected.bad) for row in whole.golden.rows
    )


def test_a_dry_run_compares_with_what_stands_now(whole: Bundle):
    changes = Changes(policies={"distance": {"missing": "rules"}})
    assert dry_run(whole, changes, standing=changes).changed == 0
    back = dry_run(whole, Changes(values={"distance": 40.0}), standing=changes)
    assert back.before == dry_run(whole, changes).after
    assert back.changed > 0


def test_a_dry_run_of_an_end_shows_what_comes_back(whole: Bundle):
    changes = Changes(policies={"distance": {"missing": "rules"}})
    there, back = dry_run(whole, changes), dry_run(whole, NO_CHANGES, standing=changes)
    assert (back.before, back.after) == (there.after, there.before)
    assert back.changed == there.changed > 0
    with pytest.raises(OverrideRefused, match="nothing is changed"):
        dry_run(whole, NO_CHANGES)


def test_a_dry_run_knows_of_a_rung_that_is_forced_besides(whole: Bundle):
    changes = Changes(rung="baseline")
    assert dry_run(whole, changes, forced="rules").changed == 0
    assert dry_run(whole, changes).changed > 0


def test_changes_name_their_parts():
    assert Changes().parts == ()
    assert Changes(rules=()).parts == ("rules",)
    every = Changes(policies={"a": {"missing": "rules"}}, values={"a": 0}, rung="rules")
    assert every.parts == ("policies", "values", "rung")


def test_a_dry_run_says_what_no_golden_row_shows(whole: Bundle):
    alone = structs.replace(
        whole.golden, rows=tuple(row for row in whole.golden.rows if row.flags[0] != 1)
    )
    blind = replace(whole, golden=alone)
    effect = dry_run(blind, Changes(policies={"distance": {"missing": "rules"}}))
    assert (effect.changed, effect.unseen) == (0, ("distance: missing",))


def test_an_effect_is_plain_data_without_the_records(whole: Bundle):
    effect = dry_run(whole, Changes(rung="rules"), standing=NO_CHANGES)
    text = msgspec.json.encode(effect)
    assert msgspec.json.decode(text, type=Effect) == effect
    assert b"badge" not in text


def test_a_bundle_of_tensors_has_nothing_to_override(tmp_path: Path):
    folder = pack_tensors(tmp_path, "linear", "1", model=two_inputs(), examples=EXAMPLES)
    bundle = Bundle.open(folder)
    with pytest.raises(OverrideRefused, match="takes tensors"):
        overridden(bundle, Changes(rung="rules"))
