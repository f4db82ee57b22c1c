"""After SIGTERM load balancers have a while to look elsewhere; until then everybody is answered."""

import signal
import time
from pathlib import Path

from tests.serving import serving
from tests.tiny import GOOD, NAME


def test_new_connections_are_answered_for_the_delay_after_a_stop(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--drain-delay-seconds", "5") as server:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health/ready").status != 503:
            assert time.monotonic() - began < 5
        answer = server.predict(NAME, GOOD)
        assert (answer.status, answer.body["served_by"]) == (200, "model")
        assert server.process.wait(20) == 0
        assert time.monotonic() - began >= 5
