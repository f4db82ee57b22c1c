"""Records as no caller should send them, and what is wrong with each field: found out anew, slowly.

Records are JSON text: duplicate keys, escapes and numbers as long as a line do not survive a dict.
"""

import json
import math
import random
import re
import struct
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, Final

from features.fields import Field
from features.normalization import NORMALIZATIONS

HOSTILE: Final = (
    *("null", "true", "false", "0", "-0", "-0.0", "1", "-1", "1.5", "1E2", "1e-320", "5e-324"),
    *("1e308", "-1e308", "1.7976931348623157e308", "4.9e-324", "0.1e-400", "77.5", "1e5", "-7"),
    *(
        f"{sign}{2**bits + more}"
        for bits in (31, 53, 63, 64)
        for sign in ("", "-")
        for more in (0, 1)
    ),
    *("1" + "0" * 30, "-1" + "0" * 400, "9" * 4_000, "0." + "3" * 400, "1" + "0" * 300 + ".5"),
    *('""', '"NaN"', '"Infinity"', '"-1e999"', '"null"', '" "', '"\\u0000"', '"a\\u0000b"'),
    *('"\\ud83d\\ude00"', '"\U0001f600"', '"\\u202e\\ufeff"', '"\u0130\u0131\ufb03"', '"\x7f"'),
    *('"</script>"', '"{{7*7}}"', '"\' OR 1=1 --"', '"\\\\"', '"\\""', '"\\/"', '"%s%n"'),
    *(json.dumps("x" * length) for length in (64, 65, 1_024, 1_025, 20_000)),
    json.dumps("e\u0301" * 3_000),
    *("[]", "{}", "[null]", "[[[[[]]]]]", '{"a":{"b":[{}]}}', "[1,2,3]", '[""]', '{"":0}'),
    "[" * 20 + "]" * 20,
    '{"k":' * 15 + "null" + "}" * 15,
)
"""Values that belong to no field."""
TIMES: Final = (
    *(
        "2024-02-30T00:00Z",
        "2024-02-29T23:59:59.999999999Z",
        "2023-02-29T00:00Z",
        "2024-13-01T00:00Z",
    ),
    *(
        "0001-01-01T00:00Z",
        "0001-01-01T00:00+00:01",
        "9999-12-31T23:59:59.999999999Z",
        "0000-01-01T00:00Z",
    ),
    *("9999-12-31T23:59-00:01", "2024-03-10 02:30", "2024-11-03T01:30", "2024-03-05T24:00Z"),
    *(
        "2024-03-05t12:00z",
        "2024-03-05T12:00:60Z",
        "2024-03-05T12:00+24:00",
        "2024-03-05T12:00+23:59",
    ),
    *(
        "2024-03-05T12:00:00.1234567890Z",
        "2024-03-05T12:00 Z",
        "\u0662\u0660\u0662\u0664-03-05T12:00Z",
    ),
    *(
        "2024-W10-2T12:00Z",
        "20240305T120000Z",
        " 2024-03-05T12:00Z",
        "2024-03-05T12:00Z\n",
        "-2024-03-05T12:00Z",
    ),
    *("2024-03-05", "12:00", "1970-01-01T00:00Z", "1883-11-18T12:03:58", "2101-01-01T00:00", "now"),
)
NUMBERS: Final = (
    "1001",
    "1002",
    "2000",
    "777",
    "778",
    "101",
    "300",
    "400",
    "89.99",
    "90",
    "70",
    "120",
    "121",
)
"""At which the bundles of tests go wrong, or nearly do."""


