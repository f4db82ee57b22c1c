"""How long and how often everything is measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _prepared import Prepared, manifest_digest


@dataclass(frozen=True, slots=True)
class Options:
    """Of one run.

    Attributes:
        seconds: of one measurement.
        rounds: how often each contender has its turn.
        connections: of the closed loops.
        folder: for what is made once and kept: parts of the model, bundles.
        peers: for the environments of other servers.
        contenders: names; only these of the other servers are measured.
    """

    seconds: int
    rounds: int
    connections: tuple[int, ...]
    folder: Path
    peers: Path
    prepared: Prepared
    contenders: tuple[str, ...] = ()

    @property
    def growth(self) -> Path:
        """Folder of bundles of the shipped one's kind, which are made again when it is."""
        return self.folder / "growth" / manifest_digest()[:12]

    def wants(self, name: str) -> bool:
        return not self.contenders or name in self.contenders


Found = dict[str, Any]
"""What a section found, as it goes to JSON."""


def say(text: str) -> None:
    """Progress: a line at once."""
    print(f"  {text}", flush=True)
