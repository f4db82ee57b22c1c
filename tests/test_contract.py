"""What breaks callers when one bundle takes another's place, and what does not."""
# ruff: noqa: E501  (the table has one change a line)

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner

from features.fields import Field
from models.bundle import Bundle
from models.contract import Contract, contract_of, diff, read_contract
from models.contract_change import ContractVerdict
from models.manifest import (
    Check,
    Label,
    Objectives,
    OutputSpec,
    Policy,
    Rule,
    TensorInput,
    TensorInputs,
    Threshold,
)
from models.policies import default_policy, troubles_of
from models.vocabulary import CONTRACT_CHANGES, CONTRACT_VERDICTS, POLICIES
from server.cli import app
from server.cli.exits import DONE, REFUSED, UNAVAILABLE, code_of
from tests.packed import copied, edited, full_bundle, packed, rewritten


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def base(whole: Path) -> Contract:
    return read_contract(whole)


Edit = Callable[[Contract], Contract]

# edits of a contract, as somebody who packs it otherwise would make them


def of_field(name: str, **changed: Any) -> Edit:
    def edit(contract: Contract) -> Contract:
        fields = tuple(replace(f, **changed) if f.name == name else f for f in contract.fields)
        return replace(contract, fields=fields)

    return edit


def retyped(name: str, field: Field) -> Edit:
    def edit(contract: Contract) -> Contract:
        fields = tuple(field if f.name == name else f for f in contract.fields)
        return with_policies({name: usual(field)})(replace(contract, fields=fields))

    return edit


def usual(field: Field) -> dict[str, Policy]:
    return {trouble: default_policy(field, trouble) for trouble in troubles_of(field)}


def with_policies(changed: Mapping[str, Mapping[str, Any]]) -> Edit:
    def edit(contract: Contract) -> Contract:
        policies: dict[str, Any] = dict(contract.fallback.policies)
        for name, own in changed.items():
            made = {
                t: msgspec.convert({"policy": p}, Policy) if isinstance(p, str) else p
                for t, p in own.items()
            }
            policies[name] = {**policies.get(name, {}), **made}
        return of_fallback(policies=policies)(contract)

    return edit


def added(field: Field, missing: str | None = None) -> Edit:
    def edit(contract: Contract) -> Contract:
        policies = usual(field)
        if missing:
            policies["missing"] = Policy(policy=missing)  # pyright: ignore[reportArgumentType]
        grown = replace(contract, fields=(*contract.fields, field))
        return with_policies({field.name: policies})(grown)

    return edit


def without_field(name: str) -> Edit:
    return lambda contract: replace(
        contract, fields=tuple(f for f in contract.fields if f.name != name)
    )


def of_fallback(**changed: Any) -> Edit:
    return lambda contract: replace(
        contract, fallback=structs.replace(contract.fallback, **changed)
    )


def of_manifest(**changed: Any) -> Edit:
    return lambda contract: replace(
        contract, manifest=structs.replace(contract.manifest, **changed)
    )


def of_output(**changed: Any) -> Edit:
    def edit(contract: Contract) -> Contract:
        first, *rest = contract.manifest.outputs
        return of_manifest(outputs=(structs.replace(first, **changed), *rest))(contract)

    return edit


def vocabulary(*texts: str) -> Edit:
    return lambda contract: replace(
        contract, vocabularies={**contract.vocabularies, "carrier": texts}
    )


def both(*edits: Edit) -> Edit:
    def edit(contract: Contract) -> Contract:
        for one in edits:
            contract = one(contract)
        return contract

    return edit


def same(contract: Contract) -> Contract:
    return contract


def plain_output(name: str, **declared: Any) -> OutputSpec:
    given: dict[str, Any] = {"kind": "value", "dtype": "float32", **declared}
    return OutputSpec(name=name, **given)


def labels(*classes: str) -> OutputSpec:
    return plain_output("kind", kind="label", dtype="string", classes=classes)


def steps(*said: tuple[str, float | None]) -> tuple[Threshold, ...]:
    return tuple(Threshold(name=name, below=below) for name, below in said)


