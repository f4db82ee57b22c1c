"""Fields: the schema of the raw record, one declaration for both encoders and the graph."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Final, Literal, get_args

from features.errors import DeclarationError
from features.normalization import NORMALIZATIONS, normalizer

FieldKind = Literal["number", "boolean", "category", "timestamp"]
OutOfBounds = Literal["null", "clip", "keep"]
Sensitivity = Literal["drop", "hash", "encrypt"]
EpochUnit = Literal["s", "ms", "us"]

FLAG_NAMES: Final = ("ok", "missing", "invalid", "out_of_bounds", "unknown")
OK, MISSING, INVALID, OUT_OF_BOUNDS, UNKNOWN = range(5)

LARGEST_EXACT_INTEGER: Final = 2**53
"""Integers beyond this do not survive float64 and are invalid (declare ids as categories)."""

EPOCH_UNITS: Final[dict[EpochUnit, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,127}")
_OF_ONE_KIND: Final[dict[str, FieldKind]] = {
    "unit": "number",
    "low": "number",
    "high": "number",
    "out_of_bounds": "number",
    "from_float32": "number",
    "of": "category",
    "normalize": "category",
    "vocabulary": "category",
    "max_vocabulary": "category",
    "tz": "timestamp",
    "epoch": "timestamp",
}
"""Arguments that mean something for one kind of field alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of the raw record. Arguments of other kinds than `kind` keep their default.

    Attributes:
        nullable: whether null is a value; what else happens to it is the ladder's decision.
        unit: of a number, shown to people.
        low, high: valid bounds of a number, inclusive, in `unit`; a value outside is flagged
            `out_of_bounds` and becomes null, the nearer bound (`clip`) or itself (`keep`).
        from_float32: table columns of float32 or decimal are allowed; JSON would send other bits.
        of: whether a category is sent as text or as integer.
        normalize: applied to a category's text in this order, in training and serving alike.
        vocabulary: declared texts in code order; None learns the most frequent of the training
            table, `max_vocabulary` at most.
        tz: zone of timestamps without offset, and of `hour()`, `weekday()`, …; None means that
            offsets are required and the calendar is UTC.
        epoch: the timestamp is sent as a number of seconds, milliseconds or microseconds.
        sensitive: values of this field appear in no answer, error, metric, page or text log.
        example: a plausible value for documentation.
    """

    name: str
    kind: FieldKind
    nullable: bool = True
    description: str = ""
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    out_of_bounds: OutOfBounds = "null"
    from_float32: bool = False
    of: Literal["string", "integer"] = "string"
    normalize: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] | None = None
    max_vocabulary: int = 1000
    tz: str | None = None
    epoch: EpochUnit | None = None
    sensitive: Sensitivity | None = None
    example: Any = None

    def __post_init__(self) -> None:
        check_name(self.name, "field")
        _check_types(self)
        _check_choices(self)
        _check_kind(self)
        _check_bounds(self)
        _check_category(self)

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain data; arguments at their default are left out."""
        entries: dict[str, Any] = {"name": self.name, "kind": self.kind}
        for name, default in _DEFAULTS.items():
            value: Any = getattr(self, name)
            if value != default:
                entries[name] = _as_list(value)
        return entries

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Field":
        """The field that `to_json` wrote.

        Raises:
            DeclarationError: an entry that is no argument of a field, or has no possible value.
        """
        if unknown := sorted(set(value) - {"name", "kind", *_DEFAULTS}):
            raise DeclarationError(f"field {value.get('name')!r}: unknown entries {unknown}")
        return cls(**{name: _as_tuple(item) for name, item in value.items()})


def declaration(field: Field) -> str:
    """The field as people write it; of a long vocabulary the first texts.

    >>> declaration(Field(name="size", kind="number", low=0.0, high=2.5))
    "number('size', low=0, high=2.5)"
    """
    given = {k: v for k, v in field.to_json().items() if k not in ("name", "kind")}
    said = [repr(field.name), *(f"{_argument(k)}={_shown(v)}" for k, v in given.items())]
    return f"{field.kind}({', '.join(said)})"


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > 5:
        return f"[{', '.join(map(repr, value[:3]))}, … {len(value)} texts]"
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


