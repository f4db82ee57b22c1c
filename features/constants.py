"""Constants that people write into expressions."""

import math
from typing import Any

import numpy as np

from features.errors import DeclarationError


def finite(value: Any, what: str) -> float:
    """A number that people wrote, as float64."""
    is_number = isinstance(value, (int, float, np.integer, np.floating))
    is_number = is_number and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DeclarationError(f"{what}: expected a finite number, got {value!r}")
    return number


def quantile_pair(quantiles: tuple[float, float]) -> list[float]:
    low, high = (finite(quantile, "clip(quantiles=)") for quantile in quantiles)
    if not 0 <= low < high <= 1:
        raise DeclarationError(f"clip(quantiles={quantiles}): expected 0 <= low < high <= 1")
    return [low, high]
