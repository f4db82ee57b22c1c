"""Where a bundle came from: features, rows, code, and the versions of everything."""

import contextlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from typing import Final

import numpy as np

from features import runtime
from features.fitted import Fitted
from models.convert import Converted
from models.convert.graph import IR_VERSION, OPSET
from models.manifest import Holdout, Training
from models.slices import Slices
from models.times import time_now
from models.training_rows import Rows, fingerprint, time_range

OLDEST_ONNXRUNTIME: Final = "1.20"


def training_facts(
    rows: Rows,
    holdout: Holdout,
    *,
    target: str | None,
    time: str | None,
    metrics: Mapping[str, float],
    slices: Slices,
    code_commit: str | None,
) -> Training:
    """What the manifest says of rows and code; the commit is looked up if not given."""
    first, last = time_range(rows)
    return Training(
        packed_at=time_now(),
        rows=len(rows),
        fingerprint=fingerprint(rows),
        holdout=holdout,
        target=target,
        time=time,
        first=first,
        last=last,
        metrics={key: float(value) for key, value in metrics.items()},
        slices=slices,
        code_commit=code_commit or _git_commit(),
    )


def _git_commit() -> str | None:
    """The commit of the current folder, marked when there are changes; None without git."""
    found: list[str] = []
    for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            answer = subprocess.run(  # noqa: S603
                ["git", *arguments],  # noqa: S607  (whichever git made the checkout)
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found.append(answer.stdout.strip())
    return found[0] + ("+changes" if found[1] else "")


def versions(features: Fitted, baseline: Mapping[str, str], converted: Converted) -> dict[str, str]:
    """Of everything that packed the bundle, and the oldest onnxruntime that serves it."""
    libraries = {**baseline, **converted.versions}
    return dict(sorted({**plain_versions(), "tzdata": features.tzdata, **libraries}.items()))


def plain_versions() -> dict[str, str]:
    """Of what every bundle is packed with."""
    import onnx

    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": runtime.version,
        "onnxruntime_oldest": OLDEST_ONNXRUNTIME,
        "onnx_opset": str(OPSET),
        "onnx_ir": str(IR_VERSION),
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # from a source tree
        found["keelmark"] = importlib.metadata.version("keelmark")
    return dict(sorted(found.items()))
