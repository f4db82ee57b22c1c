"""A task in a process of its own, with limits, that may crash, hang or eat memory.

It answers with data over a pipe. Whether it failed is judged by one thing: no answer came.
"""

import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from models import gate_child

LARGEST_ANSWER: Final = 1 << 20
LARGEST_COMPLAINT: Final = 1 << 20
SECONDS_TO_END: Final = 5.0
LOOK_SECONDS: Final = 0.05
"""How often it is looked whether the task was cancelled."""
STARVING_SECONDS: Final = 2.0
LEAST_SHARE: Final = 0.1
"""Of a processor, which a child gets at least that takes only what is left."""
PATIENCE: Final = 0.75
"""Share of its time after which such a child begins again: it would not be done in time."""
SPARE_SECONDS: Final = 0.1
LEAST_SPARE: Final = 0.05
"""Share of the processors that nobody uses, if that is enough for a child."""
SHOWN_COMPLAINT: Final = 400
ENVIRONMENT: Final = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
"""All that the child's environment has; one BLAS thread saves 40 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLimits:
    """What a child may use; files that it writes may have `copy_bytes`, or a megabyte."""

    address_space_bytes: int
    cpu_seconds: int
    wall_seconds: float
    copy_bytes: int = 0


class NoAnswer(Exception):
    """A child that gave none: why, and what it said last."""

    def __init__(self, why: str, said: str) -> None:
        super().__init__(why)
        self.why: Final = why
        self.said: Final = said


def ask_child(
    answers: str, task: dict[str, Any], limits: ChildLimits, cancelled: threading.Event
) -> bytes:
    """What a function says of a task, in a process of its own. Blocks until it is said.

    Where the machine has processors to spare, it takes only what is left of them: requests that are
    answered on the same machine do not wait for it. Where nothing is left after all it begins again
    with its share.

    Args:
        answers: `module:function`; it takes the task as a dict, with `network`, which says whether
            there is none, and gives bytes.
        task: JSON-ready.
        limits: what the process may use.
        cancelled: once it is set, by any thread, the process is killed and nothing waited for.

    Raises:
        NoAnswer: it was not started, crashed, hung, used more than it may, or was cancelled.
    """
    with tempfile.TemporaryFile() as complaint:
        task = {"answers": answers, **task}
        try:
            spare = {"is_spare": has_spare_processors()}
            answer, why = _asked(task | spare, limits, complaint, cancelled)
        except _Starved:
            complaint.seek(0)
            complaint.truncate()
            answer, why = _asked(task | {"is_spare": False}, limits, complaint, cancelled)
        if answer:
            return answer
        complaint.seek(0)
        said = complaint.read(LARGEST_COMPLAINT).decode("utf-8", "replace").strip()
    raise NoAnswer(why, said[-SHOWN_COMPLAINT:])


def _asked(
    task: dict[str, Any], limits: ChildLimits, complaint: IO[bytes], cancelled: threading.Event
) -> tuple[bytes, str]:
    """The answer's bytes, or none and why."""
    try:
        process, readable = _started(task, limits, complaint)
    except OSError as error:
        return b"", f"the machine starts no process for it ({error.strerror})"
    try:
        deadline = time.monotonic() + limits.wall_seconds
        look = _Fed(process.pid, limits.wall_seconds).check if task["is_spare"] else None
        answer, is_whole = _read_until(readable, deadline, cancelled, look)
        if not is_whole:
            _kill(process)
        code = _ended(process)
    except BaseException:  # it starves, or we are interrupted: nobody would wait for it
        _kill(process)
        process.wait()
        raise
    finally:
        os.close(readable)
    if cancelled.is_set():
        return b"", "it was told to stop"
    if not is_whole and len(answer) > LARGEST_ANSWER:
        return b"", f"its verdict is longer than {LARGEST_ANSWER >> 20} MB"
    if not is_whole:
        return b"", f"it was still busy after {limits.wall_seconds:g} s"
    return (answer, "it ended without one") if code == 0 else (b"", _why(code, limits))