def check(name: str, policy: str, limit: float = 5.0) -> Check:
    expression = {"op": "less", "of": [{"field": "distance"}, {"constant": limit}]}
    return Check(name=name, expression=expression, text=f"distance < {limit:g}", policy=policy)  # pyright: ignore[reportArgumentType]


EXTRA = Field(name="wind", kind="number", unit="m/s")
TO_RULES: Edit = with_policies({"distance": {"out_of_bounds": "rules"}})
TWO_OUTPUTS: Edit = lambda c: of_manifest(  # noqa: E731
    outputs=(*c.manifest.outputs, plain_output("minutes"))
)(c)
KINDS: Edit = of_manifest(outputs=(labels("short", "long"),), decision="classes")
SHARES = plain_output(
    "shares", kind="class_probabilities", shape=(-1, 2), classes=("short", "long")
)
BREAKS, HOLDS = True, False

TABLE: list[tuple[str, Edit, Edit, str, bool]] = [
    # what changed, before, after, its kind, whether it breaks callers
    ("a nullable field more", same, added(EXTRA), "field_added", HOLDS),
    ("a field more, without which rules answer", same, added(EXTRA, "rules"), "field_added", BREAKS),
    ("a field more, without which nobody answers", same, added(EXTRA, "reject"), "field_added", BREAKS),
    ("a field less", same, without_field("driver"), "field_removed", HOLDS),
    ("a number now a text", same, retyped("distance", Field(name="distance", kind="category")), "field_type", BREAKS),
    ("texts now integers", same, retyped("carrier", Field(name="carrier", kind="category", of="integer")), "field_type", BREAKS),
    ("km now miles", same, of_field("distance", unit="mi"), "field_unit", BREAKS),
    ("a unit declared at last", of_field("distance", unit=None), same, "field_unit", HOLDS),
    ("bounds narrowed, outside rejected", same, of_field("distance", high=50.0), "bounds_narrowed", BREAKS),
    ("bounds narrowed, outside to the rules", TO_RULES, both(TO_RULES, of_field("distance", high=50.0)), "bounds_narrowed", BREAKS),
    ("bounds narrowed, outside repaired", with_policies({"distance": {"out_of_bounds": "repair"}}), both(with_policies({"distance": {"out_of_bounds": "repair"}}), of_field("distance", low=1.0)), "bounds_narrowed", HOLDS),
    ("bounds widened", same, of_field("distance", high=500.0), "bounds_widened", HOLDS),
    ("one bound wider, one narrower", same, of_field("distance", low=1.0, high=500.0), "bounds_narrowed", BREAKS),
    ("bounds taken away", same, of_field("distance", low=None, high=None), "bounds_widened", HOLDS),
    ("null no longer a value", same, both(of_field("distance", nullable=False), with_policies({"distance": {"missing": "rules"}})), "field_nullable", BREAKS),
    ("null no longer a value, but answered", same, of_field("distance", nullable=False), "field_nullable", HOLDS),
    ("null now a value", same, both(of_field("is_weekend", nullable=True), with_policies({"is_weekend": {"missing": "accept"}})), "field_nullable", HOLDS),
    ("a text forgotten, unknown ones to the rules", same, vocabulary("UA", "B6"), "vocabulary_lost", BREAKS),
    ("a text forgotten, unknown ones accepted", with_policies({"carrier": {"unknown": "accept"}}), both(with_policies({"carrier": {"unknown": "accept"}}), vocabulary("UA")), "vocabulary_lost", HOLDS),
    ("a text learned", same, vocabulary("UA", "B6", "AA", "DL"), "vocabulary_gained", HOLDS),
    ("another zone", same, of_field("leaves", tz="Europe/Paris"), "timestamp_zone", BREAKS),
    ("no zone any more", same, of_field("leaves", tz=None), "timestamp_zone", BREAKS),
    ("a zone at last", of_field("leaves", tz=None), same, "timestamp_zone", HOLDS),
    ("another calendar of numbers", of_field("leaves", epoch="s"), of_field("leaves", epoch="s", tz=None), "timestamp_zone", HOLDS),
    ("texts now seconds", same, of_field("leaves", epoch="s"), "timestamp_unit", BREAKS),
    ("seconds now milliseconds", of_field("leaves", epoch="s"), of_field("leaves", epoch="ms"), "timestamp_unit", BREAKS),
    ("spaces no longer stripped, unknown to the rules", of_field("carrier", normalize=("strip",)), same, "field_encoding", BREAKS),
    ("out of bounds now clipped", same, of_field("distance", out_of_bounds="clip"), "field_encoding", HOLDS),
    ("a secret shown", same, of_field("driver", sensitive=None), "field_sensitive", BREAKS),
    ("a field now secret", same, of_field("distance", sensitive="drop"), "field_sensitive", HOLDS),
    ("unknown no longer the model's", with_policies({"carrier": {"unknown": "accept"}}), same, "policy_severer", BREAKS),
    ("rules instead of the baseline", with_policies({"carrier": {"unknown": "baseline"}}), same, "policy_severer", HOLDS),
    ("rejected instead of the rules", same, with_policies({"carrier": {"unknown": "reject"}}), "policy_severer", BREAKS),
    ("repaired instead of accepted", with_policies({"distance": {"missing": "accept"}}), with_policies({"distance": {"missing": "repair"}}), "policy_severer", HOLDS),
    ("accepted again", same, with_policies({"carrier": {"unknown": "accept"}}), "policy_milder", HOLDS),
    ("another value put in", with_policies({"distance": {"missing": Policy(policy="repair", value=8.0)}}), with_policies({"distance": {"missing": Policy(policy="repair", value=9.0)}}), "policy_value", HOLDS),
    ("an output more", same, TWO_OUTPUTS, "output_added", HOLDS),
    ("an output less", TWO_OUTPUTS, same, "output_removed", BREAKS),
    ("another primary output", TWO_OUTPUTS, lambda c: of_manifest(outputs=(plain_output("minutes"), *c.manifest.outputs), decision=None)(c), "primary_output", BREAKS),
    ("a probability now a value", same, of_output(kind="value", classes=None, positive=None), "output_kind", BREAKS),
    ("float32 now float64", same, of_output(dtype="float64"), "output_type", BREAKS),
    ("a longer vector", of_manifest(outputs=(plain_output("v", kind="vector", shape=(-1, 3)),), decision=None), of_manifest(outputs=(plain_output("v", kind="vector", shape=(-1, 4)),), decision=None), "output_shape", BREAKS),
    ("a label more", KINDS, of_manifest(outputs=(labels("short", "long", "endless"),), decision=None), "output_classes", BREAKS),
    ("a label less", of_manifest(outputs=(labels("short", "long"),), decision=None), of_manifest(outputs=(labels("long"),), decision=None), "output_classes", HOLDS),
    ("probabilities in another order", of_manifest(outputs=(SHARES,), decision=None), of_manifest(outputs=(structs.replace(SHARES, classes=("long", "short")),), decision=None), "output_classes", BREAKS),
    ("the probability of the other class", same, of_output(positive=False), "output_positive", BREAKS),
    ("minutes now hours", of_output(unit="min"), of_output(unit="h"), "output_unit", BREAKS),
    ("values promised to be positive, no longer", same, of_output(low=None), "range_widened", BREAKS),
    ("a narrower valid range", same, of_output(high=0.9), "range_narrowed", HOLDS),
    ("a decision more", same, of_manifest(decision=steps(("in_time", 0.4), ("who knows", 0.6), ("late", None))), "decision_names", BREAKS),
    ("decisions no longer made", same, of_manifest(decision=None), "decision_names", BREAKS),
    ("decisions made at last", of_manifest(decision=None), same, "decision_names", HOLDS),
    ("another threshold", same, of_manifest(decision=steps(("in_time", 0.4), ("late", None))), "decision_thresholds", HOLDS),
    ("feedback of another type", same, of_manifest(label=Label(type="number", compare="difference")), "label", BREAKS),
    ("a check more", same, lambda c: of_fallback(checks=(*c.fallback.checks, check("near", "baseline")))(c), "check_added", BREAKS),
    ("a check less", same, of_fallback(checks=()), "check_removed", HOLDS),
    ("a check of something else", of_fallback(checks=(check("near", "rules"),)), of_fallback(checks=(check("near", "rules", 4.0),)), "check_condition", BREAKS),
    ("a check now rejects", of_fallback(checks=(check("near", "rules"),)), of_fallback(checks=(check("near", "reject"),)), "policy_severer", BREAKS),
    ("fewer repairs", same, of_fallback(max_repaired=1), "max_repaired", BREAKS),
    ("more repairs", of_fallback(max_repaired=1), of_fallback(max_repaired=2), "max_repaired", HOLDS),
    ("new fields use up the repairs", of_fallback(max_repaired=1), both(of_fallback(max_repaired=1), added(EXTRA, "repair")), "max_repaired", BREAKS),
    ("other rules", same, of_fallback(rules=(Rule(name="r", when="true", outputs={"probability": 0.5}),)), "rules", HOLDS),
    ("another default", same, of_fallback(default={"probability": 0.5}), "default", HOLDS),
    ("no baseline", same, of_manifest(baseline=None), "baseline", HOLDS),
    ("a slower promise", same, of_manifest(objectives=Objectives(latency_seconds=0.1, availability_ratio=0.999, degraded_ratio=0.01)), "objective_weaker", HOLDS),
    ("no promise", same, of_manifest(objectives=Objectives()), "objective_weaker", HOLDS),
    ("a better promise", same, of_manifest(objectives=Objectives(latency_seconds=0.025, availability_ratio=0.9999, degraded_ratio=0.01)), "objective_stronger", HOLDS),
    ("callers chosen otherwise", same, of_manifest(route_key="driver"), "route_key", HOLDS),
    ("another model", same, of_manifest(name="buses"), "model_name", BREAKS),
    ("features fitted anew", same, lambda c: of_manifest(features=structs.replace(c.manifest.features, features_digest="0" * 64))(c), "features_refitted", HOLDS),
    ("features defined otherwise", same, lambda c: of_manifest(features=structs.replace(c.manifest.features, spec_digest="0" * 64, features_digest="0" * 64))(c), "features_definition", HOLDS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "kind", "breaks"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_a_change_is_named_and_judged(
    base: Contract, before: Edit, after: Edit, kind: str, breaks: bool
):
    found = diff(before(base), after(base))
    named = [change for change in found.changes if change.kind == kind]
    assert {change.breaking for change in named} == {breaks}, found.changes
    others = [change for change in found.changes if change.breaking and change.kind != kind]
    assert (found.verdict == "breaking") == (breaks or bool(others))
    if breaks:
        assert named[0] in found.breaking
    assert named[0].sentence
    assert named[0].of


def test_the_table_has_every_kind_of_change():
    of_tensors = {"model_takes", "input"}
    assert {row[3] for row in TABLE} | of_tensors == set(CONTRACT_CHANGES)
    assert get_args(ContractVerdict) == CONTRACT_VERDICTS


def test_every_change_is_documented_with_its_verdicts():
    """Where the table here has a verdict, the one in docs/deploys.md says when."""
    text = (Path(__file__).parent.parent / "docs/deploys.md").read_text("utf-8")
    text = text.split("the contract\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1:] for line in text.splitlines() if line.startswith("| `")]
    rows = {kind: row for row in cells for kind in re.findall(r"`(\w+)`", row[0])}
    assert set(rows) == set(CONTRACT_CHANGES)
    for _, _, _, kind, breaks in TABLE:
        assert rows[kind][2 if breaks else 1].strip(), (kind, breaks)


def test_a_bundle_promises_what_it_promises(base: Contract, whole: Path):
    found = diff(base, contract_of(Bundle.open(whole)))
    assert (found.verdict, found.changes) == ("compatible", ())


def test_a_change_says_what_follows_for_callers(base: Contract):
    def sentence(before: Edit, after: Edit, kind: str) -> str:
        return next(
            change.sentence
            for change in diff(before(base), after(base)).changes
            if change.kind == kind
        )

    assert sentence(same, of_field("distance", high=50.0), "bounds_narrowed") == (
        "field 'distance' was from 0 to 100 and is from 0 to 50: the record is rejected with 422 "
        "where a value is now outside"
    )
    assert sentence(same, vocabulary("UA"), "vocabulary_lost") == (
        "field 'carrier' no longer knows 'B6', 'AA': the rules answer where callers send one, as "
        "of any unknown text"
    )
    assert sentence(same, added(EXTRA, "rules"), "field_added") == (
        "field 'wind' is new, number('wind', unit='m/s'): the rules answer where callers do not "
        "send it"
    )


def test_a_secret_vocabulary_is_counted_and_not_named(base: Contract):
    shorter = replace(base, vocabularies={**base.vocabularies, "driver": ()})
    found = diff(base, shorter)
    (change,) = found.changes
    assert change.kind == "vocabulary_lost"
    assert "3 of its texts" in change.sentence
    assert "badge" not in json.dumps([change.sentence, change.before, change.after])


def test_tensors_are_needed_as_they_are(base: Contract):
    def taking(*inputs: TensorInput) -> Contract:
        return replace(
            base, fields=(), vocabularies={}, inputs=TensorInputs(kind="tensors", inputs=inputs)
        )

    one = TensorInput(name="x", dtype="float32", shape=(-1, 4))
    assert diff(taking(one), taking(one)).changes == ()
    for other in (structs.replace(one, dtype="float64"), structs.replace(one, shape=(-1, 5))):
        (change,) = diff(taking(one), taking(other)).changes
        assert (change.kind, change.breaking) == ("input", True)
    assert diff(taking(one), taking()).verdict == "breaking"
    (change,) = diff(base, taking(one)).changes
    assert (change.kind, change.breaking) == ("model_takes", True)


@given(before=st.sampled_from(POLICIES), after=st.sampled_from(POLICIES))
def test_a_policy_breaks_where_the_model_or_any_answer_is_lost(before: str, after: str):
    """Over all pairs: never when it becomes milder, always when the model is lost."""
    old, new = (with_policies({"carrier": {"missing": p}})(_some()) for p in (before, after))
    found = diff(old, new)
    by_model = {"accept", "repair"}
    lost = (before in by_model and after not in by_model) or (
        before != "reject" and after == "reject"
    )
    assert (found.verdict == "breaking") == lost
    assert bool(found.changes) == (before != after)


@cache
def _some() -> Contract:
    with tempfile.TemporaryDirectory() as store:
        return read_contract(full_bundle(Path(store)))


# the command


def ran(*arguments: object, code: int = DONE) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_command_compares_folders_and_versions_of_a_store(whole: Path, tmp_path: Path):
    store = whole.parent.parent
    assert "trips/1 and trips/1 promise the same" in ran("diff", whole, "trips@1", "--store", store)
    other = copied(whole, tmp_path / "bundle")

    def lose_a_rule(fallback: Any) -> None:
        fallback["policies"]["carrier"]["unknown"]["policy"] = "reject"

    rewritten(other, "fallback.json", edited(lose_a_rule))
    shown = ran("diff", "trips/1", other, "--store", store, code=REFUSED)
    assert "where field 'carrier' is unknown, the rules answer before, the record is" in shown
    assert "breaking: 1 of 1 changes break callers of trips/1" in shown


def test_the_command_tells_scripts_the_same(whole: Path, tmp_path: Path):
    other = packed(tmp_path, "2", policies={"distance": {"out_of_bounds": "repair"}})
    found: Any = json.loads(ran("diff", whole, other, "--json"))
    assert (found["old"], found["new"]) == ("trips/1", "trips/2")
    assert found["verdict"] == "compatible"
    kinds = {change["kind"]: change for change in found["changes"]}
    assert kinds["policy_milder"]["breaking"] is False
    assert {"check_removed", "baseline", "rules"} <= kinds.keys()
    back: Any = json.loads(ran("diff", other, whole, "--json", code=REFUSED))
    assert {c["kind"] for c in back["changes"] if c["breaking"]} >= {"check_added"}


@pytest.mark.parametrize("named", ["trips@9", "buses", "/nowhere/at/all"])
def test_the_command_says_what_is_not_there(whole: Path, named: str):
    arguments = ["diff", str(whole), named, "--store", str(whole.parent.parent)]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, Exception)
    assert code_of(error) == UNAVAILABLE
