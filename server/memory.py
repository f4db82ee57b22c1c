"""How much of the machine's memory is free."""

import contextlib
from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
CGROUP: Final = Path("/sys/fs/cgroup")


def free_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """What processes here may still take: of the machine, and of the cgroup if that is less.

    None where nobody says, which is everywhere but on Linux.
    """
    found = [free for free in (_of_machine(meminfo), _of_cgroup(cgroup)) if free is not None]
    return min(found, default=None)


def _of_machine(meminfo: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_cgroup(folder: Path) -> int | None:
    """Of version 2 the limit less what is used and cannot be dropped."""
    with contextlib.suppress(OSError, ValueError):
        most = (folder / "memory.max").read_text("ascii").strip()
        if most != "max":
            used = int((folder / "memory.current").read_text("ascii"))
            return max(0, int(most) - used + _droppable(folder))
    return None


def _droppable(folder: Path) -> int:
    """Pages of files, which the machine drops before it refuses anybody."""
    for line in (folder / "memory.stat").read_text("ascii").splitlines():
        name, _, number = line.partition(" ")
        if name == "inactive_file":
            return int(number)
    return 0
