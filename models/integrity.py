"""Whether a bundle's folder is, byte for byte, what was packed.

A bundle is a flat folder of regular files. Its manifest lists every other file with size and
sha256; what is missing, short, altered, unlisted, a link or a folder is refused by name, before
anything is parsed.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

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
from models.standing_back import standing_back

CHUNK_BYTES: Final = 1 << 20
MOST_MANIFEST_BYTES: Final = 16 << 20
MOST_KEPT_BYTES: Final = 256 << 20
"""Of a file that is read whole: definitions, golden rows, the card."""
BY_PATH: Final = (MODEL, BASELINE)
"""Models are not kept: onnxruntime opens them by path, which does not stall other threads."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which bytes a path led to: another file there, or another content of it, has another one."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    """Nobody can set it back, and moving a file away and back changes it."""

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        """What `stat` found."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Contents:
    """A verified folder: the manifest, its digest, and the bytes of the small files by name.

    Models are opened by path later; `stamps` has what they were before they were hashed.
    """

    manifest: Manifest
    digest: str
    files: dict[str, bytes]
    stamps: dict[str, Stamp]


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
    content = _small(folder, MANIFEST, MOST_MANIFEST_BYTES).content
    if SIGNATURE in found:
        _small(folder, SIGNATURE, MOST_MANIFEST_BYTES)
    manifest = read(Manifest, content, what=f"bundle {folder}: {MANIFEST}")
    _check_listing(folder, manifest, found)
    read_files = {entry.name: _check_file(folder, entry) for entry in manifest.files}
    return Contents(
        manifest,
        hashlib.sha256(content).hexdigest(),
        {name: file.content for name, file in read_files.items() if name not in BY_PATH},
        {name: file.stamp for name, file in read_files.items() if name in BY_PATH},
    )


def check_unchanged(folder: Path, contents: Contents, name: str) -> None:
    """Refuses a model that is not the one that was hashed; called after it was opened by path.

    Raises:
        BundleCorrupt: it was replaced or written to meanwhile.
    """
    try:
        now = Stamp.of((folder / name).lstat())
    except OSError:
        now = None
    if now != contents.stamps[name]:
        raise BundleCorrupt(
            f"bundle {folder}: {name} was changed while it was opened; a bundle never changes. "
            "Find out who writes there, and copy the bundle again."
        )


def file_entry(path: Path) -> FileEntry:
    """What the manifest says of a file."""
    file = _read(path, keep=False)
    return FileEntry(name=path.name, size=file.size, sha256=file.sha256)


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


def _small(folder: Path, name: str, most: int) -> "_File":
    """A file that is read whole, whose size is known only when it is looked at."""
    file = _read(folder / name, keep=True, most=most)
    if file.size > most:
        raise BundleCorrupt(
            f"bundle {folder}: {name} has {file.size} bytes; at most {most} are read; {AGAIN}"
        )
    return file


def _check_file(folder: Path, entry: FileEntry) -> "_File":
    keep = entry.name not in BY_PATH
    if keep and entry.size > MOST_KEPT_BYTES:
        raise BundleCorrupt(
            f"bundle {folder}: {MANIFEST} gives {entry.name} {entry.size} bytes; a file other than "
            f"a model has at most {MOST_KEPT_BYTES}; {AGAIN}"
        )
    read_it = partial(_read, folder / entry.name, keep=keep, most=entry.size)
    file = standing_back(entry.size, read_it)
    size, digest = file.size, file.sha256
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
    return file


class _File(NamedTuple):
    size: int
    sha256: str
    content: bytes
    stamp: Stamp


def _read(path: Path, *, keep: bool, most: int | None = None) -> _File:
    """A file with, if kept, the bytes that were hashed: nobody can swap them in between.

    Of one that is larger than `most` nothing is read but its size.
    """
    digest, size, pieces = hashlib.sha256(), 0, list[bytes]()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BundleCorrupt(
            f"bundle {path.parent}: {path.name} cannot be opened: {error.strerror}; {AGAIN}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        stamp = Stamp.of(os.fstat(descriptor))
        if most is not None and stamp.size > most:
            return _File(stamp.size, "", b"", stamp)
        while (most is None or size <= most) and (piece := file.read(CHUNK_BYTES)):
            digest.update(piece)
            size += len(piece)
            if keep:
                pieces.append(piece)
    return _File(size, digest.hexdigest(), b"".join(pieces), stamp)
