"""Expressions as people write them down: `distance < 6000 and not (carrier is null)`."""

from collections.abc import Mapping
from typing import Final

from features.encoding import shortest
from features.nodes import Expression, shown_param

_SIGNS: Final[Mapping[str, tuple[str, int]]] = {
    "or/1": ("or", 1),
    "and/1": ("and", 2),
    "less/1": ("<", 4),
    "less_equal/1": ("<=", 4),
    "equal/1": ("=", 4),
    "add/1": ("+", 5),
    "subtract/1": ("-", 5),
    "multiply/1": ("*", 6),
    "divide/1": ("/", 6),
}
"""Between two operands, and how strongly it binds."""

_NOT: Final = 3
_TIGHTEST: Final = 9


def text_of(expression: Expression) -> str:
    """The expression for people; fields by their names, numbers at their shortest.

    It is for reading: two fields of one name, declared differently, look alike in it.
    """
    return _text(expression, 0)


def _text(node: Expression, around: int) -> str:
    """A node's text, in parentheses where what is around it binds more strongly."""
    text, strength = _parts(node)
    return f"({text})" if strength < around else text


def _parts(node: Expression) -> tuple[str, int]:
    if node.field is not None or node.op == "constant":
        return node.field.name if node.field else shortest(node.params["value"]), _TIGHTEST
    if node.op == "settle/1":  # rounds to 24 bits, which is nothing to people
        return _parts(node.args[0])
    if node.op in _SIGNS:
        sign, strength = _SIGNS[node.op]
        left, right = node.args
        # The right side of - and / needs parentheses around its like; comparisons take no chains.
        return f"{_text(left, strength)} {sign} {_text(right, strength + 1)}", strength
    if node.op == "not/1":
        return f"not {_text(node.args[0], _TIGHTEST)}", _NOT
    if node.op == "is_null/1":
        return f"{_text(node.args[0], _TIGHTEST)} is null", 4
    inside = [_text(arg, 0) for arg in node.args]
    inside += map(shown_param, node.params.items())
    return f"{node.op.partition('/')[0]}({', '.join(inside)})", _TIGHTEST
