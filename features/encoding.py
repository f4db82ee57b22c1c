"""What both encoders share: the row, the flags, and the rules for a value of each kind.

A row is float64: a number as it is, null NaN; a boolean 0 or 1; a timestamp as seconds since 1970 in UTC;
a category as its code, 0..V-1 by vocabulary, V unknown, V + 1 missing. Flags are one uint8 per field.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from re import ASCII
from re import compile as pattern
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.fields import EPOCH_UNITS, LARGEST_EXACT_INTEGER, Field
from features.zones import Zone

ENCODER_VERSION: Final = 1
"""Part of every spec digest: another meaning of a value is another encoder."""

EARLIEST: Final = float((date(1, 1, 1) - date(1970, 1, 1)).days * 86_400)
LATEST: Final = float((date(9999, 12, 31) - date(1970, 1, 1)).days * 86_400 + 86_399)
"""Instants outside the years 1 to 9999 are invalid, as ISO 8601 text cannot name them."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded records or table rows.

    Attributes:
        rows: float64 (n, F), fields in the row's order.
        flags: uint8 (n, F), positions in `FLAG_NAMES`.
        troubles: (row, field index, flag) of every flag that is not ok, in row order; from records only,
            empty for tables, where it would cost more than it tells.
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
    low, high = (None if bound is None else f"{bound:g}" for bound in (field.low, field.high))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"of at least {low}" if low is not None else f"of at most {high}" if high else ""


def normalizer(steps: Sequence[str]) -> Callable[[str], str]:
    """The declared text normalization, one function."""
    functions: list[Callable[[str], str]] = [_NORMALIZE[step] for step in steps]

    def normalize(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return normalize


_NORMALIZE: Final[dict[str, Callable[[str], str]]] = {
    "strip": str.strip,
    "casefold": str.casefold,
    "nfc": lambda text: unicodedata.normalize("NFC", text),
}


# timestamps

_DATE: Final = pattern(r"(\d{4})-(\d\d)-(\d\d)", ASCII)
_TAIL: Final = pattern(
    r"(?::([0-5]\d)(?:\.(\d{1,9}))?)?(?:(Z)|([+-])([01]\d|2[0-3]):([0-5]\d))?", ASCII
)
_MINUTES: Final = {
    f"{minute // 60:02d}:{minute % 60:02d}": minute * 60 for minute in range(24 * 60)
}
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def parse_timestamp(text: str, zone: Zone | None) -> float | None:
    """Seconds since 1970 in UTC of `YYYY-MM-DD(T| )hh:mm[:ss[.f]](Z|±hh:mm)`, else None.

    Without an offset the zone decides; without a zone that is no timestamp. Dates and tails recur, so
    their parts are remembered (bounded): about 0.4 µs a value.
    """
    days = _days(text[:10])
    seconds = _MINUTES.get(text[11:16])
    if days is None or seconds is None or text[10] not in "T ":
        return None
    tail = _tail(text[16:])
    if tail is None:
        return None
    more, nanos, offset = tail
    local = days + seconds + more
    if offset is not None:
        utc = local - offset
    elif zone is not None:
        utc = zone.to_utc(local)
    else:
        return None
    return in_time_range(float(utc) + nanos / 1e9 if nanos else float(utc))


def in_time_range(seconds: float) -> float | None:
    return seconds if EARLIEST <= seconds <= LATEST + 1 else None


@lru_cache(maxsize=8192)
def _days(text: str) -> int | None:
    """Seconds from 1970-01-01 to the beginning of the date."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    try:
        day = date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
    return (day.toordinal() - _EPOCH_DAY) * 86_400


@lru_cache(maxsize=8192)
def _tail(text: str) -> tuple[int, int, int | None] | None:
    """Seconds, nanoseconds and offset (None: not given) of what follows hh:mm."""
    found = _TAIL.fullmatch(text)
    if found is None:
        return None
    seconds = int(found[1] or 0)
    nanos = int((found[2] or "0").ljust(9, "0"))
    if found[3]:
        return seconds, nanos, 0
    if not found[4]:
        return seconds, nanos, None
    offset = int(found[5]) * 3600 + int(found[6]) * 60
    return seconds, nanos, -offset if found[4] == "-" else offset


def epoch_factor(field: Field) -> float:
    """Units of the field's numbers in a second."""
    assert field.epoch is not None
    return float(EPOCH_UNITS[field.epoch])


def is_exact(value: int) -> bool:
    return -LARGEST_EXACT_INTEGER <= value <= LARGEST_EXACT_INTEGER
