"""The gate: a bundle's first load, in a process of its own that may crash, hang or eat memory.

The child opens the bundle, replays the golden rows singly and as one batch, and measures what
serving it will cost. Whatever happens to it (`models.child`), the caller gets a report or an error.
"""

import resource
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from features import runtime
from models import machine_copy
from models.bundle import Bundle
from models.child import ChildLimits, NoAnswer, ask_child
from models.errors import (
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    FeaturesMismatch,
    FormatUnknown,
    GateFailed,
    GoldenMismatch,
)
from models.machine_copy import Copies
from models.manifest import Strict
from models.replay import Replay, replay, replay_tensors
from models.trimming import trim

BASE_BYTES: Final = 256 << 20
BYTES_PER_BYTE: Final = 40
"""A tree ensemble of 97 MB has 2.3 GB resident when its copy is written, and maps more (measured).

The other files count too: their JSON becomes objects, and a text of ten bytes in a vocabulary takes
about sixty, and as much again in the dictionary that finds it."""
COPY_BYTES: Final = 16 << 20
COPY_RATIO: Final = 8
LARGEST_BATCH: Final = 256
SECONDS_PER_SIZE: Final = 0.02
VERDICT: Final = "models.gate:verdict_for"
"""What the child is asked for, see `models.child`."""
FINDINGS: Final[dict[str, type[BundleError]]] = {
    kind.__name__: kind
    for kind in (BundleNotFound, BundleCorrupt, FormatUnknown, FeaturesMismatch, GoldenMismatch)
}
"""What a child may say that a bundle is; all else is a `GateFailed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the child may use; `address_space_bytes` None is 256 MB and 40 times the bundle."""

    address_space_bytes: int | None = None
    cpu_seconds: int = 60
    wall_seconds: float = 120.0

    def for_bundle(self, folder: Path) -> "Limits":
        """With the address space for this bundle."""
        if self.address_space_bytes is not None:
            return self
        size = sum(path.lstat().st_size for path in folder.glob("*"))
        return replace(self, address_space_bytes=BASE_BYTES + BYTES_PER_BYTE * size)


USUAL: Final = Limits()


class GateReport(Strict, frozen=True, kw_only=True):
    """What the gate found on this machine.

    `run_seconds` is the time of one run by its number of rows. `max_batch` is where the cost per
    row stops falling: 1 where it never falls by a tenth.
    """

    digest: str
    """Of the bundle that was examined: whoever opens it next must find this one."""
    rows: int
    features_off_by_one: int
    batch_exact: bool
    open_seconds: float
    resident_bytes: int
    """What opening the bundle added to the process."""
    peak_bytes: int
    run_seconds: dict[int, float]
    max_batch: int
    network: str
    """`isolated`, or `not isolated` where the machine does not let us."""
    onnxruntime: str
    release_seconds: float = 0.0
    """Letting go of it stops every thread of Python for so long."""
    copies: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """sha256 of this machine's own copy of each model, by the model's file name."""
    without_copies: str = ""
    """Why there are none, where some were asked for."""


class _Verdict(Strict, frozen=True, kw_only=True):
    report: GateReport | None = None
    error: str | None = None
    message: str = ""


def run_gate(
    folder: Path,
    limits: Limits = USUAL,
    *,
    cancelled: threading.Event | None = None,
    copies: Path | None = None,
) -> GateReport:
    """Loads and replays a bundle in a process of its own. Blocks until there is a verdict.

    Args:
        folder: the bundle.
        limits: what the process may use.
        cancelled: once it is set, by any thread, the process is killed and nothing waited for.
        copies: folder for this machine's own copies of the models (`models.machine_copy`), which
            the report then names; None for none.

    Raises:
        GoldenMismatch, BundleCorrupt, FormatUnknown, FeaturesMismatch: the child's findings.
        GateFailed: no verdict came: it crashed, hung, used more than it may, or was cancelled.
    """
    folder = folder.resolve()
    limits = limits.for_bundle(folder)
    assert limits.address_space_bytes is not None
    into = None if copies is None else str(copies.resolve())
    within = ChildLimits(
        address_space_bytes=limits.address_space_bytes,
        cpu_seconds=limits.cpu_seconds,
        wall_seconds=limits.wall_seconds,
        copy_bytes=0 if copies is None else _copy_bytes(folder),
    )
    task = {"folder": str(folder), "copies": into}
    try:
        answer = ask_child(VERDICT, task, within, cancelled or threading.Event())
    except NoAnswer as error:
        said = f" Its last words: {error.said}" if error.said else ""
        raise GateFailed(
            f"bundle {folder}: its first load, in a process of its own, gave no verdict: "
            f"{error.why}. Nothing was loaded here and what serves goes on.{said} Check the model "
            "file, or allow it more if it is known to be that large."
        ) from error
    return _with_copies(_reported(folder, answer), copies)


