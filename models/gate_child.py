"""The process of the gate, or of another task of `models.child`: limits first, then all else.

Started as `python -I -B` on this file with an empty environment. It imports nothing of ours, and no
numpy, until the limits hold and the network is gone: numpy starts threads, and a process with
threads can no longer leave its namespace. It ends with whoever started it, who would otherwise find
it at work in the same folder when it is started again.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any, Final

CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
PR_SET_PDEATHSIG: Final = 1
LARGEST_FILE_BYTES: Final = 1 << 20
"""The child writes what it says on stderr, and copies of the models if it is told where."""


def main() -> None:
    """Reads its task from the command line and writes the answer to the given pipe."""
    pipe, task = int(sys.argv[1]), json.loads(sys.argv[2])
    limit(task)
    if task["is_spare"]:
        give_way()
    network = "isolated" if leave_network() else "not isolated"
    end_with(task["parent"])
    sys.path[:] = task["path"]
    module, _, name = task["answers"].partition(":")
    answer = getattr(importlib.import_module(module), name)(task | {"network": network})
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


def give_way() -> None:
    """Takes only what nobody else wants of the processors; what it imports and starts too."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (OSError, AttributeError):  # not Linux
        return


def leave_network() -> bool:
    """Moves into an empty network namespace, where the machine allows it."""
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):  # not Linux
        return False
    return unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0


def end_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that waits for it ends, on Linux.

    After the namespaces have been left: a change of credentials would undo it.

    Raises:
        SystemExit: the parent has ended already.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):  # not Linux
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("whoever started this has ended")


if __name__ == "__main__":
    main()
