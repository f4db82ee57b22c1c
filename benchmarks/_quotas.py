"""Processes held to a share of a CPU by a cgroup's quota, where the machine lets us make one."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

V1: Final = Path("/sys/fs/cgroup/cpu")
V2: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 10_000
"""A tenth of the usual one: a process that has used up its share waits milliseconds, not tens."""


class NoQuota(Exception):
    """The machine does not let us hold processes to a share, and why."""


@contextlib.contextmanager
def quota(name: str, share: float) -> Generator[Path]:
    """A cgroup whose processes together get this share of one CPU; gone when the block ends.

    Raises:
        NoQuota: it cannot be made.
    """
    is_v1 = (V1 / "cpu.cfs_quota_us").exists()
    folder = (V1 if is_v1 else V2) / f"bench-{os.getpid()}-{name}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoQuota(f"no cgroup can be made in {folder.parent}: {error.strerror}") from error
    try:
        used = round(PERIOD_US * share)
        try:
            if is_v1:
                (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (folder / "cpu.cfs_quota_us").write_text(str(used))
            else:
                (folder / "cpu.max").write_text(f"{used} {PERIOD_US}")
        except OSError as error:
            raise NoQuota(f"{folder} takes no quota: {error.strerror}") from error
        yield folder
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def put(pid: int, folder: Path) -> None:
    """Moves a process with all its threads into a cgroup; what it starts later stays there too."""
    (folder / "cgroup.procs").write_text(str(pid))
