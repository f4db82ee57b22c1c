"""The state folder: what the server itself remembers, locked by the one server that uses it."""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from models.folders import replace_file
from server.settings import SettingsError

LOCK: Final = "lock"
RETRY_SECONDS: Final = 0.02
MOMENT_SECONDS: Final = 0.2
"""Whoever asks whether a server runs holds the lock for a moment: that is waited out."""
LAST_WORKER_SECONDS: Final = 5.0
"""So is the last worker of a server that was killed, which still has its lock."""
PORTS: Final = "ports.json"
"""Where the running server can be reached; commands started beside it read this."""


class Ports(msgspec.Struct, frozen=True):
    """Addresses of a running server, as URLs."""

    pid: int
    data: str
    ops: str


class StateFolder:
    """An open and locked state folder; the lock ends with the process, however it ends.

    Raises:
        SettingsError: it cannot be made or written, or another server has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            replace_file(path / ".gitignore", b"*\n")
            self._lock: Any = (path / LOCK).open("a+b")
        except OSError as error:
            raise SettingsError(
                f"the state folder {path} cannot be written ({error.strerror}); make it writable, "
                "or name another with --state-dir"
            ) from error
        try:
            _lock(self._lock, LAST_WORKER_SECONDS if _is_left_over(path) else MOMENT_SECONDS)
        except OSError as error:
            self._lock.close()
            raise SettingsError(
                f"the state folder {path} is in use by another server; stop that one, or name "
                f"another "
                "folder with --state-dir"
            ) from error

    @property
    def lock(self) -> int:
        """The lock's descriptor: every process that has it holds the lock."""
        return self._lock.fileno()

    def announce(self, ports: Ports) -> None:
        """Lets commands find this server."""
        replace_file(self.path / PORTS, msgspec.json.encode(ports), alone=True)

    def close(self) -> None:
        """Forgets the addresses and unlocks."""
        (self.path / PORTS).unlink(missing_ok=True)
        self._lock.close()


def running_server(path: Path) -> Ports | None:
    """The server that has this folder now, or None."""
    try:
        if not _is_locked(path):
            return None  # what stands there is left over
        return msgspec.json.decode((path / PORTS).read_bytes(), type=Ports)
    except OSError:
        return None  # no such folder, or a server that has only begun to start


def _is_left_over(path: Path) -> bool:
    """Whether the server that announced itself last has been killed."""
    try:
        pid = msgspec.json.decode((path / PORTS).read_bytes(), type=Ports).pid
    except (OSError, msgspec.MsgspecError):
        return False
    if pid == os.getpid():  # every server in a container has the same
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False


def _lock(file: Any, patience_seconds: float) -> None:
    for _ in range(round(patience_seconds / RETRY_SECONDS)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(RETRY_SECONDS)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    with (path / LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
