"""The state folder's lock, which the workers of a server hold too."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.settings import SettingsError
from server.state_folder import Ports, StateFolder, running_server


def left_by(pid: int, path: Path) -> int:
    """A folder whose server has gone without a word; the lock's descriptor is a last worker's."""
    folder = StateFolder(path)
    folder.announce(Ports(pid, "data", "ops"))
    last = os.dup(folder.lock)
    folder._lock.close()
    assert running_server(path) is not None
    return last


def test_the_last_worker_of_a_server_that_was_killed_is_waited_for(tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):  # in a container every server has the same
        last = left_by(pid, tmp_path)
        timer = threading.Timer(0.5, os.close, [last])
        timer.start()
        StateFolder(tmp_path).close()
        timer.join()
        assert running_server(tmp_path) is None


def test_a_server_that_runs_is_not_waited_for(tmp_path: Path):
    last = left_by(os.getppid(), tmp_path)
    timer = threading.Timer(2.0, os.close, [last])
    timer.start()
    with pytest.raises(SettingsError, match="in use by another server"):
        StateFolder(tmp_path)
    timer.join()
