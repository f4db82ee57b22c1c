"""Load for a long time: what is counted is what callers have had, and nothing piles up.

A minute or less here; `make trials` takes half an hour, or `KEELMARK_SOAK_SECONDS`.
"""

import asyncio
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.serving import serving
from tests.tiny import pack_tiny
from tests.workers import (
    ARGUMENTS,
    HEAD_END,
    Known,
    Record,
    Watch,
    children_of,
    counted,
    is_quiet,
    known_answers,
    requests_counted,
    wait_until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")

SOAK_SECONDS = float(os.environ.get("KEELMARK_SOAK_SECONDS", "1800"))
CALLERS = 16
SHARE_OF_CAPACITY = 0.7
WARM_UP_SHARE = 0.2
"""Of the time, in which memory may still grow: pools and caches fill."""
SLOPE_BYTES = 4e6
"""Over the rest of the time: how far a line through the memory of a process may rise."""


@dataclasses.dataclass
class Count:
    """What callers of one loop have had."""

    requests: int = 0
    rows: int = 0
    wrong: int = 0


class Caller(asyncio.Protocol):
    """One connection that sends a request whenever it is told to, and checks what comes.

    Every 200 requests it closes and another is opened: connections come and go too.
    """

    def __init__(self, turns: "itertools.cycle[Known]", count: Count) -> None:
        self._turns = turns
        self._count = count
        self._buffer = b""
        self._asked: Known | None = None
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self) -> None:
        assert self._transport is not None
        self._asked = next(self._turns)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(self._asked.request)
        await self._done

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(HEAD_END)
        if not end:
            return
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < size:
            return
        self._buffer = b""
        assert self._asked is not None
        assert self._done is not None
        self._count.requests += 1
        self._count.rows += self._asked.rows
        self._count.wrong += int(head.split(b" ", 2)[1]) != self._asked.status
        self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"closed without an answer: {exc}"))

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def calls(port: int, known: Sequence[Known], seconds: float, rate: float | None) -> Count:
    """Asks for a time: as fast as answers come, or at a rate over all callers."""
    count, loop = Count(), asyncio.get_running_loop()
    began = loop.time()

    async def call(number: int) -> None:
        turns = itertools.cycle([*known[number:], *known[:number]])
        due = began + number / (rate or 1e9)
        while loop.time() - began < seconds:
            _, caller = await loop.create_connection(
                lambda: Caller(turns, count), "127.0.0.1", port
            )
            for _ in range(200):
                if rate is not None:
                    due += CALLERS / rate
                    await asyncio.sleep(max(0.0, due - loop.time()))
                if loop.time() - began >= seconds:
                    break
                await caller.ask()
            caller.close()

    await asyncio.gather(*(call(number) for number in range(CALLERS)))
    return count


def called(port: int, store: Path, seconds: float, rate: float | None = None) -> Count:
    """The same from a process of its own: callers take no time of who watches."""
    command = [sys.executable, "-m", "tests.test_soak", str(port), str(store)]
    command += [str(seconds), str(rate or 0)]
    printed = subprocess.run(command, check=True, capture_output=True).stdout
    return Count(**json.loads(printed))


@dataclasses.dataclass
class Holdings:
    """What a process has: descriptors, mappings and resident bytes."""

    descriptors: int
    mappings: int
    memory: int


def holdings(pid: int) -> Holdings:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    shared = int(Path(f"/proc/{pid}/statm").read_text().split()[2])
    named = [line for line in maps if "memfd:" in line or ".so" in line]
    return Holdings(
        len(list(Path(f"/proc/{pid}/fd").iterdir())), len(named), (resident - shared) * 4096
    )


def rise(times: Sequence[float], values: Sequence[float]) -> float:
    """How far the line through the values rises from the first time to the last."""
    return statistics.linear_regression(times, values).slope * (times[-1] - times[0])


@pytest.mark.parametrize("seconds", [8, pytest.param(SOAK_SECONDS, marks=pytest.mark.trial)])
@pytest.mark.timeout(SOAK_SECONDS + 600)
def test_under_load_nothing_piles_up_and_every_answer_is_counted(
    tmp_path: Path, seconds: float, record_property: Record
):
    store = tmp_path / "store"
    pack_tiny(store)
    with serving(store, tmp_path, *ARGUMENTS) as server:
        wait_until(lambda: is_quiet(tmp_path))
        warm = called(server.port, store, 2.0)
        rate = warm.requests / 2.0 * SHARE_OF_CAPACITY
        wait_until(lambda: is_quiet(tmp_path))
        processes = {
            pid: module
            for module in ("server.dealer", "server.worker")
            for pid in children_of(server.process.pid, module)
        } | {server.process.pid: "supervisor"}
        assert sorted(processes.values()) == [
            "server.dealer", "server.worker", "server.worker", "supervisor"
        ]  # fmt: skip
        before = {pid: holdings(pid) for pid in processes}
        memory: dict[int, list[float]] = {pid: [] for pid in processes}
        times: list[float] = []
        command = [sys.executable, "-m", "tests.test_soak", str(server.port), str(store)]
        command += [str(seconds), str(rate)]
        with Watch(server, pause=min(5.0, seconds / 20)):
            began = time.monotonic()
            with subprocess.Popen(command, stdout=subprocess.PIPE) as callers:
                while callers.poll() is None:
                    if time.monotonic() - began > seconds * WARM_UP_SHARE:
                        times.append(time.monotonic() - began)
                        for pid in processes:
                            memory[pid].append(holdings(pid).memory)
                    time.sleep(min(5.0, seconds / 40))
                assert callers.stdout is not None
                had = Count(**json.loads(callers.stdout.read()))
        wait_until(lambda: is_quiet(tmp_path))
        rows, requests = counted(server), requests_counted(server)
        after = {pid: holdings(pid) for pid in processes}
    assert (had.wrong, warm.wrong) == (0, 0)
    assert rows == had.rows + warm.rows
    assert requests == had.requests + warm.requests
    rises = {name: rise(times, memory[pid]) for pid, name in processes.items()}
    record_property("requests", had.requests)
    record_property("rate", rate)
    record_property("rises", {name: round(bytes_ / 1e6, 2) for name, bytes_ in rises.items()})
    for pid, name in processes.items():
        assert after[pid].descriptors == before[pid].descriptors, name
        assert after[pid].mappings == before[pid].mappings, name
    assert max(rises.values()) < SLOPE_BYTES, rises


def main(arguments: list[str]) -> None:
    """`python -m tests.test_soak PORT STORE SECONDS RATE`: prints what callers have had."""
    port, store, seconds, rate = arguments
    known = known_answers(Path(store))
    had = asyncio.run(calls(int(port), known, float(seconds), float(rate) or None))
    sys.stdout.write(json.dumps(dataclasses.asdict(had)))


if __name__ == "__main__":
    main(sys.argv[1:])
