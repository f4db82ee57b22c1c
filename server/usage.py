"""What a process uses of the machine, as Linux tells it."""

import os
import time
from pathlib import Path
from typing import Final

TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
LONG_NS: Final = 500_000_000
"""Of silence, from which on it is worth a closer look."""


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


def scheduled_ns(pid: int) -> tuple[int, int]:
    """How long its main thread has run, and was ready to run and had no CPU; 0 if not known.

    A wait is counted when it is over.
    """
    try:
        ran, waited = Path(f"/proc/{pid}/task/{pid}/schedstat").read_bytes().split()[:2]
    except (OSError, ValueError):
        return 0, 0
    return int(ran), int(waited)


def is_runnable(pid: int) -> bool:
    """Whether its main thread runs or waits for a CPU."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except OSError:
        return False


class Silence:
    """How long a process has given no sign of life though it had a CPU.

    The age of its heartbeat, less how much longer it has waited for a CPU since: a busy process on
    starved cores is late, and not stuck. A wait that goes on is one too: a process that is ready to
    run and has not run since an earlier look.
    """

    __slots__ = ("_beat_ns", "_pid", "_ran_at_ns", "_ran_ns", "_waited_ns")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._beat_ns = self._ran_at_ns = time.monotonic_ns()
        self._ran_ns = self._waited_ns = 0

    def look(self, beat_ns: int, now_ns: int) -> int:
        """Nanoseconds of silence; to be called a few times a second.

        Args:
            beat_ns: the latest heartbeat, monotonic; 0 before the first.
            now_ns: monotonic.
        """
        ran_ns, waited_ns = scheduled_ns(self._pid)
        if beat_ns > self._beat_ns:
            self._beat_ns, self._waited_ns = beat_ns, waited_ns
        if ran_ns != self._ran_ns:
            self._ran_ns, self._ran_at_ns = ran_ns, now_ns
        silence_ns = now_ns - self._beat_ns - (waited_ns - self._waited_ns)
        if silence_ns > LONG_NS and is_runnable(self._pid):
            silence_ns -= max(0, now_ns - max(self._ran_at_ns, self._beat_ns))
        return silence_ns
