"""Checks as the end of the features' graph: one truth value a check and row, at the fewest nodes.

A check holds unless it is false, and one with a null side is not false. So what is looked for is
where a check is false, and that needs no third value: onnxruntime's comparisons say of null that it
is neither above, below nor equal to anything, "a & b is false" is "a is false or b is false", and
"~a is false" is "a is true". What a check asks of its columns becomes comparisons, and all of one
kind are one node.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

import onnx
from onnx import TensorProto, helper

from features.expressions import Category
from features.graph import Column, GraphBuilder
from features.nodes import Expression

CHECKS: Final = "checks"


@dataclass(frozen=True, slots=True)
class _Test:
    """A comparison of onnxruntime; never true of null, but for IsNaN.

    Attributes:
        op: the operator of ONNX.
        left: key of the first operand.
        right: key of the second, or a constant, or None.
    """

    op: str
    left: str
    right: str | float | None


@dataclass(frozen=True, slots=True)
class _Both:
    """`And` or `Or` of two formulas."""

    op: str
    left: "_Formula"
    right: "_Formula"


_Formula: TypeAlias = _Test | _Both

_COMPARISONS: Final = {
    ("less/1", True): "Less",
    ("less/1", False): "GreaterOrEqual",
    ("less_equal/1", True): "LessOrEqual",
    ("less_equal/1", False): "Greater",
    ("equal/1", True): "Equal",
}
_TURNED: Final = {
    "Less": "Greater",
    "Greater": "Less",
    "LessOrEqual": "GreaterOrEqual",
    "GreaterOrEqual": "LessOrEqual",
    "Equal": "Equal",
}
"""The same said from the other side."""


def operands_of(checks: Sequence[Expression]) -> list[Expression]:
    """What has to be computed for `add_checks`, a column each."""
    reader = _Reader()
    for check in checks:
        reader.read(check, is_true=False)
    return list(reader.operands.values())


def add_checks(
    builder: GraphBuilder, checks: Sequence[Expression], columns: Sequence[Column]
) -> onnx.ValueInfoProto:
    """Makes `checks` bool [n, C], true where a check holds.

    Args:
        builder: of the graph.
        checks: truth values.
        columns: of `operands_of(checks)`.
    """
    reader = _Reader()
    formulas = [reader.read(check, is_true=False) for check in checks]
    known = _tested(builder, formulas, dict(zip(reader.operands, columns, strict=True)))
    left = [part for part in _parts(formulas) if isinstance(part, _Both)]
    while left:
        ready = [both for both in left if both.left in known and both.right in known]
        # All of one operator that can be computed now, together.
        group = [both for both in ready if both.op == ready[0].op]
        sides = (
            builder.tensor([known[both.left] for both in group]),
            builder.tensor([known[both.right] for both in group]),
        )
        _remember(builder, builder.node(group[0].op, sides), group, known)
        left = [both for both in left if both not in known]
    broken = builder.tensor([known[formula] for formula in formulas])
    builder.name(builder.node("Not", [broken]), CHECKS)
    return helper.make_tensor_value_info(CHECKS, TensorProto.BOOL, ["n", len(checks)])


class _Reader:
    """Makes formulas of truth values; `operands` are the expressions that they compare, by key."""

    def __init__(self) -> None:
        self.operands: dict[str, Expression] = {}

    def read(self, check: Expression, *, is_true: bool) -> _Formula:
        """Where a truth value is true, or where it is false; nowhere where it is null."""
        match check.op:
            case "not/1":
                return self.read(check.args[0], is_true=not is_true)
            case "and/1" | "or/1":
                a, b = (self.read(arg, is_true=is_true) for arg in check.args)
                return _Both("And" if (check.op == "and/1") == is_true else "Or", a, b)
            case "equal/1" if not is_true:
                return _Both("Or", self._compared("Less", check), self._compared("Greater", check))
            case "less/1" | "less_equal/1" | "equal/1":
                return self._compared(_COMPARISONS[check.op, is_true], check)
            case "is_null/1" if not isinstance(check.args[0], Category):
                key = self._operand(check.args[0])
                return _Test("IsNaN", key, None) if is_true else _Test("Equal", key, key)
            case _:
                return _Test("Equal", self._operand(check), float(is_true))

    def _compared(self, op: str, check: Expression) -> _Test:
        """A constant stands on the right; of two columns the first is asked to be the smaller."""
        left, right = check.args
        if left.op == "constant" or (right.op != "constant" and op.startswith("Greater")):
            op, left, right = _TURNED[op], right, left
        if right.op == "constant":
            return _Test(op, self._operand(left), float(right.params["value"]))
        return _Test(op, self._operand(left), self._operand(right))

    def _operand(self, expression: Expression) -> str:
        return self.operands.setdefault(expression.key, expression).key


def _parts(formulas: Sequence[_Formula]) -> list[_Formula]:
    """All formulas and what they are made of, each once."""
    found: dict[_Formula, None] = {}
    for formula in formulas:
        if isinstance(formula, _Both):
            found |= dict.fromkeys(_parts([formula.left, formula.right]))
        found[formula] = None
    return list(found)


def _tested(
    builder: GraphBuilder, formulas: Sequence[_Formula], columns: Mapping[str, Column]
) -> dict[_Formula, Column]:
    """The columns of all tests, bool; one node, and what brings its operands together, a kind."""

    def kind(test: _Test) -> tuple[str, str]:
        return test.op, type(test.right).__name__

    tests = [part for part in _parts(formulas) if isinstance(part, _Test)]
    known: dict[_Formula, Column] = {}
    for (op, _), members in groupby(sorted(tests, key=kind), kind):
        group = list(members)
        sides = [_side(builder, [columns[test.left] for test in group])]
        constants = [test.right for test in group if isinstance(test.right, float)]
        keys = [test.right for test in group if isinstance(test.right, str)]
        if constants:
            sides.append(builder.vector(constants))
        if keys:
            sides.append(_side(builder, [columns[key] for key in keys]))
        _remember(builder, builder.node(op, sides), group, known)
    return known


def _side(builder: GraphBuilder, columns: Sequence[Column]) -> str:
    """One column for all where it is the same: the operator spreads it."""
    return builder.tensor(columns[:1] if len(set(columns)) == 1 else columns)


def _remember(
    builder: GraphBuilder,
    tensor: str,
    formulas: Sequence[_Formula],
    known: dict[_Formula, Column],
) -> None:
    known |= zip(formulas, builder.new_columns(tensor, len(formulas)), strict=True)
