"""Features and a model as one graph: one session, one call, and the features as a second output."""

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from features.checking import add_checks, operands_of
from features.compiler import FEATURES, add_features
from features.errors import DeclarationError
from features.expressions import Boolean
from features.graph import INPUT, OPSET, GraphBuilder, make_model
from features.nodes import Expression, walk
from features.ops import OPS
from features.ops.base import Plan
from features.schedule import schedule
from features.subgraphs import ML_DOMAIN, inputs_of, renamed


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
    operands = operands_of(checks)
    columns = schedule(builder, plan, [*expressions, *operands])
    width = len(columns) - len(operands)
    outputs = [add_features(builder, columns[:width])]
    if checks:
        outputs.append(add_checks(builder, checks, columns[width:]))
    _check_model(model, width)
    _check_outputs(model, {INPUT, *builder.names()})
    kept = {output.name: output.name for output in model.graph.output}
    part = renamed(model, {inputs_of(model)[0].name: FEATURES, **kept}, "m_")
    return make_model(
        [*builder.nodes, *part.node],
        [*builder.initializers, *part.initializer],
        [*model.graph.output, *outputs],
        width=len(plan.fields),
        included=[*builder.included, model],
    )


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
    inputs = inputs_of(model)
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
