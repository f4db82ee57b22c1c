"""What a process uses of the machine, as Linux tells it."""

import os
import time
from pathlib import Path
from typing import Final

TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads, also while nobody has waited for it; 0 if it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def memory_bytes(pid: int) -> int:
    """Resident memory; 0 if it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def waited_ns(pid: int) -> int:
    """How long its main thread was ready to run and had no CPU; 0 where that is not known."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_bytes().split()[1])
    except OSError:
        return 0


class Silence:
    """How long a process has given no sign of life though it had a CPU.

    The age of its heartbeat, less how much longer it has waited for a CPU since: a busy process on
    starved cores is late, and not stuck.
    """

    __slots__ = ("_beat_ns", "_pid", "_waited_ns")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._beat_ns = time.monotonic_ns()
        self._waited_ns = 0

    def look(self, beat_ns: int, now_ns: int) -> int:
        """Nanoseconds of silence; to be called a few times a second.

        Args:
            beat_ns: the latest heartbeat, monotonic; 0 before the first.
            now_ns: monotonic.
        """
        if beat_ns > self._beat_ns:
            self._beat_ns = beat_ns
            self._waited_ns = waited_ns(self._pid)
        return now_ns - self._beat_ns - (waited_ns(self._pid) - self._waited_ns)
