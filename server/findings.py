"""What self-tests have found wrong: of each loaded bundle, in each process that has it open."""

from typing import Any

import msgspec

from models.planning import Forced
from server.events import shortened
from server.routes import Served


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A golden row that differs from what is expected, twice in a row.

    Attributes:
        row: its name.
        got, expected: what differs.
        below: the highest rung that gives right answers still.
    """

    row: str
    got: str
    expected: str
    below: Forced

    @property
    def sentence(self) -> str:
        """For people."""
        return f"golden row {self.row!r}: {self.got}, expected {self.expected}"


class Findings:
    """On the loop of whoever hears of all processes.

    A bundle is known by its digest, a process by its slot; without workers there is slot 0 alone.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], Finding] = {}

    def put(self, digest: str, slot: int, finding: Finding | None) -> None:
        """What a process has found; None where all golden rows are good again."""
        self._found.pop((digest, slot), None)
        if finding is not None:
            self._found[digest, slot] = finding

    def of(self, digest: str) -> Finding | None:
        """The latest of a bundle; None while it is good in every process."""
        found = [finding for (of, _), finding in self._found.items() if of == digest]
        return found[-1] if found else None

    def slots(self, digest: str) -> list[int]:
        """The processes in which a bundle is not good."""
        return sorted(slot for of, slot in self._found if of == digest)

    def ended(self, slot: int) -> None:
        """The process is gone."""
        self._found = {key: found for key, found in self._found.items() if key[1] != slot}

    def keep(self, digests: set[str]) -> None:
        """Only these bundles are loaded: another one that is loaded again is opened anew."""
        self._found = {key: found for key, found in self._found.items() if key[0] in digests}


def event_of(route: Served, finding: Finding | None, **where: int) -> dict[str, Any]:
    """What the event log is told of a finding, or that there is none any more.

    Args:
        route: of the bundle.
        finding: what was found; None where all golden rows are good again.
        where: in which process.
    """
    facts: dict[str, Any] = {"version": route.bundle.version, **where}
    kind = "selftest_passed"
    if finding is not None:
        kind = "selftest_failed"
        facts |= msgspec.structs.asdict(finding) | {"action": route.on_selftest}
        facts |= {name: shortened(facts[name]) for name in ("row", "got", "expected")}
    return {"kind": kind, "model": route.bundle.name, "facts": facts}
