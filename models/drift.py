"""Drift arithmetic: how far counts are from training, and how far they may be by chance.

Pure functions of counts. Distances are computed from the same counters that `/metrics` exports, so
Python, JSON and PromQL agree, over any window and any number of replicas.
"""

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.bins import FloatArray, IntArray

MIN_ROWS: Final = 200
"""Fewer rows, in a window or in training, give numbers and no verdict."""

MIN_INDEPENDENT_ROWS: Final = 50
"""Rows divided by the design effect: with fewer, chance alone makes any score."""

TOLERATED_PSI: Final = 0.05
"""A true difference up to this is no drift, however many rows show it."""

TOLERATED_RATE: Final = 0.01
"""A trouble's true rate may be this much above training."""

Z_1_PERCENT: Final = 2.326
"""One-sided normal quantile: 1 % of windows without drift exceed a threshold."""

ShapeState = Literal["not enough data", "drift", "steady", "beyond training", "no verdict"]
TroubleState = Literal["not enough data", "too many", "steady", "no verdict"]


def shares(counts: NDArray[np.integer]) -> FloatArray:
    """Share of each bin with half a row added to it: never 0, summing to 1; (..., n_bins).

    An empty bin would otherwise say more about a floor than about the data (Jeffreys' prior).
    """
    smoothed = np.asarray(counts, np.float64) + 0.5
    return smoothed / smoothed.sum(axis=-1, keepdims=True)


def bin_psi(reference: IntArray, counts: NDArray[np.integer]) -> FloatArray:
    """What each bin adds to the PSI, none negative: the largest are the guilty ones.

    Args:
        reference: training rows in each bin, int (n_bins,).
        counts: rows of one window or several, int (..., n_bins), same bins, same order.

    Returns:
        float64 (..., n_bins).
    """
    expected, current = shares(reference), shares(counts)
    return (current - expected) * np.log(current / expected)


def psi(reference: IntArray, counts: IntArray) -> float:
    """Population Stability Index: sum of (current - expected) * ln(current / expected) over bins.

    0 when the shares agree, never negative. The usual marks 0.1 and 0.25 are a habit, not a test:
    use `psi_threshold`. See Yurdakul & Naranjo, "Statistical properties of the population stability
    index", Journal of Risk Model Validation 14 (2020).

    >>> psi(np.array([500, 500]), np.array([50, 50]))
    0.0
    """
    return float(bin_psi(reference, counts).sum())


def js(reference: IntArray, counts: IntArray) -> float:
    """Jensen-Shannon distance, 0 to 1: the root of the divergence in bits from the mean of both."""
    expected, current = shares(reference), shares(counts)
    middle = (expected + current) / 2
    bits = expected * np.log2(expected / middle) + current * np.log2(current / middle)
    return math.sqrt(max(float(bits.sum()) / 2, 0.0))


def ks(reference: IntArray, counts: IntArray) -> float:
    """Largest difference of the two distribution functions at the edges of number bins.

    A lower bound of the Kolmogorov-Smirnov distance of the values themselves. 0 without rows.
    """
    n_reference, n_current = int(reference.sum()), int(counts.sum())
    if not n_reference or not n_current:
        return 0.0
    return float(np.abs(np.cumsum(reference) / n_reference - np.cumsum(counts) / n_current).max())


def noise(rows: int, reference_rows: int, design_effect: float = 1.0) -> float:
    """h, the variance that sampling alone gives to a PSI per degree of freedom.

    Without drift PSI is about h times a chi-square with n_bins - 1 degrees of freedom. Rows that
    come in clumps count as `rows / design_effect`; a design effect below 1 counts as 1. Infinite
    without rows.
    """
    if not rows or not reference_rows:
        return math.inf
    return max(design_effect, 1.0) / rows + 1.0 / reference_rows


def psi_threshold(
    n_bins: int, h: float, *, tolerance: float = TOLERATED_PSI, z: float = Z_1_PERCENT
) -> float:
    """The PSI that a window whose true PSI is at most `tolerance` exceeds with the chance of `z`.

    PSI / h is then about a non-central chi-square with n_bins - 1 degrees of freedom and
    non-centrality tolerance / h; its quantile by the cube-root normal approximation (Abdel-Aty,
    Biometrika 41, 1954), easily written in PromQL and 0 to 4 % above the exact one from 8 bins on
    (for 2 bins 1 % below to 12 % above). The tolerance keeps large windows quiet, the sampling part
    small ones (arXiv 2307.11878).

    Args:
        n_bins: of the measure.
        h: from `noise`.
        z: one-sided normal quantile of the chance of a false alarm.
    """
    if n_bins < 2 or math.isinf(h):  # nothing to move between, or nothing seen
        return math.inf
    freedom, shift = n_bins - 1, tolerance / h
    a = freedom + shift
    s = 2 * (freedom + 2 * shift) / (9 * a * a)
    return h * a * (1 - s + z * math.sqrt(s)) ** 3


def shape_state(
    score: float,
    threshold: float,
    *,
    rows: int,
    reference_rows: int,
    design_effect: float | None,
    usual_max: float | None,
) -> ShapeState:
    """What may be said about a field's or output's shape in a window.

    Args:
        score: PSI of the window.
        threshold: `psi_threshold` with the window's own design effect.
        rows: counted in the window.
        reference_rows: counted in training.
        design_effect: for this window length; None where training had too few windows of it.
        usual_max: largest PSI of any training window of this length.

    Where windows hold too few independent rows for the threshold to be trusted alone, a score must
    also be above everything seen in training, and is then a reason to look, not to wake anybody.
    """
    if rows < MIN_ROWS:
        return "not enough data"
    if design_effect is None or reference_rows < MIN_ROWS:
        return "no verdict"
    if rows / max(design_effect, 1.0) >= MIN_INDEPENDENT_ROWS:
        return "drift" if score > threshold else "steady"
    if usual_max is not None and score > threshold and score > usual_max:
        return "beyond training"
    return "no verdict"


def allowed_rate(
    reference_rate: float,
    h: float,
    *,
    tolerance: float = TOLERATED_RATE,
    z: float = Z_1_PERCENT,
) -> float:
    """The rate that a trouble exceeds by chance as seldom as `z` says, 0 to 1.

    A one-sided test of whether the true rate is at most `reference_rate + tolerance`, with the
    variance at that boundary: a trouble never seen in training has one too.
    """
    boundary = min(reference_rate + tolerance, 1.0)
    if math.isinf(h):
        return 1.0
    return min(boundary + z * math.sqrt(boundary * (1 - boundary) * h), 1.0)


def trouble_state(
    rate: float,
    allowed: float,
    *,
    rows: int,
    reference_rows: int,
    highest: float | None,
) -> TroubleState:
    """What may be said about the rate of a trouble in a window.

    Troubles come in clumps, so a rate must also be above that of every training window: a test for
    independent rows alone flags half of the training days of a field that is often missing.

    Args:
        rate: share of the window's rows with the trouble.
        allowed: `allowed_rate` with the trouble's own design effect for this window length.
        rows: of the window.
        reference_rows: behind the training rate.
        highest: rate of the worst training window of this length; None with too few windows.
    """
    if rows < MIN_ROWS:
        return "not enough data"
    if highest is None or reference_rows < MIN_ROWS:
        return "no verdict"
    return "too many" if rate > allowed and rate > highest else "steady"
