"""What the machine tells of a process, and when one has been silent."""

import os
import subprocess
import sys
import time

import pytest

from server import usage
from server.usage import Silence, cpu_seconds, is_runnable, memory_bytes, scheduled_ns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")

BUSY = "import os, time\nos.sched_setaffinity(0, {%d})\nwhile True: pass"


def test_a_heartbeat_late_by_waiting_for_a_cpu_is_no_silence(monkeypatch: pytest.MonkeyPatch):
    waited, began = 7_000_000_000, time.monotonic_ns()
    monkeypatch.setattr(usage, "scheduled_ns", lambda _: (0, waited))
    silence = Silence(1)
    beat = began + 1_000_000_000
    assert silence.look(beat, beat + 50_000_000) == 50_000_000
    assert silence.look(beat, beat + 3_000_000_000) == 3_000_000_000
    waited += 2_900_000_000
    assert silence.look(beat, beat + 3_000_000_000) == 100_000_000
    assert silence.look(beat + 3_000_000_000, beat + 3_000_000_000) == 0


def test_a_wait_for_a_cpu_that_goes_on_is_no_silence_either(monkeypatch: pytest.MonkeyPatch):
    """It is in the kernel's sum only when it is over; a process that is stopped does not wait."""
    ran, runnable = 1_000, True
    monkeypatch.setattr(usage, "scheduled_ns", lambda _: (ran, 0))
    monkeypatch.setattr(usage, "is_runnable", lambda _: runnable)
    silence = Silence(1)
    second = 1_000_000_000
    beat = time.monotonic_ns() + second
    assert silence.look(beat, beat) == 0
    ran += 1
    assert silence.look(beat, beat + second) == second  # it has run since the look before
    assert silence.look(beat, beat + 3 * second) == second
    runnable = False
    assert silence.look(beat, beat + 3 * second) == 3 * second
    runnable, ran = True, ran + 1
    assert silence.look(beat, beat + 4 * second) == 4 * second


def test_before_the_first_heartbeat_silence_begins_with_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(usage, "scheduled_ns", lambda _: (0, 0))
    before = time.monotonic_ns()
    silence = Silence(1)
    assert 0.9 < silence.look(0, before + 1_000_000_000) / 1e9 <= 1.0


def test_two_processes_on_one_cpu_wait_for_each_other():
    cpu = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", BUSY % cpu]
    with subprocess.Popen(command) as one, subprocess.Popen(command) as other:
        try:
            deadline = time.monotonic() + 20
            while scheduled_ns(one.pid)[1] < 300_000_000 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert scheduled_ns(one.pid)[1] >= 300_000_000
            assert cpu_seconds(one.pid) > 0
            assert memory_bytes(one.pid) > 1_000_000
        finally:
            one.kill()
            other.kill()


def test_of_a_process_that_has_gone_nothing_is_known():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert (cpu_seconds(gone.pid), memory_bytes(gone.pid)) == (0.0, 0)
    assert (scheduled_ns(gone.pid), is_runnable(gone.pid)) == ((0, 0), False)
