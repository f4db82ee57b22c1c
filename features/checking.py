"""Checks as the end of the features' graph: one truth value a check and row, at the fewest nodes.

A check holds unless it is false, and one with a null side is not false. So what is looked for is
its opposite, which onnxruntime's comparisons give as they are: nothing is larger than null.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import onnx
from onnx import TensorProto, helper

from features.graph import Column, GraphBuilder
from features.nodes import Expression

CHECKS: Final = "checks"

_OPPOSITES: Final = {"less/1": "GreaterOrEqual", "less_equal/1": "Greater"}


def operands_of(checks: Sequence[Expression]) -> list[Expression]:
    """What has to be computed for `add_checks`, a column each."""
    return [part for check in checks for part in _read(check)]


def add_checks(
    builder: GraphBuilder, checks: Sequence[Expression], columns: Sequence[Column]
) -> onnx.ValueInfoProto:
    """Makes `checks` bool [n, C], true where a check holds.

    Args:
        builder: of the graph.
        checks: truth values.
        columns: of `operands_of(checks)`.
    """
    left = iter(columns)
    reads = [
        (place, check, [next(left) for _ in _read(check)]) for place, check in enumerate(checks)
    ]
    order: list[int] = []
    parts: list[str] = []
    for _, group in groupby(sorted(reads, key=lambda read: _kind(read[1])), lambda r: _kind(r[1])):
        members = list(group)
        order += [place for place, _, _ in members]
        parts.append(_broken(builder, [m[1] for m in members], [m[2] for m in members]))
    broken = parts[0] if len(parts) == 1 else builder.node("Concat", parts, axis=1)
    if order != sorted(order):
        places = [order.index(place) for place in range(len(order))]
        broken = builder.node("Gather", [broken, builder.integers(places)], axis=1)
    builder.name(builder.node("Not", [broken]), CHECKS)
    return helper.make_tensor_value_info(CHECKS, TensorProto.BOOL, ["n", len(checks)])


def _read(check: Expression) -> list[Expression]:
    """The operands of a comparison that are no constants; any other check itself."""
    if check.op not in _OPPOSITES:
        return [check]
    return [arg for arg in check.args if arg.op != "constant"]


def _kind(check: Expression) -> tuple[str, tuple[bool, ...]]:
    """Checks of one kind are computed together."""
    if check.op not in _OPPOSITES:
        return "", ()
    return check.op, tuple(arg.op == "constant" for arg in check.args)


def _broken(
    builder: GraphBuilder, checks: Sequence[Expression], columns: Sequence[Sequence[Column]]
) -> str:
    """Where checks of one kind are false; bool [n, k]."""
    if checks[0].op not in _OPPOSITES:
        tensor = builder.tensor([column for of_check in columns for column in of_check])
        return builder.node("Equal", [tensor, builder.constant(0.0)])
    sides: list[str] = []
    left = [iter(of_check) for of_check in columns]
    for side in range(2):
        operands = [check.args[side] for check in checks]
        if operands[0].op == "constant":
            sides.append(builder.vector([operand.params["value"] for operand in operands]))
        else:
            sides.append(builder.tensor([next(of_check) for of_check in left]))
    return builder.node(_OPPOSITES[checks[0].op], sides)
