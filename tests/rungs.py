"""A small ladder with every rung: all kinds of fields, a real baseline, checks and rules."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from features import boolean, category, number, timestamp
from features.encoding import Encoded
from features.feature_set import FeatureSet
from features.runtime import Session
from models.baseline import Baseline
from models.ladder import Answers, Ladder
from models.manifest import (
    BaselineInfo,
    Check,
    CheckPolicy,
    Fallback,
    FeaturesIdentity,
    ModelOrigin,
    OutputSpec,
    Rule,
    Threshold,
    Trouble,
)
from models.outputs import ModelOutputs
from models.policies import resolve
from models.rules import Rules

FITTED = FeatureSet(
    "f",
    version=1,
    features={
        "size": number("size", low=0, high=10),
        "weight": number("weight", low=0, high=10),
        "colour": category("colour", normalize=["strip"]).one_hot(),
        "gate": category("gate", of="integer").frequency(),
        "is_new": boolean("is_new").passthrough(),
        "at": timestamp("at").hour(),
        "seen": timestamp("seen", unit="ms").hour(),
        "in stock": number("in stock", nullable=False),
    },
).fit(
    {
        "size": [1.0, 2.0],
        "weight": [1.0, 2.0],
        "colour": ["red", "blue"],
        "gate": [1, 2],
        "is_new": [True, False],
        "at": ["2024-01-01T00:00Z"] * 2,
        "seen": [0, 1000],
        "in stock": [1.0, 2.0],
    },
    quiet=True,
)
FIELDS = {field.name: field for field in FITTED.fields}
PLACES = {name: place for place, name in enumerate(FIELDS)}
GOOD: Mapping[str, Any] = {
    "size": 1.0,
    "weight": 2.0,
    "colour": "red",
    "gate": 1,
    "is_new": True,
    "at": "2024-01-01T00:00Z",
    "seen": 5000,
    "in stock": 3.0,
}
BAD: Mapping[tuple[str, Trouble], Any] = {
    ("size", "missing"): None,
    ("size", "invalid"): "big",
    ("size", "out_of_bounds"): 11.0,
    ("colour", "missing"): None,
    ("colour", "invalid"): 7,
    ("colour", "unknown"): " green ",
    ("gate", "missing"): None,
    ("gate", "invalid"): "1",
    ("gate", "unknown"): 17,
    ("is_new", "missing"): None,
    ("is_new", "invalid"): 1,
    ("at", "missing"): None,
    ("at", "invalid"): "noon",
    ("seen", "missing"): None,
    ("seen", "invalid"): "noon",
    ("in stock", "missing"): None,
    ("in stock", "invalid"): True,
}
"""A value for every trouble that a field of each kind can have."""

PROBABILITY = OutputSpec(name="probability", kind="probability", dtype="float32", low=0, high=1)
STEPS = (Threshold(name="low", below=0.5), Threshold(name="high"))
DEFAULT = 0.25
SMALL = Rule(name="small", when="r.size < 5.0", outputs={"probability": 0.125})
LOST = Rule(name="lost", when="r.size == null", outputs={"probability": 0.875})
CHECKS: tuple[CheckPolicy, ...] = ("baseline", "rules", "reject")
IDENTITY = FeaturesIdentity(
    label="b@1", identity="b@1+", spec_digest="", state_digest="", features_digest=""
)

BY_SIZE = [0.5, 0.625, 0.75, np.nan, np.inf, -np.inf, 1.5, -0.5]
"""What the baseline answers for a size of 0, 1, 2, …; for 8 and more it raises."""


def checks(*policies: CheckPolicy) -> tuple[Check, ...]:
    """One check for each policy, named after it."""
    return tuple(
        Check(name=policy, expression={}, text=f"size is good for {policy}", policy=policy)
        for policy in policies
    )


@cache
def baseline_session() -> Session:
    """`BY_SIZE` at the size; 0.5 for none."""
    table = numpy_helper.from_array(np.asarray(BY_SIZE, np.float32), "table")
    zero = numpy_helper.from_array(np.asarray(0.0), "zero")
    place = numpy_helper.from_array(np.asarray(PLACES["size"]), "place")
    nodes = [
        helper.make_node("Gather", ["row", "place"], ["size"], axis=1),
        helper.make_node("IsNaN", ["size"], ["none"]),
        helper.make_node("Where", ["none", "zero", "size"], ["filled"]),
        helper.make_node("Cast", ["filled"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "baseline",
        [helper.make_tensor_value_info("row", TensorProto.DOUBLE, ["n", len(FIELDS)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])],
        [table, zero, place],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return Session(model.SerializeToString())


def baseline(
    accepts: Mapping[str, tuple[Trouble, ...]] | None = None,
    *,
    batch_exact: bool = True,
    session: Session | None = None,
) -> Baseline:
    """A real one that reads the size, and accepts nothing unless told."""
    info = BaselineInfo(
        features=IDENTITY,
        fields=("size",),
        accepts=dict(accepts or {}),
        batch_exact=batch_exact,
        model=ModelOrigin(framework="onnx", estimator="table"),
    )
    return Baseline(session or baseline_session(), info, FITTED.fields, (PROBABILITY,))


def ladder(
    policies: Mapping[str, Any] | None = None,
    *,
    max_repaired: int | None = None,
    checked: Sequence[CheckPolicy] = (),
    rules: Sequence[Rule] = (SMALL, LOST),
    below: Baseline | None = None,
) -> Ladder:
    fallback = Fallback(
        format=1,
        policies=resolve(FITTED.fields, policies, has_baseline=below is not None),
        checks=checks(*checked),
        max_repaired=max_repaired,
        rules=tuple(rules),
        default={"probability": DEFAULT},
    )
    return Ladder(
        (PROBABILITY,),
        STEPS,
        fallback,
        FITTED.fields,
        FITTED.record_encoder.encode,
        baseline=below,
        rules=compiled(*rules),
    )


def compiled(*rules: Rule) -> Rules:
    outputs = (PROBABILITY,)
    return Rules(rules, {"probability": DEFAULT}, FITTED.fields, FITTED.vocabularies, outputs)


def encoded(*records: Mapping[str, Any]) -> Encoded:
    return FITTED.record_encoder.encode(records)


def said(*probabilities: float, holds: Sequence[Sequence[bool]] | None = None) -> ModelOutputs:
    return ModelOutputs(
        [np.asarray(probabilities, np.float32)],
        checks=None if holds is None else np.asarray(holds, np.bool_),
    )


def answered(answers: Answers, row: int) -> dict[str, Any]:
    """Everything that is answered to one row, whatever its place in the batch."""
    return {
        "outcome": answers.outcome[row],
        "values": [column[row] for column in answers.values],
        "decision": answers.decision[row],
        "decision_code": answers.decision_code[row],
        "reason": answers.reason[row],
        **{
            name: getattr(answers, name).get(row)
            for name in (
                "repaired",
                "reasons",
                "bad",
                "failed_checks",
                "bad_checks",
                "rule",
                "rule_errors",
                "invalid_outputs",
            )
        },
    }