def _with_copies(report: GateReport, copies: Path | None) -> GateReport:
    """The report, with the copies that could be put into their places."""
    if copies is None:
        return report
    try:
        admitted = machine_copy.admit(copies, report.digest, report.copies)
    except OSError as error:
        return msgspec.structs.replace(report, copies={}, without_copies=str(error))
    return msgspec.structs.replace(report, copies=dict(admitted.sha256))


def _reported(folder: Path, answer: bytes) -> GateReport:
    try:
        verdict = msgspec.json.decode(answer, type=_Verdict)
    except msgspec.MsgspecError as error:
        raise GateFailed(
            f"bundle {folder}: its gate answered with something else: {error}"
        ) from error
    if verdict.report is not None:
        return verdict.report
    kind = FINDINGS.get(verdict.error or "", GateFailed)
    raise kind(verdict.message or f"bundle {folder}: its gate answered without a finding")


def _copy_bytes(folder: Path) -> int:
    """How large a copy may become: that of a tree ensemble has 2.3 times the size (measured)."""
    return COPY_BYTES + COPY_RATIO * sum(path.lstat().st_size for path in folder.glob("*.onnx"))


# what the child does


class _Opened(NamedTuple):
    """A bundle with what opening it took."""

    bundle: Bundle
    seconds: float
    resident_bytes: int


def examine(folder: Path, *, network: str, copies: Path | None = None) -> GateReport:
    """Opens, replays and measures a bundle in this process.

    Args:
        folder: the bundle.
        network: what the report is to say of it.
        copies: where this machine's own copies of its models are to be written; where they answer
            with the bits of the originals, they are what is measured.

    Raises:
        BundleError: whatever is wrong with it.
    """
    opened = _open(folder)
    found, copied, without = _replay(opened.bundle), None, ""
    if copies is not None and opened.bundle.fitted is not None:
        copied, without = _copied(opened.bundle, copies)
    if copied is not None:
        of_copies, without = _opened_copies(folder, copied)
        if of_copies is not None and not _same_bits(opened.bundle, of_copies.bundle):
            of_copies, without = None, "the copies answer with other bits than the originals"
        if of_copies is None:
            copied = None
        else:
            opened = of_copies
            found = _replay(opened.bundle)
        del of_copies
    bundle, open_seconds, resident = opened
    del opened
    seconds = {} if bundle.fitted is None else run_seconds(bundle)
    digest = bundle.digest
    # Processor time too: waiting for a processor is no part of it.
    began = time.thread_time()
    del bundle
    release_seconds = time.thread_time() - began
    return GateReport(
        digest=digest,
        rows=found.rows,
        features_off_by_one=found.features_off_by_one,
        batch_exact=found.batch_exact,
        open_seconds=open_seconds,
        resident_bytes=max(0, resident),
        peak_bytes=_peak_bytes(),
        run_seconds=seconds,
        max_batch=max_batch(seconds),
        network=network,
        onnxruntime=runtime.version,
        release_seconds=release_seconds,
        copies={} if copied is None else dict(copied.sha256),
        without_copies=without,
    )


def _open(folder: Path, copies: Copies | None = None) -> _Opened:
    trim()  # else what was freed before is used again, and not seen
    before, started = _resident_bytes(), time.perf_counter()
    bundle = Bundle.open(folder, copies=copies)
    seconds = time.perf_counter() - started
    trim()  # opening needs more than what is kept
    return _Opened(bundle, seconds, _resident_bytes() - before)


def _opened_copies(folder: Path, copies: Copies) -> tuple[_Opened | None, str]:
    """The bundle over its copies, or none and why: the originals do as well."""
    try:
        return _open(folder, copies), ""
    except Exception as error:  # noqa: BLE001  (onnxruntime's)
        return None, f"the copies do not open: {error}"


