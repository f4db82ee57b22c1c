"""Shares: as people write them, and in words."""

from typing import Any


def share_of(text: str) -> float:
    """A share as people write it; it may still be less than nothing, or more than all.

    >>> share_of("5%"), share_of("0.05"), share_of("0")
    (0.05, 0.05, 0.0)

    Raises:
        ValueError: it is no number, with or without a percent sign.
    """
    number, sign, rest = text.strip().partition("%")
    if rest:
        raise ValueError(text)
    return float(number) / 100 if sign else float(number)


def shares_shown(shares: dict[str, Any]) -> str:
    """The shares of a candidate in words: `canary 10 %, shadow 100 %`."""
    return ", ".join(f"{name} {shares[name] * 100:g} %" for name in ("canary", "shadow"))
