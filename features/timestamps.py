"""Texts that name an instant, and the seconds since 1970 in UTC that they are."""

from bisect import bisect_right
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from re import ASCII
from re import compile as pattern
from typing import Final

from features.zones import Zone

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

EARLIEST: Final = float((date(1, 1, 1).toordinal() - _EPOCH_DAY) * 86_400)
LATEST: Final = float((date(9999, 12, 31).toordinal() - _EPOCH_DAY + 1) * 86_400)
"""Instants outside the years 1 to 9999 are invalid, as ISO 8601 text cannot name them.

The end itself is allowed: the last billionth of the year 9999 is it, in float64.
"""

LONGEST: Final = len("1970-01-01T00:00:00.000000000+00:00")

_DATE: Final = pattern(r"(\d{4})-(\d\d)-(\d\d)", ASCII)
_TAIL: Final = pattern(
    r"(?::([0-5]\d)(?:\.(\d{1,9}))?)?(?:(Z)|([+-])([01]\d|2[0-3]):([0-5]\d))?", ASCII
)
_MINUTES: Final = {
    f"{minute // 60:02d}:{minute % 60:02d}": minute * 60 for minute in range(24 * 60)
}


def timestamp_parser(zone: Zone | None) -> Callable[[str], float | None]:
    """Seconds since 1970 in UTC of `YYYY-MM-DD(T| )hh:mm[:ss[.f]](Z|±hh:mm)`, else None.

    Without an offset the zone decides; without a zone that is no timestamp. Dates and tails recur,
    so their parts are remembered (bounded): about 0.3 µs a value.

    >>> timestamp_parser(None)("1970-01-01 01:00:00.5+01:00")
    0.5
    """
    minutes_of = _MINUTES.get
    ends, offsets = (zone.local_ends, zone.offsets) if zone is not None else ((), ())

    def parse(text: str) -> float | None:
        if len(text) > LONGEST:  # nor may it be remembered: a caller could fill the memory
            return None
        days = _days(text[:10])
        minutes = minutes_of(text[11:16])
        if days is None or minutes is None or text[10] not in "T ":
            return None
        tail = _tail(text[16:])
        if tail is None:
            return None
        seconds, fraction, offset = tail
        local = days + minutes + seconds
        if offset is None:
            if zone is None:
                return None
            offset = offsets[bisect_right(ends, local)]  # zone.to_utc without the call
        utc = local - offset + fraction
        return utc if EARLIEST <= utc <= LATEST else None

    return parse


def in_time_range(seconds: float) -> float | None:
    """The instant, if it lies in the years 1 to 9999."""
    return seconds if EARLIEST <= seconds <= LATEST else None


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
def _tail(text: str) -> tuple[int, float, int | None] | None:
    """Seconds, their fraction and the offset (None: not given) of what follows hh:mm."""
    found = _TAIL.fullmatch(text)
    if found is None:
        return None
    seconds = int(found[1] or 0)
    fraction = int((found[2] or "0").ljust(9, "0")) / 1e9
    if found[3]:
        return seconds, fraction, 0
    if not found[4]:
        return seconds, fraction, None
    offset = int(found[5]) * 3600 + int(found[6]) * 60
    return seconds, fraction, -offset if found[4] == "-" else offset
