"""Files of the state folder that are replaced whole, and on the disk when that is done."""

import os
from pathlib import Path


def replace_synced(path: Path, content: bytes) -> None:
    """Puts a file into the place of another, or where there was none.

    Raises:
        OSError: the disk did not take it; the old one stands.
    """
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
