"""A shadow is a quiet rule: callers do not notice it, and under load it sees less."""

import json
import os
import statistics
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import call
from tests.in_thread import until
from tests.serving import Server, serving
from tests.swap_callers import Had, call_while
from tests.three import NAME, pack_versions, record
from tests.workers import Record

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
CONNECTIONS = 32
ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "5"))
SECONDS = float(os.environ.get("KEELMARK_TRIAL_SECONDS", "10"))
NOTICED = 1.2
"""More than so many times what two runs without a shadow differ by is noticed."""


class Shadowing:
    """A server of one process with a candidate, and what its shadow has done."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        call(f"/models/{NAME}/load", {"version": "2"}, server=None, state_dir=folder / "state")

    def share(self, share: float) -> None:
        """Of the requests that are copied."""
        body = {"version": "2", "share": share}
        call(f"/models/{NAME}/shadow", body, server=None, state_dir=self.folder / "state")

    def counted(self, metric: str, **labels: str) -> float:
        return self.server.samples()[metric, frozenset(labels.items())]

    def spare(self) -> dict[str, float]:
        """Copied rows by what became of them, up to now."""
        return {
            result: self.counted("keelmark_spare_work_total", kind="shadow", result=result)
            for result in ("done", "dropped", "failed")
        }

    def answered(self) -> float:
        """Rows that live has answered."""
        name = "keelmark_predictions_total"
        return self.counted(name, model=NAME, version="1", outcome="model")

    def during(self, do: Callable[[], Any]) -> tuple[Any, float]:
        """What something gives, and the share of the copies that were done meanwhile.

        Every row that live answered was copied, and every copy is counted.
        """
        before, rows = self.spare(), self.answered()
        gave = do()
        assert until(lambda: self._became(before) == self.answered() - rows, 60), self.spare()
        done = self.spare()["done"] - before["done"]
        assert self.spare()["failed"] == before["failed"]
        return gave, done / self._became(before)

    def _became(self, before: dict[str, float]) -> float:
        return sum(self.spare().values()) - sum(before.values())

    def called(self, seconds: float, rate: float | None) -> Had:
        """Callers in a process of their own."""
        had = call_while(
            self.server.port,
            None,
            self.folder,
            seconds=seconds,
            rate=rate,
            connections=CONNECTIONS,
        )
        assert had.failed == 0, had.wrong
        assert set(had.version.tolist()) == {1}
        return had


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shadowing]:
    folder = tmp_path_factory.mktemp("server")
    store = pack_versions(folder / "store", 2)
    with serving(store, folder, "--deadline-ms", "60000") as running:
        yield Shadowing(running, folder)


def test_under_load_less_is_copied_and_every_copy_is_counted(server: Shadowing):
    """One caller leaves time for almost all; many who leave none take it from the shadow."""

    def one_by_one() -> None:
        for _ in range(300):
            assert server.server.predict(NAME, record()).body["version"] == "1"

    server.share(1)
    _, quiet = server.during(one_by_one)
    _, busy = server.during(lambda: server.called(3.0, None))
    server.share(0)
    assert busy < quiet, (busy, quiet)


@pytest.mark.trial
@pytest.mark.timeout(3600)
def test_callers_do_not_notice_a_shadow_of_all_their_requests(
    server: Shadowing, record_property: Record
):
    """At 60 % of what the server can do, and at 95 %, where the shadow has to give way."""
    server.called(3.0, None)
    capacity = statistics.median(server.called(SECONDS / 2, None).rate for _ in range(3))
    record_property("capacity", capacity)
    shares: dict[float, float] = {}
    for load in (0.6, 0.95):
        without: list[list[float]] = []
        shadowed: list[float] = []
        done: list[float] = []
        for turn in range(ROUNDS):
            pair: list[float] = []
            for kind in ("aas", "asa", "saa")[turn % 3]:
                server.share(1 if kind == "s" else 0)
                if kind == "a":
                    pair.append(server.called(SECONDS, load * capacity).percentile_ms(99))
                else:
                    calls = partial(server.called, SECONDS, load * capacity)
                    had, share = server.during(calls)
                    shadowed.append(had.percentile_ms(99))
                    done.append(share)
            without.append(pair)
        server.share(0)
        spread = max(max(pair) / min(pair) for pair in without)
        usual = statistics.median(p99 for pair in without for p99 in pair)
        ratio = statistics.median(shadowed) / usual
        shares[load] = statistics.median(done)
        told = {
            "p99_ms": round(usual, 3),
            "shadowed_p99_ms": [round(p99, 3) for p99 in shadowed],
            "spread": round(spread, 3),
            "ratio": round(ratio, 3),
            "done": round(shares[load], 3),
        }
        record_property(f"at {load:.0%}", json.dumps(told))
        assert ratio <= NOTICED * spread, told
    assert shares[0.95] < shares[0.6]
