"""A feature set as data: what is declared, what is hashed of it, and reading it back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from features.digests import digest_of, sha256_hex
from features.encoding import ENCODER_VERSION
from features.errors import DeclarationError, FeaturesCorrupt
from features.expressions import LEAVES, Columns, Number
from features.fields import Field
from features.nodes import Expression, declared_fields
from features.ops import OPS

FORMAT: Final = 1
KIND: Final = "features"
DOCUMENTATION: Final = ("description", "example")
"""Entries of a field that tell people something and change no value: not part of the digest."""

MOST_COLUMNS: Final = 10_000
"""Of one `onnx_op`."""


def spec_json(fields: Sequence[Field], features: Mapping[str, Expression]) -> dict[str, Any]:
    """Everything declared."""
    return {
        "encoder": ENCODER_VERSION,
        "fields": [field.to_json() for field in fields],
        "features": [
            {"name": name, "expression": expression.to_json()}
            for name, expression in features.items()
        ],
    }


def spec_digest(spec: Mapping[str, Any]) -> str:
    """Identity of a definition: nothing fitted, nothing that is only documentation."""
    fields = [
        {name: value for name, value in field.items() if name not in DOCUMENTATION}
        for field in spec["fields"]
    ]
    return digest_of({**spec, "fields": fields})


def features_digest(spec: str, state: str) -> str:
    """Identity of definition and learned state: a model is bound to this."""
    return sha256_hex(f"{spec}\n{state}".encode("ascii"))


def check_format(value: Any) -> None:
    """Refuses what is no features.json of this format.

    Raises:
        FeaturesCorrupt: it says so.
    """
    found = (value.get("format"), value.get("kind")) if isinstance(value, Mapping) else (None, None)
    if found != (FORMAT, KIND):
        raise FeaturesCorrupt(
            f"features.json has format {found[0]!r} and kind {found[1]!r}; this version reads "
            f"format {FORMAT}, kind {KIND!r}"
        )


def unknown_entries(value: Any, known: Any, path: str = "") -> Iterator[str]:
    """Paths of the entries of `value`, as `spec.fields[0].colour`, that `known` has not."""
    if isinstance(value, Mapping) and isinstance(known, Mapping):
        for name, item in value.items():
            inside = f"{path}.{name}" if path else str(name)
            if name in known:
                yield from unknown_entries(item, known[name], inside)
            else:
                yield inside
    elif isinstance(value, list) and isinstance(known, list):
        for place, (item, other) in enumerate(zip(value, known, strict=False)):
            yield from unknown_entries(item, other, f"{path}[{place}]")


def read_features(spec: Mapping[str, Any]) -> dict[str, Expression]:
    """The expressions of a spec, over its own fields.

    Raises:
        DeclarationError: an operator, field or encoder version that this version does not know.
    """
    if spec.get("encoder") != ENCODER_VERSION:
        raise DeclarationError(
            f"encoder version {spec.get('encoder')!r}; this version has {ENCODER_VERSION}. "
            "Serve the bundle with the version that packed it, or pack it again"
        )
    fields = {value["name"]: Field.from_json(value) for value in spec["fields"]}
    return {item["name"]: read_expression(item["expression"], fields) for item in spec["features"]}


def read_expression(value: Mapping[str, Any], fields: Mapping[str, Field]) -> Expression:
    """The expression that `Expression.to_json` wrote."""
    if "field" in value:
        field = fields.get(value["field"])
        if field is None:
            raise DeclarationError(
                f"an expression reads field {value['field']!r}, which is not declared"
            )
        return LEAVES[field.kind]("field", field=field)
    if "constant" in value:
        return Number("constant", params={"value": float(value["constant"])})
    op = OPS.get(value.get("op", ""))
    if op is None:
        raise DeclarationError(
            f"operator {value.get('op')!r} is not in the catalogue of this version; "
            f"it knows {', '.join(sorted(OPS))}"
        )
    args = [read_expression(arg, fields) for arg in value["of"]]
    params = {key: item for key, item in value.items() if key not in ("op", "of")}
    if unknown := sorted(params.keys() - set(op.params)):
        raise DeclarationError(
            f"operator {op.name!r} takes no {', '.join(map(repr, unknown))}; it takes "
            f"{', '.join(map(repr, op.params)) or 'nothing'}"
        )
    return op.gives(op.name, args, params)


def check_feature(name: str, expression: Any) -> None:
    """Refuses what cannot be a feature."""
    if not isinstance(expression, Expression):
        raise DeclarationError(
            f"feature {name!r} is {expression!r}; expected an expression such as "
            "number('x').impute()"
        )
    if expression.kind in _WAYS and not isinstance(expression, Columns):
        raise DeclarationError(
            f"feature {name!r} is a {expression.kind}, which is no number yet; "
            f"use {_WAYS[expression.kind]}"
        )
    if not declared_fields(expression):
        raise DeclarationError(f"feature {name!r} reads no field; a constant is no feature")


def check_columns(features: Mapping[str, Expression]) -> None:
    """Refuses a feature with the name of another's column: `hour_sin` beside `hour().cyclic()`.

    Refuses too what says that it has columns without end: their names would fill the memory.
    """
    for name, expression in features.items():
        ends = ["sin", "cos"] if expression.op == "cyclic/1" else []
        if expression.op == "onnx_columns/1":
            width = expression.params["width"]
            if type(width) is not int or not 1 < width <= MOST_COLUMNS:
                raise DeclarationError(
                    f"feature {name!r}: width={width!r}; use 2 to {MOST_COLUMNS:,} columns"
                )
            ends = list(map(str, range(width)))
        if taken := [other for end in ends if (other := f"{name}_{end}") in features]:
            raise DeclarationError(
                f"feature {name!r} has the columns {name}_{ends[0]} to {name}_{ends[-1]}; "
                f"rename feature {taken[0]!r}"
            )


_WAYS: Final[Mapping[str, str]] = {
    "category": "one_hot(), ordinal(), frequency(), target_mean() or lookup()",
    "timestamp": "hour(), weekday(), month() or elapsed()",
}
