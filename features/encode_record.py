"""The encoder of JSON records: straight-line Python made once for a feature set.

A record of 24 fields is encoded in about the time the standard library needs to parse it, because
the function below has no loop over fields, no table to consult and no call for a value that is as
declared. It is generated from the declaration by this module alone; nothing of a bundle reaches the
source but the positions of its fields: names and constants are passed as objects.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

import numpy as np

from features.encoding import Coding, Encoded, describe, epoch_factor, is_exact
from features.fields import INVALID, LARGEST_EXACT_INTEGER, MISSING, OK, OUT_OF_BOUNDS, UNKNOWN
from features.normalization import normalizer
from features.timestamps import in_time_range, timestamp_parser

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
        v = v{i} = get(name{i})
        if not (
            v.__class__ is float and low{i} <= v <= high{i}
            or v.__class__ is int and lowest{i} <= v <= highest{i}
        ):
"""
_BOOLEAN: Final = """\
        v = v{i} = get(name{i})
        if v.__class__ is not bool:
"""
_CATEGORY: Final = """\
        v = get(name{i})
        if v.__class__ is not type{i} or (v{i} := code{i}(v)) is None:
"""
_TIMESTAMP: Final = """\
        v = get(name{i})
        if v.__class__ is not str or (v{i} := parse{i}(v)) is None:
"""
_EPOCH: Final = """\
        v = get(name{i})
        if True:
"""
_NOT_PLAIN: Final = """\
            if v is None:
                v{i} = null{i}; found((row, {i}, 1)); absent += name{i} not in record
            else:
                v{i}, flag = fix{i}(v)
                if flag: found((row, {i}, flag))
"""
_FOOTER: Final = """\
        pack(buffer, offset, {values})
        if len(record) != {width} - absent: extra = True
        offset += {bytes}
        row += 1
    return extra
"""
assert MISSING == 1, "the template above writes the flag of null as 1"


class RecordEncoder:
    """Records (decoded JSON objects) to rows and flags; safe to call from several threads.

    >>> from features.declarations import number
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
        template, objects = _KINDS["epoch" if coding.field.epoch else coding.field.kind]
        source += [template.format(i=index), _NOT_PLAIN.format(i=index)]
        own = {"name": coding.field.name, "null": coding.missing_value, **objects(coding)}
        names |= {f"{name}{index}": value for name, value in own.items()}
    values = ", ".join(f"v{index}" for index in range(len(columns)))
    source.append(_FOOTER.format(values=values, width=len(columns), bytes=len(columns) * 8))
    exec(compile("".join(source), "<record encoder>", "exec"), names)  # noqa: S102
    return names.pop("encode")  # which holds the names: together they would be a cycle


# What the lines of one field refer to, by kind: its plain values, and `fix` for what is not plain.


def _number(coding: Coding) -> dict[str, Any]:
    low = max(coding.lowest, -sys.float_info.max)
    high = min(coding.highest, sys.float_info.max)
    return {
        "low": low,
        "high": high,
        "lowest": math.ceil(max(low, -LARGEST_EXACT_INTEGER)),
        "highest": math.floor(min(high, LARGEST_EXACT_INTEGER)),
        "fix": _fix_number(coding),
    }


def _fix_number(coding: Coding) -> Fix:
    low, high, policy = coding.lowest, coding.highest, coding.field.out_of_bounds

    def fix(value: Any) -> tuple[float, int]:
        if value.__class__ is int:
            if not is_exact(value):
                return np.nan, INVALID
        elif value.__class__ is not float or not math.isfinite(value):
            return np.nan, INVALID
        if low <= value <= high:
            return float(value), OK
        if policy == "null":
            return np.nan, OUT_OF_BOUNDS
        kept = value if policy == "keep" else low if value < low else high
        return float(kept), OUT_OF_BOUNDS

    return fix


def _boolean(coding: Coding) -> dict[str, Any]:
    return {"fix": _always_invalid(np.nan)}


def _always_invalid(value: float) -> Fix:
    return lambda _: (value, INVALID)


def _category(coding: Coding) -> dict[str, Any]:
    """Codes of values that need no look at their normalization, which leaves them as they are."""
    if coding.field.of == "integer":
        codes: dict[Any, float] = {int(text): float(code) for text, code in coding.codes.items()}
        return {"type": int, "code": codes.get, "fix": _fix_unknown(coding, int)}
    normalize = normalizer(coding.field.normalize)
    codes = {text: float(code) for text, code in coding.codes.items() if normalize(text) == text}
    fix = _fix_text(coding) if coding.field.normalize else _fix_unknown(coding, str)
    return {"type": str, "code": codes.get, "fix": fix}


def _fix_unknown(coding: Coding, expected: type) -> Fix:
    unknown, missing = coding.unknown_code, coding.missing_value

    def fix(value: Any) -> tuple[float, int]:
        return (unknown, UNKNOWN) if value.__class__ is expected else (missing, INVALID)

    return fix


def _fix_text(coding: Coding) -> Fix:
    normalize = normalizer(coding.field.normalize)
    get, unknown, missing = coding.codes.get, coding.unknown_code, coding.missing_value

    def fix(value: Any) -> tuple[float, int]:
        if value.__class__ is not str:
            return missing, INVALID
        code = get(normalize(value))
        return (unknown, UNKNOWN) if code is None else (float(code), OK)

    return fix


def _timestamp(coding: Coding) -> dict[str, Any]:
    return {"parse": timestamp_parser(coding.zone), "fix": _always_invalid(np.nan)}


def _epoch(coding: Coding) -> dict[str, Any]:
    factor = epoch_factor(coding.field)

    def fix(value: Any) -> tuple[float, int]:
        if (value.__class__ is int and is_exact(value)) or value.__class__ is float:
            seconds = in_time_range(value / factor)
            if seconds is not None:
                return seconds, OK
        return np.nan, INVALID

    return {"fix": fix}


_KINDS: Final[dict[str, tuple[str, Callable[[Coding], dict[str, Any]]]]] = {
    "number": (_NUMBER, _number),
    "boolean": (_BOOLEAN, _boolean),
    "category": (_CATEGORY, _category),
    "timestamp": (_TIMESTAMP, _timestamp),
    "epoch": (_EPOCH, _epoch),
}
