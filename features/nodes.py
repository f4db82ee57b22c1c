"""Nodes: an operator of the closed catalogue (`features/ops`), its operands and its parameters.

A node computes nothing; it is compiled to ONNX and written to JSON. Python functions never appear.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Final

from features.digests import canonical_json, sha256_hex
from features.errors import DeclarationError
from features.fields import Field, FieldKind, declaration

Params = Mapping[str, Any]


class Expression:
    """Base of all expressions; built by `features/expressions.py`, never directly.

    Attributes:
        op: name in the catalogue with its version, `log1p/1`; `field` and `constant` are leaves.
        args: operands.
        params: what the user chose, JSON-ready, in no particular order.
        field: the declaration, for a leaf that reads one.
    """

    kind: ClassVar[FieldKind]

    def __init__(
        self,
        op: str,
        args: Sequence["Expression"] = (),
        params: Params | None = None,
        field: Field | None = None,
    ) -> None:
        self.op: Final = op
        self.args: Final = tuple(args)
        self.params: Final = {k: v for k, v in (params or {}).items() if v is not None}
        self.field: Final = field

    @cached_property
    def key(self) -> str:
        """Identity of the computation: equal for two expressions built alike, 16 hex digits.

        Fields count by name, so it tells computations apart only where every name is declared once.
        """
        return sha256_hex(canonical_json(self.to_json()))[:16]

    def to_json(self) -> dict[str, Any]:
        if self.field is not None:
            return {"field": self.field.name}
        if self.op == "constant":
            return {"constant": self.params["value"]}
        return {"op": self.op, "of": [arg.to_json() for arg in self.args], **self.params}

    def __bool__(self) -> bool:
        raise TypeError(
            "an expression has no truth value while features are declared; "
            "use & | ~ instead of and, or, not, and where() instead of if"
        )

    def __repr__(self) -> str:
        if self.field is not None:
            return f"{self.field.kind}({self.field.name!r})"
        if self.op == "constant":
            return repr(self.params["value"])
        inside = [*map(repr, self.args), *map(shown_param, self.params.items())]
        return f"{self.op.split('/')[0]}({', '.join(inside)})"


def shown_param(param: tuple[str, Any]) -> str:
    """A parameter for people, from its name and value; a graph by the sha256 of its bytes."""
    name, value = param
    if name == "model":
        return f"sha256={sha256_hex(base64.b64decode(value))[:12]}"
    return f"{name}={value!r}"


def walk(*roots: Expression) -> list[Expression]:
    """All nodes below the roots, operands before what uses them, each computation once."""
    done: dict[str, Expression] = {}
    for root in roots:
        _walk(root, done)
    return list(done.values())


def _walk(node: Expression, done: dict[str, Expression]) -> None:
    if node.key not in done:
        for arg in node.args:
            _walk(arg, done)
        done[node.key] = node


def declared_fields(*roots: Expression) -> tuple[Field, ...]:
    """The fields below the roots, in order of first use.

    Raises:
        DeclarationError: two fields of one name that are not declared alike.
    """
    found: dict[str, Field] = {}
    seen: set[int] = set()
    for root in roots:
        _find_fields(root, found, seen)
    return tuple(found.values())


def _find_fields(node: Expression, found: dict[str, Field], seen: set[int]) -> None:
    """Adds what is below a node, unless it has been seen."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.field is not None and found.setdefault(node.field.name, node.field) != node.field:
        raise DeclarationError(
            f"field {node.field.name!r} is declared twice, differently:\n"
            f"  {declaration(found[node.field.name])}\n  {declaration(node.field)}\n"
            "declare it once and use that name in all features"
        )
    for arg in node.args:
        _find_fields(arg, found, seen)
