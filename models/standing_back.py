"""Work on large models for which nobody may wait: it stands back behind whoever answers requests.

Reading a hundred megabytes of trees takes a processor seconds, as does making sure that they are
what was examined. On processors that are busy, callers would have to wait for it. Before a process
serves, and in one that examines, somebody waits for the work itself, and it does not stand back.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

LARGE_BYTES: Final = 4 << 20
"""What is smaller is done within milliseconds."""
LOWEST_PRIORITY: Final = 19


_is_serving = threading.Event()


def stand_back_from_now_on() -> None:
    """This process has begun to serve."""
    _is_serving.set()


def standing_back(n_bytes: int, work: Callable[[], T]) -> T:
    """What some work gives that leaves the interpreter to others: onnxruntime's, or hashing.

    Args:
        n_bytes: that it reads; where they are many it is done in a thread that has only what others
            leave of the processors.
        work: what is to be done.
    """
    if n_bytes < LARGE_BYTES or not _is_serving.is_set():
        return work()
    with ThreadPoolExecutor(1, "keelmark-behind", _stand_back) as behind:
        return behind.submit(work).result()


def _stand_back() -> None:
    """For the thread that calls, and for good: only root may put it forward again."""
    if sys.platform == "linux":  # elsewhere processes have priorities, and threads none
        with contextlib.suppress(OSError):  # not allowed here: then it does not stand back
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
