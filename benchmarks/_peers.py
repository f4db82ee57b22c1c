"""Python model servers of others, each in an environment of its own; the rest needs none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import onnxruntime

REQUIREMENTS: Final = {
    "mlserver": ("mlserver==1.7.1",),
    "bentoml": ("bentoml==1.4.39",),
    "litserve": ("litserve==0.2.19",),
    "ray": ("ray[serve]==2.60.0",),
    "mlflow": ("mlflow==3.17.2",),
    "py-spy": ("py-spy==0.4.3",),
}
INSTALL_SECONDS: Final = 900
QUIET: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class NotInstalled(Exception):
    """A peer that cannot be had here, and why."""


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        NotInstalled: that failed.
    """
    home = folder / peer
    wanted = "\n".join((*REQUIREMENTS[peer], f"onnxruntime=={onnxruntime.__version__}"))
    python, mark = home / "bin" / "python", home / "installed.txt"
    if python.exists() and mark.exists() and mark.read_text() == wanted:
        return python
    print(f"  installing {', '.join(wanted.split())} ...", flush=True)
    home.mkdir(parents=True, exist_ok=True)
    if not python.exists():
        _run([sys.executable, "-m", "venv", *(["--without-pip"] if uv() else []), str(home)])
    _run([*_installer(python), *wanted.split()])
    mark.write_text(wanted)
    return python


def environment_of(python: Path, scratch: Path, prepared: Path) -> dict[str, str]:
    """What a peer's processes see: their own programs, a home that is thrown away, our settings."""
    return {
        **os.environ,
        **QUIET,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(scratch),
        "PREPARED": str(prepared),
        "PYTHONPATH": str(Path(__file__).parent / "peers"),
    }


def uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv")


def _installer(python: Path) -> list[str]:
    if found := uv():
        return [found, "pip", "install", "--quiet", "--python", str(python)]
    return [str(python), "-m", "pip", "install", "--quiet"]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"it cannot be installed: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing was said"]
        raise NotInstalled(f"it cannot be installed: {said[-1].strip()}")
