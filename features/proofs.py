"""What is certain about an expression's values: the graph needs no guard against the rest."""

from collections.abc import Mapping
from typing import Final

from features.nodes import Expression
from features.ops.base import State
from features.ops.numeric import imputed_value

_NEVER_NULL: Final = frozenset(
    {"constant", "impute/1", "is_null/1", "frequency/1", "target_mean/1"}
)
_NULL_FOR_NULL_ALONE: Final = frozenset(
    {
        *("clip/1", "abs/1", "floor/1", "round/1", "bucketize/1"),
        *("standardize/1", "min_max/1", "robust_scale/1"),
        *("minimum/1", "maximum/1", "where/1"),
        *("less/1", "less_equal/1", "equal/1", "and/1", "or/1", "not/1"),
    }
)


def never_null(node: Expression) -> bool:
    """Whether no row, whatever is in it, makes the expression null."""
    if node.op == "lookup/1":
        return "default" in node.params
    return node.op in _NEVER_NULL or (
        node.op in _NULL_FOR_NULL_ALONE and all(map(never_null, node.args))
    )


def never_negative(node: Expression, states: Mapping[str, State]) -> bool:
    """Whether every row that an encoder makes gives the expression 0, more, or null."""
    if node.field is not None:
        low = node.field.low
        return low is not None and low >= 0 and node.field.out_of_bounds != "keep"
    if node.op == "impute/1":
        value = imputed_value(node.params, states.get(node.key, {}))
        return value >= 0 and never_negative(node.args[0], states)
    if node.op == "clip/1":
        bounds = {**node.params, **states.get(node.key, {})}
        is_raised = bounds.get("low", -1.0) >= 0 or never_negative(node.args[0], states)
        return is_raised and bounds.get("high", 0.0) >= 0
    return node.op in ("abs/1", "sqrt/1", "frequency/1", "is_null/1")
