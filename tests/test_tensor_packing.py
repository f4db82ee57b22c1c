"""Plain ONNX models over raw tensors as bundles."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.errors import ConversionFailed, GoldenMismatch, PackingError, VersionTaken
from models.gate import run_gate
from models.tensor_packing import pack_tensors
from tests.packed import copied, edited, rewritten


def two_inputs(opset: int = 21) -> onnx.ModelProto:
    """`scores` = left @ weights + right, and `best`, the place of the largest."""
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weights")
    nodes = [
        helper.make_node("MatMul", ["left", "weights"], ["product"], name="product"),
        helper.make_node("Add", ["product", "right"], ["scores"], name="scores"),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0, name="best"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("left", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("right", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n"]),
        ],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


EXAMPLES: list[dict[str, Any]] = [
    {"left": [[1.0, 2.0]], "right": [[0.0, 0.5, 0.0]]},
    {"left": [[1.0, 2.0], [0.0, -1.0]], "right": np.ones((2, 3))},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pack_tensors(tmp_path / "store", "linear", "1", model=two_inputs(13), examples=EXAMPLES)


def test_it_opens_and_answers(folder: Path):
    bundle = Bundle.open(folder)
    assert bundle.fitted is None
    assert bundle.fields == ()
    assert bundle.inputs is not None
    assert [(spec.name, spec.shape) for spec in bundle.inputs.inputs] == [
        ("left", (-1, 2)),
        ("right", (-1, 3)),
    ]
    left, right = np.asarray([[1, 1]], np.float32), np.zeros((1, 3), np.float32)
    outputs = bundle.run_tensors({"left": left, "right": right})
    assert outputs.values[0].tolist() == [[3.0, 5.0, 7.0]]
    assert outputs.values[1].tolist() == [2]
    assert outputs.features is None


def test_its_gate_replays_the_examples(folder: Path):
    assert run_gate(folder).rows == len(EXAMPLES)


def test_golden_tensors_that_do_not_replay(folder: Path, tmp_path: Path):
    spoilt = copied(folder, tmp_path / "spoilt")

    def change(golden: Any) -> None:
        golden["tensors"][1]["outputs"]["scores"][0][0] += 0.5

    rewritten(spoilt, "golden.json", edited(change))
    with pytest.raises(GoldenMismatch, match="golden tensors 'sample 1': output 'scores'"):
        run_gate(spoilt)


def test_a_version_is_taken_here_too(folder: Path):
    with pytest.raises(VersionTaken):
        pack_tensors(folder.parent.parent, "linear", "1", model=two_inputs(), examples=EXAMPLES)


@pytest.mark.parametrize(
    ("model", "examples", "error", "words"),
    [
        (two_inputs(), [], PackingError, "examples are empty"),
        (two_inputs(), [{"left": [[1, 2]]}], PackingError, "example 0 does not fit"),
        (two_inputs(), [{"left": [[1]], "right": [[1]]}], PackingError, "example 0 does not fit"),
        (b"nothing", EXAMPLES, ConversionFailed, "not a valid ONNX model"),
    ],
)
def test_what_cannot_be_packed(
    tmp_path: Path, model: Any, examples: Any, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        pack_tensors(tmp_path / "store", "linear", "1", model=model, examples=examples)
    assert not list((tmp_path / "store").glob("*/[!.]*"))
