"""Whether a bundle's folder is, byte for byte, what was packed.

A bundle is a flat folder of regular files. Its manifest lists every other file with size and
sha256; what is missing, short, altered, unlisted, a link or a folder is refused by name, before
anything is parsed.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.errors import BundleCorrupt, BundleNotFound
from models.manifest import (
    AGAIN,
    BASELINE,
    MANIFEST,
    MODEL,
    OPTIONAL,
    REQUIRED,
    SIGNATURE,
    FileEntry,
    Manifest,
    read,
)

CHUNK_BYTES: Final = 1 << 20
BY_PATH: Final = (MODEL, BASELINE)
"""Models are not kept: onnxruntime opens them by path, which does not stall other threads."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A verified folder: the manifest, its digest, and the bytes of the small files by name."""

    manifest: Manifest
    digest: str
    files: dict[str, bytes]


def verified(folder: Path) -> Contents:
    """Reads a bundle's folder and compares every file with the manifest.

    Raises:
        BundleNotFound: there is no such folder.
        FormatUnknown: another bundle format.
        BundleCorrupt: any difference; the message names the file and what to do.
    """
    found = _regular_files(folder)
    if MANIFEST not in found:
        raise BundleCorrupt(f"bundle {folder}: {MANIFEST} is missing; {AGAIN}")
    content = (folder / MANIFEST).read_bytes()
    manifest = read(Manifest, content, what=f"bundle {folder}: {MANIFEST}")
    _check_listing(folder, manifest, found)
    files: dict[str, bytes] = {}
    for entry in manifest.files:
        kept = _check_file(folder, entry)
        if kept is not None:
            files[entry.name] = kept
    return Contents(manifest, hashlib.sha256(content).hexdigest(), files)


def file_entry(path: Path) -> FileEntry:
    """What the manifest says of a file."""
    size, digest, _ = _read(path, keep=False)
    return FileEntry(name=path.name, size=size, sha256=digest)


def _regular_files(folder: Path) -> set[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleNotFound(f"no bundle at {folder}; check the store and the version") from error
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            raise BundleCorrupt(
                f"bundle {folder}: {entry.name} is {_kind(mode)}; a bundle is a flat folder of "
                "regular files. Remove it, or copy the bundle with its files instead of links."
            )
    return {entry.name for entry in entries}


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a folder" if stat.S_ISDIR(mode) else "no file"


def _check_listing(folder: Path, manifest: Manifest, found: set[str]) -> None:
    listed = [entry.name for entry in manifest.files]
    where = f"bundle {folder}"
    if strangers := sorted(set(listed) - {*REQUIRED, *OPTIONAL}):
        raise BundleCorrupt(
            f"{where}: {MANIFEST} lists {strangers}, which format 1 has not; {AGAIN}"
        )
    if absent := sorted(set(REQUIRED) - set(listed)):
        raise BundleCorrupt(f"{where}: {MANIFEST} does not list {absent}; {AGAIN}")
    if len(set(listed)) != len(listed):
        raise BundleCorrupt(f"{where}: {MANIFEST} lists a file twice; {AGAIN}")
    if missing := sorted(set(listed) - found):
        raise BundleCorrupt(f"{where}: {missing} missing; {AGAIN}")
    if extra := sorted(found - set(listed) - {MANIFEST, SIGNATURE}):
        raise BundleCorrupt(
            f"{where}: {extra} not in {MANIFEST}; a bundle has only the files it was packed with. "
            "Remove what does not belong there."
        )


def _check_file(folder: Path, entry: FileEntry) -> bytes | None:
    size, digest, content = _read(folder / entry.name, keep=entry.name not in BY_PATH)
    if size != entry.size:
        word = "truncated" if size < entry.size else "longer than packed"
        raise BundleCorrupt(
            f"bundle {folder}: {entry.name} is {word}: {size} bytes, expected {entry.size}; {AGAIN}"
        )
    if digest != entry.sha256:
        raise BundleCorrupt(
            f"bundle {folder}: {entry.name} was altered: its sha256 is {digest[:12]}…, expected "
            f"{entry.sha256[:12]}…; {AGAIN}"
        )
    return content


def _read(path: Path, *, keep: bool) -> tuple[int, str, bytes | None]:
    """Size, sha256 and, if kept, the bytes that were hashed: nobody can swap them in between."""
    digest, size, pieces = hashlib.sha256(), 0, list[bytes]()
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
            if keep:
                pieces.append(piece)
    return size, digest.hexdigest(), b"".join(pieces) if keep else None
