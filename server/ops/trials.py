"""Letting a candidate take part beside the live version: as a canary, as a shadow."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from models.store import Store
from server.facts import Telling
from server.logs import logger
from server.ops.calls import Asked, Call, called
from server.ops.contracts import ContractShown, check_contract, contract_of
from server.ops.ledger import Ledger, OperatorError
from server.routes import Second

_log = logger("trials")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Check = Callable[[str, Asked], None]
"""Raises `OperatorError` where no call of a model can be taken now."""


class Canary(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to let the candidate answer a share of the callers; 0 ends it.

    `breaking` says that callers know of the changes that break some of their requests.
    """

    version: str
    share: Share
    breaking: bool = False


class Shadow(Asked, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call to give the candidate copies of a share of the requests; 0 ends it."""

    version: str
    share: Share


class SharesShown(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate gets of its model's requests, see `server.shares`."""

    canary: float
    shadow: float


class TrialChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to; asked twice, nothing is changed the second time."""

    swap: str
    model: str
    version: str
    before: SharesShown
    after: SharesShown
    generation: int
    changed: bool
    dry_run: bool = False
    contract: ContractShown | None = None


class Trials:
    """Changes what candidates get of the requests, on the loop that serves.

    Args:
        ledger: of the server.
        store: that has the bundles.
        check: of every call.
    """

    def __init__(self, ledger: Ledger, store: Store, check: Check) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime
        self._store = store
        self._check = check

    async def canary(self, model: str, asked: Canary, *, who: str) -> TrialChanged:
        """Lets the candidate answer a share of the model's callers, always the same ones.

        Raises:
            OperatorError: it is not the candidate, nothing is live beside it, it takes other things
                than live, or its contract is breaking.
        """
        async with called(self._ledger, "canary", model, asked, who) as call, self._ledger.changing:
            second = self._checked(model, asked)
            contract = None
            if asked.share:
                live = self._runtime.routes.live[model].bundle.version
                contract = await contract_of(self._store, model, live, asked.version)
                check_contract(contract, model, live, asked.version, breaking=asked.breaking)
            return await self._do(call, "canary_changed", second, contract, canary=asked.share)

    async def shadow(self, model: str, asked: Shadow, *, who: str) -> TrialChanged:
        """Gives the candidate copies of a share of the requests that live answers.

        Raises:
            OperatorError: it is not the candidate, nothing is live beside it, or it takes other
                things than live.
        """
        async with called(self._ledger, "shadow", model, asked, who) as call, self._ledger.changing:
            second = self._checked(model, asked)
            return await self._do(call, "shadow_changed", second, None, shadow=asked.share)

    def _checked(self, model: str, asked: Canary | Shadow) -> Second[Any]:
        """The candidate."""
        self._check(model, asked)
        routes = self._runtime.routes
        live, second = routes.live.get(model), routes.second.get(model)
        if second is None or second.version != asked.version or second.role != "candidate":
            there = "empty" if second is None else f"{second.version} as {second.role}"
            raise OperatorError(
                "conflict",
                f"version {asked.version} of {model!r} is not its candidate (its second slot: "
                f"{there}); `keelmark load {model} VERSION` loads one",
            )
        if live is None:
            raise OperatorError(
                "conflict",
                f"nothing of {model!r} is live beside which {asked.version} could take part; "
                f"`keelmark promote {model} {asked.version}` makes it live",
            )
        takes = [bool(route.bundle.manifest.features.label) for route in (live, second.route)]
        if asked.share and takes != [True, True]:
            raise OperatorError(
                "conflict",
                f"live of {model!r} and {asked.version} do not both take records; try the "
                "candidate with `?version=`, or promote it",
            )
        return second

    async def _do(
        self,
        call: Call,
        kind: Literal["canary_changed", "shadow_changed"],
        second: Second[Any],
        contract: ContractShown | None,
        **share: float,
    ) -> TrialChanged:
        """Sets one of the shares."""
        changed: Second[Any] = replace(second, **share)
        done = TrialChanged(
            swap=call.swap,
            model=call.model,
            version=second.version,
            before=_shown(second),
            after=_shown(changed),
            generation=self._runtime.routes.generation,
            changed=changed != second,
            dry_run=call.asked.dry_run,
            contract=contract,
        )
        if not done.changed or done.dry_run:
            return done
        telling = _telling(kind, call, done)
        slots = self._ledger.slots_with(call.model, changed)
        await self._ledger.publish(
            lambda table: table.with_second(changed), telling, began=call.began, slots=slots
        )
        self._runtime.swaps.done(call.swap, time.monotonic() - call.began)
        _log.info(kind, model=call.model, who=call.who, version=done.version, **share)
        return msgspec.structs.replace(done, generation=self._runtime.routes.generation)


def _shown(second: Second[Any]) -> SharesShown:
    return SharesShown(canary=second.canary, shadow=second.shadow)


def _telling(kind: str, call: Call, done: TrialChanged) -> Telling:
    """The event of a call that is done."""
    facts = call.words
    if done.contract is not None:
        facts["contract"] = msgspec.to_builtins(done.contract)
    before, after = map(msgspec.to_builtins, (done.before, done.after))
    return Telling(
        kind=kind, who=call.who, model=call.model, before=before, after=after, facts=facts
    )
