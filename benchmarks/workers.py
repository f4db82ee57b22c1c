"""What a second worker brings: rate and CPU a request with one and with two, each held to a share.

    python benchmarks/workers.py [--seconds 5] [--pairs 5] [--share 0.6] [--json FILE]

A quota of a control group holds each worker to a share of a CPU, so that on two cores a generator
finds room beside two workers and is not what is measured: its own CPU is in the table, and so is
how much of their quota the workers used. `--workers 1` is a single process, `--workers 2` a
supervisor, a dealer and two workers; the CPU of all of them is counted, and the quota is the
workers'. Closed loop with wrk; one and two are measured in turn.

Needs the right to make control groups (root, and a hierarchy with the `cpu` controller, version 1
or 2, that can be written). Where there is none it says so and measures nothing.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "models" / "shipped"
PATH = "/predict/flights"
PERIOD_US = 10_000
READY_SECONDS = 60.0
CONNECTIONS = ((32, 64), (64, 64))
"""With one worker and with two: as many for each, and as many in all."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement.

    Attributes:
        rate: requests a second.
        cpu_us: of all the server's processes, a request.
        of_quota: what the workers used of what they may use.
        generator_cpu: CPUs that the generator used.
    """

    rate: float
    cpu_us: float
    of_quota: float
    generator_cpu: float


@dataclass(frozen=True, slots=True)
class Running:
    """A server: its port, all its processes, and those that answer."""

    port: int
    processes: list[int]
    workers: list[int]


class Quotas:
    """Control groups of our own, one a worker; removed at the end.

    Raises:
        OSError: they cannot be made.
    """

    def __init__(self, share: float) -> None:
        self._folders: list[Path] = []
        self._quota_us = int(PERIOD_US * share)
        version_1, version_2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
        self._is_1 = (version_1 / "cpu.cfs_quota_us").exists() or (version_1 / "tasks").exists()
        self._root = version_1 if self._is_1 else version_2
        if not self._is_1:
            (self._root / "cgroup.subtree_control").write_text("+cpu")

    def hold(self, pid: int) -> None:
        """Holds a process, with all its threads, to the share."""
        folder = self._root / f"keelmark-benchmark-{os.getpid()}-{pid}"
        folder.mkdir()
        self._folders.append(folder)
        if self._is_1:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(self._quota_us))
        else:
            (folder / "cpu.max").write_text(f"{self._quota_us} {PERIOD_US}")
        (folder / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """When the processes have ended."""
        for folder in self._folders:
            folder.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bodies = golden_bodies()
    with contextlib.ExitStack() as stack:
        try:
            quotas = Quotas(arguments.share)
            probe = stack.enter_context(subprocess.Popen(["sleep", "60"]))
            stack.callback(probe.kill)
            quotas.hold(probe.pid)
        except OSError as error:
            print(f"not measured: no control group with a CPU quota can be made here ({error})")
            return 0
        stack.callback(quotas.close)  # after all that it holds has ended
        script = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".lua"))
        script.write(lua(bodies))
        script.flush()
        servers = {count: stack.enter_context(served(count)) for count in (1, 2)}
        probe.kill()
        probe.wait()
        check_same_answers(servers, bodies)
        for server in servers.values():
            for worker in server.workers:
                quotas.hold(worker)
        rows = [
            compared(servers, connections, Path(script.name), arguments)
            for connections in CONNECTIONS
        ]
    print_table(rows, arguments.share)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


@contextlib.contextmanager
def served(count: int) -> Generator[Running]:
    """`keelmark serve --workers COUNT` over the shipped bundle, until the block ends."""
    port, ops_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "keelmark", "serve", "--store", str(SHIPPED)]
        command += ["--workers", str(count), "--state-dir", state, "--log-level", "error"]
        command += ["--port", str(port), "--ops-port", str(ops_port)]
        command += ["--drain-delay-seconds", "0"]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            yield ready(process, count, port, ops_port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def ready(process: subprocess.Popen[bytes], count: int, port: int, ops_port: int) -> Running:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{ops_port}/health/ready"
            with urllib.request.urlopen(url, timeout=1) as answer:
                told = json.load(answer)
            if count == 1:
                return Running(port, [process.pid], [process.pid])
            if told["workers"]["ready"] == count:
                found = children(process.pid)
                workers = [pid for pid, module in found.items() if module == "server.worker"]
                return Running(port, [process.pid, *found], workers)
        time.sleep(0.1)
    raise RuntimeError(f"{process.args} is not ready (exit {process.poll()})")


def children(pid: int) -> dict[int, str]:
    """The processes that one has started, with the modules that they run."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                words = (path / "cmdline").read_text().split("\0")
                found[int(path.name)] = words[words.index("-m") + 1]
    return found


