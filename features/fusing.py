"""Features and a model as one graph: one session, one call, and the features as a second output."""

from collections.abc import Iterable, Sequence
from typing import Final

import onnx
from onnx import TensorProto, helper

from features.compiler import FEATURES, add_features
from features.errors import DeclarationError
from features.expressions import Boolean
from features.graph import (
    INPUT,
    ML_DOMAIN,
    ML_VERSION,
    OPSET,
    Column,
    GraphBuilder,
    make_model,
)
from features.nodes import Expression, walk
from features.ops import OPS
from features.ops.base import Plan
from features.schedule import schedule

CHECKS: Final = "checks"
LATEST_ML: Final = 4
"""The last version of ai.onnx.ml that still has the operators with trees."""


def fuse(
    plan: Plan,
    expressions: Sequence[Expression],
    model: onnx.ModelProto,
    *,
    checks: Sequence[Expression] = (),
) -> onnx.ModelProto:
    """The model's outputs, then `features` float32 [n, K], then `checks` bool [n, C] if any.

    Args:
        model: one float32 input [n, K]; opset 21 of the default domain.
        checks: truth values over fields of the plan; one holds unless it is false, so one with a
            null side holds.

    Raises:
        DeclarationError: the model's input or outputs do not fit, it uses another opset, or a check
            is none or reads what the features do not.
    """
    for check in checks:
        _check_check(plan, check)
    builder = GraphBuilder()
    columns = schedule(builder, plan, [*expressions, *checks])
    width = len(columns) - len(checks)
    outputs = [add_features(builder, columns[:width])]
    if checks:
        outputs.append(_add_checks(builder, columns[width:]))
    _check_model(model, width)
    _check_outputs(model, {INPUT, *builder.names()})
    part = _renamed(model)
    return make_model(
        [*builder.nodes, *part.node],
        [*builder.initializers, *part.initializer],
        [*model.graph.output, *outputs],
        width=len(plan.fields),
        ml_version=_ml_version(model),
    )


def _add_checks(builder: GraphBuilder, columns: Sequence[Column]) -> onnx.ValueInfoProto:
    false = builder.node("Equal", [builder.tensor(columns), builder.constant(0.0)])
    builder.name(builder.node("Not", [false]), CHECKS)
    return helper.make_tensor_value_info(CHECKS, TensorProto.BOOL, ["n", len(columns)])


def _check_check(plan: Plan, check: Expression) -> None:
    if not isinstance(check, Boolean):
        raise DeclarationError(f"check {check!r} is no truth value; compare it, as in x > 0")
    for node in walk(check):
        if node.field is not None and node.field not in plan.fields:
            raise DeclarationError(
                f"check {check!r} reads {node!r}, which no feature does; the record's fields are "
                f"{', '.join(repr(field.name) for field in plan.fields)}, as declared there"
            )
        is_fitted = node.op not in OPS or not OPS[node.op].is_learning(node.params)
        if not is_fitted and node.key not in plan.states:
            raise DeclarationError(
                f"check {check!r} has {node!r}, which is learned from training rows and part of no "
                "feature; give the constant yourself"
            )


# the model's half


def _check_model(model: onnx.ModelProto, width: int) -> None:
    inputs = _inputs(model)
    if len(inputs) != 1:
        raise DeclarationError(
            f"the model has {len(inputs)} inputs; expected one, float32 [n, {width}]"
        )
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1] not in (0, width):
        raise DeclarationError(
            f"the model's input {inputs[0].name!r} is "
            f"{TensorProto.DataType.Name(tensor.elem_type)} {shape}; "
            f"the features are float32 [n, {width}]"
        )
    opsets = {opset.domain or "": opset.version for opset in model.opset_import}
    if opsets.get("", OPSET) != OPSET or set(opsets) - {"", ML_DOMAIN} or model.functions:
        raise DeclarationError(
            f"the model uses opsets {opsets} and {len(model.functions)} functions; expected "
            f"opset {OPSET} and {ML_DOMAIN}, and none"
        )


def _check_outputs(model: onnx.ModelProto, reserved: set[str]) -> None:
    taken = [output.name for output in model.graph.output if output.name in reserved]
    if taken:
        raise DeclarationError(
            f"the model's outputs {taken} have names that the features use; rename them"
        )


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _ml_version(model: onnx.ModelProto) -> int:
    """The version of ai.onnx.ml at which the model's operators and ours mean what they say.

    Up to 4 it is the model's own, or ours where that is older: trees mean the same in 1 and in 3.
    What is new in 5 is one operator, which the oldest onnxruntime of a bundle cannot run.

    Raises:
        DeclarationError: the model has an operator that means something else there.
    """
    wanted = next((o.version for o in model.opset_import if o.domain == ML_DOMAIN), ML_VERSION)
    used = {node.op_type for node in model.graph.node if node.domain == ML_DOMAIN}
    if (wanted < 2 and "LabelEncoder" in used) or "TreeEnsemble" in used:
        raise DeclarationError(
            f"the model uses {sorted(used)} of {ML_DOMAIN} {wanted}, which onnxruntime 1.20 does "
            f"not run beside the features; export it with {ML_DOMAIN} {ML_VERSION}"
        )
    return min(max(wanted, ML_VERSION), LATEST_ML)


def _renamed(model: onnx.ModelProto) -> onnx.GraphProto:
    """The model's graph reading `features`, its inner names prefixed: none is one of ours."""
    kept = {output.name: output.name for output in model.graph.output}
    names = _Names({"": "", _inputs(model)[0].name: FEATURES, **kept})
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    _rename_all(graph, names, "m")
    return graph


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return f"m_{name}"


def _rename_all(graph: onnx.GraphProto, names: _Names, prefix: str) -> None:
    """Renames tensors and nodes of a graph and of the graphs inside its nodes."""
    values = (*graph.initializer, *graph.input, *graph.output)
    for value in values:
        value.name = names[value.name]
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}{index}_{node.op_type}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        for position, inner in enumerate(_inner_graphs(node)):
            _rename_all(inner, names, f"{node.name}_{position}_")


def _inner_graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """Branches of an If, bodies of a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
