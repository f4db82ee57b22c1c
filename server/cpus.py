"""How many CPUs this process may use: those it may run on, and what its cgroup's quota allows."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> float:
    """CPUs, in parts of one where a quota allows parts.

    Args:
        cgroups: where the control groups are mounted.
        own: the file that says which of them are this process's.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    return min([cpus, *_quotas(cgroups, own)])


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The quotas of this process's control groups and of those around them."""
    try:
        lines = own.read_text("ascii").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _upwards(cgroups, path, _of_version_2)
        elif "cpu" in controllers.split(","):
            yield from _upwards(cgroups / "cpu", path, _of_version_1)


def _upwards(root: Path, path: str, quota_in: Callable[[Path], float | None]) -> Iterator[float]:
    # Inside a container the path may be the host's: then only the mount's own root is there.
    folder = root / path.lstrip("/")
    for each in (folder, *folder.parents):
        if each.is_relative_to(root) and (quota := quota_in(each)) is not None:
            yield quota


def _of_version_2(folder: Path) -> float | None:
    """`cpu.max`: microseconds in a period, as `150000 100000`, or `max 100000`."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _of_version_1(folder: Path) -> float | None:
    """Two files; a quota of -1 is none."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
