"""What a run was made with: the machine, the versions, the state of the code."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from _options import Found
from _prepared import ROOT

UNKNOWN: Final = "unknown"
PACKAGES: Final = (
    "onnxruntime",
    "numpy",
    "msgspec",
    "uvicorn",
    "uvloop",
    "httptools",
    "fastapi",
    "pydantic",
    "pandas",
    "scikit-learn",
    "lightgbm",
    "prometheus-client",
)


def conditions() -> Found:
    """Of this moment."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_changed": _git("status", "--porcelain", "--untracked-files=no") not in ("", UNKNOWN),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return done.stdout.strip()
