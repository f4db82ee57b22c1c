"""From expressions to one ONNX graph over the encoded row, as few nodes as the expressions allow.

The result is total: any float64 row gives a row of features, and what is not finite is null.
"""

from collections.abc import Sequence
from typing import Final

import onnx
from onnx import TensorProto, helper

from features.graph import Column, GraphBuilder, make_model
from features.nodes import Expression
from features.ops.base import Plan
from features.schedule import schedule

FEATURES: Final = "features"


def compile_values(plan: Plan, expressions: Sequence[Expression]) -> onnx.ModelProto:
    """A model `row` -> `values` float64 [n, k]: what fitting looks at."""
    builder = GraphBuilder()
    columns = schedule(builder, plan, expressions)
    builder.name(builder.tensor(columns), "values")
    output = helper.make_tensor_value_info("values", TensorProto.DOUBLE, ["n", len(columns)])
    return _model(builder, plan, output)


def compile_features(plan: Plan, expressions: Sequence[Expression]) -> onnx.ModelProto:
    """A model `row` float64 [n, F] -> `features` float32 [n, K]."""
    builder = GraphBuilder()
    output = add_features(builder, schedule(builder, plan, expressions))
    return _model(builder, plan, output)


def _model(builder: GraphBuilder, plan: Plan, output: onnx.ValueInfoProto) -> onnx.ModelProto:
    nodes, constants, included = builder.nodes, builder.initializers, builder.included
    return make_model(nodes, constants, [output], width=len(plan.fields), included=included)


def add_features(builder: GraphBuilder, columns: Sequence[Column]) -> onnx.ValueInfoProto:
    """Makes `features` of the columns: rounds to float32, once; what is not finite is null.

    Zero has one spelling: which of 0 and -0 is the larger, onnxruntime answers differently for a
    value alone and for one of a batch.
    """
    rounded = builder.cast(builder.tensor(columns), TensorProto.FLOAT)
    # x - x is 0, and null for infinities: a third of what Abs, Less and Where cost. -0 + 0 is 0.
    nothing = builder.node("Sub", [rounded, rounded])
    builder.name(builder.node("Add", [rounded, nothing]), FEATURES)
    return helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", len(columns)])
