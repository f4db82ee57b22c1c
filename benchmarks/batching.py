"""Requests that share long runs: what it gains, what it costs one caller, and a cheap neighbour.

    python benchmarks/batching.py [--seconds 5] [--rounds 3] [--connections 64] [--folder FOLDER]

A network and an ensemble of trees of at least 5 ms a row, with batching and without (`--max-batch
1`), in turn. What the curve allows: the rows a second of runs of half as many rows as there are
connections, since half wait while half are run, measured on the server's core between the rounds.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from _heavy import MODELS, publish, records
from _load import Target, closed_loop, interleaved, median, open_loop, paired
from _servers import ROOT, SERVER_CORE, on_core, started

PORTS: Final = {"batched": 18100, "single": 18110}
DEADLINE: Final = ("--deadline-ms", "60000")
NEIGHBOUR_RATE: Final = 100
HEAVY: Final = ("network", "trees")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="for the bundles; made once and kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--curve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.curve:
        print(json.dumps(curve(given.curve)))
        return
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundles = {name: bundle(folder, name) for name in MODELS}
        with servers(folder) as ours:
            found = [measured(name, bundles[name], ours, given) for name in HEAVY]
            found += [neighbour(name, ours["batched"], given) for name in HEAVY]
    for row in found:
        print("  ".join(f"{key} {shown(value)}" for key, value in row.items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def bundle(folder: Path, name: str) -> Path:
    """The bundle, packed unless it is there."""
    there = folder / "store" / name / "1"
    if not there.exists():
        print(f"  packing {name}", flush=True)
        publish(folder / "store", name, MODELS[name]())
    return there


@contextlib.contextmanager
def servers(folder: Path) -> Generator[dict[str, Any]]:
    """The same server with batching and without, on the same core."""
    with contextlib.ExitStack() as stack:
        ours: dict[str, Any] = {}
        for name, port in PORTS.items():
            state = stack.enter_context(tempfile.TemporaryDirectory())
            command = [sys.executable, "-m", "keelmark", "serve", "--store", str(folder / "store")]
            command += ["--port", str(port), "--ops-port", str(port + 1), "--state-dir", state]
            command += ["--log-level", "error", "--drain-delay-seconds", "0", *DEADLINE]
            command += ["--max-batch", "1"] if name == "single" else []
            ours[name] = stack.enter_context(started(command, port, ready="/health/ready"))
        yield ours


def measured(name: str, folder: Path, ours: dict[str, Any], given: Any) -> dict[str, Any]:
    """One model, both ways."""
    bodies = [json.dumps(record) for record in records(64)]
    requests = [(f"/predict/{name}", body) for body in bodies]
    targets = {each: Target(server, requests) for each, server in ours.items()}
    check_bits(name, bodies)
    many = given.connections
    before, curves = batches(name), []
    busy: dict[str, list[Any]] = {each: [] for each in targets}
    for _ in range(given.rounds):
        curves.append(run_curve(folder))
        taken = interleaved(targets, connections=many, seconds=given.seconds, rounds=1)
        for each, samples in taken.items():
            busy[each] += samples
    runs, rows = (a - b for a, b in zip(batches(name), before, strict=True))
    alone = interleaved(targets, connections=1, seconds=given.seconds, rounds=given.rounds)
    allowed = statistics.median(gain(each, many // 2) for each in curves)
    gained = paired(busy["batched"], busy["single"], "rate")
    return {
        "model": name,
        "row ms": statistics.median(each["1"] for each in curves) * 1e3,
        "single req/s": median(busy["single"], "rate"),
        "batched req/s": median(busy["batched"], "rate"),
        "gain": gained,
        "curve allows": allowed,
        "gain / allowed": gained / allowed,
        "rows a run": rows / runs,
        "p99 ms": median(busy["batched"], "p99_ms"),
        "latency at 1 connection": paired(alone["batched"], alone["single"], "p50_ms"),
    }


def neighbour(name: str, server: Any, given: Any) -> dict[str, Any]:
    """A cheap model while a heavy one runs in the same worker: open loops of the cheap one."""
    body = json.dumps(records(1)[0])
    cheap = Target(server, [("/predict/cheap", body)])
    heavy = Target(server, [(f"/predict/{name}", body)])
    quiet = open_loop(cheap, NEIGHBOUR_RATE, 16, given.seconds)
    load = threading.Thread(target=closed_loop, args=(heavy, 16, given.seconds + 2))
    load.start()
    time.sleep(1)
    beside = open_loop(cheap, NEIGHBOUR_RATE, 16, given.seconds)
    load.join()
    return {
        "cheap beside": name,
        "p50 ms alone": quiet.p50_ms,
        "p99 ms alone": quiet.p99_ms,
        "p50 ms beside": beside.p50_ms,
        "p99 ms beside": beside.p99_ms,
        "max ms beside": beside.max_ms,
        "failed": beside.failed,
    }


def check_bits(name: str, bodies: Sequence[str]) -> None:
    """Answers of runs that were shared have the bits of runs that were not."""
    with ThreadPoolExecutor(32) as pool:
        shared = list(pool.map(partial(predicted, PORTS["batched"], name), bodies))
    for body, value in zip(bodies, shared, strict=True):
        if value != predicted(PORTS["single"], name, body):
            raise RuntimeError(f"{name}: a shared run answers {value}, a single one does not")


def predicted(port: int, name: str, body: str) -> float:
    url = f"http://127.0.0.1:{port}/predict/{name}"
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        said = json.load(answer)
    if said["served_by"] != "model":
        raise RuntimeError(f"{name} was answered by the {said['served_by']}")
    return float(said["prediction"])


def batches(name: str) -> tuple[float, float]:
    """Runs of the server with batching up to now, and their rows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORTS['batched'] + 1}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    own = f'{{model="{name}",version="1"}} '
    count, rows = (
        next(float(line.split()[-1]) for line in lines if line.startswith(family + own))
        for family in ("keelmark_batch_rows_count", "keelmark_batch_rows_sum")
    )
    return count, rows


def run_curve(folder: Path) -> dict[str, float]:
    """Seconds of a run by its rows, on the server's core, by another process."""
    command = [sys.executable, __file__, "--curve", str(folder)]
    done = subprocess.run(
        on_core(SERVER_CORE, command), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def curve(folder: Path) -> dict[int, float]:
    """The same, here."""
    from models.bundle import Bundle
    from models.gate import run_seconds

    return run_seconds(Bundle.open(folder, batch_exact=True))


def gain(seconds: dict[str, float], rows: int) -> float:
    """How many times as many rows a second as single runs make, runs of so many."""
    return rows * seconds["1"] / seconds[str(rows)]


def shown(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