_DEFAULTS: Final[dict[str, Any]] = {
    f.name: f.default for f in dataclass_fields(Field) if f.name not in ("name", "kind")
}


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_name(name: str, what: str) -> None:
    """Refuses names that would need quoting in a metric, a column or a message."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):  # pyright: ignore[reportUnnecessaryIsInstance]  (people pass what they like)
        raise DeclarationError(
            f"{what} name {name!r} is not allowed: start with a letter or underscore, then "
            "letters, digits, '_', '.', '-' or spaces, at most 128 in all"
        )


_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "nullable": ((bool,), "True or False"),
    "from_float32": ((bool,), "True or False"),
    "description": ((str,), "a text"),
    "unit": ((str, type(None)), "a text"),
    "max_vocabulary": ((int,), "a whole number"),
    "tz": ((str, type(None)), "the name of a zone, such as 'Europe/Paris'"),
}


def _check_types(field: Field) -> None:
    for name, (types, wish) in _TYPES.items():
        value = getattr(field, name)
        if type(value) not in types:
            raise DeclarationError(f"field {field.name!r}: {name}={value!r}; use {wish}")


_CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "kind": get_args(FieldKind),
    "out_of_bounds": get_args(OutOfBounds),
    "of": ("string", "integer"),
    "epoch": (None, *EPOCH_UNITS),
    "sensitive": (None, *get_args(Sensitivity)),
}


def _check_choices(field: Field) -> None:
    for name, choices in _CHOICES.items():
        value = getattr(field, name)
        if value not in choices:
            raise DeclarationError(
                f"field {field.name!r}: {_argument(name)}={value!r}; "
                f"use {_listed([choice for choice in choices if choice is not None])}"
            )


def _check_kind(field: Field) -> None:
    for name, kind in _OF_ONE_KIND.items():
        if kind != field.kind and getattr(field, name) != _DEFAULTS[name]:
            raise DeclarationError(
                f"field {field.name!r} is a {field.kind}; {_argument(name)} belongs to a {kind}"
            )


def _argument(name: str) -> str:
    """How people write the argument: `timestamp()` calls the unit of an epoch `unit`."""
    return "unit" if name == "epoch" else name


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"


def _check_bounds(field: Field) -> None:
    low, high = field.low, field.high
    if any(bound is not None and not math.isfinite(bound) for bound in (low, high)):
        raise DeclarationError(
            f"field {field.name!r}: bounds must be finite, got {low} to {high}; "
            "leave out what has none"
        )
    if low is not None and high is not None and low > high:
        raise DeclarationError(f"field {field.name!r}: low={low} is above high={high}")


def _check_category(field: Field) -> None:
    if unknown := [step for step in field.normalize if step not in NORMALIZATIONS]:
        raise DeclarationError(
            f"field {field.name!r}: normalize={unknown} is not known; use {list(NORMALIZATIONS)}"
        )
    if field.normalize and field.of == "integer":
        raise DeclarationError(
            f"field {field.name!r}: integers have no text to normalize; leave it out"
        )
    if field.max_vocabulary < 1:
        raise DeclarationError(
            f"field {field.name!r}: max_vocabulary={field.max_vocabulary}; it must be at least 1"
        )
    if field.vocabulary is not None:
        _check_vocabulary(field, field.vocabulary)


def _check_vocabulary(field: Field, texts: Sequence[str]) -> None:
    if wrong := [text for text in texts if type(text) is not str]:
        raise DeclarationError(
            f"field {field.name!r}: its vocabulary names {wrong[0]!r}; use texts, or integers "
            "with of='integer'"
        )
    if not texts:
        raise DeclarationError(
            f"field {field.name!r}: its vocabulary is empty; name its texts, or leave it out to "
            "learn them from the training table"
        )
    if len(set(texts)) != len(texts):
        raise DeclarationError(f"field {field.name!r}: its vocabulary names a value twice")
    check_texts(field, texts, "its vocabulary")


def check_texts(field: Field, texts: Sequence[str], what: str) -> None:
    """Refuses texts that no value of a category becomes, which would never be found."""
    canonical: Callable[[str], str | None] = (
        _canonical_integer if field.of == "integer" else normalizer(field.normalize)
    )
    for text in texts:
        reached = canonical(text)
        if reached != text:
            hint = "it is no integer" if reached is None else f"write {reached!r}"
            raise DeclarationError(
                f"field {field.name!r}: no value becomes {text!r}, which {what} names; {hint}"
            )
        if field.vocabulary is not None and text not in field.vocabulary:
            raise DeclarationError(
                f"field {field.name!r}: {what} names {text!r}, which its vocabulary has not"
            )


def _canonical_integer(text: str) -> str | None:
    try:
        return str(int(text))
    except ValueError:
        return None
