"""Servers under measurement, each pinned to a core of its own, and the load from the other."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
READY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Sample:
    """One closed-loop measurement: requests a second, and server CPU per request in µs."""

    rate: float
    cpu_us: float
    p99_ms: float


@contextlib.contextmanager
def started(command: list[str], port: int, *, ready: str | None = None) -> Generator[int]:
    """Runs the command until the block ends.

    Yields its process id once the port accepts, or once GET `ready` is answered 200.
    """
    process = subprocess.Popen(command, cwd=ROOT)
    _pin(process.pid, SERVER_CORE)
    try:
        _wait_for(port, ready, process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def keelmark(store: Path, port: int, state: Path) -> list[str]:
    """`keelmark serve` as shipped, everything on."""
    return [
        *(sys.executable, "-m", "keelmark", "serve"),
        *("--store", str(store), "--state-dir", str(state)),
        *("--port", str(port), "--ops-port", str(port + 1)),
    ]


def bare(bundle: Path, port: int, *, echo: bool = False) -> list[str]:
    program = str(ROOT / "benchmarks" / "_bare.py")
    return [
        sys.executable,
        program,
        str(bundle),
        "--port",
        str(port),
        *(["--echo"] if echo else []),
    ]


def load(
    pid: int, port: int, path: str, bodies: list[str], connections: int, seconds: int
) -> Sample:
    """Closed loop with wrk: each connection sends its next request when it has its answer.

    Raises:
        RuntimeError: any answer was not 200.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(bodies))
        script.flush()
        before, start = _cpu_seconds(pid), time.perf_counter()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["-s", script.name, f"http://127.0.0.1:{port}{path}"]
        output = _run_load(command)
        used = _cpu_seconds(pid) - before
        elapsed = time.perf_counter() - start
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    return Sample(requests / elapsed, used / requests * 1e6, _p99_ms(output))


def _run_load(command: list[str]) -> str:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _pin(process.pid, LOAD_CORE)
    output, _ = process.communicate()
    if process.returncode or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"the load saw errors:\n{output}")
    return output


def _script(bodies: list[str]) -> str:
    """Sends the bodies in turn."""
    listed = ",\n".join(f"[==[{body}]==]" for body in bodies)
    return f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies = {{{listed}}}
local requests, next = {{}}, 0
init = function()
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, nil, nil, body) end
end
request = function() next = next % #requests + 1; return requests[next] end
"""


def _p99_ms(output: str) -> float:
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", output)
    assert found is not None
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def _pin(pid: int, core: int) -> None:
    """Keeps a process that has just begun, and the threads it will start, on one core."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_for(port: int, ready: str | None, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.connect()
            if ready is None:
                return
            connection.request("GET", ready)
            if connection.getresponse().status == HTTPStatus.OK:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args} is not ready on port {port} (exit {process.poll()})")
