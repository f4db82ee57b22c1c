"""From expressions to one ONNX graph, as few nodes as the expressions allow.

Calls of one operator that are ready at the same time become one node over one wide tensor. A column that
an operator must leave alone rides along where the operator has a neutral element (x - 0, x / 1, a null
imputed with null): a copy of the row then serves all later operators and nothing is picked apart or joined.

The result is total: any float64 row gives a row of features, non-finite ones null (one canonical NaN).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from features.errors import DeclarationError
from features.expressions import Category, Expression, walk
from features.fields import Field
from features.graph import INPUT, OPSET, Column, GraphBuilder, make_model, rename_output
from features.ops import CATEGORY_IS_NULL, OPS, Op
from features.ops.base import Call, Context, State

FEATURES: Final = "features"
CHECKS: Final = "checks"
WIDEST_RIDE: Final = 4
"""A group may drag along a tensor up to this many times its own width, plus a few columns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compile: the row's fields in order, what was learned, and the frozen context."""

    fields: tuple[Field, ...]
    states: Mapping[str, State]
    context: Context


def compile_values(plan: Plan, expressions: Sequence[Expression]) -> onnx.ModelProto:
    """A model `row` -> `values` float64 [n, k]: what fitting looks at."""
    builder, columns = _compile(plan, expressions)
    rename_output(builder, builder.tensor(columns), "values")
    output = helper.make_tensor_value_info("values", TensorProto.DOUBLE, ["n", len(columns)])
    return make_model(builder.nodes, builder.initializers, [output], width=len(plan.fields))


def compile_features(plan: Plan, expressions: Sequence[Expression]) -> onnx.ModelProto:
    """A model `row` float64 [n, F] -> `features` float32 [n, K]."""
    builder, outputs = _features(plan, expressions, ())
    return make_model(builder.nodes, builder.initializers, outputs, width=len(plan.fields))


def fuse(
    plan: Plan,
    expressions: Sequence[Expression],
    model: onnx.ModelProto,
    *,
    checks: Sequence[Expression] = (),
) -> onnx.ModelProto:
    """Features and model as one graph: the model's outputs, then `features`, then `checks` bool [n, C].

    Args:
        model: one float32 input [n, K]; opset 21 of the default domain; no reserved output names.
        checks: truth values; a check holds unless it is false, so one with a null side holds.

    Raises:
        DeclarationError: the model's input does not fit, or it uses another opset.
    """
    builder, outputs = _features(plan, expressions, checks)
    _check_model(model, outputs[0].type.tensor_type.shape.dim[1].dim_value)
    part = _renamed(model)
    return make_model(
        [*builder.nodes, *part.node],
        [*builder.initializers, *part.initializer],
        [*model.graph.output, *outputs],
        width=len(plan.fields),
        ml_version=_ml_version(model),
    )


