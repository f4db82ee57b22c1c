"""What a server has been told to do, kept in its state folder: facts, which win over wishes.

Written before it is done, and on the disk before the command returns: a server that is started
again does what the last one did.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from models.folders import replace_file
from models.overrides import Override
from server.settings import SelftestAction, SettingsError

FACTS: Final = "facts.json"


class ForcedFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An operator's word that a lower rung answers for a model.

    Attributes:
        version: of the bundle it was said of; it ends with it.
        rung: the highest that may answer.
        by, at, reason: who, when (ISO 8601, UTC), why.
        expires: epoch seconds; None for never.
    """

    version: str
    rung: Literal["baseline", "rules"]
    by: str
    at: str
    reason: str
    expires: float | None = None


class SelftestFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An operator's word on what follows where a version's self-test fails.

    Attributes:
        version: of the bundle it was said of; it ends with it.
        action: of `vocabulary.SELFTEST_ACTIONS`.
        by, at, reason: who, when (ISO 8601, UTC), why.
    """

    version: str
    action: SelftestAction
    by: str
    at: str
    reason: str


class SecondFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model's second slot holds; see `server.routes.Second`."""

    version: str
    role: Literal["candidate", "previous"]
    was_live: bool = False
    canary: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    shadow: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class SlotsFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The two slots of a model that an operator has loaded, promoted or rolled back.

    Attributes:
        live: the version that answers; None for none.
        second: None for an empty slot.
    """

    live: str | None
    second: SecondFact | None = None


class Telling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event that tells of a change: see `server.events.Event`.

    It is on the disk with the facts that it tells of, so that the next start tells it where the
    server was killed before the event log had it.

    Attributes:
        behind: number of the log's last event when the facts were written.
    """

    kind: str
    who: str = "server"
    model: str | None = None
    before: Any = None
    after: Any = None
    facts: dict[str, Any] = {}
    behind: int = 0


class StateFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them. A generation of the route table is never used twice, also after a restart.

    `events` tell of the last change, and of those before it of which the log could not be told.
    """

    format: Literal[1] = 1
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0
    forced: dict[str, ForcedFact] = {}
    slots: dict[str, SlotsFact] = {}
    selftests: dict[str, SelftestFact] = {}
    overrides: dict[str, Override] = {}
    events: tuple[Telling, ...] = ()

    def forced_rung(
        self, model: str, version: str, now: float
    ) -> Literal["baseline", "rules"] | None:
        """The rung that an operator forced for this version, if that holds now (epoch seconds)."""
        fact = self.forced.get(model)
        if fact is None or fact.version != version:
            return None
        return None if fact.expires is not None and fact.expires <= now else fact.rung

    def selftest_action(self, model: str, version: str) -> SelftestAction | None:
        """What an operator said of this version, if anything."""
        fact = self.selftests.get(model)
        return None if fact is None or fact.version != version else fact.action


NO_FACTS: Final = StateFacts()


def read_facts(folder: Path) -> StateFacts:
    """The facts of a state folder; none where none were written.

    Raises:
        SettingsError: they cannot be read; serving without them could undo what an operator did.
    """
    path = folder / FACTS
    try:
        return msgspec.json.decode(path.read_bytes(), type=StateFacts)
    except FileNotFoundError:
        return StateFacts()
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error}), so it is not known what operators have told this "
            "server; `keelmark events` shows it. Correct the file, or remove it to serve as the "
            "store says"
        ) from error


def write_facts(folder: Path, facts: StateFacts) -> None:
    """Replaces them; on the disk when this returns.

    Raises:
        OSError: the disk did not take them; the old ones stand.
    """
    content = msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n"
    replace_file(folder / FACTS, content, alone=True)
