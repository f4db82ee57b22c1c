"""Folders that several processes write in: locks, files replaced whole, and what is on the disk."""

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def made(folder: Path) -> Path:
    """A new folder, and the folder of its model."""
    while True:
        # Somebody else may find the model's folder empty, and remove it, at any moment.
        with suppress(FileExistsError):
            folder.parent.mkdir(parents=True)
        with suppress(FileNotFoundError):
            folder.mkdir()
            return folder


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Generator[None]:
    """Exclusive among everybody who changes this folder through a `Store`.

    Raises:
        BlockingIOError: somebody else has it, and we are not to wait.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW * (not wait))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB * (not wait))
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, alone: bool = False) -> None:
    """Writes a file so that readers see the old or the new one, whole, also after a power cut.

    Args:
        path: in a folder that is there.
        content: all of it.
        alone: nobody else writes this file: what a killed process left beside it is written over,
            so that there is never more than one.

    Raises:
        OSError: the disk did not take it; the old one stands.
    """
    name = f"{path.name}.new" if alone else f".{path.name}.{secrets.token_hex(4)}"
    temporary = path.with_name(name)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
