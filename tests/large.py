"""Versions of `tests.three` with large models: many trees, or a network with wide layers.

They answer what the small ones answer, to the bit, whatever their weights are: all leaves of the
trees have one value, and the network's last layer is zero. Packing one takes minutes, so they are
kept in the machine's folder of temporary files, by the digest of what makes them.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.store import Store
from tests.forests import size_of, sum_of_trees
from tests.three import NAME, pack_three

Kind = Literal["trees", "network"]

DEPTH: Final = 12
LEAF: Final = 2.0
"""What each leaf adds; a sum of a few hundred of them and of what the rest adds is exact."""
NODE_BYTES: Final = 34.0
"""Of a node in the file, measured."""


def large_store(kind: Kind, megabytes: int = 100) -> Path:
    """A store with versions 1, which is wished live, and 2; made once and kept.

    Args:
        kind: of model.
        megabytes: of the model, about.
    """
    makers = __file__, pack_three.__code__.co_filename, sum_of_trees.__code__.co_filename
    source = b"".join(Path(path).read_bytes() for path in makers)
    digest = hashlib.sha256(source).hexdigest()[:12]
    name = f"keelmark-large-{kind}-{megabytes}-{digest}"
    store = Path(tempfile.gettempdir()) / name
    for n in (1, 2):
        if not (store / NAME / str(n)).exists():
            pack_three(store, n, model=large_model(kind, n, megabytes))
    Store(store).set_live(NAME, "1", by="the tests")
    return store


def large_model(kind: Kind, n: int, megabytes: float) -> onnx.ModelProto:
    """A model that answers as version n does, and has about so many megabytes."""
    nodes, weights, bias = _trees(n, megabytes) if kind == "trees" else _network(n, megabytes)
    weights += [
        numpy_helper.from_array(np.array([[1.0], [100.0]], np.float32), "w"),
        numpy_helper.from_array(np.array([1000.0 * n - bias], np.float32), "b"),
    ]
    nodes += [
        helper.make_node("Gemm", ["f", "w", "b"], ["small"], name="sum"),
        helper.make_node("Add", ["small", "large"], ["value"], name="both"),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


Parts = tuple[list[Any], list[Any], float]
"""Nodes that give `large`, their weights, and the one value that it always has."""


def _trees(n: int, megabytes: float) -> Parts:
    """Complete trees that split at random where the features are, and differ with n."""
    count = max(1, round(megabytes * 1e6 / NODE_BYTES / size_of(DEPTH)))
    rng = np.random.default_rng(n)
    features = rng.integers(0, 2, count * size_of(DEPTH))
    ends = np.where(features == 0, 10.0 * n, 5.0 * n)
    thresholds = rng.uniform(0, 1, count * size_of(DEPTH)) * ends
    weights = np.full(count << DEPTH, LEAF)
    node = sum_of_trees(
        "f", "large", depth=DEPTH, features=features, thresholds=thresholds, weights=weights
    )
    return [node], [], LEAF * count


def _network(n: int, megabytes: float) -> Parts:
    """Two numbers, three hidden layers, and a last one that is zero."""
    width = max(2, round((megabytes * 1e6 / 4 / 2) ** 0.5))
    rng = np.random.default_rng(n)
    nodes, weights, last = list[Any](), list[Any](), "f"
    for place, (many, few) in enumerate([(2, width), (width, width), (width, width), (width, 1)]):
        is_last = place == 3
        scale = 0.0 if is_last else 1 / np.sqrt(many)
        matrix = (rng.normal(0, 1, (many, few)) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{place}"))
        out = "large" if is_last else f"h{place}"
        nodes.append(helper.make_node("MatMul", [last, f"w{place}"], [out], name=f"layer{place}"))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"r{place}"], name=f"relu{place}"))
        last = f"r{place}"
    return nodes, weights, 0.0
