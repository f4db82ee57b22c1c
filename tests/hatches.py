"""Small ONNX graphs for `onnx_op`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOUBLE, FLOAT = TensorProto.DOUBLE, TensorProto.FLOAT


def graph(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[tuple[str, Any]] = (("x", 1),),
    constants: dict[str, Any] | None = None,
    width: Any = 1,
    dtype: int = DOUBLE,
    opsets: dict[str, int] | None = None,
    rows: Any = "n",
) -> onnx.ModelProto:
    """A model that gives `y` [n, width]; inputs by name and width."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    tensors = [
        numpy_helper.from_array(np.asarray(value, kind if isinstance(value, float) else None), name)
        for name, value in (constants or {}).items()
    ]
    made = helper.make_graph(
        nodes,
        "hatch",
        [helper.make_tensor_value_info(name, dtype, [rows, size]) for name, size in inputs],
        [helper.make_tensor_value_info("y", dtype, [rows, width])],
        tensors,
    )
    versions = {"": 21} if opsets is None else opsets
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(made, opset_imports=imports, ir_version=10)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def softsign() -> onnx.ModelProto:
    """x / (1 + |x|), which no operator of the catalogue is."""
    nodes = [node("Abs", "x", "size"), node("Add", "size c0", "n0"), node("Div", "x n0")]
    return graph(nodes, constants={"c0": 1.0})


def larger_of_three() -> onnx.ModelProto:
    """The largest of three columns, in float32."""
    nodes = [node("Split", "row", "a b c", axis=1, num_outputs=3), node("Max", "a b c")]
    return graph(nodes, inputs=[("row", 3)], dtype=FLOAT)


def turned() -> onnx.ModelProto:
    """(x, y) by a quarter turn: (-y, x), from two inputs into two columns."""
    nodes = [node("Neg", "b", "minus"), node("Concat", "minus a", axis=1)]
    return graph(nodes, inputs=[("a", 1), ("b", 1)], width=2)


def tree() -> onnx.ModelProto:
    """A decision tree of ai.onnx.ml 3: 2 below 1.5, else 5; float32."""
    nodes = [
        node(
            "TreeEnsembleRegressor",
            "x",
            domain="ai.onnx.ml",
            n_targets=1,
            nodes_treeids=[0, 0, 0],
            nodes_nodeids=[0, 1, 2],
            nodes_featureids=[0, 0, 0],
            nodes_modes=["BRANCH_LT", "LEAF", "LEAF"],
            nodes_values=[1.5, 0.0, 0.0],
            nodes_truenodeids=[1, 0, 0],
            nodes_falsenodeids=[2, 0, 0],
            target_treeids=[0, 0],
            target_nodeids=[1, 2],
            target_ids=[0, 0],
            target_weights=[2.0, 5.0],
        )
    ]
    return graph(nodes, dtype=FLOAT, opsets={"": 21, "ai.onnx.ml": 3})
