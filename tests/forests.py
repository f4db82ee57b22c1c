"""Ensembles of complete trees as a node of a graph; for tests and benchmarks of large models."""

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper


def size_of(depth: int) -> int:
    """Nodes of a complete tree."""
    return (1 << (depth + 1)) - 1


def sum_of_trees(
    given: str,
    result: str,
    *,
    depth: int,
    features: NDArray[np.int64],
    thresholds: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NodeProto:
    """A node that adds up the leaves of complete trees.

    Args:
        given: name of its input, float32 (rows, features).
        result: name of its output, float32 (rows, 1).
        depth: of each tree.
        features, thresholds: of each node of each tree, (trees * `size_of(depth)`,); those of
            leaves are not used.
        weights: of each leaf of each tree, (trees * 2^depth,).
    """
    inner, size = (1 << depth) - 1, size_of(depth)
    count = len(features) // size
    node_ids = np.tile(np.arange(size), count)
    is_leaf = node_ids >= inner
    return helper.make_node(
        "TreeEnsembleRegressor",
        [given],
        [result],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=np.repeat(np.arange(count), size).tolist(),
        nodes_nodeids=node_ids.tolist(),
        nodes_featureids=np.where(is_leaf, 0, features).tolist(),
        nodes_values=np.where(is_leaf, 0, thresholds).astype(np.float32).tolist(),
        nodes_modes=np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_truenodeids=np.where(is_leaf, 0, 2 * node_ids + 1).tolist(),
        nodes_falsenodeids=np.where(is_leaf, 0, 2 * node_ids + 2).tolist(),
        target_treeids=np.repeat(np.arange(count), size - inner).tolist(),
        target_nodeids=np.tile(np.arange(inner, size), count).tolist(),
        target_ids=[0] * len(weights),
        target_weights=weights.tolist(),
    )
