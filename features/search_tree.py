"""Between which bounds a number lies, as a balanced decision tree: one ONNX node, log2(k) steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import numpy_helper


class SearchTree:
    """The value that belongs to the stretch in which a number lies.

    Args:
        bounds: ascending, k, float64.
        values: below the first bound, from the first on, ... from the last on; k + 1, float32.
    """

    def __init__(self, bounds: Sequence[float], values: Sequence[float]) -> None:
        self._bounds = bounds
        self._values = values
        self._splits: list[float] = []
        self._below: list[int] = []
        self._above: list[int] = []
        self._leaves: dict[int, float] = {}
        self._grow(0, len(bounds))

    def _grow(self, first: int, last: int) -> int:
        """Adds the tree that tells the values from `first` to `last` apart; its root's number."""
        node = len(self._splits)
        for column in (self._splits, self._below, self._above):
            column.append(0)
        if first == last:
            self._leaves[node] = self._values[first]
            return node
        middle = (first + last) // 2
        self._splits[node] = self._bounds[middle]
        self._below[node] = self._grow(first, middle)
        self._above[node] = self._grow(middle + 1, last)
        return node

    def attributes(self) -> dict[str, Any]:
        """Of a TreeEnsembleRegressor of ai.onnx.ml 3 with one float64 column, giving float32.

        What is below a bound goes one way, all else the other: NaN has the last value.
        """
        count, leaves = len(self._splits), len(self._leaves)
        modes = ["LEAF" if node in self._leaves else "BRANCH_LT" for node in range(count)]
        weights = np.array(list(self._leaves.values()), np.float64)
        return {
            "n_targets": 1,
            "nodes_treeids": [0] * count,
            "nodes_nodeids": list(range(count)),
            "nodes_featureids": [0] * count,
            "nodes_modes": modes,
            "nodes_values_as_tensor": numpy_helper.from_array(np.array(self._splits, np.float64)),
            "nodes_truenodeids": self._below,
            "nodes_falsenodeids": self._above,
            "target_treeids": [0] * leaves,
            "target_nodeids": list(self._leaves),
            "target_ids": [0] * leaves,
            "target_weights_as_tensor": numpy_helper.from_array(weights),
        }
