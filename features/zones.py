"""Time zones frozen into the features: equal offsets wherever they serve, whatever tzdata is there.

A zone is its transitions of 1900 to 2100 in UTC seconds and the offsets between them. Outside those
years the first and last offset hold.
"""

import importlib.metadata
import importlib.resources
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from features.errors import DeclarationError

_FIRST: Final = datetime(1900, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(2101, 1, 1, tzinfo=UTC)
_STEP: Final = timedelta(days=1)
"""No zone changed its offset twice within a week in the years covered."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A frozen zone: `offsets[i]` seconds are added to UTC between transitions i-1 and i.

    Attributes:
        transitions: UTC seconds, ascending, (T,).
        offsets: seconds east of UTC, (T + 1,).
        local_ends: the wall-clock second by which each offset has stopped being the answer, (T,).
    """

    name: str
    transitions: tuple[int, ...]
    offsets: tuple[int, ...]
    local_ends: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The later of a transition's two wall-clock readings: an ambiguous time is before it (the
        # earlier offset), a time in a gap too (the offset before the gap).
        steps = zip(self.transitions, pairwise(self.offsets), strict=True)
        ends = tuple(at + max(offsets) for at, offsets in steps)
        object.__setattr__(self, "local_ends", ends)

    def to_utc(self, local: int) -> int:
        """UTC second of a wall-clock second.

        An ambiguous local time is the earlier of the two; one that does not exist uses the offset
        before the gap.
        """
        return local - self.offsets[bisect_right(self.local_ends, local)]

    def local_to_utc(self, local: NDArray[np.int64]) -> NDArray[np.int64]:
        """`to_utc` for int64 (n,) of wall-clock seconds."""
        index = np.searchsorted(np.asarray(self.local_ends, np.int64), local, side="right")
        return local - np.asarray(self.offsets, np.int64)[index]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "transitions": self.transitions, "offsets": self.offsets}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Zone":
        return cls(value["name"], tuple(value["transitions"]), tuple(value["offsets"]))


@cache
def freeze(name: str) -> Zone:
    """The zone as the tzdata package has it, never the system's copy: its version is unknown.

    Takes 0.1 s, which is why it is remembered.
    """
    if name == "UTC":
        return Zone(name, (), (0,))
    zone = _load(name)
    transitions: list[int] = []
    offsets = [_offset(zone, _FIRST)]
    before = _FIRST
    while before < _LAST:
        after = before + _STEP
        if _offset(zone, after) != offsets[-1]:
            transitions.append(_first_second_of(zone, before, after))
            offsets.append(_offset(zone, after))
        before = after
    return Zone(name, tuple(transitions), tuple(offsets))


def tzdata_version() -> str:
    """Version of the tzdata package that `freeze` reads."""
    return importlib.metadata.version("tzdata")


def check_zone(name: str) -> None:
    """Refuses a zone name that tzdata does not have."""
    if name != "UTC":
        _load(name)


def _load(name: str) -> ZoneInfo:
    parts = name.split("/")
    path = importlib.resources.files("tzdata").joinpath("zoneinfo", *parts)
    try:
        if not all(part[:1].isalpha() for part in parts):
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, name)
    except (OSError, ValueError) as error:
        raise DeclarationError(
            f"time zone {name!r} is not in tzdata {tzdata_version()}; "
            "use a name such as 'Europe/Paris'"
        ) from error


def _offset(zone: ZoneInfo, at: datetime) -> int:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


def _first_second_of(zone: ZoneInfo, before: datetime, after: datetime) -> int:
    """The UTC second at which the offset of `after` begins."""
    low, high = int(before.timestamp()), int(after.timestamp())
    old = _offset(zone, before)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, datetime.fromtimestamp(middle, UTC)) == old:
            low = middle
        else:
            high = middle
    return high
