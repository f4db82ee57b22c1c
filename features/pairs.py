"""Pairs of texts as people write them, for `cross` and for tables over one."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from features.errors import DeclarationError
from features.fields import check_texts
from features.nodes import Expression

Pair: TypeAlias = tuple[str | int | None, str | int | None]
"""A text of each side; None where null is a value."""

LARGEST_CROSS: Final = 100_000
"""Pairs of a cross, at most."""


def check_pairs(crossed: Expression, pairs: Sequence[Any], what: str) -> list[list[str | None]]:
    """The pairs as JSON has them.

    Raises:
        DeclarationError: none, too many, one twice, or one that no record has.
    """
    found = [_pair(crossed, pair, what) for pair in pairs]
    if not 1 <= len(found) <= LARGEST_CROSS:
        raise DeclarationError(f"{what}: {len(found):,} pairs; use 1 to {LARGEST_CROSS:,}")
    known = {(one, other) for one, other in crossed.params.get("pairs", found)}
    if len(set(map(tuple, found))) < len(found):
        raise DeclarationError(f"{what}: it names a pair twice")
    for field, texts in zip(_fields(crossed), zip(*found, strict=True), strict=True):
        check_texts(field, [text for text in texts if text is not None], what)
    for pair in found:
        if tuple(pair) not in known:
            raise DeclarationError(f"{what}: {pair} is none of the pairs that cross() declares")
    return found


def in_order(entries: Iterable[list[Any]]) -> list[list[Any]]:
    """Entries that begin with a pair, by their pairs: the same table, the same definition."""
    return sorted(entries, key=lambda entry: [(text is None, text or "") for text in entry[:2]])


def numbers_of(table: Any) -> dict[Any, float]:
    """The table of a lookup, by text; of a cross by pair: in JSON a list, as no key is a pair."""
    if isinstance(table, list):
        entries: list[Any] = table
        return {(one, other): number for one, other, number in entries}
    return dict(table)


def _fields(crossed: Expression) -> list[Any]:
    return [side.field for side in crossed.args]


def _pair(crossed: Expression, pair: Any, what: str) -> list[str | None]:
    given: Any = pair if isinstance(pair, (tuple, list)) else ()
    if len(given) != 2:
        raise DeclarationError(f"{what}: {pair!r} is no pair of texts, as in ('UA', 'EWR')")
    nulls = sum(text is None for text in given)
    if nulls == 2:
        raise DeclarationError(f"{what}: {pair!r} is missing, and no pair of the vocabulary")
    if nulls and crossed.params.get("null") != "value":
        raise DeclarationError(
            f"{what}: {pair!r} is missing; cross(..., null='value') makes null a value of its own"
        )
    return [None if text is None else str(text) for text in given]
