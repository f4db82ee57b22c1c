"""What calls that change a model's two slots have in their bodies, and what they answer."""

import msgspec

from models.gate import GateReport
from server.ops.calls import Asked
from server.ops.contracts import ContractShown
from server.routes import AnyRoutes


class Load(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to load a version as candidate.

    `drop_previous` lets it take the slot of the previous version, to which nobody can roll back
    then.
    """

    version: str
    drop_previous: bool = False


class Unload(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to empty a model's second slot, which must hold this version."""

    version: str


class Promote(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to make the candidate live.

    `breaking` says that callers know of the changes that break some of their requests.
    """

    version: str
    breaking: bool = False


class Rollback(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to make the previous version live again."""


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """The versions in a model's slots."""

    live: str | None = None
    candidate: str | None = None
    previous: str | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the verifying process found of a bundle that was loaded.

    `release_seconds` is how long letting go of it stops a process; `copied` names the models of
    which this machine has its own copies, which are what was measured.
    """

    digest: str
    golden_rows: int
    features_off_by_one: int
    batch_exact: bool
    open_seconds: float
    release_seconds: float
    resident_bytes: int
    peak_bytes: int
    row_seconds: float | None
    network: str
    copied: list[str]


class Swapped(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to; asked twice, nothing is changed the second time.

    Attributes:
        version: that it was about.
        released: of an unload, whether its memory has been given back by now.
        stall_seconds: for which a process stood still to let go of it; None where none did.
        successors: of workers that were replaced instead; None for other calls than an unload.
    """

    swap: str
    model: str
    version: str
    before: Slots
    after: Slots
    generation: int
    changed: bool
    dry_run: bool = False
    measured: Measured | None = None
    contract: ContractShown | None = None
    released: bool | None = None
    stall_seconds: float | None = None
    successors: int | None = None


def slots_of(routes: AnyRoutes, model: str) -> Slots:
    """What a model's slots hold by a route table."""
    live, second = routes.live.get(model), routes.second.get(model)
    version = None if live is None else live.bundle.version
    if second is None:
        return Slots(live=version)
    if second.role == "candidate":
        return Slots(live=version, candidate=second.version)
    return Slots(live=version, previous=second.version)


def measured(report: GateReport) -> Measured:
    """The part of a gate's report that an operator wants to see."""
    return Measured(
        digest=report.digest,
        golden_rows=report.rows,
        features_off_by_one=report.features_off_by_one,
        batch_exact=report.batch_exact,
        open_seconds=report.open_seconds,
        release_seconds=report.release_seconds,
        resident_bytes=report.resident_bytes,
        peak_bytes=report.peak_bytes,
        row_seconds=report.run_seconds.get(1),
        network=report.network,
        copied=sorted(report.copies),
    )


def short(slots: Slots) -> dict[str, str]:
    """The slots that hold something."""
    return {name: text for name, text in msgspec.structs.asdict(slots).items() if text is not None}