def _replay(bundle: Bundle) -> Replay:
    if bundle.fitted is None:
        return replay_tensors(bundle)
    return replay(bundle, bundle.golden, bundle.fitted.feature_names)


def _copied(bundle: Bundle, folder: Path) -> tuple[Copies | None, str]:
    """Copies of a bundle's models that nobody has admitted yet, or none and why."""
    sha256: dict[str, str] = {}
    try:
        for name in machine_copy.MODELS:
            if (bundle.folder / name).exists():
                path = machine_copy.path_of(folder, bundle.digest, name, machine_copy.NEW)
                runtime.save_for_this_machine(bundle.folder / name, path)
                sha256[name] = machine_copy.sha256_of(path) or ""
    except Exception as error:  # noqa: BLE001  (onnxruntime's, or no room: it serves without)
        return None, str(error)
    return Copies(folder, sha256, machine_copy.NEW), ""


def _same_bits(one: Bundle, other: Bundle) -> bool:
    """Whether two openings of a bundle answer the golden rows alike, singly and in a batch."""
    rows = one.encoder.encode([row.record for row in one.golden.rows]).rows
    parts = [rows, *(rows[at : at + 1] for at in range(len(rows)))]
    pairs = [(one.run, other.run)]
    if one.baseline is not None and other.baseline is not None:
        pairs.append((one.baseline.run, other.baseline.run))
    return all(a(part).same_bits(b(part)) for a, b in pairs for part in parts)


def run_seconds(bundle: Bundle) -> dict[int, float]:
    """Median seconds of one run of 1, 2, 4, … rows; the golden rows in turn.

    Of processor time: a run has one thread, and requests may have the processors meanwhile.

    One row over and over finds its way through large trees in the cache, at two thirds of the cost.
    """
    golden = bundle.encoder.encode([row.record for row in bundle.golden.rows]).rows
    if not len(golden):
        return {}
    rows = np.resize(golden, (2 * LARGEST_BATCH, golden.shape[1]))
    sizes = [1 << power for power in range(LARGEST_BATCH.bit_length())]
    return {size: _median_run(bundle, rows, size) for size in sizes}


def _median_run(bundle: Bundle, rows: NDArray[np.float64], size: int) -> float:
    bundle.run(rows[:size])
    taken: list[float] = []
    end = time.perf_counter() + SECONDS_PER_SIZE
    while len(taken) < 3 or (time.perf_counter() < end and len(taken) < 200):
        first = len(taken) * size % LARGEST_BATCH
        started = time.thread_time()
        bundle.run(rows[first : first + size])
        taken.append(time.thread_time() - started)
    return median(taken)


def max_batch(seconds: dict[int, float]) -> int:
    """The largest size whose cost per row is a tenth below that of the last one chosen.

    >>> max_batch({1: 20e-6, 2: 22e-6, 4: 26e-6, 8: 50e-6})
    4
    >>> max_batch({1: 20e-6, 2: 39e-6, 4: 79e-6})
    1
    """
    best = 1
    for size, taken in sorted(seconds.items()):
        if taken / size <= 0.9 * seconds[best] / best:
            best = size
    return best


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:  # not Linux
        return 0
    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    """The most this process ever had; getrusage would tell of the parent it was forked from."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:  # not Linux
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(line.split()[1]) * 1024


def verdict_for(task: dict[str, Any]) -> bytes:
    """What the child answers to `run_gate`."""
    folder = Path(task["folder"])
    copies = None if task["copies"] is None else Path(task["copies"])
    try:
        verdict = _Verdict(report=examine(folder, network=task["network"], copies=copies))
    except BundleError as error:
        verdict = _complaint(type(error).__name__, error)
    except Exception as error:  # noqa: BLE001  (onnxruntime's, or no memory: a verdict all the same)
        verdict = _complaint("GateFailed", error)
    return msgspec.json.encode(verdict)


def _complaint(kind: str, error: Exception) -> _Verdict:
    text = str(error) or repr(error)
    if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text:
        kind, text = "GateFailed", f"the bundle needs more memory than its gate allows: {text}"
    elif kind == "GateFailed":
        text = f"the bundle opens but does not run: {text}"
    return _Verdict(error=kind, message=text)
