"""No process of a server outlives the one that started it, whatever it is doing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of a parent's death")

CHILD = """
import sys
from server.orphans import die_with
die_with(int(sys.argv[1]))
print("busy", flush=True)
while True: pass
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_that_hears_nothing_dies_with_its_parent():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        (child,) = said - {"busy"}
        parent.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists()


def test_a_child_whose_parent_has_gone_ends_at_once():
    command = [sys.executable, "-c", CHILD, "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "the supervisor has ended" in ran.stderr
