"""Windows of the training rows: which there are, and how much they vary by chance."""

import numpy as np
import pytest

from models.windows import Hours, design_effect, window_noise

START = 1_357_000_000.0


def test_independent_rows_have_a_design_effect_of_one():
    random = np.random.default_rng(0)
    windows = random.multinomial(300, [0.1] * 10, size=400)
    assert design_effect(windows) == pytest.approx(1.0, abs=0.05)


def test_rows_in_clumps_of_five_have_a_design_effect_of_five():
    random = np.random.default_rng(0)
    windows = 5 * random.multinomial(60, [0.1] * 10, size=400)
    assert design_effect(windows) == pytest.approx(5.0, abs=0.25)


def test_one_bin_or_one_window_cannot_vary():
    assert design_effect(np.array([[5, 0], [9, 0]])) == 1.0
    assert design_effect(np.array([[5, 3]])) == 1.0


def test_usual_scores_are_those_of_the_training_windows():
    windows = np.array([[60, 40]] * 9 + [[10, 90]])
    noise = window_noise(windows.sum(axis=0), windows)
    assert noise is not None
    assert noise.usual.windows == 10
    assert noise.usual.p50 < 0.05
    assert noise.usual.max > 1
    assert window_noise(windows.sum(axis=0), windows[:7]) is None


def test_windows_of_a_handful_of_rows_are_left_out():
    windows = np.array([[60, 40]] * 8 + [[0, 3]] * 5)
    noise = window_noise(np.array([480, 335]), windows)
    assert noise is not None
    assert noise.usual.windows == 8


def test_windows_begin_with_the_first_row_and_the_last_must_be_whole():
    times = np.arange(25.5 * 3600, step=600.0) + START + 1234
    hours = Hours.of(times)
    per_hour = hours.sums(np.ones((len(times), 1), np.bool_))
    assert per_hour[:25].ravel().tolist() == [6] * 25
    assert hours.windows(per_hour, "6h").ravel().tolist() == [36] * 4
    assert hours.windows(per_hour, "24h").ravel().tolist() == [144]


def test_hours_without_rows_are_no_windows():
    hours = Hours.of(np.array([0.0, 10.0, 7 * 3600.0, 11 * 3600.0]))
    assert hours.numbers.tolist() == [0, 7, 11]
    assert hours.windows(np.array([[2], [1], [1]]), "6h").tolist() == [[2], [2]]
