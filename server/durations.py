"""Times as people write them."""

import re
from typing import Final

from server.settings import SettingsError

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(text: str) -> float:
    """A time as people write it.

    >>> seconds_of("90s"), seconds_of("1.5h")
    (90.0, 5400.0)

    Raises:
        SettingsError: it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise SettingsError(f"{text!r} is no time; write a number with s, m, h or d, as in 4h")
    return float(found[1]) * UNITS[found[2]]


def seconds_or_zero(text: str) -> float:
    """A time as people write it, or `0`, which needs no unit, for none.

    >>> seconds_or_zero("0"), seconds_or_zero("10m")
    (0.0, 600.0)

    Raises:
        SettingsError: it is neither.
    """
    return 0.0 if text.strip() == "0" else seconds_of(text)