def compared(
    servers: dict[int, Running],
    connections: tuple[int, int],
    script: Path,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """One and two in turn, after a round that does not count."""
    taken: dict[int, list[Sample]] = {count: [] for count in servers}
    for turn in range(arguments.pairs + 1):
        for (count, server), kept in zip(servers.items(), connections, strict=True):
            sample = load(server, kept, script, arguments.seconds, arguments.share)
            if turn:
                taken[count].append(sample)
    pairs = list(zip(taken[1], taken[2], strict=True))
    row: dict[str, float] = {"connections, one": connections[0], "two": connections[1]}
    row["rate two / one"] = statistics.median(two.rate / one.rate for one, two in pairs)
    row["cpu two / one"] = statistics.median(two.cpu_us / one.cpu_us for one, two in pairs)
    for count, name in ((1, "one"), (2, "two")):
        for what in asdict(taken[count][0]):
            values = [getattr(sample, what) for sample in taken[count]]
            row[f"{what}, {name}"] = statistics.median(values)
    return row


def load(server: Running, connections: int, script: Path, seconds: int, share: float) -> Sample:
    """Closed loop with wrk.

    Raises:
        RuntimeError: any answer was not 200.
    """
    before, own = used(server.processes), used(server.workers)
    generated, began = children_cpu(), time.perf_counter()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    command.append(f"http://127.0.0.1:{server.port}{PATH}")
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    elapsed = time.perf_counter() - began
    found = re.search(r"(\d+) requests in", ran.stdout)
    if ran.returncode or found is None or re.search("Non-2xx|Socket errors", ran.stdout):
        raise RuntimeError(f"the load saw errors:\n{ran.stdout}{ran.stderr}")
    requests = int(found[1])
    return Sample(
        rate=requests / elapsed,
        cpu_us=(used(server.processes) - before) / requests * 1e6,
        of_quota=(used(server.workers) - own) / (elapsed * share * len(server.workers)),
        generator_cpu=(children_cpu() - generated) / elapsed,
    )


def used(pids: list[int]) -> float:
    """CPU seconds, to the nanosecond that the scheduler counts."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def golden_bodies() -> list[str]:
    golden = json.loads((SHIPPED / "flights" / "1" / "golden.json").read_text())
    rows = [row["record"] for row in golden["rows"] if row["name"].startswith("sample")]
    if not rows:
        raise RuntimeError("the shipped bundle has no sampled golden rows to send")
    return [json.dumps(record) for record in rows]


def check_same_answers(servers: dict[int, Running], bodies: list[str]) -> None:
    """Both give the same to the bit, or the comparison means nothing."""
    for body in bodies:
        one, two = (predicted(server.port, body) for server in servers.values())
        if one != two:
            raise RuntimeError(f"one worker says {one}, two say {two}, for {body}")


def predicted(port: int, body: str) -> float:
    url, header = f"http://127.0.0.1:{port}{PATH}", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), header)) as answer:
        return json.load(answer)["prediction"]


def lua(bodies: list[str]) -> str:
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def print_table(rows: list[dict[str, float]], share: float) -> None:
    print(f"{os.cpu_count()} cores; workers held to {share} CPU each; medians of pairs in turn")
    width = max(map(len, rows[0]))
    for name in rows[0]:
        print(f"{name:{width}}", *(f"{row[name]:12,.2f}" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
