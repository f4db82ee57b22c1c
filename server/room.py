"""Whether there is memory for a bundle: before it is verified, and by what that has measured."""

from pathlib import Path
from typing import Final

from models.errors import ServingError
from models.gate import GateReport
from server.memory import free_bytes

VERIFYING_BYTES: Final = 64 << 20
VERIFYING_RATIO: Final = 25
"""What the verifying process takes at its peak: so much, and so many times the model's file."""
SPARE_BYTES: Final = 32 << 20
"""What is to be left for everything else when a bundle is open."""
WAY_OUT: Final = "unload what is not needed, or load it where there is more"


class NoRoom(ServingError):
    """There is too little free memory; the message says how much is needed."""


def check_before(folder: Path, what: str) -> None:
    """Refuses before anything is started what has clearly no room.

    Args:
        folder: the bundle.
        what: it is called.

    Raises:
        NoRoom: verifying it may take more memory than is free.
    """
    size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
    needed, free = VERIFYING_BYTES + VERIFYING_RATIO * size, free_bytes()
    if free is not None and free < needed:
        raise NoRoom(
            f"verifying {what} may take {_mb(needed)} of memory, and {_mb(free)} are free; "
            f"{WAY_OUT}"
        )


def check_measured(report: GateReport, what: str, processes: int) -> None:
    """Refuses what has passed its gate and would not fit into every process that is to open it.

    Args:
        report: of its gate.
        what: it is called.
        processes: that answer requests.

    Raises:
        NoRoom: they would take more memory than is free.
    """
    needed, free = processes * report.resident_bytes, free_bytes()
    if free is not None and free < needed + SPARE_BYTES:
        each = f", {_mb(report.resident_bytes)} in each of {processes} workers"
        raise NoRoom(
            f"{what} takes {_mb(needed)} of memory when it is open{each * (processes > 1)}, as was "
            f"measured; {_mb(free)} are free and {_mb(SPARE_BYTES)} of them are left to others; "
            f"{WAY_OUT}"
        )


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 20):,.0f} MB"
