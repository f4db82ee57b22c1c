"""Servers under measurement: started on one core, watched by process, ended by id."""

import contextlib
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVER_CORE, LOAD_CORE = 0, 1
READY_SECONDS = 120
STOP_SECONDS = 20
TICKS = os.sysconf("SC_CLK_TCK")


class NotReady(Exception):
    """A server that ended or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a server's processes have used up to now: CPU seconds, and resident MiB."""

    user: float
    system: float
    resident_mib: float
    processes: int

    @property
    def cpu(self) -> float:
        return self.user + self.system


class Started:
    """A server that runs, with all the processes it has started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self.process.pid

    def used(self) -> Used:
        """CPU with that of children that have ended; memory that several share counts in parts."""
        user = system = memory = 0.0
        pids = family(self.pid)
        for pid in pids:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                user += (int(fields[11]) + int(fields[13])) / TICKS
                system += (int(fields[12]) + int(fields[14])) / TICKS
                memory += proportional_kib(pid) / 1024
        return Used(user, system, memory, len(pids))


@contextlib.contextmanager
def started(
    command: list[str],
    port: int,
    *,
    ready: str | None = None,
    environment: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
    seconds: float = READY_SECONDS,
    log: Path | None = None,
) -> Generator[Started]:
    """Runs the command until the block ends.

    Args:
        command: of the server.
        port: at which it is ready once it accepts, or once GET `ready` is answered 200.
        ready: a path.
        environment: in the place of this process's own.
        core: all of it runs there; None for anywhere.
        seconds: it may take to be ready.
        log: takes what it prints; else it is printed here.

    Raises:
        NotReady: it was not, in time.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        process = subprocess.Popen(
            on_core(core, command),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        stack.callback(_end, process)
        _wait_for(port, ready, process, seconds)
        yield Started(process, port)


def on_core(core: int | None, command: list[str]) -> list[str]:
    """The command, kept on one core with all that it starts; anywhere if there is only one."""
    if core is None or (os.cpu_count() or 1) < 2:
        return command
    return ["taskset", "--cpu-list", str(core), *command]


def family(pid: int) -> list[int]:
    """A process and all that descend from it, in the order of their beginning."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += sorted(children.get(one, ()))
    return found


def keep_on_core(pid: int, core: int) -> None:
    """Moves a process and all that descend from it, with every thread, to one core."""
    if (os.cpu_count() or 1) < 2:
        return
    for one in family(pid):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})


def proportional_kib(pid: int) -> int:
    """Resident memory of a process; of pages that several share, its part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the first process to stop, then ends whatever of its family is left."""
    known = {pid: runs_since(pid) for pid in family(process.pid)}
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + STOP_SECONDS
    while left := [pid for pid, began in known.items() if began and runs_since(pid) == began]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {left} of a server cannot be ended")
        time.sleep(0.01)


def runs_since(pid: int) -> str | None:
    """When a process began, in ticks; None when none runs. A later one of its id differs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _wait_for(
    port: int, ready: str | None, process: subprocess.Popen[bytes], seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(connection),
        ):
            connection.connect()
            if ready is None:
                return
            connection.request("GET", ready)
            if connection.getresponse().status == HTTPStatus.OK:
                return
        time.sleep(0.1)
    state = "still runs" if process.poll() is None else f"ended with {process.poll()}"
    raise NotReady(f"it was not ready on port {port} within {seconds:.0f} s and {state}")
