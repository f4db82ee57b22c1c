"""After SIGTERM load balancers have a while to look elsewhere; until then everybody is answered."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from server.events import events_in
from tests.serving import serving
from tests.tiny import GOOD, NAME
from tests.workers import ARGUMENTS, Load, children_of, known_answers, wait_until


def test_new_connections_are_answered_for_the_delay_after_a_stop(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--drain-delay-seconds", "5") as server:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health/ready").status != 503:
            assert time.monotonic() - began < 5
        answer = server.predict(NAME, GOOD)
        assert (answer.status, answer.body["served_by"]) == (200, "model")
        assert server.process.wait(60) == 0
        assert time.monotonic() - began >= 5


@pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
def test_who_asks_all_processes_at_once_to_stop_loses_nothing(store: Path, tmp_path: Path):
    """As systemd does: they end when the first of them says so, not before."""
    known = known_answers(store)
    with serving(store, tmp_path, *ARGUMENTS) as server, Load(server.port, 8, known, 0.002) as load:
        wait_until(lambda: load.told > 100)
        processes = children_of(server.process.pid, "server.")
        assert len(processes) == 3
        for process in [*processes, server.process.pid]:
            os.kill(process, signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert load.failures == []
    assert load.lost == 0
    kinds = [event.kind for event in events_in(tmp_path / "state")]
    assert {"worker_replaced", "dealer_replaced"} & {*kinds} == set()
    assert kinds[-1] == "stopped"
