"""`keelmark deploy`: one candidate a model, brought to all traffic in stages, or rolled back.

The plan is the server's. Whoever asked for it may watch, or go: the deploy goes on, and also after
the server was started again. What an operator does by hand holds: promoting, unloading, rolling
back, giving another share or changing who answers ends the deploy, which then says so.
"""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import structs

from models.errors import ServingError
from models.integrity import verified
from models.manifest import REFERENCE, Manifest, read
from models.reference import Reference
from models.rollout import Plan, planned, promises_of, resumed
from models.store import Store
from models.times import time_now
from server.deploy_records import DeployRecord, read_records, write_record
from server.health import Phase
from server.logs import logger
from server.ops.calls import Asked, called
from server.ops.contracts import ContractShown, check_contract, contract_of
from server.ops.deploy_run import Around, DeployRun
from server.ops.deploy_shown import DeployShown, shown
from server.ops.ledger import Ledger, OperatorError
from server.ops.swaps import Swaps
from server.replaying import CannotReplay, check_rows

_log = logger("deploys")

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=30 * 86_400)]
MOST_STAGES: Final = 20


class Deploy(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to deploy a version; see `models.rollout.planned`.

    `rows` is a file where the server runs, `breaking` as of a promotion.
    """

    version: str
    shadow_seconds: Seconds = 600.0
    canary_percents: Annotated[tuple[Percent, ...], msgspec.Meta(max_length=MOST_STAGES)] = (
        1,
        10,
        50,
    )
    bake_seconds: Seconds = 600.0
    max_wait_seconds: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 3600.0
    requests: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 200
    evidence: Literal["live", "replay"] = "live"
    rows: str | None = None
    max_changed_decisions: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    breaking: bool = False


class Cancel(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to roll back a deploy that goes on."""


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to.

    Attributes:
        changed: whether it changed anything; asked twice, nothing is changed the second time.
        drops: the version that gives up its slot to the candidate, to which nobody can roll back
            then.
        contract: what callers of the live version would notice.
        deploy: as it stands, or would begin; None where there is none.
    """

    changed: bool
    dry_run: bool = False
    drops: str | None = None
    contract: ContractShown | None = None
    deploy: DeployShown | None = None


class Deploys:
    """The deploys of a server, on the loop that serves.

    Args:
        ledger: of the server.
        swaps: takes the calls of which a deploy is made.
        store: that has the bundles.
    """

    def __init__(self, ledger: Ledger, swaps: Swaps, store: Store) -> None:
        self._ledger = ledger
        self._swaps = swaps
        self._store = store
        self._around = Around(ledger, swaps, store)
        self._runs: dict[str, DeployRun] = {}
        self._unreadable: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def read(self) -> None:
        """Takes up what went on before a restart: it is seen from the beginning on."""
        found, self._unreadable = read_records(self._ledger.folder)
        for model, record in found.items():
            resumed_record = self._resumed(record)
            self._runs[model] = DeployRun(resumed_record, self._around, is_resumed=True)

    async def open(self) -> None:
        """Goes on with it, now that the models are open."""
        for model, why in self._unreadable.items():
            _log.error("deploy_not_resumed", model=model, reason=why)
            facts = {"reasons": [{"kind": "lost", "sentence": why}]}
            await self._ledger.tell("deploy_ended", model=model, after="held", facts=facts)
        for model, run in list(self._runs.items()):
            is_serving = self._ledger.runtime.phase is Phase.SERVING
            if run.is_over or model in self._tasks or not is_serving:
                continue
            facts = {"id": run.record.id, "version": run.record.version}
            await self._ledger.tell("deploy_resumed", model=model, facts=facts)
            self._go(run)

    def drain(self) -> None:
        """Goes no further: the server stops. A restarted one does, from what is on the disk."""
        for run in self._runs.values():
            run.drain()

    async def until_quiet(self) -> None:
        """Waits until what they do just now has ended; after `drain`."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def of(self, model: str) -> DeployShown | None:
        """The deploy of a model that goes on, or the last one."""
        run = self._runs.get(model)
        return None if run is None else shown(run.record, run.waits)

    @property
    def going_on(self) -> list[DeployShown]:
        """The deploys that go on."""
        runs = self._runs.values()
        return [shown(run.record, run.waits) for run in runs if not run.is_over]

    def seen(self, model: str) -> Deployed:
        """What somebody is told who looks.

        Raises:
            OperatorError: there is no such model.
        """
        if model not in self._runs:
            self._ledger.check_known(model)
        return Deployed(changed=False, deploy=self.of(model))

    async def start(self, model: str, asked: Deploy, *, who: str) -> Deployed:
        """Begins a deploy, or says what it would be.

        Raises:
            OperatorError: another goes on, the version is not to be had, the plan makes no sense,
                or callers would break.
        """
        async with called(self._ledger, "deploy", model, asked, who) as call:
            going = self._check(model, asked)
            if going is not None:
                return Deployed(changed=False, dry_run=asked.dry_run, deploy=self.of(model))
            record = await asyncio.to_thread(self._record, model, asked, who)
            contract = await contract_of(self._store, model, record.live, asked.version)
            about = model, record.live, asked.version
            check_contract(contract, *about, breaking=asked.breaking)
            going = self._check(model, asked)  # nothing was held meanwhile
            done = Deployed(
                changed=going is None,
                dry_run=asked.dry_run,
                drops=self._drops(model, asked.version),
                contract=contract,
                deploy=shown(record) if going is None else self.of(model),
            )
            if asked.dry_run or going is not None:
                return done
            run = self._runs[model] = DeployRun(record, self._around)
            try:
                await asyncio.to_thread(write_record, self._ledger.folder, record)
            except OSError as error:
                del self._runs[model]
                raise OperatorError(
                    "conflict", f"the state folder did not take the plan ({error.strerror})"
                ) from error
            facts = {"id": record.id, "version": asked.version, "plan": _words(record.plan)}
            facts |= {"reason": asked.reason} if asked.reason else {}
            await self._ledger.tell("deploy_started", who=who, model=model, facts=facts)
            self._go(run)
            self._ledger.runtime.swaps.done("deploy", time.monotonic() - call.began)
            return done

    async def cancel(self, model: str, asked: Cancel, *, who: str) -> Deployed:
        """Has the deploy of a model roll back; it is over a moment later.

        Raises:
            OperatorError: there is none.
        """
        async with called(self._ledger, "deploy", model, asked, who):
            run = self._runs.get(model)
            if run is None:
                raise OperatorError("conflict", f"{model!r} has no deploy that could be cancelled")
            self._ledger.check_generation(asked.if_generation)
            is_there = not run.is_over
            if is_there and not asked.dry_run:
                run.cancel(who, asked.reason)
            return Deployed(changed=is_there, dry_run=asked.dry_run, deploy=self.of(model))

    # what may be done

    def _check(self, model: str, asked: Deploy) -> DeployRun | None:
        """What goes on and is the same; refuses what may not begin."""
        self._ledger.check_serving()
        self._ledger.check_known(model)
        routes = self._ledger.runtime.routes
        self._ledger.check_generation(asked.if_generation)
        run = self._runs.get(model)
        if run is not None and not run.is_over:
            if run.record.version == asked.version:
                return run
            raise OperatorError(
                "conflict",
                f"version {run.record.version} of {model!r} is being deployed just now; wait until "
                f"it is done, or `keelmark deploy {model} --cancel` rolls it back",
            )
        live, second = routes.live.get(model), routes.second.get(model)
        if live is None:
            raise OperatorError(
                "conflict",
                f"nothing of {model!r} is live that {asked.version} could be compared with; "
                f"`keelmark load` and `keelmark promote` make a first version live",
            )
        if live.bundle.version == asked.version:
            raise OperatorError("conflict", f"version {asked.version} of {model!r} is live already")
        if live.forced is not None:
            raise OperatorError(
                "conflict",
                f"rows of {model!r} are forced to its {live.forced}, which a promotion would end "
                f"unseen; end it first, or promote {asked.version} by hand",
            )
        is_candidate = second is not None and second.role == "candidate" and not second.was_live
        if second is not None and is_candidate and second.version != asked.version:
            raise OperatorError(
                "conflict",
                f"version {second.version} of {model!r} is loaded as candidate; promote it, or "
                f"`keelmark unload {model} {second.version}` first",
            )
        return None

    def _drops(self, model: str, version: str) -> str | None:
        second = self._ledger.runtime.routes.second.get(model)
        if second is None or (second.role == "candidate" and second.version == version):
            return None
        return second.version

    def _record(self, model: str, asked: Deploy, who: str) -> DeployRecord:
        """The plan, from what both bundles say of themselves; in a thread."""
        live = self._ledger.runtime.routes.live[model].bundle
        try:
            folder, other = (
                self._store.folder(model, version) for version in (asked.version, live.version)
            )
        except (ServingError, OSError) as error:
            raise OperatorError("unknown_version", str(error)) from error
        try:
            candidate = _judged_by(folder)
            promises = promises_of(
                candidate, _judged_by(other), max_changed_decisions=asked.max_changed_decisions
            )
        except (ServingError, OSError) as error:
            raise OperatorError("bundle_refused", str(error)) from error
        try:
            plan = planned(
                promises,
                shadow_seconds=asked.shadow_seconds,
                canary_percents=asked.canary_percents,
                bake_seconds=asked.bake_seconds,
                max_wait_seconds=asked.max_wait_seconds,
                requests=asked.requests,
                evidence=asked.evidence,
            )
            if asked.rows is not None:
                _check_rows(asked)
        except (ValueError, CannotReplay) as error:
            raise OperatorError("invalid", str(error)) from error
        return DeployRecord(
            id=secrets.token_hex(4),
            model=model,
            version=asked.version,
            live=live.version,
            by=who,
            at=time_now(),
            reason=asked.reason,
            breaking=asked.breaking,
            rows=asked.rows,
            plan=plan,
        )

    # going on

    def _resumed(self, record: DeployRecord) -> DeployRecord:
        """As it goes on after a restart: the time between was not watched."""
        if record.state is None:
            return record
        return structs.replace(record, state=resumed(record.state, self._around.now()))

    def _go(self, run: DeployRun) -> None:
        model = run.record.model
        task = self._tasks[model] = asyncio.create_task(run.go())
        task.add_done_callback(lambda done: self._gone(model, done))

    def _gone(self, model: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(model) is task:
            del self._tasks[model]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("deploy_broke", model=model, exc_info=error)


def _judged_by(folder: Path) -> tuple[Manifest, Reference]:
    """What a bundle promises, and what it was trained on."""
    contents = verified(folder)
    what = f"bundle {folder}: {REFERENCE}"
    return contents.manifest, read(Reference, contents.files[REFERENCE], what=what)


def _check_rows(asked: Deploy) -> None:
    if asked.evidence != "replay":
        raise ValueError("rows are for `--evidence replay`, which puts them to both versions")
    assert asked.rows is not None
    check_rows(Path(asked.rows))


def _words(plan: Plan) -> list[str]:
    """The stages, for an event."""
    return [f"{stage.name}, {stage.seconds:g} s" for stage in plan.stages]
