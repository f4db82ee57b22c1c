"""What a scrape costs, and the programs that measure single steps."""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from _contenders import check, keelmark, running
from _load import Target, closed_loop, open_loop
from _options import Found, Options, say
from _prepared import ROOT
from _servers import Started

SCRAPES: Final = 300
SCRAPE_LOAD: Final = 0.5
"""Of the most that one worker answers: the load under which p99 is compared."""
CONNECTIONS: Final = 32
BETWEEN_SCRAPES: Final = 1.0


def scrape(options: Options) -> Found:
    """One scrape alone, and whether p99 under load shows it beside two runs without (A A B)."""
    with running(keelmark(), options.prepared) as target:
        check(keelmark(), target, options.prepared)
        ops = target.server.port + 1
        page = get(ops, "/metrics")
        series = sum(bool(line) and not line.startswith("#") for line in page.splitlines())
        alone = _cost_of(target.server, ops, "/metrics")
        health = _cost_of(target.server, ops, "/health/live")
        rate = SCRAPE_LOAD * closed_loop(target, CONNECTIONS, options.seconds).rate
        p99 = {"A": [], "A again": [], "B, scraped": []}
        for _ in range(options.rounds):
            for kind, found in p99.items():
                found.append(_p99(target, ops, rate, options, is_scraped="B" in kind))
    say(f"{series} series: {alone['cpu_ms']:.2f} ms CPU, p99 {p99}")
    return {
        "series": series,
        "bytes": len(page),
        "cpu_ms": alone["cpu_ms"],
        "cpu_ms_without_http": alone["cpu_ms"] - health["cpu_ms"],
        "wall_ms": alone["wall_ms"],
        "rate": rate,
        "seconds_between": BETWEEN_SCRAPES,
        "p99_ms": p99,
    }


def _cost_of(server: Started, ops: int, path: str) -> dict[str, float]:
    """A GET of the ops port over a kept connection: median wall time, mean CPU, milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", ops, timeout=10)
    walls: list[float] = []
    before = server.used().cpu
    for _ in range(SCRAPES):
        began = time.perf_counter()
        connection.request("GET", path)
        connection.getresponse().read()
        walls.append(time.perf_counter() - began)
    used = server.used().cpu - before
    connection.close()
    return {"wall_ms": statistics.median(walls) * 1e3, "cpu_ms": used / SCRAPES * 1e3}


def _p99(target: Target, ops: int, rate: float, options: Options, *, is_scraped: bool) -> float:
    stop = threading.Event()

    def scraper() -> None:
        while not stop.wait(BETWEEN_SCRAPES):
            get(ops, "/metrics")

    thread = threading.Thread(target=scraper)
    if is_scraped:
        thread.start()
    try:
        return open_loop(target, rate, CONNECTIONS, options.seconds + 1.0).p99_ms
    finally:
        stop.set()
        if is_scraped:
            thread.join()


def get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def programs(options: Options) -> Found:
    """The measurements of single steps that stand for themselves."""
    found: Found = {}
    for name in ("row", "checks"):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", file.name]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            found[name] = json.loads(Path(file.name).read_text())
        say(name)
    return found
