"""In which order operators are computed: calls of one operator together, over one wide tensor.

A column that an operator must leave alone rides along where the operator has a neutral element (x -
0, x / 1, a null imputed with null): a copy of the row then serves all later operators, and nothing
is picked apart or joined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

import numpy as np

from features.expressions import Category
from features.graph import INPUT, Column, GraphBuilder
from features.nodes import Expression, walk
from features.ops import CATEGORY_IS_NULL, OPS, Op
from features.ops.base import Call, Plan
from features.proofs import never_negative, never_null

WIDEST_RIDE: Final = 32
"""A group drags along a tensor of so many columns, or of four times its own.

A column dragged along costs a batch 1 to 5 ns a row and operator; picking columns out and joining
them again costs a row alone three nodes, about 1 µs.
"""

Group: TypeAlias = tuple[str, tuple[bool, ...]]
"""What is lowered together: calls of one group of operators with constants in the same places."""


def schedule(builder: GraphBuilder, plan: Plan, expressions: Sequence[Expression]) -> list[Column]:
    """Adds all that the expressions need to the graph; their columns, in order."""
    scheduler = _Scheduler(builder, plan)
    scheduler.compute(walk(*expressions))
    return [column for expression in expressions for column in scheduler.columns[expression.key]]


@dataclass(slots=True)
class _Pending:
    """An operator's call waiting for its operands."""

    expression: Expression
    op: Op
    group: Group
    waits_for: set[str]


class _Scheduler:
    """Emits groups of calls, each as late as it takes for the group to be whole."""

    def __init__(self, builder: GraphBuilder, plan: Plan) -> None:
        made = [builder.new_column() for _ in plan.fields]
        builder.define(INPUT, made)
        self._builder = builder
        self._plan = plan
        self._field_columns = {f.name: c for f, c in zip(plan.fields, made, strict=True)}
        self.columns: dict[str, list[Column]] = {}
        """Columns of each computed expression, by its key."""

    def compute(self, nodes: Sequence[Expression]) -> None:
        pending: dict[str, _Pending] = {}
        for node in nodes:
            if node.field is not None:
                self.columns[node.key] = [self._field_columns[node.field.name]]
            elif node.op != "constant" and node.key not in self.columns:
                pending[node.key] = _pending(node)
        while pending:
            group = _next_group(pending)
            self._emit(group)
            for call in group:
                del pending[call.expression.key]

    def _emit(self, group: Sequence[_Pending]) -> None:
        op = group[0].op
        calls = [self._call(item.expression) for item in self._ordered(group)]
        if op.riders is not None:
            calls = self._with_riders(calls)
        put_back = op.riders == "mask" and any(call.neutral for call in calls)
        if op.paired:
            calls = self._paired(calls)
        tensor = op.lower(self._builder, calls, self._plan.context)
        if not isinstance(tensor, str):
            left = iter(calls)
            for part, width in tensor:
                self._define(part, list(islice(left, width)), op)
            return
        if put_back:
            tensor = self._put_back(tensor, calls)
        self._define(tensor, calls, op, riders_are_whole=put_back or op.riders == "keep")

    def _define(
        self, tensor: str, calls: Sequence[Call], op: Op, *, riders_are_whole: bool = False
    ) -> None:
        """Tells the builder which columns the tensor has, and remembers those of each call."""
        owners: list[str | None] = []
        columns: list[Column | None] = []
        for call in calls:
            if call.expression is None:
                owners.append(None)
                columns.append(call.operand if riders_are_whole else None)
                continue
            for _ in op.column_suffixes(call.expression, self._plan.context):
                owners.append(call.expression.key)
                columns.append(self._builder.new_column())
        for owner, column in zip(owners, self._builder.define(tensor, columns), strict=True):
            if owner is not None and column is not None:
                self.columns.setdefault(owner, []).append(column)

    def _call(self, node: Expression) -> Call:
        constant = [arg.op == "constant" for arg in node.args]
        pairs = list(zip(node.args, constant, strict=True))
        return Call(
            node,
            tuple(None if is_constant else self.columns[a.key][0] for a, is_constant in pairs),
            tuple(a.params["value"] if is_constant else None for a, is_constant in pairs),
            self._plan.states.get(node.key, {}),
            never_negative=never_negative(node.args[0], self._plan.states),
            never_null=all(never_null(arg) for arg in node.args),
        )

    def _ordered(self, group: Sequence[_Pending]) -> list[_Pending]:
        """By rank, then by the place of the first operand: often a whole tensor or a slice."""
        places = self._places([item.expression.args[0] for item in group])
        order = sorted(range(len(group)), key=lambda index: (group[index].op.rank, places[index]))
        return [group[index] for index in order]

    def _places(self, operands: Sequence[Expression]) -> list[int]:
        """Where operands stand in the tensor that has them all; 0 if there is none."""
        if any(operand.op == "constant" for operand in operands):
            return [0] * len(operands)
        columns = [self.columns[operand.key][0] for operand in operands]
        holder = self._builder.holder(columns)
        if holder is None:
            return [0] * len(operands)
        return [self._builder.place(column, holder) for column in columns]

    def _with_riders(self, calls: list[Call]) -> list[Call]:
        """The calls among all columns of the tensor they come from, if that is not far too wide."""
        wanted = [call.operand for call in calls]
        holder = self._builder.holder(wanted)
        if holder is None or len(set(wanted)) < len(wanted):
            return calls
        members = self._builder.members(holder)
        is_too_wide = len(members) > max(WIDEST_RIDE, 4 * len(calls))
        if is_too_wide or None in members or len(set(members)) < len(members):
            return calls
        by_column = {call.operand: call for call in calls}
        return [by_column.get(c) or _rider(c) for c in members if c is not None]

    def _paired(self, calls: list[Call]) -> list[Call]:
        """An even number of calls: an odd one takes along a neighbour, so a slice stays one."""
        if len(calls) % 2 == 0:
            return calls
        columns = [call.operand for call in calls]
        after, before = self._builder.neighbours(columns)
        if after is None and before is not None:
            return [_rider(before), *calls]
        return [*calls, _rider(after or columns[-1])]

    def _put_back(self, tensor: str, calls: Sequence[Call]) -> str:
        """Columns that rode along are taken from where they came from."""
        before = self._builder.tensor([call.operand for call in calls])
        mine = self._builder.constant([[not call.neutral for call in calls]], np.bool_)
        return self._builder.node("Where", [mine, tensor, before])


def _rider(column: Column) -> Call:
    return Call(None, (column,))


def _pending(node: Expression) -> _Pending:
    op = OPS[node.op]
    if node.op == "is_null/1" and isinstance(node.args[0], Category):
        op = CATEGORY_IS_NULL
    constants = tuple(arg.op == "constant" for arg in node.args)
    waits = {arg.key for arg in node.args if arg.op not in ("constant", "field")}
    return _Pending(node, op, (op.group or op.name, constants), waits)


def _next_group(pending: Mapping[str, _Pending]) -> list[_Pending]:
    """The ready group that the fewest calls still under way could join."""
    ready: dict[Group, list[_Pending]] = {}
    for call in pending.values():
        if not call.waits_for & pending.keys():
            ready.setdefault(call.group, []).append(call)
    joiners = {group: _could_join(group, pending) for group in ready}
    return ready[min(ready, key=lambda group: joiners[group])]


def _could_join(group: Group, pending: Mapping[str, _Pending]) -> int:
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
