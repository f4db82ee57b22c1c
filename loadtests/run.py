"""Runs callers against `keelmark serve`; fails if one answer is lost or wrong, or miscounted.

python loadtests/run.py --seconds 25 --users 20 --workers 2
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import msgspec
from _calls import Call, calls, rows_text
from _checks import Counts, counted_in

from keelmark.datasets import flights
from tests.serving import Server, serving

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parent / "examples" / "bike"
SHIPPED = HERE.parent / "models" / "shipped" / "flights"
FLIGHTS, HOURS = 4_000, 1_000
FIRST_FLIGHT, FIRST_HOUR = "2013-07-01", "2012-10-20"
"""A summer that the model has not seen, and an autumn with an outage of the weather station."""
AT_A_TIME = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="with flights and bike; made where none is")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keelmark-load-") as name:
        folder = Path(name)
        store = asked.store or made(folder / "store")
        expected = folder / "calls.jsonl"
        expected.write_bytes(b"\n".join(map(msgspec.json.encode, some_calls(store, asked.seed))))
        with serving(store, folder, "--workers", str(asked.workers)) as server:
            failed = load(server, folder, expected, asked.users, asked.seconds)
            sys.exit(failed or compared(server, folder / "counts.json"))


def made(store: Path) -> Path:
    """A store with the shipped flights and with bikes, which are trained."""
    shutil.copytree(SHIPPED, store / "flights")
    command = [sys.executable, EXAMPLE / "train.py", "--store", store]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    subprocess.run(command, check=True, env=environment)
    return store


def some_calls(store: Path, seed: int) -> Iterator[Call]:
    table: Any = flights()
    later = table[table["sched_dep"] >= FIRST_FLIGHT].head(FLIGHTS).drop(columns="late")
    with importable(EXAMPLE):
        from rentals import rentals  # pyright: ignore[reportMissingImports]
    hours: Any = rentals()
    autumn = hours[hours["hour"] >= FIRST_HOUR].head(HOURS).drop(columns="rentals")
    yield from calls(store, rows_text(later, "sched_dep"), rows_text(autumn, "hour"), seed)


@contextlib.contextmanager
def importable(folder: Path) -> Generator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def load(server: Server, folder: Path, expected: Path, users: int, seconds: int) -> int:
    """Runs locust in a process of its own, which it patches through and through; its exit code."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "locust", "--headless", "--only-summary"),
        *("--locustfile", HERE / "callers.py", "--host", server.url("")),
        *("--users", str(users), "--spawn-rate", str(AT_A_TIME)),
        *("--run-time", f"{seconds}s", "--stop-timeout", "30"),
    ]
    files = {"LOADTEST_CALLS": str(expected), "LOADTEST_COUNTS": str(folder / "counts.json")}
    paths = {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    return subprocess.run(command, check=False, env=os.environ | files | paths).returncode


def compared(server: Server, counts: Path) -> int:
    """Whether the server counted every answer once: 0, else 1."""
    by_callers = Counts({tuple(key): n for *key, n in json.loads(counts.read_text())})
    by_server = counted_in(server.samples())
    for key in sorted(by_callers.keys() | by_server.keys()):
        told = "" if by_callers[key] == by_server[key] else "  DIFFERS"
        print(f"{' '.join(key):30} {by_callers[key]:9,} {by_server[key]:9,}{told}")
    is_same = by_callers == by_server and sum(by_callers.values()) > 0
    print("counted by callers and by the server" + ("" if is_same else ": DIFFERENT"))
    return 0 if is_same else 1


if __name__ == "__main__":
    main()
