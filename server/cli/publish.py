"""`keelmark publish`: a bundle into a store, and which version a server is to serve from now on."""

import getpass
import shutil
from pathlib import Path
from typing import Annotated

import typer

from models.gate import run_gate
from models.integrity import Contents, verified
from models.store import Store
from server.cli.bundles import AsJson, BundleName, StoreOption, bundle_folder, store_of
from server.cli.show import out, say_json


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
    as_json: AsJson = False,
) -> None:
    """Copies a bundle's folder into a store, after its gate; or marks one of the store live.

    A version that is in the store already, with the same content, is left as it is. Ends with 1 if
    the bundle does not pass, the version is taken by another, or the revision has changed, 4 if
    there is no such bundle.
    """
    home = store_of(store)
    folder = bundle_folder(bundle, store)
    contents = verified(folder)
    manifest = contents.manifest
    is_new = _publish(home, folder, contents)
    wish = None
    if live:
        who = by or getpass.getuser()
        wish = home.set_live(manifest.name, manifest.version, by=who, expected=expect_revision)
    where = home.folder(manifest.name, manifest.version)
    if as_json:
        say_json({"folder": str(where), "published": is_new, "live": wish})
        return
    out().print(f"{where} is {'published' if is_new else 'in the store'}", markup=False)
    if wish is not None:
        before = f", before {wish.previous}" if wish.previous else ""
        out().print(
            f"{manifest.name}: live is {wish.live}{before} (revision {wish.revision}); servers "
            "serve it from their next start on"
        )


def _publish(home: Store, folder: Path, contents: Contents) -> bool:
    """Whether the bundle was copied; not if the store has the same already."""
    manifest = contents.manifest
    there = home.root / manifest.name / manifest.version
    if there.exists() and (there.samefile(folder) or verified(there).digest == contents.digest):
        return False
    with home.aside(manifest.name, manifest.version) as aside:
        for path in folder.iterdir():
            shutil.copyfile(path, aside / path.name)
        run_gate(aside)
        home.publish(aside, verified(aside).manifest)
    return True
