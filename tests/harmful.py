"""Bundles whose model harms whoever opens or runs it: real graphs, in place of a packed one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.manifest import MODEL
from tests.packed import rewritten, trained


def endless(folder: Path) -> None:
    """Its model never ends; it keeps a processor busy."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"], name="still"),
            helper.make_node("Add", ["before", "before"], ["after"], name="after"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
    )
    loop = helper.make_node("Loop", ["", "true", "start"], ["x"], body=body, name="loop")
    spoilt(folder, [loop], true=np.asarray(True), start=np.zeros(1, np.float32))


def hungry(folder: Path) -> None:
    """Its model wants 8 GB at its first run."""
    fill = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"], name="fill"),
        helper.make_node("ReduceMax", ["zeros"], ["top"], keepdims=0, name="top"),
        helper.make_node("Reshape", ["top", "one"], ["x"], name="reshape"),
    ]
    spoilt(folder, fill, many=np.asarray([2_000_000_000], np.int64))


def crashing(folder: Path) -> None:
    """Its model negates the least integer by a division.

    The processor refuses it, and whoever opens the model, which computes its constants, is ended by
    SIGFPE; x86-64 only.
    """
    divide = [
        helper.make_node("Div", ["least", "minus_one"], ["part"], name="divide"),
        helper.make_node("Cast", ["part"], ["x"], to=TensorProto.FLOAT, name="cast_part"),
    ]
    least = np.asarray([np.iinfo(np.int64).min])
    spoilt(folder, divide, least=least, minus_one=np.asarray([-1], np.int64))


def spoilt(folder: Path, nodes: Sequence[onnx.NodeProto], **constants: NDArray[Any]) -> None:
    """A model with the right outputs, of which `nodes` make `x`, one float.

    Args:
        folder: of a bundle without checks, see `tests.packed.packed`.
        nodes: of the graph.
        constants: that they read.
    """
    width = len(trained()[0].feature_names)
    take = [
        helper.make_node("Cast", ["row"], ["single"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("ReduceSum", ["single", "one"], ["sums"], keepdims=0, name="sum"),
        helper.make_node("Add", ["sums", "x"], ["probability"], name="probability"),
        helper.make_node("Gather", ["single", "first"], ["features"], axis=1, name="features"),
    ]
    given = {"one": np.asarray([1], np.int64), "first": np.zeros(width, np.int64), **constants}
    graph = helper.make_graph(
        [*nodes, *take],
        "spoilt",
        [helper.make_tensor_value_info("row", TensorProto.DOUBLE, ["n", None])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width]),
        ],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    rewritten(folder, MODEL, lambda _: model.SerializeToString())
