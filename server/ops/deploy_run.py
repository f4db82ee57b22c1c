"""One deploy as it goes on: looks, has the policy decide, keeps what it says, and does it.

`models.rollout` is the policy. Here is what it cannot know: which calls bring a stage about, that a
call may be refused and has to be tried again, that an operator may have done something meanwhile,
and that a server may be started again in the middle.

What a stage needs is asked for under the generation of the route table that was looked at: where
somebody else has changed something, the call is refused, and it is looked at again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import structs

from models.errors import ServingError
from models.evidence import Evidence
from models.rollout import Stage, State, Stepped, begun, step, stopped
from models.rollout_verdicts import Reason
from models.store import Store
from models.times import time_now
from server.deploy_counters import DeployCounters
from server.deploy_records import DeployRecord, write_record
from server.health import Phase
from server.logs import logger
from server.ops.deploy_shown import ENDINGS, LOADING
from server.ops.deploy_sources import Sources
from server.ops.ledger import Ledger, OperatorError
from server.ops.swap_bodies import Load, Promote, Rollback, Unload
from server.ops.swaps import Swaps
from server.ops.trials import Canary, Shadow
from server.replaying import CannotReplay
from server.routes import Shares

LOOKS: Final = 10
"""In the shortest stage, at least: what comes between two looks alone decides nothing."""
LOOK_SECONDS: Final = (0.05, 1.0)
"""Between two looks: at least, and at most."""
KEEP_SECONDS: Final = 5.0
"""How often the state of a deploy that waits is kept: so much of what was seen may be lost."""
PATIENCE_SECONDS: Final = 60.0
"""So long what a stage needs may be refused."""
REPLAYING: Final = Reason(kind="few_requests", sentence="kept rows are put to both versions")

_log = logger("deploys")


class Around(NamedTuple):
    """What every deploy of a server needs."""

    ledger: Ledger
    swaps: Swaps
    store: Store
    now: Callable[[], float] = time.monotonic


class DeployRun:
    """A deploy from wherever its record is to its end. On the loop.

    Args:
        record: what was kept of it.
        around: what it needs.
        is_resumed: the server was started again since.

    Attributes:
        record: as it stands; kept before anything is done.
        waits: what it waits for.
    """

    def __init__(self, record: DeployRecord, around: Around, *, is_resumed: bool = False) -> None:
        self.record = record
        self.waits: tuple[Reason, ...] = record.state.reasons if record.state else ()
        self._around = around
        self._ledger = around.ledger
        self._swaps = around.swaps
        self._counters: DeployCounters = around.ledger.runtime.swaps.deploys
        self._sources = Sources(around.store, record)
        self._said: tuple[Any, Any] = (None, None)
        self._cancelled: Reason | None = None
        self._wake = asyncio.Event()
        self._is_in_force = False
        self._refused_since: float | None = None
        self._is_resumed = is_resumed
        self._is_draining = False
        self._kept_at = 0.0

    @property
    def stage(self) -> Stage | None:
        """That it is in; None while the candidate is being loaded."""
        state = self.record.state
        return None if state is None else self.record.plan.stages[state.stage]

    @property
    def is_over(self) -> bool:
        """Whether all has been done that its end asks for."""
        return self.record.ended is not None

    def cancel(self, who: str, why: str) -> None:
        """Has it roll back, at its next look."""
        words = f": {why}" if why else ""
        self._cancelled = Reason(kind="cancelled", sentence=f"{who} cancelled it{words}")
        self._wake.set()

    def drain(self) -> None:
        """Goes no further: the server stops."""
        self._is_draining = True
        self._sources.close()
        self._wake.set()

    async def go(self) -> None:
        """To the end, or until the server stops; then a restarted one goes on."""
        live = self._ledger.runtime.routes.live.get(self.record.model)
        self._said = (None, None) if live is None else (live.said, live.override)
        self._show()
        while not self.is_over and self._serves:
            try:
                await self._turn()
            except OperatorError as error:
                await self._put_up_with(error)
            except OSError as error:  # nothing that is not kept is done
                _log.error("deploy_not_kept", model=self.record.model, reason=str(error))
            if not self.is_over:
                await self._rest()

    @property
    def _serves(self) -> bool:
        return not self._is_draining and self._ledger.runtime.phase is Phase.SERVING

    async def _rest(self) -> None:
        shortest = min((s.seconds for s in self.record.plan.stages if s.seconds), default=1.0)
        low, high = LOOK_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(high, max(low, shortest / LOOKS))):
                await self._wake.wait()
        self._wake.clear()

    async def _turn(self) -> None:
        """What is next."""
        state = self.record.state
        if state is None:
            await self._load()
        elif state.ended is not None:
            await self._end(state)
        elif self._cancelled is not None:
            await self._stop("rollback", self._cancelled)
        elif not self._is_in_force:
            await self._put_in_force()
        elif (overruled := self._overruled()) is not None:
            await self._stop("hold", overruled)
        else:
            await self._look(state)

    # the candidate

    async def _load(self) -> None:
        """Opens the candidate in the slot beside live, and drops what is there and may go."""
        record, routes = self.record, self._ledger.runtime.routes
        reason = self._reason("the candidate is loaded")
        second = routes.second.get(record.model)
        if self._cancelled is None and not self._is_candidate(record.version):
            if second is not None and (second.was_live or second.version == record.version):
                asked = Unload(version=second.version, reason=reason)
                await self._swaps.unload(record.model, asked, who=record.by)
            asked = Load(version=record.version, drop_previous=True, reason=reason)
            try:
                await self._swaps.load(record.model, asked, who=record.by)
            except OperatorError as error:
                if error.code == "conflict":
                    raise
                if not self._serves:  # its verifying process was ended with the server
                    return
                await self._begin(stopped(begun(self._now), "rollback", _refused(error)))
                return
        await self._begin(begun(self._now))

    async def _begin(self, state: State) -> None:
        await self._keep(state)
        if state.ended is None:
            await self._tell("deploy_advanced", before=LOADING, after=self._stage_name)

    def _is_candidate(self, version: str) -> bool:
        second = self._ledger.runtime.routes.second.get(self.record.model)
        return second is not None and second.version == version and second.role == "candidate"

    # stages

    async def _put_in_force(self) -> None:
        """Has traffic go as the stage says."""
        stage, record = self.stage, self.record
        assert stage is not None
        assert record.state is not None
        routes = self._ledger.runtime.routes
        if (gone := self._gone()) is not None:
            await self._stop(*gone)
            return
        if stage.kind == "bake":
            asked = Promote(
                version=record.version,
                breaking=record.breaking,
                reason=self._reason("it has passed the stages before"),
                if_generation=routes.generation,
            )
            await self._swaps.promote(record.model, asked, who=record.by)
        else:
            await self._share(stage)
        self._is_in_force = True
        self._refused_since = None
        # What was watched before it was in force is not of this stage.
        await self._keep(structs.replace(record.state, at=self._now))

    async def _share(self, stage: Stage | None) -> None:
        """Gives the candidate the stage's share of callers, or of copies; none without a stage."""
        record, wanted = self.record, _shares_in(stage)
        reason = self._reason("it has ended" if stage is None else f"stage {stage.name}")
        # One of them is always taken back first: nobody is to get both.
        if not wanted.shadow:
            asked = Shadow(version=record.version, share=0.0, reason=reason)
            await self._swaps.shadow(record.model, asked, who=record.by)
        asked = Canary(
            version=record.version,
            share=wanted.canary,
            breaking=record.breaking,
            reason=reason,
        )
        await self._swaps.canary(record.model, asked, who=record.by)
        if wanted.shadow:
            asked = Shadow(version=record.version, share=wanted.shadow, reason=reason)
            await self._swaps.shadow(record.model, asked, who=record.by)

    def _gone(self) -> tuple[Literal["rollback", "hold"], Reason] | None:
        """Why the stage cannot be brought about any more, and how the deploy ends for it."""
        record, stage = self.record, self.stage
        routes = self._ledger.runtime.routes
        live, second = routes.live.get(record.model), routes.second.get(record.model)
        if live is not None and live.bundle.version == record.version:
            return (
                None
                if stage is not None and stage.kind == "bake"
                else ("hold", _by_hand("promoted"))
            )
        if second is None or second.version != record.version:
            if self._is_resumed:
                sentence = "after a restart the candidate could not be opened again"
                return "rollback", Reason(kind="lost", sentence=sentence)
            return "hold", _by_hand("unloaded")
        if second.was_live and stage is not None and stage.kind == "bake":
            return "hold", _by_hand("rolled back")
        return None

    def _overruled(self) -> Reason | None:
        """What an operator has done that this deploy had not."""
        stage = self.stage
        assert stage is not None
        record, routes = self.record, self._ledger.runtime.routes
        live, second = routes.live.get(record.model), routes.second.get(record.model)
        if stage.kind == "bake":
            is_live = live is not None and live.bundle.version == record.version
            return None if is_live else _by_hand("rolled back")
        if live is None or live.bundle.version != record.live:
            return _by_hand("given another version beside it, or promoted,")
        if second is None or second.version != record.version:
            return _by_hand("unloaded")
        if Shares(second.canary, second.shadow) != _shares_in(stage):
            return _by_hand("given another share")
        said = live.said, live.override
        before, self._said = self._said, said
        if all(now in (None, then) for now, then in zip(said, before, strict=True)):
            return None  # what has ended, as by its time, is no word against the deploy
        sentence = (
            "an operator has changed who answers for the live version; `keelmark events` says who. "
            "What was said of it would end with its promotion"
        )
        return Reason(kind="overruled", sentence=sentence)

    async def _look(self, state: State) -> None:
        """One step of the policy."""
        stage = self.stage
        assert stage is not None
        try:
            evidence = self._sources.evidence(self._ledger.runtime, stage)
        except CannotReplay as error:
            await self._stop("hold", _refused(error))
            return
        if evidence is None:
            self.waits = (REPLAYING,)
            return
        if stage.kind == "replay":
            # All at once, and the time that it took was no waiting.
            state = structs.replace(state, at=self._now, zero=Evidence(), seen=Evidence())
        stepped = step(self.record.plan, state, evidence, self._now)
        action = stepped.action
        self.waits = action.reasons
        if action.kind == "wait":
            await self._wait(stage, stepped)
            return
        before = stage.name
        await self._keep(stepped.state)
        self._wake.set()
        if action.kind in ("advance", "promote"):
            self._is_in_force = False
            await self._tell("deploy_advanced", before=before, after=self._stage_name)
        self._show()

    async def _wait(self, stage: Stage, stepped: Stepped) -> None:
        """Keeps what was seen, now and then; where no more will come, it is somebody's verdict."""
        self.record = structs.replace(self.record, state=stepped.state)
        if stage.kind == "replay":
            await self._stop("hold", *stepped.action.reasons)
        elif self._now - self._kept_at > KEEP_SECONDS:
            await self._keep(stepped.state)

    async def _stop(self, kind: Literal["rollback", "hold"], *reasons: Reason) -> None:
        assert self.record.state is not None
        await self._keep(stopped(self.record.state, kind, *reasons))
        self._wake.set()

    async def _put_up_with(self, error: OperatorError) -> None:
        """Tries again what was refused, for a while; what an end asks for, until it is done."""
        now = self._now
        if self._refused_since is None:
            self._refused_since = now
            _log.warning("deploy_waits", model=self.record.model, reason=str(error))
        self.waits = (_refused(error),)
        state = self.record.state
        if state is not None and state.ended is not None:
            return
        if now - self._refused_since > PATIENCE_SECONDS:
            state = state or begun(now)
            await self._keep(stopped(state, "hold", _refused(error)))

    # the end

    async def _end(self, state: State) -> None:
        """Does what the end asks for, as often as it is asked, and tells of it."""
        if state.ended == "rollback":
            await self._roll_back(state)
        elif state.ended == "hold":
            await self._take_back()
        self.waits = state.reasons
        at = time_now()
        assert state.ended is not None
        result = ENDINGS[state.ended]
        await self._tell("deploy_ended", after=result, reasons=state.reasons)
        await self._write(structs.replace(self.record, ended=at))
        self._counters.ended(result)
        self._counters.at(self.record.model, None)

    async def _take_back(self) -> None:
        """Leaves a candidate without the share that the deploy gave it, not one given by hand."""
        second = self._ledger.runtime.routes.second.get(self.record.model)
        if second is None or not self._is_candidate(self.record.version):
            return
        if Shares(second.canary, second.shadow) == _shares_in(self.stage):
            await self._share(None)

    async def _roll_back(self, state: State) -> None:
        record, routes = self.record, self._ledger.runtime.routes
        second = routes.second.get(record.model)
        why = self._reason("; ".join(reason.sentence for reason in state.reasons))
        if second is None:
            return
        is_baking = record.plan.stages[state.stage].kind == "bake"
        if is_baking and (second.role, second.version) == ("previous", record.live):
            asked = Rollback(reason=why, if_generation=routes.generation)
            await self._swaps.rollback(record.model, asked, who=record.by)
        elif self._is_candidate(record.version) and not (is_baking and second.was_live):
            asked = Unload(version=record.version, reason=why, if_generation=routes.generation)
            await self._swaps.unload(record.model, asked, who=record.by)

    # keeping and telling

    @property
    def _now(self) -> float:
        return self._around.now()

    @property
    def _stage_name(self) -> str:
        stage = self.stage
        return LOADING if stage is None else stage.name

    def _reason(self, words: str) -> str:
        """What stands in the event of a call of this deploy."""
        return f"deploy of {self.record.version}, asked for by {self.record.by}: {words}"[:500]

    async def _keep(self, state: State) -> None:
        await self._write(structs.replace(self.record, state=state))
        self._kept_at = self._now
        self._show()

    async def _write(self, record: DeployRecord) -> None:
        await asyncio.to_thread(write_record, self._ledger.folder, record)
        self.record = record

    def _show(self) -> None:
        stage = self.stage
        at = LOADING if stage is None else stage.kind
        self._counters.at(self.record.model, None if self.is_over else at)

    async def _tell(
        self, kind: str, before: str | None = None, after: str | None = None, reasons: Any = ()
    ) -> None:
        facts: dict[str, Any] = {"id": self.record.id, "version": self.record.version}
        if reasons:
            facts["reasons"] = msgspec.to_builtins(reasons)
        _log.info(kind, model=self.record.model, before=before, after=after, **facts)
        await self._ledger.tell(
            kind, model=self.record.model, before=before, after=after, facts=facts
        )


def _shares_in(stage: Stage | None) -> Shares:
    """What the candidate gets in a stage."""
    if stage is None or stage.kind not in ("canary", "shadow"):
        return Shares()
    return Shares(**{stage.kind: stage.share})


def _refused(error: ServingError | OperatorError) -> Reason:
    return Reason(kind="refused", sentence=str(error))


def _by_hand(what: str) -> Reason:
    sentence = f"the candidate was {what} by hand; `keelmark events` says who"
    return Reason(kind="overruled", sentence=sentence)
