"""How commands name a bundle: a folder, or a model of a store."""

from pathlib import Path
from typing import Annotated

import typer

from models.manifest import MANIFEST
from models.store import Store
from server.settings import load

BundleName = Annotated[
    str,
    typer.Argument(
        help="A bundle's folder, or `name` or `name/version` of the store.", metavar="BUNDLE"
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of bundles; else KEELMARK_STORE, else the shipped one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON, for scripts.")]


def bundle_folder(named: str, store: Path | None) -> Path:
    """The folder that was meant.

    Raises:
        BundleNotFound: no such model or version.
        NothingLive: several versions, and none is marked live.
    """
    if (Path(named) / MANIFEST).exists():
        return Path(named)
    home = store_of(store)
    name, _, version = named.rstrip("/").partition("/")
    return home.folder(name, version or home.resolve(name))


def store_of(store: Path | None) -> Store:
    """The store that was named, or that a server started here would have."""
    return Store(load({"store": store}).settings.store)
