"""Fields: the schema of the raw record, one declaration for both encoders and the graph."""

import math
import re
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Final, Literal

from features.errors import DeclarationError

FieldKind = Literal["number", "boolean", "category", "timestamp"]
OutOfBounds = Literal["null", "clip", "keep"]

FLAG_NAMES: Final = ("ok", "missing", "invalid", "out_of_bounds", "unknown")
OK, MISSING, INVALID, OUT_OF_BOUNDS, UNKNOWN = range(5)

LARGEST_EXACT_INTEGER: Final = 2**53
"""Integers beyond this do not survive float64; such a value is invalid (declare ids as categories)."""

NORMALIZATIONS: Final = ("strip", "casefold", "nfc")
EPOCH_UNITS: Final = {"s": 1, "ms": 1_000, "us": 1_000_000}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of the raw record. Which arguments apply depends on `kind`; others keep their default.

    Attributes:
        low, high: valid bounds of a number, inclusive, in `unit`; a value outside is flagged
            `out_of_bounds` and becomes null, the nearer bound (`clip`) or itself (`keep`).
        from_float32: table columns of float32 or decimal are allowed; JSON would send other bits.
        of: whether a category is sent as text or as integer.
        normalize: applied to a category's text in this order, in training and serving alike.
        vocabulary: declared texts in code order; None learns the most frequent from the training table.
        tz: zone of timestamps without offset, and of `hour()`, `weekday()`, ...; None means offsets are
            required and the calendar is UTC.
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
    epoch: Literal["s", "ms", "us"] | None = None
    sensitive: Literal["drop", "hash", "encrypt"] | None = None
    example: Any = None

    def __post_init__(self) -> None:
        check_name(self.name, "field")
        _check_bounds(self)
        _check_category(self)
        if self.epoch is not None and self.epoch not in EPOCH_UNITS:
            raise DeclarationError(
                f"field {self.name!r}: unit={self.epoch!r} is not a unit of time; "
                "use 's', 'ms' or 'us', or leave it out for ISO 8601 text"
            )

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain data; arguments at their default are left out."""
        values = {f.name: (getattr(self, f.name), f.default) for f in dataclass_fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            for name, (value, default) in values.items()
            if name in ("name", "kind") or value != default
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Field":
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        known = {f.name for f in dataclass_fields(cls)}
        if unknown := sorted(set(lists) - known):
            raise DeclarationError(f"field {value.get('name')!r}: unknown entries {unknown}")
        return cls(**lists)


def check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{what} name {name!r} is not allowed: start with a letter or underscore, then letters, "
            "digits, '_', '.', '-' or spaces, at most 128 in all"
        )


def _check_bounds(field: Field) -> None:
    low, high = field.low, field.high
    if any(bound is not None and not math.isfinite(bound) for bound in (low, high)):
        raise DeclarationError(f"field {field.name!r}: bounds must be finite, got {low} to {high}")
    if low is not None and high is not None and low > high:
        raise DeclarationError(f"field {field.name!r}: low={low} is above high={high}")
    if field.out_of_bounds not in ("null", "clip", "keep"):
        raise DeclarationError(
            f"field {field.name!r}: out_of_bounds={field.out_of_bounds!r}; use 'null', 'clip' or 'keep'"
        )


def _check_category(field: Field) -> None:
    if unknown := [step for step in field.normalize if step not in NORMALIZATIONS]:
        raise DeclarationError(
            f"field {field.name!r}: normalize={unknown} is not known; use {list(NORMALIZATIONS)}"
        )
    if field.max_vocabulary < 1:
        raise DeclarationError(f"field {field.name!r}: max_vocabulary must be at least 1")
    if field.vocabulary is not None and len(set(field.vocabulary)) != len(field.vocabulary):
        raise DeclarationError(f"field {field.name!r}: its vocabulary names a value twice")
