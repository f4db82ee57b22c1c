"""How workers do as processes: the lag of their loops, the work of their threads."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from server.exposition import Exposition
from server.http_counters import PATHS, HttpCounters
from server.vitals import LOOK_SECONDS, Pulse, Read, read_vitals
from tests.in_thread import server_over
from tests.tiny import GOOD


class Thread:
    """A runner as far as it is looked at."""

    busy_ns = 0
    deaths = 0
    is_stopping = False


async def looks(counters: HttpCounters, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(read_vitals([counters.vitals]).lags) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_a_loop_that_is_held_up_is_late():
    counters, thread = HttpCounters(), Thread()

    async def run() -> None:
        Pulse(counters.vitals, thread).start()
        await looks(counters, 2)
        time.sleep(LOOK_SECONDS + 0.3)  # noqa: ASYNC251  (what it is about)
        await looks(counters, 3)
        thread.is_stopping = True

    asyncio.run(run())
    read = read_vitals([counters.vitals])
    assert sum(read.lags[:2]) >= 0
    assert sum(read.lags[8:]) == 1, "one look was more than 0.25 s late"
    assert read.lag_ns >= 0.25e9


def test_work_and_deaths_are_counted_and_never_decrease():
    counters, thread = HttpCounters(), Thread()

    async def run() -> None:
        Pulse(counters.vitals, thread).start()
        for busy_ns, deaths in (5_000, 1), (3_000, 1), (9_000, 2):
            thread.busy_ns, thread.deaths = busy_ns, deaths
            await looks(counters, sum(read_vitals([counters.vitals]).lags) + 1)
        thread.is_stopping = True
        await asyncio.sleep(2 * LOOK_SECONDS)

    asyncio.run(run())
    before = read_vitals([counters.vitals])
    assert (before.busy_ns, before.deaths) == (9_000, 2)


def test_it_stops_with_the_thread():
    counters, thread = HttpCounters(), Thread()
    thread.is_stopping = True

    async def run() -> None:
        Pulse(counters.vitals, thread).start()
        await asyncio.sleep(4 * LOOK_SECONDS)

    asyncio.run(run())
    assert sum(read_vitals([counters.vitals]).lags) == 1


def test_workers_are_summed_and_a_successor_goes_on():
    n_bytes = HttpCounters(PATHS).n_bytes
    memory = bytearray(2 * n_bytes)
    workers = [HttpCounters(PATHS, memory, offset=n_bytes * slot) for slot in (0, 1)]
    for worker in workers:
        worker.vitals.late(3_000_000)
        worker.vitals.worked(1_500_000_000, 1)
        worker.count("/predict/{model}", 200)
    successor = HttpCounters(PATHS, memory, offset=n_bytes)
    successor.vitals.late(700_000)
    successor.vitals.worked(500_000_000, 0)
    lags = (1, 0, 2, *[0] * 9)
    assert read_vitals(worker.vitals for worker in workers) == Read(
        lags, 6_700_000, 3_500_000_000, 2
    )
    page = Exposition(workers).page([]).decode().splitlines()
    for line in (
        'keelmark_event_loop_lag_seconds_bucket{le="0.001"} 1',
        'keelmark_event_loop_lag_seconds_bucket{le="0.0025"} 1',
        'keelmark_event_loop_lag_seconds_bucket{le="0.005"} 3',
        'keelmark_event_loop_lag_seconds_bucket{le="+Inf"} 3',
        "keelmark_event_loop_lag_seconds_sum 0.006700000",
        "keelmark_event_loop_lag_seconds_count 3",
        "keelmark_runner_busy_seconds_total 3.5",
        "keelmark_runner_deaths_total 2",
        'keelmark_requests_total{path="/predict/{model}",status="200"} 2',
    ):
        assert line in page, line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_says_how_it_does(store: Path, tmp_path: Path, workers: int):
    with server_over(store, tmp_path, workers=workers, max_body_bytes=1 << 20) as server:
        server.predict([json.loads(json.dumps(GOOD))] * 2_000, "Keelmark-Deadline-Ms: 20000")

        def read(name: str) -> float:
            return server.metric(f"keelmark_{name}")

        end = time.monotonic() + 20
        while time.monotonic() < end:
            if read("runner_busy_seconds_total") and read("event_loop_lag_seconds_count") > 3:
                break
            time.sleep(0.05)
        assert 0 < read("runner_busy_seconds_total") < 20
        assert read("runner_deaths_total") == 0
