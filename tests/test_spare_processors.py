"""A child process that stays behind requests while there is something left for it."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from models import child
from models.child import ChildLimits, ask_child
from tests.in_thread import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="idle scheduling is Linux'")

# On a busy machine, little is left for a child that stays behind.
LIMITS = ChildLimits(address_space_bytes=1 << 30, cpu_seconds=10, wall_seconds=170.0)


def policy(_: dict[str, Any]) -> bytes:
    """How the child is scheduled; it takes a while where it stays behind."""
    found = os.sched_getscheduler(0)
    if found == os.SCHED_IDLE:
        time.sleep(1)
    return str(found).encode()


def policy_later(task: dict[str, Any]) -> bytes:
    """The same of one that has had a processor to itself at first."""
    end = time.monotonic() + 1
    while os.sched_getscheduler(0) == os.SCHED_IDLE and time.monotonic() < end:
        pass
    return policy(task)


def asked(of: Callable[[dict[str, Any]], bytes] = policy) -> int:
    return int(ask_child(f"{__name__}:{of.__name__}", {}, LIMITS, threading.Event()))


@pytest.mark.parametrize("has_spare", [True, False])
def test_a_child_stays_behind_where_there_are_processors_to_spare(
    monkeypatch: pytest.MonkeyPatch, *, has_spare: bool
):
    monkeypatch.setattr(child, "has_spare_processors", lambda: has_spare)
    monkeypatch.setattr(child, "LEAST_SHARE", 0.0)
    assert asked() == (os.SCHED_IDLE if has_spare else os.SCHED_OTHER)


def test_a_child_that_gets_nothing_begins_again_with_its_share(monkeypatch: pytest.MonkeyPatch):
    """One that sleeps gets nothing either."""
    monkeypatch.setattr(child, "has_spare_processors", lambda: True)
    monkeypatch.setattr(child, "STARVING_SECONDS", 0.3)
    monkeypatch.setattr(child, "LEAST_SHARE", 0.9)
    assert asked() == os.SCHED_OTHER


def test_a_child_that_would_need_too_long_begins_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child, "has_spare_processors", lambda: True)
    monkeypatch.setattr(child, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(child, "PATIENCE", 0.5 / LIMITS.wall_seconds)
    assert asked() == os.SCHED_OTHER


def test_what_threads_of_a_process_have_run_counts():
    def work() -> None:
        while time.thread_time() < 0.3:
            pass

    before = child._ran_seconds(os.getpid())
    (thread := threading.Thread(target=work)).start()
    thread.join()
    assert 0.2 < child._ran_seconds(os.getpid()) - before < 60


def test_what_a_child_had_before_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child, "has_spare_processors", lambda: True)
    monkeypatch.setattr(child, "STARVING_SECONDS", 0.3)
    monkeypatch.setattr(child, "LEAST_SHARE", 0.2)
    assert asked(policy_later) == os.SCHED_OTHER


def test_a_busy_machine_has_nothing_to_spare(monkeypatch: pytest.MonkeyPatch):
    processors = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "getloadavg", lambda: (processors - 0.5, 0.0, 0.0))
    assert child.has_spare_processors()
    monkeypatch.setattr(os, "getloadavg", lambda: (float(processors), 0.0, 0.0))
    for idle, is_spare in ((4, False), (5, True)):
        ticks = iter([(1_000, 9_000), (1_000 + idle, 9_100)])
        monkeypatch.setattr(child, "_idle_and_all", lambda ticks=ticks: next(ticks))
        assert child.has_spare_processors() == is_spare


def test_the_time_of_processors_goes_on():
    idle, every = child._idle_and_all()
    assert 0 < idle < every
    assert until(lambda: child._idle_and_all()[1] > every)
