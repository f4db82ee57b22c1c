"""How far an output may be from what the training library says: as far as rounding brings it.

One row sent to another leaf is off by hundreds of times as much, and is what the comparison is for.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.convert.graph import Native
from models.manifest import OutputSpec, Tolerance

EXACT: Final = 1e-6
FLOAT32: Final = 1e-5
"""Tolerance of probabilities, where the training library computes in float64 and in float32."""
SHARE_OF_SD: Final = 1e-5
ULPS: Final = 4
RELATIVE_ULP: Final = 2.0**-24
"""A float32 unit in the last place is at least this share of its value."""


def computes_in_float32(native: Native | None, features: NDArray[np.float32]) -> bool:
    """Whether the native model answers in float32; without one, it is assumed."""
    if native is None:
        return True
    finite = features[np.isfinite(features).all(axis=1)]
    try:
        answers = native(finite if len(finite) else np.nan_to_num(features))
    except Exception:  # noqa: BLE001  (the comparison will meet it too, and says more)
        return False
    return any(np.asarray(values).dtype == np.float32 for values in answers.values())


def tolerance_of(
    spec: OutputSpec,
    column: NDArray[Any],
    *,
    float32: bool,
    added_terms: int,
    exponential_terms: int,
) -> Tolerance:
    """The tolerance of an output.

    Args:
        spec: what it is.
        column: the answers to the training rows.
        float32: the training library computes in float32, so that it cannot agree better.
        added_terms, exponential_terms: see `Converted`.
    """
    if spec.kind == "label":
        return Tolerance(absolute=0.0)
    numbers = column.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if spec.kind in ("probability", "class_probabilities"):
        rounding = _rounding_of_logistics(finite, added_terms)
        return Tolerance(absolute=max(FLOAT32 if float32 else EXACT, rounding))
    deviation = float(finite.std()) if finite.size else 0.0
    return Tolerance(
        absolute=max(SHARE_OF_SD * deviation, _rounding_of_sums(finite, added_terms)),
        ulps=ULPS + _ulps_of_exponential(finite, exponential_terms),
    )


def _rounding_of_sums(sums: NDArray[np.float64], terms: int) -> float:
    """By how much sums of many terms in float32 may be off.

    Each addition rounds by half a unit in the last place of a sum as large as the largest at most,
    and n roundings add up like sqrt(n) of them. Twice that was never reached (1 to 500 trees,
    answers of 1e-9 to 1e5: mostly 0.8 sqrt(n), 1.1 sqrt(n) at most).
    """
    if not terms or not sums.size:
        return 0.0
    return 2 * terms**0.5 * float(np.spacing(np.abs(sums).max().astype(np.float32)))


def _rounding_of_logistics(answers: NDArray[np.float64], terms: int) -> float:
    """By how much probabilities may be off whose scores are sums of many terms in float32.

    As sums are, times the slope of the logistic where a score is: most of those near 0.5.
    """
    inner = answers[(answers > 0) & (answers < 1)]
    if not terms or not inner.size:
        return 0.0
    scores = np.log(inner / (1 - inner)).astype(np.float32)
    off = inner * (1 - inner) * np.spacing(np.abs(scores)).astype(np.float64)
    return 2 * terms**0.5 * float(off.max())


def _ulps_of_exponential(answers: NDArray[np.float64], terms: int) -> int:
    """What is allowed to answers e^s besides, in float32 units in the last place.

    An error of s, small as it is, is the answer's relative error. s may be off by the share of its
    standard deviation that any value may; and where it is a sum of many terms in float32, by as
    much as their rounding brings.
    """
    scores = np.log(answers[answers > 0])
    if not terms or not scores.size:
        return 0
    error = max(SHARE_OF_SD * float(scores.std()), _rounding_of_sums(scores, terms))
    return int(np.ceil(error / RELATIVE_ULP))
