"""What the machine tells of a process, and when one has been silent."""

import os
import subprocess
import sys
import time

import pytest

from server import usage
from server.usage import Silence, cpu_seconds, memory_bytes, waited_ns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")

BUSY = "import os, time\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


def test_a_heartbeat_late_by_waiting_for_a_cpu_is_no_silence(monkeypatch: pytest.MonkeyPatch):
    waited, began = 7_000_000_000, time.monotonic_ns()
    monkeypatch.setattr(usage, "waited_ns", lambda _: waited)
    silence = Silence(1)
    beat = began + 1_000_000_000
    assert silence.look(beat, beat + 50_000_000) == 50_000_000
    assert silence.look(beat, beat + 3_000_000_000) == 3_000_000_000
    waited += 2_900_000_000
    assert silence.look(beat, beat + 3_000_000_000) == 100_000_000
    assert silence.look(beat + 3_000_000_000, beat + 3_000_000_000) == 0


def test_before_the_first_heartbeat_silence_begins_with_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage, "waited_ns", lambda _: 0)
    before = time.monotonic_ns()
    silence = Silence(1)
    assert 0.9 < silence.look(0, before + 1_000_000_000) / 1e9 <= 1.0


def test_two_processes_on_one_cpu_wait_for_each_other():
    cpu = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BUSY % cpu]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        try:
            deadline = time.monotonic() + 20
            while waited_ns(one.pid) < 300_000_000 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert waited_ns(one.pid) >= 300_000_000
            assert cpu_seconds(one.pid) > 0.1
            assert memory_bytes(one.pid) > 1_000_000
        finally:
            one.kill()
            other.kill()


def test_of_a_process_that_has_gone_nothing_is_known():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert (cpu_seconds(gone.pid), memory_bytes(gone.pid), waited_ns(gone.pid)) == (0.0, 0, 0)
