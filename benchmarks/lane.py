"""The whole server, everything on, against the same graph on bare uvicorn and a constant answer.

    python benchmarks/lane.py [--seconds 3] [--pairs 5] [--connections 1 8 32 64] [--json FILE]

Closed loop with wrk from the other core. Every pair is measured in turn, so the ratios hold
although the machine's speed drifts; requests a second are this machine's and this minute's.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path

from _servers import ROOT, Sample, bare, keelmark, load, started

SHIPPED = ROOT / "models" / "shipped"
BUNDLE = SHIPPED / "flights" / "1"
PORTS = {"keelmark": 18080, "bare": 18090, "echo": 18092}
PATH = "/predict/flights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    bodies = golden_bodies()
    with (
        tempfile.TemporaryDirectory() as state,
        started(
            keelmark(SHIPPED, PORTS["keelmark"], Path(state)),
            PORTS["keelmark"],
            ready="/health/ready",
        ) as ours,
        started(bare(BUNDLE, PORTS["bare"]), PORTS["bare"]) as floor,
        started(bare(BUNDLE, PORTS["echo"], echo=True), PORTS["echo"]) as echo,
    ):
        check_same_answers(bodies)
        pids = {"keelmark": ours, "bare": floor, "echo": echo}
        rows = [
            compared(pids, bodies, connections, arguments.seconds, arguments.pairs)
            for connections in arguments.connections
        ]
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def golden_bodies() -> list[str]:
    """Golden records that the bare server can answer too: complete ones and ones with nulls."""
    golden = json.loads((BUNDLE / "golden.json").read_text())
    answered = [row["record"] for row in golden["rows"] if row["name"].startswith("sample")]
    bodies = [json.dumps(record) for record in answered]
    if not bodies:
        raise RuntimeError("the shipped bundle has no sampled golden rows to send")
    return bodies


def check_same_answers(bodies: list[str]) -> None:
    """Both servers give the same probability to 1e-6, or the comparison means nothing."""
    for body in bodies:
        ours, floor = (predicted(PORTS[name], body) for name in ("keelmark", "bare"))
        if abs(ours - floor) > 1e-6:
            raise RuntimeError(f"keelmark says {ours}, the bare server {floor}, for {body}")


def predicted(port: int, body: str) -> float:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{PATH}", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return float(json.load(answer)["prediction"])


def compared(
    pids: dict[str, int], bodies: list[str], connections: int, seconds: int, pairs: int
) -> dict[str, float]:
    taken: dict[str, list[Sample]] = {name: [] for name in pids}
    for name, pid in pids.items():
        load(pid, PORTS[name], PATH, bodies, connections, 1)
    for _ in range(pairs):
        for name, pid in pids.items():
            taken[name].append(load(pid, PORTS[name], PATH, bodies, connections, seconds))
    return {"connections": connections, **figures(taken)}


def figures(taken: dict[str, list[Sample]]) -> dict[str, float]:
    def median(name: str, what: str) -> float:
        return statistics.median(getattr(sample, what) for sample in taken[name])

    def paired(what: str, other: str) -> float:
        pairs = zip(taken["keelmark"], taken[other], strict=True)
        return statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs)

    return {
        "rate / bare": paired("rate", "bare"),
        "rate / echo": paired("rate", "echo"),
        "cpu / bare": paired("cpu_us", "bare"),
        "keelmark req/s": median("keelmark", "rate"),
        "bare req/s": median("bare", "rate"),
        "keelmark p99 ms": median("keelmark", "p99_ms"),
        "bare p99 ms": median("bare", "p99_ms"),
    }


def print_table(rows: list[dict[str, float]]) -> None:
    names = list(rows[0])
    print(f"{os.cpu_count()} cores; medians of pairs measured in turn")
    print("  ".join(f"{name:>15}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:15,.2f}" for name in names))


if __name__ == "__main__":
    sys.exit(main())
