"""One difference between what two bundles promise their callers, as data and as a sentence."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

from models.manifest import Strict

ContractVerdict = Literal["compatible", "breaking"]
ContractPart = Literal["model", "field", "input", "output", "policy", "check", "ladder", "owner"]
"""What a change is of: `owner` is what the owner declares for people, as the objectives."""
SHOWN: Final = 5
"""Texts or classes named in a sentence; the rest is a number."""


class Change(Strict, frozen=True, kw_only=True):
    """One change of a contract.

    Attributes:
        kind: one of `vocabulary.CONTRACT_CHANGES`.
        part, of: what changed, by kind of thing and name: a field, an output, `field: trouble`.
        breaking: some callers of the old bundle get no answer of the same shape from the model.
        before, after: plain data; null where one of the bundles has none.
        sentence: for people: what changed, and what follows for callers.
    """

    kind: str
    part: ContractPart
    of: str
    breaking: bool
    before: Any = None
    after: Any = None
    sentence: str


def listed(texts: Iterable[Any]) -> str:
    """The first few of some texts, and how many more there are.

    >>> listed("abcdefg")
    "'a', 'b', 'c', 'd', 'e' and 2 more"
    """
    named = [repr(text) for text in texts]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more


def without(texts: Sequence[Any], others: Iterable[Any]) -> list[Any]:
    """Those of `texts` that are not among `others`, in their order; `1` is another than `True`."""
    there = {(type(other), other) for other in others}
    return [text for text in texts if (type(text), text) not in there]
