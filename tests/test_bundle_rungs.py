"""Opening bundles with a baseline, checks and rules: what holds together, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.errors import BundleCorrupt
from models.ladder import BASELINE, MODEL, REJECTED, RULES
from models.manifest import FALLBACK, MANIFEST
from tests.packed import copied, edited, rewritten

STORED = Path(__file__).parent / "formats" / "1"
FIELDS = 5
RULE = {"name": "far", "when": "r.distance > 50.0", "outputs": {"probability": 0.875}}
CHECK = {"name": "near", "expression": {}, "text": "distance < 20", "policy": "reject"}
INFO = {
    "features": {
        "label": "b@1",
        "identity": "b@1+",
        "spec_digest": "",
        "state_digest": "",
        "features_digest": "",
    },
    "fields": ["distance"],
    "accepts": {"distance": ["missing"]},
    "batch_exact": True,
    "model": {"framework": "onnx", "estimator": "constant"},
}
Change = Callable[[Any], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the stored bundle, which has none of these."""
    return copied(STORED, tmp_path / "bundle")


def in_manifest(folder: Path, change: Change) -> None:
    path = folder / MANIFEST
    path.write_bytes(edited(change)(path.read_bytes()))


def in_fallback(folder: Path, change: Change) -> None:
    rewritten(folder, FALLBACK, edited(change))


