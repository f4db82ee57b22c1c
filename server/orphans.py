"""Ending with the supervisor, however it ends, and not before: no process of a server outlives it.

Standard library only: the dealer imports it.
"""

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends; first thing to do.

    What asks a server to stop may ask all of its processes at once, as systemd does: the supervisor
    hears it, answers what is under way through the others, and tells them when to end.

    Raises:
        SystemExit: the parent has ended already.
    """
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the supervisor has ended")
