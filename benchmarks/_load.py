"""Load from the other core: a closed loop with wrk, and an open loop with a program of our own."""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _servers import LOAD_CORE, Started, on_core

OPEN_LOOP = Path(__file__).parent / "_open_loop.py"
WARM_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a server, and requests as (path, body), sent in turn."""

    server: Started
    requests: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One closed-loop measurement.

    Attributes:
        rate: requests a second.
        cpu_us, system_us: of the server's processes, a request; `system_us` is the kernel's part.
        load_cpu: share of a core that the generator used: below 1 it was not the limit.
    """

    rate: float
    cpu_us: float
    system_us: float
    p50_ms: float
    p99_ms: float
    load_cpu: float


def interleaved(
    targets: Mapping[str, Target], *, connections: int, seconds: int, rounds: int
) -> dict[str, list[Sample]]:
    """Every target in turn, A B C A B C ..., after a short warming up of each."""
    for target in targets.values():
        closed_loop(target, connections, WARM_SECONDS)
    taken: dict[str, list[Sample]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            taken[name].append(closed_loop(target, connections, seconds))
    return taken


def closed_loop(target: Target, connections: int, seconds: int) -> Sample:
    """Each connection sends its next request when it has its answer.

    Raises:
        RuntimeError: any answer was not 200, or did not come.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(target.requests))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["--timeout", "10s", "-s", script.name]
        command += [f"http://127.0.0.1:{target.server.port}/"]
        before, start = target.server.used(), time.perf_counter()
        output, load_cpu = _watched(command)
        elapsed, after = time.perf_counter() - start, target.server.used()
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    if not requests:
        raise RuntimeError(f"no request was answered:\n{output}")
    return Sample(
        requests / elapsed,
        (after.cpu - before.cpu) / requests * 1e6,
        (after.system - before.system) / requests * 1e6,
        _percentile_ms(output, 50),
        _percentile_ms(output, 99),
        load_cpu / elapsed,
    )


@dataclass(frozen=True, slots=True)
class OpenSample:
    """One open-loop measurement; latencies count from when a request was due, in milliseconds.

    Attributes:
        rate: asked for, requests a second.
        answered_rate: requests a second until the last answer.
        failed: answers that were not 200.
        late_sends: share of requests sent over a millisecond late: no connection was free.
    """

    rate: float
    answered_rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    failed: int
    late_sends: float


def open_loop(target: Target, rate: float, connections: int, seconds: float) -> OpenSample:
    """Requests at random times of this mean rate, whether answers come or not."""
    given = {
        "port": target.server.port,
        "requests": list(target.requests),
        "rate": rate,
        "connections": connections,
        "seconds": seconds,
    }
    output, _ = _watched([sys.executable, str(OPEN_LOOP)], given=json.dumps(given))
    return OpenSample(**json.loads(output))


def _watched(command: list[str], *, given: str | None = None) -> tuple[str, float]:
    """Output of a generator, and the CPU seconds it used."""
    before = os.times()
    process = subprocess.run(
        on_core(LOAD_CORE, command),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after, output = os.times(), process.stdout
    if process.returncode or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"the load saw errors:\n{output}")
    used = after.children_user + after.children_system
    return output, used - before.children_user - before.children_system


def _script(requests: Sequence[tuple[str, str]]) -> str:
    """Sends the requests in turn, each made once."""
    listed = ",\n".join(f"{{[==[{path}]==], [==[{body}]==]}}" for path, body in requests)
    return f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local given = {{{listed}}}
local requests, next = {{}}, 0
init = function()
  for i, pair in ipairs(given) do requests[i] = wrk.format(nil, pair[1], nil, pair[2]) end
end
request = function() next = next % #requests + 1; return requests[next] end
"""


def _percentile_ms(output: str, percent: int) -> float:
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s)", output)
    assert found is not None
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def median(samples: Sequence[Sample], what: str) -> float:
    return statistics.median(getattr(sample, what) for sample in samples)


def paired(above: Sequence[Sample], below: Sequence[Sample], what: str) -> float:
    """Median of the ratios pair by pair: the machine's drift cancels."""
    return statistics.median(ratios(above, below, lambda sample: getattr(sample, what)))


def ratios(
    above: Sequence[Sample], below: Sequence[Sample], read: Callable[[Sample], float]
) -> list[float]:
    return [read(a) / read(b) for a, b in zip(above, below, strict=True)]