class Generator:
    """Makes records for some fields, seeded.

    Args:
        fields: of the bundle.
        good: a record with nothing wrong.
        texts: that categories know, and others.
    """

    def __init__(
        self, fields: Sequence[Field], good: Mapping[str, Any], texts: Sequence[str], seed: int
    ) -> None:
        self.random = random.Random(seed)
        self._good = [(json.dumps(field.name), json.dumps(good[field.name])) for field in fields]
        known, times = [json.dumps(text) for text in texts], [json.dumps(text) for text in TIMES]
        pools = (HOSTILE, HOSTILE, HOSTILE, HOSTILE, times, NUMBERS, known)
        makers = (self._integer, self._float, self._text)
        self._makers: list[Callable[[], str]] = [
            *(partial(self.random.choice, pool) for pool in pools),
            *makers,
        ]

    def record(self) -> str:
        """A record, from nearly good to nothing but rubbish."""
        rng = self.random
        share = rng.choice((0.0, 0.03, 0.03, 0.1, 0.1, 0.5, 1.0))
        pairs = [
            (name, self.value() if rng.random() < share else good) for name, good in self._good
        ]
        if rng.random() < 0.3:
            self._disturb(pairs)
        return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"

    def _disturb(self, pairs: list[tuple[str, str]]) -> None:
        """Takes keys away, repeats them, adds some that are nearly right, mixes their order."""
        rng = self.random
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(pairs)) if pairs else 0
            match rng.randrange(5):
                case 0 if pairs:
                    del pairs[place]
                case 1 if pairs:
                    pairs.append((pairs[place][0], self.value()))
                case 2:
                    pairs.insert(place, (rng.choice(self._good)[0].upper(), self.value()))
                case 3:
                    pairs.append(
                        (rng.choice(('""', '" "', '"\\u0000"', '"__class__"')), self.value())
                    )
                case _:
                    rng.shuffle(pairs)

    def value(self) -> str:
        """The JSON text of any value."""
        return self.random.choice(self._makers)()

    def _integer(self) -> str:
        bits = self.random.choice((4, 8, 60, 70, 500))
        return str(self.random.getrandbits(bits) * self.random.choice((1, -1)))

    def _float(self) -> str:
        value = struct.unpack("<d", self.random.randbytes(8))[0]
        if not math.isfinite(value):
            return "null"
        return repr(value) if self.random.random() < 0.5 else repr(self.random.gauss(0, 50))

    def _text(self) -> str:
        rng = self.random
        length = rng.choice((1, 2, 5, 30))
        codes = (rng.randrange(rng.choice((0x80, 0x800, 0xD800, 0x110000))) for _ in range(length))
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        return json.dumps(text, ensure_ascii=rng.random() < 0.5)


UNDECODABLE: Final = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e400", "01", "1.", ".5", "+1", "0x10", "'a'"),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\x00"',
        '"\t"',
        '"\n"',
        '"',
        "[",
        "{",
        "nul",
        "undefined",
    ),
    *("[1,]", '{"a":1,}', '{"a"}', "{1:2}", "//", "/* */ 1", "\ufeff1", "[" * 40 + "]" * 40),
    *("[" * 5_000 + "]" * 5_000, '{"a":' * 3_000 + "1" + "}" * 3_000, "\x00", "1 2", "--1"),
)
"""Values for which no part of the body can be told from the others."""


def trouble_of(field: Field, value: Any, vocabulary: Sequence[str]) -> str:
    """`ok`, or what is wrong with a value as `json.loads` gives it; None is null or nothing."""
    if value is None:
        return "missing"
    match field.kind:
        case "number":
            return _of_number(field, value)
        case "boolean":
            return "ok" if isinstance(value, bool) else "invalid"
        case "category":
            return _of_category(field, value, vocabulary)
        case _:
            return "ok" if _is_instant(field, value) else "invalid"


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 2**53 if isinstance(value, int) else math.isfinite(value)


def _of_number(field: Field, value: Any) -> str:
    if not _is_number(value):
        return "invalid"
    low = -math.inf if field.low is None else field.low
    high = math.inf if field.high is None else field.high
    return "ok" if low <= value <= high else "out_of_bounds"


def _of_category(field: Field, value: Any, vocabulary: Sequence[str]) -> str:
    if field.of == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            return "invalid"
        return "ok" if any(value == int(text) for text in vocabulary) else "unknown"
    if not isinstance(value, str):
        return "invalid"
    for step in field.normalize:
        assert step in NORMALIZATIONS
        value = {
            "strip": value.strip(),
            "casefold": value.casefold(),
            "nfc": unicodedata.normalize("NFC", value),
        }[step]
    return "ok" if value in vocabulary else "unknown"


_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.\d{1,9})?)?"
    r"(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
)
_DAY: Final = 86_400
_FIRST, _LAST = (
    (date(1, 1, 1).toordinal() - 719_163) * _DAY,
    (date(9999, 12, 31).toordinal() - 719_162) * _DAY,
)


def _is_instant(field: Field, value: Any) -> bool:
    if field.epoch is not None:
        per_second = {"s": 1, "ms": 1_000, "us": 1_000_000}[field.epoch]
        return _is_number(value) and _FIRST <= value / per_second <= _LAST
    found = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if found is None or not _is_day(found[1]):
        return False
    if found[5] is None:
        return field.tz is not None
    days = date.fromisoformat(found[1]).toordinal() - 719_163
    seconds = days * _DAY + int(found[2]) * 3_600 + int(found[3]) * 60 + int(found[4] or 0)
    return _FIRST <= seconds - _offset(found[5]) <= _LAST


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _offset(text: str) -> int:
    if text == "Z":
        return 0
    seconds = int(text[1:3]) * 3_600 + int(text[4:]) * 60
    return -seconds if text[0] == "-" else seconds
