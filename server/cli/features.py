"""`keelmark features`: the fields and features of a store, and names that mean two things."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from features.library import Library, read_library
from features.survey import Definition, Survey, survey
from models.errors import NothingLive
from models.store import Store
from server.cli.bundles import StoreOption, store_of
from server.cli.exits import REFUSED
from server.cli.options import AsJson
from server.cli.show import out, say_json, table


def features(
    *,
    store: StoreOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Only of the bundles that are to be live.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="End with 1 if a name means two things in two bundles."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lists the fields and features of a store: how each is declared, and which bundles use it.

    A name with another definition in another bundle is marked. Ends with 4 if there is no store;
    with --check with 1 if a name is marked, a bundle's features.json cannot be read, or with
    --live no version of any model is to be live.
    """
    home = store_of(store)
    library = read_library(home)
    wished, undecided = _wished(home) if live else ({}, [])
    if live:
        library = _only(library, {f"{name}/{version}" for name, version in wished.items()})
    found = survey(library)
    if as_json:
        say_json(
            {
                "store": library.store,
                "fields": _as_json(found.fields),
                "features": _as_json(found.features),
                "conflicts": found.conflicts,
                "unreadable": found.unreadable,
                "undecided": undecided,
            }
        )
    else:
        _show(found)
        _show_undecided(undecided)
    is_empty = live and not wished
    if check and (found.conflicts or found.unreadable or is_empty):
        raise typer.Exit(REFUSED)


def _only(library: Library, bundles: Collection[str]) -> Library:
    return Library(
        library.store,
        tuple(one for one in library.stored if one.bundle in bundles),
        {bundle: why for bundle, why in library.unreadable.items() if bundle in bundles},
    )


def _wished(home: Store) -> tuple[dict[str, str], list[str]]:
    """By model the version that is to be live, and the models of which none is."""
    wished: dict[str, str] = {}
    undecided: list[str] = []
    for name in home.names():
        try:
            wished[name] = home.resolve(name)
        except NothingLive:
            undecided.append(name)
    return wished, undecided


def _show_undecided(names: Sequence[str]) -> None:
    if names:
        out().print(
            f"Not looked at, for no version is to be live: {', '.join(names)}. Say which: "
            f"keelmark publish {names[0]}/VERSION --live",
            markup=False,
            soft_wrap=True,
        )


def _as_json(named: Mapping[str, tuple[Definition, ...]]) -> dict[str, Any]:
    return {
        name: [{"definition": one.data, "text": one.text, "bundles": one.bundles} for one in ones]
        for name, ones in named.items()
    }


def _show(found: Survey) -> None:
    console = out()
    columns = ("definition", "bundles", "")
    console.print(table("Fields", ("field", *columns), _rows(found.fields)))
    console.print(table("Features", ("feature", *columns), _rows(found.features)))
    for bundle, why in found.unreadable.items():
        console.print(f"{bundle}: {why}", markup=False, soft_wrap=True)
    if found.conflicts:
        console.print(
            f"Defined in several ways: {', '.join(found.conflicts)}. Rename one of each, or take "
            "its definition from the other: FeatureSet.load(store, …).field(…)",
            markup=False,
            soft_wrap=True,
        )


def _rows(named: Mapping[str, tuple[Definition, ...]]) -> Iterator[tuple[str, ...]]:
    """A line a definition; those of a name that has several are numbered."""
    for name, definitions in named.items():
        for number, one in enumerate(definitions, 1):
            mark = f"differs: {number} of {len(definitions)}" if len(definitions) > 1 else ""
            yield name, one.text, ", ".join(one.bundles), mark
