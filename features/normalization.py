"""What a field may declare to be done to its texts before they are looked up: a closed list."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final

MOST_MARKS: Final = 30
"""Combining marks in a row that are still a character: the limit of Unicode's Stream-Safe Text
Format (UAX #15)."""


def _nfc(text: str) -> str:
    """NFC, but a text with more marks in a row than any language has stays as it is.

    Putting n marks into their order takes n² steps: 11 s for a text of 80 kB.
    """
    if len(text) > MOST_MARKS and not text.isascii() and _most_marks(text) > MOST_MARKS:
        return text
    return unicodedata.normalize("NFC", text)


def _most_marks(text: str) -> int:
    most = marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        most = max(most, marks)
    return most


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
