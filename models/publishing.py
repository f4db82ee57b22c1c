"""A bundle's folder into a store: copied, examined there, and put into its place in one step.

Nothing is believed of the folder but what was read once: what is published is what passed its gate,
whatever becomes of the folder meanwhile. What is refused leaves nothing behind, and what a killed
process leaves is hidden, and removed by a later publish.
"""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from models.errors import BundleCorrupt, StoreError, VersionTaken
from models.gate import run_gate
from models.integrity import Contents, verified
from models.manifest import MANIFEST, SIGNATURE, Manifest
from models.store import Store

CHUNK_BYTES: Final = 1 << 20


class Published(NamedTuple):
    """What came of it.

    Attributes:
        manifest: of the bundle.
        is_new: whether the store has it only now, or would have; else it has had the same before.
    """

    manifest: Manifest
    is_new: bool


def publish_folder(store: Store, folder: Path, *, dry_run: bool = False) -> Published:
    """Copies a bundle into a store, unless it is there already. Any number may do so at once.

    Args:
        store: that is to have it.
        folder: the bundle.
        dry_run: does all but the last step: copies, examines and compares, and leaves nothing.

    Raises:
        BundleError: it is no bundle, does not pass its gate, or was changed while it was copied.
        VersionTaken: the store has the version with another content.
        DefinitionChanged: the store has another definition of its features.
        StoreError: the store cannot be written, or a file of the folder cannot be read.
    """
    contents = verified(folder)
    manifest = contents.manifest
    if _has(store, folder, contents):
        return Published(manifest, is_new=False)
    try:
        with store.aside(manifest.name, manifest.version) as aside:
            _copy(folder, aside, contents)
            _examine(folder, aside, contents)
            if dry_run:
                store.check_new(aside, manifest)
            else:
                store.publish(aside, manifest)
    except VersionTaken:
        if _has(store, folder, contents):  # somebody else was quicker, with the same
            return Published(manifest, is_new=False)
        raise
    except OSError as error:
        raise StoreError(
            f"the store {store.root} did not take {manifest.name}/{manifest.version} "
            f"({error.strerror}), and nothing was published. Make room there, or make it writable, "
            "and publish again."
        ) from error
    return Published(manifest, is_new=True)


def _has(store: Store, folder: Path, contents: Contents) -> bool:
    """Whether the store has this very bundle.

    Raises:
        BundleError: what it has under this name is spoilt.
    """
    there = store.root / contents.manifest.name / contents.manifest.version
    if not there.exists():
        return False
    return there.samefile(folder) or verified(there).digest == contents.digest


def _copy(folder: Path, aside: Path, contents: Contents) -> None:
    """The files that the manifest lists, and no others."""
    names = [entry.name for entry in contents.manifest.files]
    if (folder / SIGNATURE).exists():
        names.append(SIGNATURE)
    for name in (MANIFEST, *names):
        _copy_file(folder / name, aside / name)


def _copy_file(source: Path, target: Path) -> None:
    """As much as it has now: one that grows meanwhile does not fill the store's disk."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(
            f"bundle {source.parent}: {source.name} cannot be read ({error.strerror}), and nothing "
            "was published. Make it readable, find out who writes there, and publish again."
        ) from error
    with os.fdopen(descriptor, "rb") as reading, target.open("xb") as writing:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _changed(source.parent)
        left = found.st_size
        while left and (piece := reading.read(min(left, CHUNK_BYTES))):
            left -= writing.write(piece)


def _examine(folder: Path, aside: Path, contents: Contents) -> None:
    report = run_gate(aside)
    if report.digest != contents.digest:
        raise _changed(folder)


def _changed(folder: Path) -> BundleCorrupt:
    return BundleCorrupt(
        f"bundle {folder} was changed while it was copied, and nothing was published; a bundle "
        "never changes. Find out who writes there, and publish again."
    )
