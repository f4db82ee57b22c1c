"""Bundles whose runs are long: a network with large layers, an ensemble of many trees.

Their weights are random: what they answer means nothing, what it costs is what such models cost.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from keelmark import FeatureSet, OnnxModel, number, pack
from tests.forests import size_of, sum_of_trees

FIELDS = 24
ROWS = 600


def table(rows: int = ROWS, seed: int = 0) -> dict[str, Any]:
    """Training rows, as a dict of arrays float64 (rows,)."""
    rng = np.random.default_rng(seed)
    return {f"x{i:02}": rng.uniform(-2, 2, rows).round(3) for i in range(FIELDS)}


def records(count: int) -> list[dict[str, float]]:
    """Rows that training has not."""
    columns = table(count, seed=1)
    return [{name: float(column[row]) for name, column in columns.items()} for row in range(count)]


def publish(store: Path, name: str, model: ModelProto, baseline: ModelProto | None = None) -> Path:
    """Packs a model over the table, and what answers for it, if anything; gives its folder."""
    features = FeatureSet(
        name,
        version=1,
        features={
            f"x{i:02}": number(f"x{i:02}", low=-10, high=10, nullable=False) for i in range(FIELDS)
        },
    )
    fitted, _ = features.fit_transform(table())
    return pack(
        store,
        name,
        "1",
        features=fitted,
        model=_of(model),
        training=table(),
        baseline=None if baseline is None else (fitted, _of(baseline)),
        default={"value": 0.0},
        progress=False,
    )


def _of(model: ModelProto) -> OnnxModel:
    return OnnxModel(model, outputs={"value": "value"})


def network(width: int, layers: int = 3) -> ModelProto:
    """24 numbers, `layers` hidden layers of `width`, one number; 4 * width² bytes a layer."""
    rng = np.random.default_rng(0)
    sizes = [FIELDS, *[width] * layers, 1]
    nodes, weights, last = [], [], "x"
    for place, (many, few) in enumerate(pairwise(sizes)):
        matrix = rng.normal(0, 1 / np.sqrt(many), (many, few)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{place}"))
        weights.append(numpy_helper.from_array(np.zeros(few, np.float32), f"b{place}"))
        is_last = place == layers
        out = "value" if is_last else f"h{place}"
        nodes.append(helper.make_node("Gemm", [last, f"w{place}", f"b{place}"], [out]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"r{place}"]))
        last = f"r{place}"
    return _model("network", nodes, weights)


def trees(count: int, depth: int = 6) -> ModelProto:
    """A sum of complete trees of random splits, each with 2^depth leaves."""
    rng = np.random.default_rng(0)
    features = rng.integers(0, FIELDS, count * size_of(depth))
    thresholds = rng.uniform(-1.5, 1.5, count * size_of(depth))
    weights = rng.normal(0, 1 / count, count << depth)
    node = sum_of_trees(
        "x", "value", depth=depth, features=features, thresholds=thresholds, weights=weights
    )
    return _model("trees", [node], [])


def _model(name: str, nodes: list[Any], weights: list[Any]) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FIELDS])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


MODELS: dict[str, Callable[[], ModelProto]] = {
    "network": lambda: network(3_600),
    "trees": lambda: trees(30_000),
    "cheap": lambda: trees(20, depth=4),
}
