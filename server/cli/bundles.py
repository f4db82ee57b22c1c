"""How commands name a bundle: a folder, or a model of a store."""

from pathlib import Path
from typing import Annotated

import typer

from models.errors import BundleNotFound
from models.manifest import MANIFEST
from models.store import Store
from server.settings import load

BundleName = Annotated[
    str,
    typer.Argument(
        help="A bundle's folder, or `name`, `name/version` or `name@version` of the store.",
        metavar="BUNDLE",
    ),
]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of bundles; else KEELMARK_STORE, else the shipped one."),
]


def bundle_folder(named: str, store: Path | None) -> Path:
    """The folder that was meant.

    Raises:
        BundleNotFound: no such model or version.
        NothingLive: several versions, and none is marked live.
    """
    if (Path(named) / MANIFEST).exists():
        return Path(named)
    if looks_like_path(named):
        raise BundleNotFound(
            f"there is no bundle in {named}: a bundle is a folder with {MANIFEST}, and one of a "
            "store is named as `name` or `name/version`"
        )
    home = store_of(store)
    name, _, version = named.rstrip("/").replace("@", "/", 1).partition("/")
    return home.folder(name, version or home.resolve(name))


def looks_like_path(named: str) -> bool:
    """Whether a folder was meant, and not a model of the store."""
    return named.startswith((".", "/", "~")) or named.rstrip("/").count("/") > 1


def store_of(store: Path | None) -> Store:
    """The store that was named, or that a server started here would have."""
    return Store(load({"store": store}).settings.store)
