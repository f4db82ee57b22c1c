"""What callers of the live version would notice of another one, as operators are told."""

import asyncio
from typing import Final

import msgspec

from models.contract import ContractDiff, diff, read_contract
from models.errors import BundleError
from models.store import Store
from server.ops.ledger import OperatorError

MOST_CHANGES: Final = 20
"""Changes of a contract that an answer and an event name."""


class ContractShown(msgspec.Struct, frozen=True, kw_only=True):
    """What callers of the live version would notice; `changes` are sentences, breaking ones first.

    Attributes:
        verdict: `compatible`, `breaking`, or `unknown` where the two cannot be compared.
        more: changes that are not in the list.
    """

    verdict: str
    changes: list[str]
    more: int = 0


async def contract_of(
    store: Store, model: str, live: str | None, version: str
) -> ContractShown | None:
    """What callers of the live version would notice of another; None where none is live."""
    if live is None:
        return None
    try:
        found = await asyncio.to_thread(_diff, store, model, live, version)
    except (BundleError, OSError) as error:
        return ContractShown(verdict="unknown", changes=[str(error)])
    ordered = sorted(found.changes, key=lambda change: not change.breaking)
    sentences = [change.sentence for change in ordered]
    more = max(0, len(sentences) - MOST_CHANGES)
    return ContractShown(verdict=found.verdict, changes=sentences[:MOST_CHANGES], more=more)


def check_contract(
    contract: ContractShown | None, model: str, live: str | None, version: str, *, breaking: bool
) -> None:
    """Refuses to let a version answer callers of the live one whose requests may break.

    Args:
        contract: what they would notice.
        model: its name.
        live: the version that they call.
        version: that is to answer them.
        breaking: they know of it.

    Raises:
        OperatorError: it is not compatible, and nobody has said that they know.
    """
    if contract is None or contract.verdict == "compatible" or breaking:
        return
    points = "; ".join(contract.changes[:5]) + ("; …" if len(contract.changes) > 5 else "")
    if contract.verdict == "unknown":
        what = f"callers of {model}/{live} cannot be compared with {version}: {points}"
    else:
        what = f"{version} of {model!r} breaks callers of {live}: {points}"
    said = f"{what}. When they know of it, `--breaking` (breaking) lets it answer them all the same"
    raise OperatorError("conflict", said, "contract")


def _diff(store: Store, model: str, old: str, new: str) -> ContractDiff:
    folders = (store.folder(model, old), store.folder(model, new))
    return diff(*map(read_contract, folders))
