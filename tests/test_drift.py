"""Drift arithmetic: distances between counts, and what chance alone does to them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, ncx2, norm

from models import drift
from models.drift import (
    allowed_rate,
    bin_psi,
    js,
    ks,
    noise,
    psi,
    psi_threshold,
    shape_state,
    shares,
    trouble_state,
)

two_counts = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 10**6), min_size=n, max_size=n)] * 2)
)


def arrays(pair):
    return tuple(np.array(counts, np.int64) for counts in pair)


@given(two_counts)
def test_shares_sum_to_one_and_none_is_zero(pair):
    for counts in arrays(pair):
        assert shares(counts).sum() == pytest.approx(1)
        assert (shares(counts) > 0).all()


@given(two_counts)
def test_distances_are_never_negative_and_zero_between_equal_counts(pair):
    reference, counts = arrays(pair)
    for distance in (psi, js, ks):
        assert distance(reference, counts) >= 0
        assert distance(reference, reference) == pytest.approx(0, abs=1e-9)
    assert (bin_psi(reference, counts) >= 0).all()
    assert js(reference, counts) <= 1
    assert ks(reference, counts) <= 1


@given(two_counts)
def test_distances_are_symmetric(pair):
    reference, counts = arrays(pair)
    for distance in (psi, js, ks):
        assert distance(reference, counts) == pytest.approx(distance(counts, reference), abs=1e-12)


@given(two_counts, st.randoms())
def test_bin_order_is_irrelevant_to_psi_and_js(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    reference, counts = arrays(pair)
    for distance in (psi, js):
        assert distance(reference[order], counts[order]) == pytest.approx(
            distance(reference, counts), abs=1e-12
        )


def test_psi_is_the_textbook_sum_with_half_a_row_added():
    reference, counts = np.array([70, 30]), np.array([10, 0])
    p, q = np.array([70.5, 30.5]) / 101, np.array([10.5, 0.5]) / 11
    assert psi(reference, counts) == pytest.approx(sum((q - p) * np.log(q / p)))


def test_several_windows_are_scored_at_once():
    reference, windows = np.array([5, 9, 2]), np.array([[1, 2, 3], [0, 0, 0]])
    scores = bin_psi(reference, windows).sum(axis=-1)
    assert scores.tolist() == [psi(reference, window) for window in windows]


def test_ks_is_the_largest_gap_between_the_distribution_functions():
    assert ks(np.array([1, 1, 2]), np.array([2, 2, 0])) == pytest.approx(0.5)
    assert ks(np.array([1, 1]), np.array([0, 0])) == 0.0


def test_ks_of_bins_is_a_lower_bound_of_ks_of_values():
    random = np.random.default_rng(0)
    a, b = random.normal(size=2000), random.normal(0.3, 1.2, size=500)
    edges = np.quantile(a, np.arange(1, 10) / 10)
    binned = [np.bincount(np.searchsorted(edges, x), minlength=10) for x in (a, b)]
    assert 0 < ks(*binned) <= kstest(a, b)[0]


@pytest.mark.parametrize(
    ("n_bins", "lowest", "highest"),
    [(2, -0.01, 0.12), (3, 0, 0.09), (5, 0, 0.06), (8, 0, 0.04), (13, 0, 0.04), (40, 0, 0.04)],
)
def test_threshold_is_the_quantile_of_a_noncentral_chi_square(
    n_bins: int, lowest: float, highest: float
):
    cases = itertools.product((200, 1000, 50_000), (0.0, 0.05, 0.1), (0.01, 0.001), (1, 10, 40))
    for rows, tolerance, alpha, effect in cases:
        h = noise(rows, 50_000, effect)
        exact = h * ncx2.ppf(1 - alpha, n_bins - 1, tolerance / h)
        closed = psi_threshold(n_bins, h, tolerance=tolerance, z=float(norm.ppf(1 - alpha)))
        assert lowest <= closed / exact - 1 <= highest


def test_thresholds_of_the_research_page():
    rows = (100, 200, 500, 1000, 5000, 20_000)
    found = [psi_threshold(10, noise(n, 50_000)) for n in rows]
    assert found == pytest.approx([0.319, 0.203, 0.127, 0.098, 0.069, 0.060], rel=0.02)


def test_one_window_in_a_hundred_without_drift_is_over_the_threshold_at_most():
    random = np.random.default_rng(0)
    reference = np.full(10, 5000)
    windows = random.multinomial(500, np.full(10, 0.1), size=4000)
    threshold = psi_threshold(10, noise(500, 50_000), tolerance=0.0)
    share = (bin_psi(reference, windows).sum(axis=-1) > threshold).mean()
    assert 0.004 < share < 0.013


@given(st.integers(2, 40), st.integers(1, 10**6), st.floats(1, 1000))
def test_more_rows_lower_the_threshold_and_clumps_raise_it(n_bins: int, rows: int, effect: float):
    h = noise(rows, 50_000, effect)
    assert psi_threshold(n_bins, noise(2 * rows, 50_000, effect)) < psi_threshold(n_bins, h)
    assert psi_threshold(n_bins, noise(rows, 50_000, 2 * effect)) > psi_threshold(n_bins, h)


def test_a_design_effect_below_one_counts_as_one():
    assert noise(300, 5000, 0.3) == noise(300, 5000, 1.0)


def test_nothing_seen_or_nothing_to_move_between_has_no_threshold():
    assert noise(0, 100) == noise(100, 0) == math.inf
    assert psi_threshold(10, math.inf) == psi_threshold(1, 0.1) == math.inf


def state(score: float, *, rows: int = 7000, **others: Any) -> str:
    usual: dict[str, Any] = {"reference_rows": 50_000, "design_effect": 1.0, "usual_max": 3.0}
    return shape_state(score, 1.0, rows=rows, **{**usual, **others})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (state(9.0, rows=199), "not enough data"),
        (state(9.0, rows=199, design_effect=None, reference_rows=3), "not enough data"),
        (state(9.0, rows=200), "drift"),
        (state(1.0, rows=200), "steady"),
        (state(9.0, design_effect=140.0), "drift"),
        (state(0.5, design_effect=140.0), "steady"),
        (state(9.0, design_effect=141.0), "beyond training"),
        (state(3.0, design_effect=141.0), "no verdict"),
        (state(0.5, design_effect=141.0, usual_max=0.1), "no verdict"),
        (state(9.0, design_effect=141.0, usual_max=None), "no verdict"),
        (state(9.0, design_effect=None), "no verdict"),
        (state(9.0, reference_rows=199), "no verdict"),
        (state(9.0, rows=200, design_effect=0.0), "drift"),
    ],
)
def test_states_are_decided_in_their_order(found: str, expected: str):
    assert found == expected


def test_a_trouble_needs_to_be_over_its_bound_and_over_every_training_window():
    def judged(rate: float, rows: int = 500, highest: float | None = 0.2, m: int = 5000):
        return trouble_state(rate, 0.1, rows=rows, reference_rows=m, highest=highest)

    assert judged(0.3, rows=199) == "not enough data"
    assert judged(0.3) == "too many"
    assert judged(0.15) == judged(0.05) == judged(0.2) == "steady"
    assert judged(0.3, highest=None) == judged(0.3, m=100) == "no verdict"
    assert judged(0.15, highest=0.0) == "too many"


@given(st.floats(0, 1), st.integers(1, 10**6), st.floats(1, 100))
def test_the_allowed_rate_is_above_training_and_a_rate(rate: float, rows: int, effect: float):
    allowed = allowed_rate(rate, noise(rows, 50_000, effect))
    assert rate <= allowed <= 1.0


def test_the_allowed_rate_is_seldom_exceeded_by_chance():
    random = np.random.default_rng(0)
    allowed = allowed_rate(0.09, noise(400, 10**9), tolerance=0.01)
    assert (random.binomial(400, 0.1, 20_000) / 400 > allowed).mean() < 0.015


def test_nothing_seen_allows_any_rate():
    assert allowed_rate(0.0, math.inf) == 1.0


def test_states_have_the_names_of_the_contract():
    assert drift.ShapeState.__args__ == (
        "not enough data",
        "drift",
        "steady",
        "beyond training",
        "no verdict",
    )