def listed(folder: Path, name: str, content: bytes) -> None:
    """Puts a file in, and lets the manifest say so."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    entry = {"name": name, "size": len(content), "sha256": digest}

    def change(value: Any) -> None:
        value["files"] = [e for e in value["files"] if e["name"] != name] + [entry]

    in_manifest(folder, change)


def baseline_graph(
    *,
    takes: str = "row",
    width: int = FIELDS,
    gives: str = "probability",
    kind: int = TensorProto.FLOAT,
    shape: tuple[Any, ...] = ("n",),
    more: bool = False,
) -> bytes:
    """0.625 for every row."""
    answer = np.asarray(0.625, helper.tensor_dtype_to_np_dtype(kind))
    nodes = [
        helper.make_node("Shape", [takes], ["rows"], start=0, end=1),
        helper.make_node("Expand", ["answer", "rows"], [gives]),
        *([helper.make_node("Identity", [gives], ["features"])] if more else []),
    ]
    outputs = [helper.make_tensor_value_info(gives, kind, shape)]
    if more:
        outputs.append(helper.make_tensor_value_info("features", kind, ["n"]))
    inputs = [helper.make_tensor_value_info(takes, TensorProto.DOUBLE, ["n", width])]
    constants = [numpy_helper.from_array(answer, "answer")]
    graph = helper.make_graph(nodes, "baseline", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def with_baseline(folder: Path, graph: bytes | None = None, **changed: Any) -> None:
    listed(folder, "baseline.onnx", graph or baseline_graph())
    in_manifest(folder, lambda value: value.update(baseline={**INFO, **changed}))


def with_check(folder: Path, *, columns: int = 1) -> None:
    """The model answers besides whether the distance is below 20, once a column."""
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros(columns, np.int64), "first"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(20.0), "limit"))
    graph.node.append(helper.make_node("Gather", ["row", "first"], ["distances"], axis=1))
    graph.node.append(helper.make_node("Less", ["distances", "limit"], ["checks"]))
    shape = ["n", columns]
    graph.output.append(helper.make_tensor_value_info("checks", TensorProto.BOOL, shape))
    listed(folder, "model.onnx", model.SerializeToString())
    in_manifest(folder, lambda value: value.update(checks=["near"]))
    in_fallback(folder, lambda value: value["checks"].append(CHECK))


def answers(bundle: Bundle, **changes: Any) -> Any:
    record = {**bundle.example, **changes}
    plan = bundle.ladder.plan(bundle.encoder.encode([record]), [record])
    return bundle.ladder.judge(plan, bundle.run(plan.rows) if plan.asks_model else None)


# what holds together


def test_rules_answer_what_the_policies_leave_them(folder: Path):
    in_fallback(folder, lambda value: value["rules"].append(RULE))
    bundle = Bundle.open(folder)
    far = answers(bundle, is_weekend=None, distance=60.0)
    assert (far.outcome, far.values, far.rule) == ([RULES], [[0.875]], {0: "far"})
    assert answers(bundle, is_weekend=None, distance=40.0).rule == {0: "default"}


def test_rules_know_the_vocabularies(folder: Path):
    rule = {**RULE, "when": "r.carrier == 'UA'"}
    in_fallback(folder, lambda value: value["rules"].append(rule))
    assert answers(Bundle.open(folder), is_weekend=None, carrier="UA").rule == {0: "far"}
    assert answers(Bundle.open(folder), is_weekend=None, carrier="B6").rule == {0: "default"}


def test_a_baseline_answers_what_the_policies_send_it(folder: Path):
    with_baseline(folder)
    policy = {"missing": {"policy": "baseline"}, "invalid": {"policy": "rules"}}
    in_fallback(folder, lambda value: value["policies"].update(is_weekend=policy))
    bundle = Bundle.open(folder)
    assert answers(bundle, is_weekend=None).outcome == [BASELINE]
    assert answers(bundle, is_weekend=None).values == [[0.625]]
    assert answers(bundle, is_weekend=None, distance=None).outcome == [BASELINE]
    assert answers(bundle, is_weekend=None, distance="x").outcome == [RULES]
    assert answers(bundle).outcome == [MODEL]


@pytest.mark.parametrize(("packed", "here"), [(True, True), (True, False), (False, True)])
def test_batches_of_the_baseline_must_be_exact_there_and_here(
    folder: Path, packed: bool, here: bool
):
    with_baseline(folder, batch_exact=packed)
    baseline = Bundle.open(folder, batch_exact=here).baseline
    assert baseline is not None
    assert baseline.batch_exact is (packed and here)


def test_checks_judge_the_row(folder: Path):
    with_check(folder)
    bundle = Bundle.open(folder)
    assert answers(bundle, distance=19.0).outcome == [MODEL]
    far = answers(bundle, distance=21.0)
    assert (far.outcome, far.bad_checks) == ([REJECTED], {0: ["near"]})
    assert bundle.run(np.empty((0, FIELDS))).checks is not None


def test_a_bundle_without_them_has_none(folder: Path):
    bundle = Bundle.open(folder)
    assert bundle.baseline is bundle.ladder.baseline is None
    assert bundle.ladder.rules.names == ("default",)
    assert bundle.run(np.empty((0, FIELDS))).checks is None


# what is refused


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BundleCorrupt) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    for word in (*words, "pack it anew"):
        assert word in message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"when": "r.distance >"}, "no CEL expression"),
        ({"when": "r.nothing > 1.0"}, "unknown field 'nothing'"),
        ({"when": "has(r.distance)"}, "macros"),
        ({"name": "default"}, "named ['default']"),
        ({"outputs": {"probability": 1.5}}, "not a valid answer"),
        ({"outputs": {"score": 0.5}}, "must answer the outputs"),
    ],
)
def test_a_rule_that_cannot_be_used(folder: Path, changed: dict[str, Any], words: str):
    in_fallback(folder, lambda value: value["rules"].append({**RULE, **changed}))
    refused(folder, FALLBACK, words)


@pytest.mark.parametrize("value", [1.5, None, "0.5", [0.5]])
def test_a_default_that_is_no_answer(folder: Path, value: Any):
    in_fallback(folder, lambda fallback: fallback.update(default={"probability": value}))
    refused(folder, FALLBACK, "default, output 'probability'")


def test_a_policy_for_a_baseline_that_there_is_not(folder: Path):
    policy = {"policy": "baseline"}
    in_fallback(folder, lambda value: value["policies"]["distance"].update(missing=policy))
    refused(folder, FALLBACK, "no baseline model")


def test_a_check_for_a_baseline_that_there_is_not(folder: Path):
    with_check(folder)
    in_fallback(folder, lambda value: value["checks"][0].update(policy="baseline"))
    refused(folder, FALLBACK, "check 'near'", "no baseline model")


def test_a_baseline_that_the_manifest_does_not_describe(folder: Path):
    listed(folder, "baseline.onnx", baseline_graph())
    refused(folder, "'baseline.onnx' and no 'baseline'")


def test_a_baseline_without_its_file(folder: Path):
    in_manifest(folder, lambda value: value.update(baseline=INFO))
    refused(folder, "'baseline' and no 'baseline.onnx'")


@pytest.mark.parametrize(
    "graph",
    [
        baseline_graph(gives="score"),
        baseline_graph(kind=TensorProto.DOUBLE),
        baseline_graph(shape=("n", 2)),
        baseline_graph(more=True),
    ],
    ids=["name", "type", "shape", "more"],
)
def test_a_baseline_that_gives_something_else(folder: Path, graph: bytes):
    with_baseline(folder, graph)
    refused(folder, "baseline.onnx gives", "must answer alike")


@pytest.mark.parametrize(
    "graph", [baseline_graph(takes="x"), baseline_graph(width=4)], ids=["name", "width"]
)
def test_a_baseline_that_takes_something_else(folder: Path, graph: bytes):
    with_baseline(folder, graph)
    refused(folder, "baseline.onnx takes", "the encoded fields")


def test_a_baseline_that_is_no_model(folder: Path):
    with_baseline(folder, b"nonsense")
    refused(folder, "cannot open baseline.onnx")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fields": ["length"], "accepts": {}}, "['length']"),
        ({"accepts": {"carrier": ["missing"]}}, "['carrier']"),
        ({"accepts": {"distance": ["unknown"]}}, "accepts ['unknown']"),
    ],
)
def test_a_baseline_of_other_fields(folder: Path, changed: dict[str, Any], words: str):
    with_baseline(folder, **changed)
    refused(folder, words)


def test_checks_that_only_one_file_knows(folder: Path):
    in_fallback(folder, lambda value: value["checks"].append(CHECK))
    refused(folder, "the checks of manifest.json are []", "['near']")


def test_two_checks_of_one_name(folder: Path):
    with_check(folder, columns=2)
    in_manifest(folder, lambda value: value["checks"].append("near"))
    in_fallback(folder, lambda value: value["checks"].append(CHECK))
    refused(folder, "each once")


def test_checks_that_the_model_does_not_compute(folder: Path):
    in_fallback(folder, lambda value: value["checks"].append(CHECK))
    in_manifest(folder, lambda value: value.update(checks=["near"]))
    refused(folder, "model.onnx gives", "'checks'")


def test_more_columns_than_checks(folder: Path):
    with_check(folder, columns=2)
    refused(folder, "has 1 checks", "bool [n, 1]")


def test_tensors_have_no_lower_rungs(folder: Path):
    empty = dict.fromkeys(json.loads((folder / MANIFEST).read_bytes())["features"], "")
    tensors = {"kind": "tensors", "inputs": [{"name": "row", "dtype": "float64", "shape": [-1, 5]}]}
    listed(folder, "features.json", json.dumps(tensors).encode())
    in_manifest(folder, lambda value: value.update(features=empty))
    rewritten(folder, "golden.json", edited(lambda value: value.update(features_digest="")))
    in_fallback(folder, lambda value: value.update(policies={}, rules=[RULE]))
    refused(folder, "plain tensors", "need features of ours")
