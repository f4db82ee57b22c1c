"""Building an ONNX graph at the fewest nodes: columns live in wide tensors and travel together.

One `run` of onnxruntime costs about 3.5 µs and each node about 0.27 µs, whatever its width at one
row. So a *column* (one float64 per row) is a place in some tensor [n, k], and operators are applied
to as many columns at once as the expressions allow.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from features.search_tree import SearchTree
from features.subgraphs import ML_DOMAIN, inputs_of, ml_version, renamed

OPSET: Final = 21
IR_VERSION: Final = 10
INPUT: Final = "row"

GATHER_NODES: Final = 2
GATHER_NODES_A_COLUMN: Final = 0.02
"""What Concat and Gather cost, counted in nodes: Gather copies each element by itself (7 ns)."""

Column = int
"""Identity of a computed column; the builder knows the tensors it lives in."""


class GraphBuilder:
    """Nodes and constants under construction, and where each column lives."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._members: dict[str, tuple[Column | None, ...]] = {}
        self._places: dict[Column, dict[str, int]] = {}
        self._next_column = 0
        self._computed: dict[tuple[Any, ...], str] = {}
        self.included: list[onnx.ModelProto] = []

    def new_column(self) -> Column:
        self._next_column += 1
        return self._next_column

    def new_columns(self, tensor: str, count: int) -> list[Column]:
        """Names for the columns of a tensor [n, count]."""
        known = self.define(tensor, [self.new_column() for _ in range(count)])
        return [column for column in known if column is not None]

    def define(self, tensor: str, columns: Sequence[Column | None]) -> tuple[Column | None, ...]:
        """Says that the columns of `tensor` [n, k] are these; None is one that nobody wants.

        Returns the columns to go on with: a tensor computed before keeps the names it had.
        """
        known = self._members.get(tensor, (None,) * len(columns))
        merged = tuple(old or new for old, new in zip(known, columns, strict=True))
        self._members[tensor] = merged
        for index, column in enumerate(merged):
            if column is not None:
                self._places.setdefault(column, {}).setdefault(tensor, index)
        return merged

    def tensor(self, columns: Sequence[Column]) -> str:
        """A tensor of exactly these columns, in this order, at the fewest nodes."""
        wanted = tuple(columns)
        for name in self._places[wanted[0]]:
            if self._members[name] == wanted:
                return name
        runs = self._runs(wanted)
        slices = sum(length < len(self._members[name]) for name, _, length in runs)
        if slices + (len(runs) > 1) <= GATHER_NODES + GATHER_NODES_A_COLUMN * len(wanted):
            result = self._assembled(runs)
        else:
            source = self.holder(wanted) or self._joined(wanted)
            indices = [self._places[column][source] for column in wanted]
            result = self.node("Gather", [source, self.integers(indices)], axis=1)
        if len(set(wanted)) == len(wanted):
            self.define(result, wanted)
        return result

    def _runs(self, columns: Sequence[Column]) -> list[tuple[str, int, int]]:
        """The columns as neighbours in tensors that are there: tensor, first index, length."""
        runs: list[tuple[str, int, int]] = []
        done = 0
        while done < len(columns):
            found = [
                (self._together(name, index, columns[done:]), -len(self._members[name]), name)
                for name, index in self._places[columns[done]].items()
            ]
            length, _, name = max(found)
            runs.append((name, self._places[columns[done]][name], length))
            done += length
        return runs

    def _together(self, tensor: str, index: int, columns: Sequence[Column]) -> int:
        """How many of the columns follow each other in the tensor, from the index on."""
        there = self._members[tensor][index : index + len(columns)]
        pairs = zip(there, columns, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), len(there))

    def _assembled(self, runs: Sequence[tuple[str, int, int]]) -> str:
        parts = [
            name if length == len(self._members[name]) else self._slice(name, first, length)
            for name, first, length in runs
        ]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=1)

    def _slice(self, source: str, first: int, length: int) -> str:
        bounds = map(self.integers, ([first], [first + length], [1]))
        return self.node("Slice", [source, *bounds])

    def holder(self, columns: Sequence[Column]) -> str | None:
        """The narrowest tensor that holds all the columns, of equals the newest."""
        candidates = set(self._places[columns[0]])
        for column in columns[1:]:
            candidates &= self._places[column].keys()
        age = {name: position for position, name in enumerate(self._members)}
        return min(
            candidates, key=lambda name: (len(self._members[name]), -age[name]), default=None
        )

    def neighbours(self, columns: Sequence[Column]) -> tuple[Column | None, Column | None]:
        """The columns after the last and before the first of these, in the tensor that has them."""
        holder = self.holder(columns)
        if holder is None:
            return None, None
        members = self._members[holder]
        places = [self._places[column][holder] for column in columns]
        after, before = max(places) + 1, min(places) - 1
        return (
            members[after] if after < len(members) else None,
            members[before] if before >= 0 else None,
        )

    def members(self, tensor: str) -> tuple[Column | None, ...]:
        return self._members[tensor]

    def place(self, column: Column, tensor: str) -> int:
        return self._places[column][tensor]

    def _joined(self, columns: Sequence[Column]) -> str:
        parts: list[str] = []
        left = list(dict.fromkeys(columns))
        while left:
            best = max(self._places[left[0]], key=lambda name: (self._covers(name, left), name))
            parts.append(best)
            left = [column for column in left if best not in self._places[column]]
        result = self.node("Concat", parts, axis=1)
        self.define(result, [column for part in parts for column in self._members[part]])
        return result

    def _covers(self, name: str, columns: Sequence[Column]) -> int:
        return sum(name in self._places[column] for column in columns)

    def constant(self, value: ArrayLike, dtype: Any = np.float64) -> str:
        """An initializer; equal ones are shared."""
        array: NDArray[Any] = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = name
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def vector(self, values: Sequence[float]) -> str:
        """Float64 [1, k]: one constant per column."""
        return self.constant([list(values)])

    def integers(self, values: Sequence[int]) -> str:
        return self.constant(list(values), np.int64)

    def search(self, tensor: str, bounds: Sequence[float], values: Sequence[float]) -> str:
        """Float32 [n, 1]: `values[i]` where i bounds are not above `tensor`, float64 [n, 1]."""
        tree = SearchTree(bounds, values)
        return self.node(
            "TreeEnsembleRegressor",
            [tensor],
            key=(tuple(bounds), tuple(values)),
            domain=ML_DOMAIN,
            **tree.attributes(),
        )

    def node(self, op: str, inputs: Sequence[str], *, key: Any = None, **attributes: Any) -> str:
        """The output of a node; the same node is appended once.

        Every node is named: onnxruntime 1.20 refuses models whose optimized nodes share the empty
        name.

        Args:
            op: its operator.
            inputs: tensors.
            key: stands for attributes that cannot be compared.
            attributes: of the operator.
        """
        same = tuple(sorted(attributes.items())) if key is None else key
        key = (op, tuple(inputs), same)
        if key not in self._computed:
            name = f"n{len(self.nodes)}_{op}"
            self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
            self._computed[key] = name
        return self._computed[key]

    def include(self, model: onnx.ModelProto, inputs: Sequence[str]) -> str:
        """The one output of a whole model over these tensors; its inner names are prefixed."""
        output = f"h{len(self.included)}"
        names = [value.name for value in inputs_of(model)]
        known = {**dict(zip(names, inputs, strict=True)), model.graph.output[0].name: output}
        graph = renamed(model, known, f"{output}_")
        self.nodes.extend(graph.node)
        self.initializers.extend(graph.initializer)
        self.included.append(model)
        return output

    def name(self, tensor: str, name: str) -> None:
        """Gives a computed tensor the name under which the model's users know it."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if current == tensor else current for current in names]

    def names(self) -> set[str]:
        """All names in use."""
        computed = {name for node in self.nodes for name in node.output}
        return computed | {tensor.name for tensor in self.initializers}

    def cast(self, tensor: str, to: int = onnx.TensorProto.DOUBLE) -> str:
        return self.node("Cast", [tensor], to=to)

    def to_integers(self, tensor: str) -> str:
        """Int32, towards zero, as an index; what it cannot hold becomes the smallest integer.

        Not int64: Max, Min and Clip of onnxruntime take 2^31 for the smallest there, in batches.
        """
        return self.cast(tensor, onnx.TensorProto.INT32)

    def null_unless(self, condition: str, value: str) -> str:
        """`value` where the condition holds, null elsewhere."""
        return self.node("Where", [condition, value, self.constant(np.nan)])


def row_input(width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(INPUT, onnx.TensorProto.DOUBLE, ["n", width])


def make_model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    width: int,
    included: Sequence[onnx.ModelProto] = (),
) -> onnx.ModelProto:
    """A checked model with the one input `row`, float64 [n, width].

    Args:
        nodes: all, in an order in which they can be computed.
        initializers: their constants.
        outputs: their tensors that callers get.
        width: of the row.
        included: models whose nodes are among them.

    Raises:
        DeclarationError: the included models need versions of ai.onnx.ml that do not go together.
    """
    graph = helper.make_graph(nodes, "keelmark", [row_input(width)], outputs, initializers)
    domains = [helper.make_opsetid("", OPSET)]
    if any(node.domain == ML_DOMAIN for node in nodes):
        domains.append(helper.make_opsetid(ML_DOMAIN, ml_version(included)))
    model = helper.make_model(
        graph, opset_imports=domains, ir_version=IR_VERSION, producer_name="keelmark"
    )
    onnx.checker.check_model(model)
    return model
