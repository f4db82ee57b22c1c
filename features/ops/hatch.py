"""The hatch: an ONNX graph of somebody else's as an operator, put into ours as it is."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from features.expressions import Columns, Number
from features.nodes import Expression, Params, walk
from features.ops.base import Call, Context, Op

if TYPE_CHECKING:
    import onnx

    from features.graph import Column, GraphBuilder


def model_of(params: Params) -> onnx.ModelProto:
    """The graph of an `onnx_op`."""
    import onnx

    return onnx.load_from_string(base64.b64decode(params["model"]))


def foreign_operators(expressions: Iterable[Expression]) -> set[str]:
    """Types of the nodes that `onnx_op` puts into the graph of these features."""
    hatches = [node for node in walk(*expressions) if "model" in node.params]
    return {node.op_type for hatch in hatches for node in model_of(hatch.params).graph.node}


def _lower_hatch(b: GraphBuilder, calls: Sequence[Call], context: Context) -> list[tuple[str, int]]:
    return [(_include(b, model_of(call.params), call.columns), 1) for call in calls]


def _include(b: GraphBuilder, model: onnx.ModelProto, columns: Sequence[Column | None]) -> str:
    """The output float64 [n, width] of a model that reads the columns together or one by one."""
    from features.subgraphs import inputs_of

    read = [column for column in columns if column is not None]
    inputs = inputs_of(model)
    tensors = [b.tensor(read)] if len(inputs) == 1 else [b.tensor([column]) for column in read]
    given = [
        b.cast(tensor, value.type.tensor_type.elem_type) if _is_single(value) else tensor
        for value, tensor in zip(inputs, tensors, strict=True)
    ]
    output = b.include(model, given)
    return b.cast(output) if _is_single(model.graph.output[0]) else output


def _is_single(value: onnx.ValueInfoProto) -> bool:
    import onnx

    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def _suffixes(expression: Expression, context: Context) -> list[str]:
    return [f"_{index}" for index in range(expression.params["width"])]


HATCH_OPS: Final = (
    Op(
        name="onnx/1",
        doc="An ONNX graph that gives one column.",
        gives=Number,
        lower=_lower_hatch,
        params=("model",),
    ),
    Op(
        name="onnx_columns/1",
        doc="An ONNX graph that gives several columns.",
        gives=Columns,
        lower=_lower_hatch,
        params=("model", "width"),
        suffixes=_suffixes,
    ),
)
