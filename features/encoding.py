"""What both encoders share: the row, the flags, and the rules for a value of each kind.

A row is float64: a number as it is, null NaN; a boolean 0 or 1; a timestamp as seconds since 1970
in UTC; a category as its code, 0..V-1 by vocabulary, V unknown, V + 1 missing. Flags are one uint8
per field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.fields import EPOCH_UNITS, LARGEST_EXACT_INTEGER, Field
from features.zones import Zone

ENCODER_VERSION: Final = 1
"""Part of every spec digest: another meaning of a value is another encoder."""


class Encoded(NamedTuple):
    """Encoded records or table rows; a tuple, as one is made for every request.

    Attributes:
        rows: float64 (n, F), fields in the row's order.
        flags: uint8 (n, F), positions in `FLAG_NAMES`.
        troubles: (row, field index, flag) of every flag that is not ok, in row order; from records
            only, empty for tables, where it would cost more than it tells.
        extra_keys: some record had a key that is no field.
    """

    rows: NDArray[np.float64]
    flags: NDArray[np.uint8]
    troubles: Sequence[tuple[int, int, int]] = ()
    extra_keys: bool = False


@dataclass(frozen=True, slots=True)
class Coding:
    """How one field's values become numbers: the declaration with what was learned for it.

    Attributes:
        codes: normalized text to code, for a category.
        zone: of timestamps without offset, None when offsets are required.
    """

    field: Field
    codes: Mapping[str, int]
    zone: Zone | None

    @property
    def unknown_code(self) -> float:
        return float(len(self.codes))

    @property
    def missing_value(self) -> float:
        """What null becomes."""
        return len(self.codes) + 1.0 if self.field.kind == "category" else np.nan

    @property
    def lowest(self) -> float:
        return -np.inf if self.field.low is None else self.field.low

    @property
    def highest(self) -> float:
        return np.inf if self.field.high is None else self.field.high


def codings(
    fields: Sequence[Field],
    vocabularies: Mapping[str, Sequence[str]],
    zones: Mapping[str, Zone],
) -> list[Coding]:
    return [
        Coding(
            field,
            {text: code for code, text in enumerate(vocabularies.get(field.name, ()))},
            zones[field.tz] if field.tz is not None else None,
        )
        for field in fields
    ]


def describe(field: Field) -> str:
    """What a value should have been, for error messages and documentation."""
    if field.kind == "number":
        return " ".join(filter(None, ["number", _range(field), field.unit]))
    if field.kind == "category":
        return field.of
    if field.kind == "boolean":
        return "true or false"
    if field.epoch is not None:
        return f"number of {field.epoch} since 1970-01-01 UTC"
    offset = "" if field.tz else " with Z or an offset"
    return f"timestamp YYYY-MM-DDThh:mm:ss{offset}"


def _range(field: Field) -> str:
    low, high = (None if bound is None else shortest(bound) for bound in (field.low, field.high))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"of at least {low}" if low is not None else f"of at most {high}" if high else ""


def shortest(value: float) -> str:
    """The number as people write it: 6000 for 6000.0, and all the digits it needs.

    >>> shortest(1_000_001.0), shortest(0.1)
    ('1000001', '0.1')
    """
    text = f"{value:.15g}"
    return text if float(text) == value else repr(value)


def epoch_factor(field: Field) -> float:
    """Units of the field's numbers in a second."""
    assert field.epoch is not None
    return float(EPOCH_UNITS[field.epoch])


def is_exact(value: int) -> bool:
    return -LARGEST_EXACT_INTEGER <= value <= LARGEST_EXACT_INTEGER