def _features(
    plan: Plan, expressions: Sequence[Expression], checks: Sequence[Expression]
) -> tuple[GraphBuilder, list[onnx.ValueInfoProto]]:
    """The graph up to `features` (and `checks`), and the declarations of these outputs."""
    builder, columns = _compile(plan, [*expressions, *checks])
    split = len(columns) - len(checks)
    rename_output(builder, _single_precision(builder, columns[:split]), FEATURES)
    outputs = [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", split])]
    if checks:
        false = builder.node("Equal", [builder.tensor(columns[split:]), builder.constant(0.0)])
        rename_output(builder, builder.node("Not", [false]), CHECKS)
        outputs.append(helper.make_tensor_value_info(CHECKS, TensorProto.BOOL, ["n", len(checks)]))
    return builder, outputs


def _single_precision(builder: GraphBuilder, columns: Sequence[Column]) -> str:
    """The one rounding to float32; what is not finite becomes the canonical null."""
    single = builder.cast(builder.tensor(columns), TensorProto.FLOAT)
    bound = builder.constant(np.inf, np.float32)
    finite = builder.node("Less", [builder.node("Abs", [single]), bound])
    return builder.node("Where", [finite, single, builder.constant(np.nan, np.float32)])


# scheduling


@dataclass(slots=True)
class _Pending:
    """An operator's call waiting for its operands."""

    expression: Expression
    op: Op
    group: tuple[str, tuple[bool, ...]]
    waits_for: set[str]


class _Scheduler:
    """Emits groups of calls, each as late as it takes for the group to be whole."""

    def __init__(self, builder: GraphBuilder, plan: Plan) -> None:
        self._builder = builder
        self._plan = plan
        self.columns: dict[str, list[Column]] = {}
        """Columns of each computed expression, by its key."""

    def read_row(self) -> None:
        made = [self._builder.new_column() for _ in self._plan.fields]
        self._builder.define(INPUT, made)
        self._field_columns = {
            field.name: column for field, column in zip(self._plan.fields, made, strict=True)
        }

    def compute(self, nodes: Sequence[Expression]) -> None:
        pending: dict[str, _Pending] = {}
        for node in nodes:
            if node.field is not None:
                self.columns[node.key] = [self._field_columns[node.field.name]]
            elif node.op != "constant" and node.key not in self.columns:
                pending[node.key] = self._pending(node)
        while pending:
            group = self._next_group(pending)
            self._emit(group)
            for call in group:
                del pending[call.expression.key]

    def _pending(self, node: Expression) -> _Pending:
        op = OPS[node.op]
        if node.op == "is_null/1" and isinstance(node.args[0], Category):
            op = CATEGORY_IS_NULL
        constants = tuple(arg.op == "constant" for arg in node.args)
        waits = {arg.key for arg in node.args if arg.op not in ("constant", "field")}
        return _Pending(node, op, (op.group, constants), waits)

    def _next_group(self, pending: Mapping[str, _Pending]) -> list[_Pending]:
        """The ready group that the fewest calls still under way could join."""
        ready: dict[tuple[str, tuple[bool, ...]], list[_Pending]] = {}
        for call in pending.values():
            if not call.waits_for & pending.keys():
                ready.setdefault(call.group, []).append(call)
        joiners = {group: self._could_join(group, pending) for group in ready}
        return ready[min(ready, key=lambda group: joiners[group])]

    def _could_join(
        self, group: tuple[str, tuple[bool, ...]], pending: Mapping[str, _Pending]
    ) -> int:
        """Calls of the group that are not ready, and do not themselves need a call of the group."""
        blocked: set[str] = set()
        count = 0
        for key, call in pending.items():  # operands stand before what uses them
            if call.waits_for & blocked:
                blocked.add(key)
                continue
            if call.group == group:
                count += bool(call.waits_for & pending.keys())
                blocked.add(key)
        return count

    def _emit(self, group: Sequence[_Pending]) -> None:
        op = group[0].op
        calls = self._ordered([self._call(item.expression) for item in group])
        if op.spare is not None:
            calls = self._with_riders(calls, op.spare)
        tensor = op.lower(self._builder, calls, self._plan.context)
        if op.spare == "mask" and any(call.neutral for call in calls):
            tensor = self._put_back(tensor, calls)
        wanted = [(call, self._results(call, op)) for call in calls]
        left = iter(self._builder.define(tensor, [c for _, columns in wanted for c in columns]))
        for call, columns in wanted:
            used = [next(left) for column in columns if column is not None]
            if call.expression is not None:
                self.columns[call.expression.key] = used

    def _call(self, node: Expression) -> Call:
        return Call(
            node,
            tuple(None if a.op == "constant" else self.columns[a.key][0] for a in node.args),
            tuple(a.params["value"] if a.op == "constant" else None for a in node.args),
            self._plan.states.get(node.key, {}),
            never_negative=never_negative(node.args[0], self._plan.states),
        )

    def _put_back(self, tensor: str, calls: Sequence[Call]) -> str:
        """Columns that rode along are taken from where they came from."""
        before = self._builder.tensor([c.columns[0] for c in calls if c.columns[0] is not None])
        mine = self._builder.constant([[not call.neutral for call in calls]], np.bool_)
        return self._builder.node("Where", [mine, tensor, before])

    def _ordered(self, calls: list[Call]) -> list[Call]:
        """By the place of their first operand, so that a group is a whole tensor or a slice of one."""
        firsts = [call.columns[0] for call in calls]
        known = [column for column in firsts if column is not None]
        if len(known) < len(calls):
            return calls
        holder = self._builder.holder(known)
        if holder is None:
            return calls
        return sorted(
            calls, key=lambda c: self._builder.place(c.columns[0], holder) if c.columns[0] else 0
        )

    def _with_riders(self, calls: list[Call], spare: str) -> list[Call]:
        """The calls among all columns of the tensor they come from, if that is not far too wide."""
        wanted = [call.columns[0] for call in calls if call.columns[0] is not None]
        holder = self._builder.holder(wanted)
        if holder is None or len(set(wanted)) < len(wanted):
            return calls
        members = self._builder.members(holder)
        if None in members or len(members) > WIDEST_RIDE * len(calls) + 4:
            return calls
        by_column = {call.columns[0]: call for call in calls}
        return [by_column.get(c) or Call(None, (c,), (None,), {}, neutral=True) for c in members]

    def _results(self, call: Call, op: Op) -> list[Column | None]:
        if call.expression is None:
            return [call.columns[0] if op.spare in ("keep", "mask") else None]
        width = len(op.column_suffixes(call.expression, self._plan.context))
        return [self._builder.new_column() for _ in range(width)]


def _compile(plan: Plan, expressions: Sequence[Expression]) -> tuple[GraphBuilder, list[Column]]:
    builder = GraphBuilder()
    scheduler = _Scheduler(builder, plan)
    scheduler.read_row()
    scheduler.compute(walk(*expressions))
    columns = [column for expression in expressions for column in scheduler.columns[expression.key]]
    return builder, columns


def never_negative(node: Expression, states: Mapping[str, State]) -> bool:
    """Whether an encoded row's value of the expression is provably 0, above, or null."""
    if node.field is not None:
        low = node.field.low
        return low is not None and low >= 0 and node.field.out_of_bounds != "keep"
    if node.op == "impute/1":
        value = states.get(node.key, {}).get("value", -1.0)
        return value >= 0 and never_negative(node.args[0], states)
    return node.op in ("abs/1", "sqrt/1", "frequency/1", "is_null/1")


# the model's half


def _check_model(model: onnx.ModelProto, width: int) -> None:
    inputs = [value for value in model.graph.input if value.name not in _initializers(model)]
    if len(inputs) != 1:
        raise DeclarationError(
            f"the model has {len(inputs)} inputs; expected one, float32 [n, {width}]"
        )
    tensor = inputs[0].type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(shape) != 2 or shape[1] not in (0, width):
        raise DeclarationError(
            f"the model's input {inputs[0].name!r} is {TensorProto.DataType.Name(tensor.elem_type)} {shape}; "
            f"the features are float32 [n, {width}]"
        )
    opsets = {opset.domain or "": opset.version for opset in model.opset_import}
    if opsets.get("", OPSET) != OPSET or set(opsets) - {"", "ai.onnx.ml"}:
        raise DeclarationError(
            f"the model uses opsets {opsets}; expected opset {OPSET} and ai.onnx.ml"
        )


def _initializers(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _ml_version(model: onnx.ModelProto) -> int | None:
    return next((o.version for o in model.opset_import if o.domain == "ai.onnx.ml"), None)


def _renamed(model: onnx.ModelProto) -> onnx.GraphProto:
    """The model's graph reading `features`; inner names prefixed, so that none meets one of ours."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    kept = {output.name for output in graph.output}
    inner = _initializers(model)
    source = next(value.name for value in graph.input if value.name not in inner)
    names: dict[str, str] = {source: FEATURES, "": ""}

    def rename(name: str) -> str:
        return names.setdefault(name, name if name in kept else f"m_{name}")

    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for index, node in enumerate(graph.node):
        node.name = f"m{index}_{node.op_type}"
        for values in (node.input, node.output):
            renamed: list[Any] = [rename(name) for name in values]
            del values[:]
            values.extend(renamed)
    return graph
