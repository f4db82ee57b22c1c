"""`keelmark publish`: a bundle into a store, and which version a server is to serve from now on."""

import getpass
from typing import Annotated

import typer

from models.errors import StoreError
from models.manifest import Manifest
from models.publishing import publish_folder
from models.store import LiveWish, Store
from server.cli.bundles import BundleName, StoreOption, bundle_folder, store_of
from server.cli.options import AsJson
from server.cli.show import out, say_json
from server.settings import SettingsError


def publish(
    bundle: BundleName,
    *,
    store: StoreOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Mark it live: what servers serve when they start.")
    ] = False,
    expect_revision: Annotated[
        int | None,
        typer.Option(help="With --live: only if nobody has marked another since this revision."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who says so; else the user's name.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Examine it and say what would be done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copies a bundle's folder into a store, after its gate; or marks one of the store live.

    A version that is in the store already, with the same content, is left as it is. Ends with 1 if
    the bundle does not pass, the version is taken by another, or the revision has changed, 4 if
    there is no such bundle or the store cannot be written.
    """
    home = store_of(store)
    who = (by or _user()) if live else None
    manifest, is_new = publish_folder(home, bundle_folder(bundle, store), dry_run=dry_run)
    wish = None
    if who is not None:
        wish = _wish(home, manifest, who, expect_revision, dry_run=dry_run)
    where = home.root / manifest.name / manifest.version
    if as_json:
        shown = {"folder": str(where), "published": is_new, "live": wish, "dry_run": dry_run}
        say_json(shown)
        return
    done = "would be published" if dry_run else "is published"
    out().print(f"{where} {done if is_new else 'is in the store'}", markup=False)
    if wish is not None:
        before = f", before {wish.previous}" if wish.previous else ""
        out().print(
            f"{manifest.name}: live {'would be' if dry_run else 'is'} {wish.live}{before} "
            f"(revision {wish.revision}); servers that follow the store move to it, others serve "
            "it when they first start"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # in a container, say
        raise SettingsError("the user has no name here; say with --by who does this") from error


def _wish(
    store: Store, manifest: Manifest, who: str, expected: int | None, *, dry_run: bool
) -> LiveWish:
    name, version = manifest.name, manifest.version
    make = store.next_wish if dry_run else store.set_live
    try:
        return make(name, version, by=who, expected=expected)
    except OSError as error:
        raise StoreError(
            f"the store {store.root} did not take the wish for {name}/{version} "
            f"({error.strerror}), and which version is to be live stands as it was. Make room "
            "there, or make it writable, and repeat."
        ) from error
