"""Folders that several processes write in: locks, files replaced whole, and what is on the disk."""

import errno
import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MOST_TRIES: Final = 1000


def made(folder: Path) -> Path:
    """A new folder, and the folder of its model.

    Raises:
        OSError: it cannot be made; where a link leads nowhere, say.
    """
    for _ in range(MOST_TRIES):
        # Somebody else may find the model's folder empty, and remove it, at any moment.
        with suppress(FileExistsError):
            folder.parent.mkdir(parents=True)
        with suppress(FileNotFoundError):
            folder.mkdir()
            return folder
    raise FileNotFoundError(errno.ENOENT, "it is there, and leads nowhere", str(folder.parent))


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


def replace_file(path: Path, content: bytes, *, alone: bool = False, mode: int = 0o666) -> None:
    """Writes a file so that readers see the old or the new one, whole, also after a power cut.

    Args:
        path: in a folder that is there.
        content: all of it.
        alone: nobody else writes this file: what a killed process left beside it is written over,
            so that there is never more than one.
        mode: of the file, from its first moment on; less what the process's mask takes away.

    Raises:
        OSError: the disk did not take it; the old one stands.
    """
    name = f"{path.name}.new" if alone else f".{path.name}.{secrets.token_hex(4)}"
    temporary = path.with_name(name)
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
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
