"""The gate's own process: limits first, then everything else.

Started as `python -I -B` on this file with an empty environment. It imports nothing of ours, and no
numpy,
until the limits hold and the network is gone: numpy starts threads, and a process with threads can
no longer leave its namespace.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
LARGEST_FILE_BYTES: Final = 1 << 20
"""The child writes what it says on stderr, and copies of the models if it is told where."""


def main() -> None:
    """Reads its task from the command line and writes the verdict to the given pipe."""
    pipe, task = int(sys.argv[1]), json.loads(sys.argv[2])
    limit(task)
    network = "isolated" if leave_network() else "not isolated"
    sys.path[:] = task["path"]
    from models.gate import verdict_of

    copies = task["copies"]
    into = None if copies is None else Path(copies)
    answer = verdict_of(Path(task["folder"]), network=network, copies=into)
    with os.fdopen(pipe, "wb") as out:
        out.write(answer)


def limit(task: dict[str, Any]) -> None:
    """Address space, processor time, file size, no core files."""
    seconds = task["cpu_seconds"]
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)
    _limit(resource.RLIMIT_AS, task["address_space_bytes"], task["address_space_bytes"])
    _limit(resource.RLIMIT_CORE, 0, 0)
    most = max(LARGEST_FILE_BYTES, task["copy_bytes"])
    _limit(resource.RLIMIT_FSIZE, most, most)


def _limit(which: int, soft: int, hard: int) -> None:
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


def leave_network() -> bool:
    """Moves into an empty network namespace, where the machine allows it."""
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):  # not Linux
        return False
    return unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0


if __name__ == "__main__":
    main()
