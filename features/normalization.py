"""What a field may declare to be done to its texts before they are looked up: a closed list."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


NORMALIZATIONS: Final[dict[str, Callable[[str], str]]] = {
    "strip": str.strip,
    "casefold": str.casefold,
    "nfc": _nfc,
}


def normalizer(steps: Sequence[str]) -> Callable[[str], str]:
    """The declared steps, in their order, as one function.

    >>> normalizer(["strip", "casefold"])("  Straße ")
    'strasse'
    """
    functions = [NORMALIZATIONS[step] for step in steps]

    def normalize(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    return normalize
