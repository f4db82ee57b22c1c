"""`keelmark diff`: what callers of one bundle would notice if another took its place."""

from typing import Annotated

import typer

from models.contract import ContractDiff, diff, read_contract
from server.cli.bundles import StoreOption, bundle_folder
from server.cli.exits import REFUSED
from server.cli.options import AsJson
from server.cli.show import out, say_json, table

Old = Annotated[
    str,
    typer.Argument(
        help="What callers know: a bundle's folder, or `name/version` or `name@version` of the "
        "store, or `name` for the one to be live.",
        metavar="OLD",
    ),
]
New = Annotated[str, typer.Argument(help="What is to take its place.", metavar="NEW")]


def diff_bundles(old: Old, new: New, *, store: StoreOption = None, as_json: AsJson = False) -> None:
    """Compares what two bundles take and answer; OLD is the one that they know.

    Nothing is run. Ends with 0 if callers of OLD get answers of the same shape from NEW's model, 1
    if a change breaks some of them or a bundle is not what its manifest says, 4 if there is none.
    """
    found = diff(read_contract(bundle_folder(old, store)), read_contract(bundle_folder(new, store)))
    if as_json:
        say_json(found)
    else:
        _show(found)
    if found.breaking:
        raise typer.Exit(REFUSED)


def _show(found: ContractDiff) -> None:
    console = out()
    if found.changes:
        # What breaks stands first: a long list may be read no further.
        ordered = sorted(found.changes, key=lambda change: not change.breaking)
        rows = [
            ("breaking" if change.breaking else "", change.kind, change.sentence)
            for change in ordered
        ]
        console.print(table(f"{found.old} → {found.new}", ("", "change", "what it means"), rows))
    console.print(_verdict(found), markup=False, soft_wrap=True)


def _verdict(found: ContractDiff) -> str:
    count = len(found.breaking)
    if count:
        return (
            f"breaking: {count} of {len(found.changes)} changes break callers of {found.old}; "
            "agree them with those who call, or pack the bundle so that they still hold"
        )
    if not found.changes:
        return f"compatible: {found.old} and {found.new} promise the same"
    return f"compatible: callers of {found.old} need not be asked"