def _started(
    task: dict[str, Any], limits: ChildLimits, complaint: IO[bytes]
) -> tuple[subprocess.Popen[bytes], int]:
    """The child, and the descriptor that its answer is read from."""
    path = [str(Path(entry).absolute()) for entry in sys.path]
    request = {"path": path, "parent": os.getpid(), **task, **asdict(limits)}
    readable, writable = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  (ourselves, on our own file)
            [sys.executable, "-I", "-B", gate_child.__file__, str(writable), json.dumps(request)],
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            pass_fds=(writable,),
            process_group=0,
        )
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    return process, readable


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a child and what it has started; once it was waited for, its number is somebody's."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)


def has_spare_processors() -> bool:
    """Whether something of them is left, of late or just now; False where nobody says.

    Requests that come at random want more processors at a time than there are long before these are
    busy all the time: then it is looked at for a moment.
    """
    try:
        if os.getloadavg()[0] < len(os.sched_getaffinity(0)):
            return True
        before = _idle_and_all()
        time.sleep(SPARE_SECONDS)
        idle, every = (now - then for now, then in zip(_idle_and_all(), before, strict=True))
    except (OSError, AttributeError, ValueError):  # not Linux
        return False
    return idle >= LEAST_SPARE * every > 0


def _idle_and_all() -> tuple[int, int]:
    """Time of the processors we may use, in ticks: idle, and all of it."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    idle = every = 0
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, *ticks = line.split()
        if name in ours:
            idle += int(ticks[3])
            every += sum(map(int, ticks[:8]))
    return idle, every


class _Starved(Exception):
    """A child that takes only what is left of the processors gets hardly anything."""


class _Fed:
    """How much of a processor a child gets, looked at again and again: others may come later."""

    def __init__(self, pid: int, wall_seconds: float) -> None:
        self._pid = pid
        self._since, self._ran = time.monotonic(), 0.0
        self._end = self._since + PATIENCE * wall_seconds

    def check(self) -> None:
        """Looks at the time since it was looked at last, where that is long enough to tell.

        Raises:
            _Starved: the child has run for too little of it, or all in all needs too long.
        """
        now = time.monotonic()
        passed = now - self._since
        if now > self._end:
            raise _Starved
        if passed < STARVING_SECONDS:
            return
        ran = _ran_seconds(self._pid)
        if ran - self._ran < passed * LEAST_SHARE:
            raise _Starved
        self._since, self._ran = now, ran


def _ran_seconds(pid: int) -> float:
    """Of all threads that it has and had."""
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
        user, system = rest.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):  # it has ended, or nobody counts
        return math.inf


def _ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code; 0 for a child that has said all and hangs on its way out, and is killed.

    One that takes only what is left of the processors may need more than it gets for that.
    """
    try:
        return process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
        return 0


def _read_until(
    descriptor: int,
    deadline: float,
    cancelled: threading.Event,
    look: Callable[[], None] | None,
) -> tuple[bytes, bool]:
    """What is written before the other end closes, and whether that is all: it closed in time.

    Args:
        descriptor: that is read.
        deadline: monotonic.
        cancelled: ends it early when it is set.
        look: is called while there is nothing to read; what it raises ends it.
    """
    pieces, size = list[bytes](), 0
    coming = select.poll()  # `select` takes no descriptor above 1,023, and a server may have more
    coming.register(descriptor, select.POLLIN)
    while size <= LARGEST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or cancelled.is_set():
            return b"", False
        if not coming.poll(min(left, LOOK_SECONDS) * 1e3):
            if look is not None:
                look()
            continue
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return b"".join(pieces), True
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), False


def _why(code: int, limits: ChildLimits) -> str:
    space = f"{limits.address_space_bytes >> 20} MB of address space"
    if code == -signal.SIGXCPU:
        return f"it used more than {limits.cpu_seconds} s of processor time"
    if code == -signal.SIGKILL:
        return "it was killed, perhaps by the machine for its memory"
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name} (it may use {space})"
    return f"it ended with code {code} (it may use {space})"
