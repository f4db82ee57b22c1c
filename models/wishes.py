"""The wishes of a store, looked at often and cheaply; and how a bundle's folder lies there."""

import hashlib
import os
import re
from typing import Final

from models.errors import StoreError
from models.integrity import Stamp
from models.manifest import MODEL_NAME
from models.store import LIVE, LiveWish, Store

NOT_THERE: Final = ""
"""The mark of a folder that is not there."""


class WishReader:
    """Reads wishes again only where their file is another one: a look is one `stat` a model.

    For one thread at a time.

    Args:
        store: that is looked at.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[Stamp, LiveWish]] = {}

    def names(self) -> list[str]:
        """What may be models, sorted.

        Raises:
            StoreError: the store cannot be read.
        """
        root = self._store.root
        try:
            names = [entry.name for entry in os.scandir(root)]
        except OSError as error:
            raise StoreError(f"the store {root} cannot be read ({error.strerror})") from error
        return sorted(name for name in names if re.fullmatch(MODEL_NAME, name))

    def read(self, name: str) -> LiveWish | None:
        """The wish for a model as it is now, if one was made.

        Raises:
            ServingError, OSError: it cannot be read; the message says why.
        """
        try:
            stamp = Stamp.of((self._store.root / name / LIVE).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        known = self._known.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        wish = self._store.live(name)
        if wish is not None:
            self._known[name] = stamp, wish
        return wish


def mark_of(store: Store, name: str, version: str) -> str:
    """Tells a bundle's folder as it lies there from one that was copied or repaired since.

    Nothing is read: names, sizes and times of its files; `NOT_THERE` where there is none.
    """
    digest, is_there = hashlib.sha256(), False
    try:
        for entry in sorted(os.scandir(store.root / name / version), key=lambda entry: entry.name):
            is_there = True
            stamp = Stamp.of(entry.stat(follow_symlinks=False))
            digest.update(os.fsencode(entry.name))
            digest.update(f"\n{stamp.inode} {stamp.size} {stamp.mtime_ns}\n".encode())
    except OSError:
        return NOT_THERE
    return digest.hexdigest() if is_there else NOT_THERE
