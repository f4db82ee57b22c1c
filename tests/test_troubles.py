"""Rates of troubles in training, and of values that would have been unknown when they came."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from features import category
from features.feature_set import FeatureSet
from features.fields import Field
from models.troubles import trouble_rates

Floats = NDArray[np.float64]

DAY = 86_400.0
START = 1_357_000_000.0


def hindsight(
    days: float, arrival_of: Callable[[Floats], NDArray[np.int64]], *, timed: bool = True
):
    """Rates of a field whose category `arrival_of(day)` came into use on some day."""
    times = START + np.arange(0, days * DAY, 600.0)
    codes = arrival_of((times - START) / DAY)
    texts = [f"c{code}" for code in codes]
    features = FeatureSet("f", version=1, features={"c": category("c").frequency()})
    fitted = features.fit({"c": texts}, quiet=True)
    encoded = fitted.encode_table({"c": texts})
    rates = trouble_rates(
        fitted.fields,
        fitted.vocabularies,
        encoded.rows,
        encoded.flags,
        times if timed else None,
    )
    return rates["c"]["unknown"]


def new_in_the_last_week(day: Floats) -> NDArray[np.int64]:
    """From day 25 of 28 on every second value is new."""
    return np.where((day >= 25) & (np.arange(len(day)) % 2 == 0), 1, 0)


def test_unknown_is_what_the_weeks_before_the_last_had_not_seen():
    unknown = hindsight(28, new_in_the_last_week)
    assert unknown.rows == 7 * 144
    assert unknown.rate == pytest.approx(3 / 7 / 2, abs=0.002)


def test_unknown_varies_over_the_later_half_of_the_weeks():
    noise = hindsight(28, new_in_the_last_week).windows["24h"]
    assert noise is not None
    assert noise.highest == pytest.approx(0.5, abs=0.01)
    assert noise.design_effect > 1


def test_what_came_before_the_last_week_is_known_in_it():
    unknown = hindsight(28, lambda day: np.where(day >= 20, 1, 0))
    assert unknown.rate == 0.0


def test_training_under_two_weeks_takes_its_last_fifth():
    unknown = hindsight(10, lambda day: np.where(day >= 9, 1, 0))
    assert unknown.rows == pytest.approx(2 * 144, abs=1)
    assert unknown.rate == pytest.approx(0.5, abs=0.01)


def test_without_times_the_last_fifth_is_in_row_order():
    unknown = hindsight(28, new_in_the_last_week, timed=False)
    assert unknown.rate == pytest.approx(3 / (28 / 5) / 2, abs=0.01)
    assert set(unknown.windows.values()) == {None}


def test_a_declared_vocabulary_has_its_plain_rate():
    features = FeatureSet(
        "f", version=1, features={"c": category("c", vocabulary=("a", "b")).frequency()}
    )
    rows = {"c": ["a", "b", "x", "a"] * 100}
    fitted = features.fit(rows, quiet=True)
    encoded = fitted.encode_table(rows)
    rates = trouble_rates(fitted.fields, fitted.vocabularies, encoded.rows, encoded.flags, None)
    assert rates["c"]["unknown"].rate == 0.25
    assert rates["c"]["unknown"].rows == 400


def nothing_wrong(n: int) -> tuple[list[Field], Floats, NDArray[np.uint8]]:
    """One category with one value."""
    return [Field(name="c", kind="category")], np.zeros((n, 1)), np.zeros((n, 1), np.uint8)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_rows_have_rates_too(n: int):
    fields, rows, flags = nothing_wrong(n)
    rates = trouble_rates(fields, {"c": ("a",)}, rows, flags, np.full(n, START))
    assert rates["c"]["unknown"].rate == rates["c"]["missing"].rate == 0.0


def test_the_highest_rate_is_of_the_worst_window():
    fields, rows, flags = nothing_wrong(4320)
    day = np.arange(4320) // 144
    flags[day == 3] = 1
    times = START + np.arange(0, 30 * DAY, 600.0)
    missing = trouble_rates(fields, {"c": ("a",)}, rows, flags, times)["c"]["missing"]
    assert missing.rate == pytest.approx(1 / 30)
    noise = missing.windows["24h"]
    assert noise is not None
    assert noise.highest == 1.0
    assert noise.design_effect == pytest.approx(144 * 30 / 29)
