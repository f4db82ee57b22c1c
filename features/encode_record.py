"""The encoder of JSON records: straight-line Python made once for a feature set.

A record of 24 fields is encoded in about the time the standard library needs to parse it, because the
function below has no loop over fields, no table to consult and no call for a value that is as declared. It
is generated from the declaration by this module alone; nothing of a bundle reaches the source but the
positions of its fields, names and constants are passed as objects.
"""

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

import numpy as np

from features.encoding import (
    Coding,
    Encoded,
    describe,
    epoch_factor,
    in_time_range,
    is_exact,
    normalizer,
    parse_timestamp,
)
from features.fields import INVALID, LARGEST_EXACT_INTEGER, MISSING, OK, OUT_OF_BOUNDS, UNKNOWN

Fix = Callable[[Any], tuple[float, int]]
"""Value and flag of anything that is not plainly right."""

_HEADER: Final = """\
def encode(records, buffer, found):
    extra = False
    offset = row = 0
    for record in records:
        get = record.get
        absent = 0
"""
_NUMBER: Final = """\
        v{i} = get(name{i})
        if not ((v{i}.__class__ is float or v{i}.__class__ is int) and low{i} <= v{i} <= high{i}):
            if v{i} is None:
                v{i} = null{i}; found((row, {i}, 1)); absent += name{i} not in record
            else:
                v{i}, flag = fix{i}(v{i})
                if flag: found((row, {i}, flag))
"""
_CATEGORY: Final = """\
        v{i} = get(name{i})
        if v{i}.__class__ is str and (code := codes{i}(v{i})) is not None:
            v{i} = code
        elif v{i} is None:
            v{i} = null{i}; found((row, {i}, 1)); absent += name{i} not in record
        else:
            v{i}, flag = fix{i}(v{i})
            if flag: found((row, {i}, flag))
"""
_OTHER: Final = """\
        v{i} = get(name{i})
        if v{i} is None:
            v{i} = null{i}; found((row, {i}, 1)); absent += name{i} not in record
        else:
            v{i}, flag = fix{i}(v{i})
            if flag: found((row, {i}, flag))
"""
_FOOTER: Final = """\
        pack(buffer, offset, {values})
        if len(record) != {width} - absent: extra = True
        offset += {bytes}
        row += 1
    return extra
"""
_TEMPLATES: Final = {"number": _NUMBER, "category": _CATEGORY}


class RecordEncoder:
    """Records (decoded JSON objects) to rows and flags; safe to call from several threads.

    >>> from features.expressions import number
    >>> coding = Coding(number("age", low=0, high=120).field, {}, None)
    >>> encoded = RecordEncoder([coding]).encode([{"age": 30}, {"age": 300}, {"age": "30"}])
    >>> encoded.rows[:, 0].tolist(), encoded.flags[:, 0].tolist()
    ([30.0, nan, nan], [0, 3, 2])
    """

    def __init__(self, columns: Sequence[Coding]) -> None:
        self._columns = tuple(columns)
        self._width = len(columns)
        self._encode = _generate(columns)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> Encoded:
        """Rows and flags of n records; whatever is in a value, nothing is raised."""
        shape = (len(records), self._width)
        rows = np.empty(shape)
        flags = np.zeros(shape, np.uint8)
        troubles: list[tuple[int, int, int]] = []
        extra = self._encode(records, rows, troubles.append)
        for row, index, flag in troubles:
            flags[row, index] = flag
        return Encoded(rows, flags, troubles, extra)

    def describe(self, index: int) -> str:
        """What a value of the field at `index` should be."""
        return describe(self._columns[index].field)


def _generate(columns: Sequence[Coding]) -> Callable[..., bool]:
    source = [_HEADER]
    names: dict[str, Any] = {"pack": Struct(f"{len(columns)}d").pack_into}
    for index, coding in enumerate(columns):
        source.append(_TEMPLATES.get(coding.field.kind, _OTHER).format(i=index))
        names |= {f"{name}{index}": value for name, value in _objects(coding).items()}
    values = ", ".join(f"v{index}" for index in range(len(columns)))
    source.append(_FOOTER.format(values=values, width=len(columns), bytes=len(columns) * 8))
    exec(compile("".join(source), "<record encoder>", "exec"), names)  # noqa: S102
    return names["encode"]


def _objects(coding: Coding) -> dict[str, Any]:
    """What the generated lines of one field refer to."""
    field = coding.field
    objects = {
        "name": field.name,
        "null": coding.missing_value,
        "fix": _FIXES[field.kind](coding),
    }
    if field.kind == "number":
        # Integers beyond 2^53 are not exact: left to `fix`, as is any float beyond.
        objects["low"] = max(coding.lowest, -LARGEST_EXACT_INTEGER)
        objects["high"] = min(coding.highest, LARGEST_EXACT_INTEGER)
    if field.kind == "category":
        objects["codes"] = _plain_codes(coding).get
    return objects


def _plain_codes(coding: Coding) -> dict[str, float]:
    """Texts that need no look at their normalization: those the declared steps leave as they are."""
    if coding.field.of == "integer":
        return {}
    normalize = normalizer(coding.field.normalize)
    return {text: float(code) for text, code in coding.codes.items() if normalize(text) == text}


def _fix_number(coding: Coding) -> Fix:
    low, high, policy = coding.lowest, coding.highest, coding.field.out_of_bounds

    def fix(value: Any) -> tuple[float, int]:
        if value.__class__ is int:
            if not is_exact(value):
                return np.nan, INVALID
        elif value.__class__ is not float or not -np.inf < value < np.inf:
            return np.nan, INVALID
        if low <= value <= high:
            return float(value), OK
        if policy == "null":
            return np.nan, OUT_OF_BOUNDS
        kept = value if policy == "keep" else low if value < low else high
        return float(kept), OUT_OF_BOUNDS

    return fix


def _fix_boolean(coding: Coding) -> Fix:
    def fix(value: Any) -> tuple[float, int]:
        if value is True:
            return 1.0, OK
        return (0.0, OK) if value is False else (np.nan, INVALID)

    return fix


def _fix_category(coding: Coding) -> Fix:
    expected: type = int if coding.field.of == "integer" else str
    normalize = normalizer(coding.field.normalize)
    get, unknown = coding.codes.get, coding.unknown_code

    def fix(value: Any) -> tuple[float, int]:
        if value.__class__ is not expected:
            return coding.missing_value, INVALID
        code = get(normalize(value) if expected is str else str(value))
        return (unknown, UNKNOWN) if code is None else (float(code), OK)

    return fix


def _fix_timestamp(coding: Coding) -> Fix:
    if coding.field.epoch is not None:
        return _fix_epoch(epoch_factor(coding.field))
    zone = coding.zone

    def fix(value: Any) -> tuple[float, int]:
        seconds = parse_timestamp(value, zone) if value.__class__ is str else None
        return (np.nan, INVALID) if seconds is None else (seconds, OK)

    return fix


def _fix_epoch(factor: float) -> Fix:
    def fix(value: Any) -> tuple[float, int]:
        if (value.__class__ is int and is_exact(value)) or value.__class__ is float:
            seconds = in_time_range(value / factor)
            if seconds is not None:
                return seconds, OK
        return np.nan, INVALID

    return fix


_FIXES: Final[dict[str, Callable[[Coding], Fix]]] = {
    "number": _fix_number,
    "boolean": _fix_boolean,
    "category": _fix_category,
    "timestamp": _fix_timestamp,
}
assert MISSING == 1, "the templates write the flag of null as 1"
