"""A machine's own copy of a bundle's models: what onnxruntime makes of them here, in its format.

Opened, it has a sixth of the memory of the original, and is let go of in a millisecond or two where
that takes tens. It fits one onnxruntime and one processor, so it lies in the server's state folder
and never in a bundle; the gate writes it, and admits it where its answers have the original's bits.
"""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

from features import runtime
from models.folders import sync
from models.manifest import BASELINE, MODEL
from models.standing_back import standing_back

MODELS: Final = (MODEL, BASELINE)
SUFFIX: Final = ".ort"
"""By which onnxruntime knows the format."""
NEW: Final = ".new"
"""Before the suffix, while nobody has admitted it."""
DIGITS: Final = 24
CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of one bundle's models.

    Attributes:
        folder: where they lie.
        sha256: of each, by the model's file name; what is not in it has no copy.
        mark: in their names, `NEW` while nobody has admitted them.
    """

    folder: Path
    sha256: Mapping[str, str]
    mark: str = ""

    def found(self, digest: str, name: str) -> Path | None:
        """The copy of a model, if it is there and as it was admitted.

        Args:
            digest: of the bundle.
            name: of the model's file.
        """
        path = path_of(self.folder, digest, name, self.mark)
        return path if sha256_of(path) == self.sha256.get(name, "") else None


def path_of(folder: Path, digest: str, name: str, mark: str = "") -> Path:
    """Where a copy lies, by the bundle's digest, onnxruntime and the processor."""
    stem = name.partition(".")[0]
    return folder / f"{digest[:DIGITS]}-{runtime.version}-{processor()}-{stem}{mark}{SUFFIX}"


def sha256_of(path: Path) -> str | None:
    """Of a file's content; None where it cannot be read."""
    try:
        return standing_back(path.stat().st_size, partial(_hashed, path))
    except OSError:
        return None


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def admit(folder: Path, digest: str, sha256: Mapping[str, str]) -> Copies:
    """Puts new copies into their places, so that a crash leaves the old ones or the new ones.

    What is not the file that was examined is left out.
    """
    kept: dict[str, str] = {}
    for name in MODELS:
        new = path_of(folder, digest, name, NEW)
        if name in sha256 and sha256_of(new) == sha256[name]:
            sync(new)
            new.replace(path_of(folder, digest, name))
            kept[name] = sha256[name]
        else:
            new.unlink(missing_ok=True)
    return Copies(folder, kept)


def sweep(folder: Path, keep: set[str]) -> None:
    """Removes the copies of all bundles but those with these digests, and what nobody admitted.

    Nobody may be writing copies meanwhile.
    """
    kept = {digest[:DIGITS] for digest in keep}
    for path in folder.glob(f"*{SUFFIX}"):
        is_new = path.name.endswith(NEW + SUFFIX)
        if is_new or path.name.partition("-")[0] not in kept:
            path.unlink(missing_ok=True)


@cache
def processor() -> str:
    """What tells this processor from others for which onnxruntime might write another file."""
    text = platform.machine()
    try:
        lines = CPUINFO.read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        return f"{text}-{hashlib.sha256(platform.processor().encode()).hexdigest()[:12]}"
    words = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    told = [line for line in lines if line.partition(":")[0].strip() in words]
    return f"{text}-{hashlib.sha256('/'.join(told).encode()).hexdigest()[:12]}"
