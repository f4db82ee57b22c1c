"""Why an operator's call was refused, in one word: for answers, events and the metrics."""

from typing import Final

from models.errors import (
    BundleCorrupt,
    BundleNotFound,
    FeaturesMismatch,
    FormatUnknown,
    GateFailed,
    GoldenMismatch,
)
from server.room import NoRoom
from server.series_budget import TooManySeries
from server.supervisor import NobodyHolds

USUAL: Final = {
    "invalid": "invalid",
    "unknown_model": "unknown",
    "unknown_version": "unknown",
    "conflict": "conflict",
}
"""Of an error code; where it says too little, whoever refuses says more."""

_OF_ERRORS: Final[dict[type[Exception], str]] = {
    BundleNotFound: "unknown",
    BundleCorrupt: "corrupt",
    FormatUnknown: "corrupt",
    FeaturesMismatch: "features",
    GoldenMismatch: "golden",
    GateFailed: "gate",
    TooManySeries: "series",
    NoRoom: "memory",
    NobodyHolds: "workers",
    OSError: "disk",
}


def cause_of(error: Exception) -> str:
    """The word of `vocabulary.REFUSAL_CAUSES` for what came of trying it.

    >>> cause_of(GoldenMismatch("row 3 differs")), cause_of(ValueError("?"))
    ('golden', 'other')
    """
    return next((cause for kind, cause in _OF_ERRORS.items() if isinstance(error, kind)), "other")
