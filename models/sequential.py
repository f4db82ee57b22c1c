"""Tests that may be looked at after every row, with an error that holds for all looks together.

Each is a betting game against a hypothesis: "the candidate keeps its promise", "the candidate is no
worse than live". The stake is multiplied by the likelihood ratio of what is seen, for several ways
in which the hypothesis may be wrong, and the mean of these products is what the stake has become.
While the hypothesis holds, the stake is a non-negative supermartingale that begins at 1, so that by
Ville's inequality it *ever* reaches 1 / alpha with a chance of at most alpha (J. Ville, *Étude
critique de la notion de collectif*, 1939; H. Robbins, "Statistical methods related to the law of
the iterated logarithm", Annals of Mathematical Statistics 41, 1970, for mixtures). The comparison
with live is the one of M. Lindon and A. Malek, "Anytime-valid inference for multinomial count
data", NeurIPS 2022: each bad row falls on the candidate with the chance of its share of the
traffic.

Everything is in natural logarithms. A stake may be counted without its best step, which makes it
smaller: a single burst, as a list of many bad rows, then decides nothing.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

WORSE: Final[FloatArray] = np.array([1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0])
"""How many times the odds of a bad row may be what they are promised to be: one bet each."""

TOLERATED_ODDS: Final = 1.25
"""The candidate's callers are others than live's: so much may its odds differ without a fault."""


def against_promise(bad: ArrayLike, rows: ArrayLike, promised: ArrayLike) -> FloatArray:
    """What each bet gains where `bad` of `rows` are bad and at most a share `promised` should be.

    The log-likelihood ratio of a binomial count, for odds that are `WORSE` times the promised
    ones. Counts may be fractions: rows that come together may count as one, since the logarithm of
    a mean is at least the mean of logarithms (Hoeffding 1963).

    Args:
        bad, rows, promised: arrays of one shape (...), or numbers; `promised` within 0 and 1.

    Returns:
        float64 (..., 8).
    """
    p = np.clip(np.asarray(promised, np.float64), 1e-9, 1 - 1e-9)[..., None]
    odds = p / (1 - p) * WORSE
    worse = odds / (1 + odds)
    bad, rows = _column(bad), _column(rows)
    return bad * np.log(worse / p) + (rows - bad) * (np.log1p(-worse) - np.log1p(-p))


def against_live(
    bad: ArrayLike, rows: ArrayLike, live_bad: ArrayLike, live_rows: ArrayLike, *, tolerated: float
) -> FloatArray:
    """What each bet gains from bad rows that fell on the candidate and on live at the same time.

    If the candidate were no worse, a bad row would be its own with the chance of its share of the
    rows (with odds `tolerated` times that: the callers of both are not the same). Given how many
    are bad, the number of its own is hypergeometric, which varies less than the binomial that is
    bet on. What made both bad, a broken network, favours no bet.

    Args:
        bad, rows, live_bad, live_rows: arrays of one shape (...), or numbers.
        tolerated: how many times live's odds are no fault.

    Returns:
        float64 (..., 8); 0 where only one of the two had rows.
    """
    bad, live_bad = _column(bad), _column(live_bad)
    rows, live_rows = _column(rows), _column(live_rows)
    both = (rows > 0) & (live_rows > 0)
    odds = np.where(both, rows / np.where(both, live_rows, 1.0), 1.0) * tolerated
    worse = odds * WORSE
    gain = bad * (np.log(worse / (1 + worse)) - np.log(odds / (1 + odds)))
    gain += live_bad * (np.log1p(odds) - np.log1p(worse))
    return np.where(both, gain, 0.0)


def log_stake(gained: FloatArray, best: FloatArray | float = 0.0) -> float:
    """The logarithm of what the stake has become, over all bets together.

    Args:
        gained: sum of the gains of each bet, any shape.
        best: the largest single gain of each bet that is not to count, none below 0.
    """
    kept = gained - best
    top = float(kept.max())
    return top + math.log(float(np.exp(kept - top).mean()))


def _column(values: ArrayLike) -> FloatArray:
    return np.asarray(values, np.float64)[..., None]
