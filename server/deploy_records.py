"""What is kept of the deploys of a server, one file a model: a restarted server goes on with them.

Written before anything is done, so that what a record says is what is to be in force.
"""

from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from models.folders import replace_file
from models.rollout import Plan, State

FOLDER: Final = "deploys"


class DeployRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The deploy of a model that goes on, or the last one.

    Attributes:
        id: tells it from others of the model.
        version: that is to come to all traffic.
        live: the version that it is compared with, and that it gives way to.
        by, at, reason: who asked for it, when (ISO 8601, UTC), why.
        breaking: whether it is promoted although it breaks callers.
        rows: the table that is put to it, beside its golden rows, before anybody's request is.
        state: how far it is; None while the candidate is being loaded.
        ended: when it ended (ISO 8601, UTC), with all that had to be done then.
    """

    format: Literal[1] = 1
    id: str
    model: str
    version: str
    live: str
    by: str
    at: str
    reason: str = ""
    breaking: bool = False
    rows: str | None = None
    plan: Plan
    state: State | None = None
    ended: str | None = None


def write_record(folder: Path, record: DeployRecord) -> None:
    """Replaces the record of a model; on the disk when this returns.

    Args:
        folder: the state folder.
        record: that is to be there.

    Raises:
        OSError: the disk did not take it; the old one stands.
    """
    within = folder / FOLDER
    within.mkdir(mode=0o700, exist_ok=True)
    replace_file(within / f"{record.model}.json", msgspec.json.encode(record), alone=True)


def read_records(folder: Path) -> tuple[dict[str, DeployRecord], dict[str, str]]:
    """The records of a state folder by model, and why others cannot be read."""
    found: dict[str, DeployRecord] = {}
    unreadable: dict[str, str] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            found[path.stem] = _read(path)
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            unreadable[path.stem] = f"{path} cannot be read ({error})"
    return found, unreadable


def _read(path: Path) -> DeployRecord:
    record: Any = msgspec.json.decode(path.read_bytes(), type=DeployRecord)
    if record.model != path.stem:
        raise ValueError(f"it is of {record.model!r}")
    return record
