"""Rates of troubles in training: what share of a field's values is missing, invalid, and so on.

All but one are what was counted. A vocabulary learned from all training rows knows all of them, so
their rate of unknown values says nothing; it is taken from the last week with the vocabulary of the
weeks before it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from features.fields import OK, UNKNOWN, Field
from models.bins import FloatArray, IntArray
from models.columns import Flags, Marks
from models.shapes import WINDOW_SECONDS, WindowLength
from models.windows import Hours, design_effect, with_enough_rows

Trouble = Literal["missing", "invalid", "out_of_bounds", "unknown"]
_TROUBLES: Final[tuple[Trouble, ...]] = ("missing", "invalid", "out_of_bounds", "unknown")
"""In the order of their flags."""

_WEEK: Final = 7 * 24 * 3_600.0
_PARTS: Final = 5
"""Training shorter than two weeks is cut into fifths instead of weeks."""


class TroubleNoise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a trouble's rate varied between training windows of one length.

    Attributes:
        design_effect: as in `WindowNoise`.
        highest: rate of the worst window, 0 to 1.
    """

    design_effect: float
    highest: float


class TroubleRate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a field had a trouble in training.

    Attributes:
        rate: share of the rows, 0 to 1; of `unknown`, of the last week's rows.
        rows: behind the rate.
        windows: at each window length; null below 8 training windows of it.
    """

    rate: float
    rows: int
    windows: dict[WindowLength, TroubleNoise | None]


TroubleRates = dict[str, dict[Trouble, TroubleRate]]


def trouble_rates(
    fields: Sequence[Field],
    vocabularies: Mapping[str, Sequence[str]],
    rows: FloatArray,
    flags: Flags,
    times: FloatArray | None,
) -> TroubleRates:
    """Rates of every trouble of every field.

    Args:
        rows, flags: encoded training rows (n, F), in the order of `times`.
        times: epoch seconds, ascending, NaN last, (n,); None without a time column.
    """
    by_trouble = {
        trouble: _rates(flags == code, times) for code, trouble in enumerate(_TROUBLES, OK + 1)
    }
    rates: TroubleRates = {
        field.name: {trouble: by_trouble[trouble][position] for trouble in _TROUBLES}
        for position, field in enumerate(fields)
    }
    for position, field in enumerate(fields):
        if field.kind == "category" and field.vocabulary is None:
            n_known = len(vocabularies[field.name])
            seen = _Hindsight.of(rows[:, position], flags[:, position], times, n_known)
            rates[field.name]["unknown"] = seen.rate()
    return rates


def _rates(marks: Marks, times: FloatArray | None) -> list[TroubleRate]:
    """Rates of the columns of marks (n, k)."""
    hours = None if times is None else Hours.of(times)
    noises = [_noises(marks[:, [column]], hours) for column in range(marks.shape[1])]
    return [
        TroubleRate(rate=float(rate), rows=len(marks), windows=windows)
        for rate, windows in zip(_share(marks), noises, strict=True)
    ]


def _share(marks: Marks) -> FloatArray:
    """Share of marked rows in each column; 0 without rows."""
    return marks.sum(axis=0) / max(len(marks), 1)


def _noises(marks: Marks, hours: Hours | None) -> dict[WindowLength, TroubleNoise | None]:
    """How the rate of one column of marks (n, 1) varied, at each window length."""
    if hours is None:
        return dict.fromkeys(WINDOW_SECONDS)
    counts = hours.sums(np.column_stack([marks, np.logical_not(marks)]))
    return {length: _noise(hours.windows(counts, length)) for length in WINDOW_SECONDS}


def _noise(windows: IntArray) -> TroubleNoise | None:
    """Of windows (n_windows, 2) of rows with the trouble and rows without."""
    kept = with_enough_rows(windows)
    if kept is None:
        return None
    highest = (kept[:, 0] / kept.sum(axis=1)).max()
    return TroubleNoise(design_effect=design_effect(kept), highest=float(highest))


class _Hindsight(NamedTuple):
    """Which values would have been unknown when they came, to a vocabulary of what came before.

    The vocabulary of each week is everything before that week; the later half of the weeks is
    looked at, so that the vocabulary has had time to grow.

    Attributes:
        marks: unknown values of the later half, bool (n_later, 1).
        last: rows of the last week, at the end of them.
        hours: of the later half; None without a time column.
    """

    marks: Marks
    last: int
    hours: Hours | None

    @classmethod
    def of(
        cls, codes: FloatArray, flags: Flags, times: FloatArray | None, n_known: int
    ) -> "_Hindsight":
        """From one field's codes and flags (n,) in time order."""
        when = np.arange(len(codes), dtype=np.float64) if times is None else times
        when = when[np.isfinite(when)]
        unknown = flags[: len(when)] == UNKNOWN
        span = float(when[-1] - when[0]) if len(when) else 0.0
        if span == 0.0:  # no row, or no order: nothing came before anything
            return cls(unknown[:, None], len(when), None)
        length = _WEEK if times is not None and span >= 2 * _WEEK else span / _PARTS
        age = np.floor((when[-1] - when) / length)  # of each row's week, 0 for the last
        before = when[-1] - (age + 1) * length
        unknown |= _first_seen(codes[: len(when)], flags[: len(when)], when, n_known) > before
        later = slice(int(np.argmax(age < round(span / length) // 2)), None)
        hours = None if times is None else Hours.of(when[later])
        return cls(unknown[later, None], int((age == 0).sum()), hours)

    def rate(self) -> TroubleRate:
        """The last week's rate, with the noise of all weeks looked at."""
        rate = float(_share(self.marks[len(self.marks) - self.last :])[0])
        return TroubleRate(rate=rate, rows=self.last, windows=_noises(self.marks, self.hours))


def _first_seen(codes: FloatArray, flags: Flags, when: FloatArray, n_known: int) -> FloatArray:
    """When each row's category came for the first time, (n,); -inf for rows without a known one."""
    is_known = flags == OK
    first = np.full(n_known, -np.inf)
    found, positions = np.unique(codes[is_known].astype(np.int64), return_index=True)
    first[found] = when[is_known][positions]
    seen = np.full(len(codes), -np.inf)
    seen[is_known] = first[codes[is_known].astype(np.int64)]
    return seen
