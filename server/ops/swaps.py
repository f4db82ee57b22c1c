"""Loading, promoting, rolling back and unloading: what operators do with a model's two slots."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from models.errors import ServingError
from models.machine_copy import sweep
from models.store import Store
from server.facts import SecondFact, SlotsFact, Telling
from server.health import Phase
from server.logs import logger
from server.opening import COPIES
from server.ops.calls import Asked, Call, called
from server.ops.causes import cause_of
from server.ops.contracts import check_contract, contract_of
from server.ops.forcing import forced_ended
from server.ops.ledger import Ledger, OperatorError
from server.ops.overriding import override_ended
from server.ops.release import freed
from server.ops.swap_bodies import (
    Load,
    Promote,
    Rollback,
    Slots,
    Swapped,
    Unload,
    measured,
    short,
    slots_of,
)
from server.ops.trials import Canary, Shadow, TrialChanged, Trials
from server.room import NoRoom, check_before
from server.routes import AnyRoutes, Role, Second, said
from server.runtime import Change
from server.settings import SettingsError

ENDED: Final = "it ended with its version"

_log = logger("swaps")

Flipped = Callable[[str, str], Awaitable[None]]
"""Is told of a model that has another live version now, and who made it so."""


class Swaps:
    """Changes which bundle answers, on the loop that serves.

    Args:
        ledger: of the server.
        store: that has the bundles.

    Attributes:
        flipped: is told which model has another live version, and who did it; nobody if None.
    """

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime
        self._store = store
        self.flipped: Flipped | None = None
        self._trials = Trials(ledger, store, self._check_known)
        self._loading: dict[str, str] = {}
        self._is_open = False

    async def open(self) -> None:
        """Loads what second slots held before a restart, now that live models are open."""
        for model, fact in self._ledger.facts.slots.items():
            if fact.second is not None and self._runtime.phase is Phase.SERVING:
                await self._reopen(model, fact, fact.second)
        await self._sweep()
        self._is_open = True

    async def load(self, model: str, asked: Load, *, who: str) -> Swapped:
        """Examines a version and opens it beside the live one.

        Raises:
            OperatorError: the slot is taken, the bundle does not pass, or it has no room.
        """
        async with called(self._ledger, "load", model, asked, who) as call:
            async with self._ledger.changing:
                held, is_there = self._check_load(model, asked)
                before = slots_of(self._runtime.routes, model)
                done = self._outcome(call, asked.version, before, changed=not is_there)
                if is_there:
                    return done
                if asked.dry_run:
                    return await self._tried(done)
                self._loading[model] = asked.version
            try:
                return await self._load(call, asked, held, done)
            finally:
                del self._loading[model]
                await self._sweep()  # of what was refused, or made room for it

    async def unload(self, model: str, asked: Unload, *, who: str) -> Swapped:
        """Empties the second slot, and waits for its memory.

        Raises:
            OperatorError: the version is live, or another is in the slot.
        """
        async with called(self._ledger, "unload", model, asked, who) as call:
            async with self._ledger.changing:
                is_there = self._check_unload(model, asked)
                before = slots_of(self._runtime.routes, model)
                after = Slots(live=before.live) if is_there else before
                done = self._outcome(call, asked.version, before, changed=is_there, after=after)
                if asked.dry_run or not is_there:
                    return done
                since = self._runtime.swaps.releases.now
                is_heavy = self._runtime.is_heavy(self._runtime.routes.second[model].route)
                done = await self._publish(
                    "unloaded",
                    call,
                    done,
                    lambda table: table.without_second(model),
                    self._ledger.slots_with(model, None),
                )
            told = await freed(self._ledger, call, since, is_heavy=is_heavy)
            await self._sweep()
            return msgspec.structs.replace(done, **told._asdict())

    async def promote(self, model: str, asked: Promote, *, who: str) -> Swapped:
        """Makes the candidate live: every request that begins after it returns is answered by it.

        Raises:
            OperatorError: it is no candidate, its self-test fails, or its contract is breaking.
        """
        async with (
            called(self._ledger, "promote", model, asked, who) as call,
            self._ledger.changing,
        ):
            second = self._check_promote(model, asked)
            before = slots_of(self._runtime.routes, model)
            if second is None:
                return self._outcome(call, asked.version, before, changed=False)
            self._check_golden(second)
            contract = await contract_of(self._store, model, before.live, asked.version)
            live = before.live
            check_contract(contract, model, live, asked.version, breaking=asked.breaking)
            after = Slots(live=asked.version, previous=before.live)
            done = self._outcome(call, asked.version, before, changed=True, after=after)
            done = msgspec.structs.replace(done, contract=contract)
            if asked.dry_run:
                return done
            was = None if before.live is None else SecondFact(version=before.live, role="previous")
            fact = SlotsFact(live=asked.version, second=was)
            return await self._flip("promoted", call, done, "previous", fact)

    async def rollback(self, model: str, asked: Rollback, *, who: str) -> Swapped:
        """Makes the previous version live again; what was live is a candidate then.

        Raises:
            OperatorError: there is no previous version.
        """
        async with (
            called(self._ledger, "rollback", model, asked, who) as call,
            self._ledger.changing,
        ):
            second = self._check_rollback(model, asked)
            before = slots_of(self._runtime.routes, model)
            if second is None:
                return self._outcome(call, before.live or "", before, changed=False)
            version = second.version
            after = Slots(live=version, candidate=before.live)
            done = self._outcome(call, version, before, changed=True, after=after)
            if asked.dry_run:
                return done
            was = None
            if before.live is not None:
                was = SecondFact(version=before.live, role="candidate", was_live=True)
            fact = SlotsFact(live=version, second=was)
            return await self._flip("rolled_back", call, done, "candidate", fact)

    async def canary(self, model: str, asked: Canary, *, who: str) -> TrialChanged:
        """Lets the candidate answer a share of the model's callers; see `Trials.canary`."""
        return await self._trials.canary(model, asked, who=who)

    async def shadow(self, model: str, asked: Shadow, *, who: str) -> TrialChanged:
        """Gives the candidate copies of a share of the requests; see `Trials.shadow`."""
        return await self._trials.shadow(model, asked, who=who)

    # what may be done

    def _check(self, model: str, asked: Asked) -> None:
        """What all calls need."""
        self._ledger.check_serving()
        if not self._is_open:
            raise OperatorError(
                "conflict",
                "the server is still opening what was loaded before its restart; try again when "
                "`keelmark status` shows it",
            )
        self._ledger.check_generation(asked.if_generation)

    def _check_known(self, model: str, asked: Asked) -> None:
        self._check(model, asked)
        self._ledger.check_known(model)

    def _check_load(self, model: str, asked: Load) -> tuple[Second[Any] | None, bool]:
        """What the second slot holds, and whether that is the version already, as candidate."""
        self._check(model, asked)
        if loading := self._loading.get(model):
            raise OperatorError(
                "conflict",
                f"version {loading} of {model!r} is being loaded just now; wait until it is",
            )
        routes = self._runtime.routes
        live, second = routes.live.get(model), routes.second.get(model)
        if live is not None and live.bundle.version == asked.version:
            raise OperatorError("conflict", f"version {asked.version} of {model!r} is live already")
        if second is not None and second.version == asked.version:
            if second.role == "candidate":
                return second, True
            raise OperatorError(
                "conflict",
                f"version {asked.version} of {model!r} is loaded as the previous one; `keelmark "
                f"rollback {model}` makes it live again",
            )
        self._check_slot(model, second, asked)
        self._check_in_store(model, asked.version)
        return second, False

    def _check_slot(self, model: str, second: Second[Any] | None, asked: Load) -> None:
        if second is None:
            return
        if second.role == "candidate":
            raise OperatorError(
                "conflict",
                f"version {second.version} of {model!r} is loaded as candidate, and there is one "
                f"slot beside the live one. Promote it, or `keelmark unload {model} "
                f"{second.version}` first",
            )
        if not asked.drop_previous:
            raise OperatorError(
                "conflict",
                f"the second slot of {model!r} holds its previous version {second.version}, to "
                f"which nobody could roll back any more. `--drop-previous` (drop_previous) takes "
                "that into account",
            )

    def _check_in_store(self, model: str, version: str) -> None:
        try:
            self._store.folder(model, version)
        except (ServingError, OSError) as error:
            raise OperatorError("unknown_version", str(error)) from error

    def _check_unload(self, model: str, asked: Unload) -> bool:
        """Whether the version is in the second slot."""
        self._check_known(model, asked)
        routes = self._runtime.routes
        live, second = routes.live.get(model), routes.second.get(model)
        if live is not None and live.bundle.version == asked.version:
            raise OperatorError(
                "conflict",
                f"version {asked.version} of {model!r} is live; promote another, or roll back",
            )
        return second is not None and second.version == asked.version

    def _check_promote(self, model: str, asked: Promote) -> Second[Any] | None:
        """The candidate; None if it is live already."""
        self._check_known(model, asked)
        routes = self._runtime.routes
        live, second = routes.live.get(model), routes.second.get(model)
        if live is not None and live.bundle.version == asked.version:
            return None
        if second is None or second.version != asked.version:
            there = "empty" if second is None else f"{second.version} as {second.role}"
            raise OperatorError(
                "conflict",
                f"version {asked.version} of {model!r} is not loaded (its second slot: {there}); "
                f"`keelmark load {model} {asked.version}` first",
            )
        if second.role == "previous":
            raise OperatorError(
                "conflict",
                f"version {asked.version} of {model!r} is the previous one; `keelmark rollback "
                f"{model}` makes it live again",
            )
        return second

    def _check_golden(self, second: Second[Any]) -> None:
        """Refuses a candidate whose golden rows have other answers here than when it was packed."""
        bundle = second.route.bundle
        finding = self._runtime.golden.of(bundle.digest)
        if finding is not None:
            raise OperatorError(
                "conflict",
                f"the self-test of {bundle.name}/{bundle.version} fails: {finding.sentence}. "
                "Unload it and load it again, so that it is examined and opened anew",
                "golden",
            )

    def _check_rollback(self, model: str, asked: Rollback) -> Second[Any] | None:
        """The previous version; None if it has been rolled back to already."""
        self._check_known(model, asked)
        second = self._runtime.routes.second.get(model)
        if second is not None and second.role == "previous":
            return second
        if second is not None and second.was_live:
            return None
        raise OperatorError(
            "conflict",
            f"{model!r} has no previous version loaded to roll back to; load the one you want and "
            "promote it",
        )

    # doing it

    async def _tried(self, done: Swapped) -> Swapped:
        """What a load would come to if the bundle passes."""
        contract = await contract_of(self._store, done.model, done.before.live, done.version)
        after = msgspec.structs.replace(done.before, candidate=done.version, previous=None)
        return msgspec.structs.replace(done, after=after, contract=contract)

    async def _load(
        self, call: Call, asked: Load, held: Second[Any] | None, done: Swapped
    ) -> Swapped:
        model, version = call.model, asked.version
        contract = await contract_of(self._store, model, done.before.live, version)
        try:
            folder = self._store.folder(model, version)
            await asyncio.to_thread(check_before, folder, f"{model}/{version}")
            route, report = await self._runtime.prepare(model, version)
        except NoRoom as error:
            raise OperatorError("conflict", str(error), cause_of(error)) from error
        except Exception as error:
            cause = cause_of(error)
            code = "unknown_version" if cause == "unknown" else "bundle_refused"
            raise OperatorError(code, _said(error), cause) from error
        async with self._ledger.changing:
            routes = self._runtime.routes
            if routes.second.get(model) is not held or self._runtime.phase is not Phase.SERVING:
                self._runtime.discard(route)
                raise OperatorError(
                    "conflict", f"somebody has changed {model!r} while {version} was being loaded"
                )
            live = routes.live.get(model)
            if live is not None and live.bundle.version == version:
                self._runtime.discard(route)
                raise OperatorError("conflict", f"{version} of {model!r} has become live meanwhile")
            second = Second(route, "candidate")
            done = msgspec.structs.replace(
                done,
                after=Slots(live=live and live.bundle.version, candidate=version),
                measured=measured(report),
                contract=contract,
            )
            return await self._publish(
                "loaded",
                call,
                done,
                lambda table: table.with_second(second),
                self._ledger.slots_with(model, second),
            )

    async def _flip(
        self, kind: str, call: Call, done: Swapped, role: Role, fact: SlotsFact
    ) -> Swapped:
        """Exchanges the slots; what an operator said of a version ends with it."""
        model, facts = call.model, self._ledger.facts
        forced, overrides = dict(facts.forced), dict(facts.overrides)
        forcing, override = forced.pop(model, None), overrides.pop(model, None)
        ended: list[Telling] = []
        if forcing is not None:
            ended.append(forced_ended(model, forcing, call.who, ENDED))
        if override is not None:
            ended.append(override_ended(model, override, call.who, ENDED))

        def change(table: AnyRoutes) -> AnyRoutes:
            live = table.live.get(model)
            if live is not None:
                live = live.without_override()
                table = table.with_route(live if forcing is None else said(live, None))
            return table.flipped(model, role)

        slots = {**facts.slots, model: fact}
        kept = {"forced": forced, "overrides": overrides}
        done = await self._publish(kind, call, done, change, slots, *ended, **kept)
        if self.flipped is not None:
            await self.flipped(model, call.who)
        return done

    async def _publish(
        self,
        kind: str,
        call: Call,
        done: Swapped,
        change: Change,
        slots: dict[str, SlotsFact],
        *more: Telling,
        **facts: Any,
    ) -> Swapped:
        """Does what a call asks for, counts it, and tells of it and of what it brings about."""
        tellings = (self._telling(kind, call, done), *more)
        await self._ledger.publish(
            change, *tellings, began=call.began, refusal="bundle_refused", slots=slots, **facts
        )
        self._runtime.swaps.done(call.swap, time.monotonic() - call.began)
        _log.info(kind, model=call.model, who=call.who, version=done.version)
        return msgspec.structs.replace(done, generation=self._runtime.routes.generation)

    async def _reopen(self, model: str, fact: SlotsFact, second: SecondFact) -> None:
        """Takes up one second slot; where that cannot be, it is empty."""
        try:
            route, _ = await self._runtime.prepare(model, second.version)
            held = Second(route, second.role, second.was_live, second.canary, second.shadow)
            words = {"version": second.version, "slot": second.role}
            telling = Telling(kind="model_loaded", model=model, facts=words)
            async with self._ledger.changing:
                await self._ledger.publish(lambda table: table.with_second(held), telling)
        except Exception as error:  # noqa: BLE001  (what is live serves whatever this one raises)
            _log.error("model_not_loaded", model=model, version=second.version, reason=str(error))
            words = {"version": second.version, "slot": second.role, "reason": str(error)}
            telling = Telling(kind="model_not_loaded", model=model, facts=words)
            async with self._ledger.changing:
                slots = {**self._ledger.facts.slots, model: SlotsFact(live=fact.live)}
                facts = msgspec.structs.replace(self._ledger.facts, slots=slots)
                await self._ledger.write(facts, telling)

    async def _sweep(self) -> None:
        """Removes this machine's own copies of models that are not loaded."""
        if not self._loading:  # else one is being written, or about to be opened
            loaded = {route.bundle.digest for route in self._runtime.routes.loaded}
            await asyncio.to_thread(sweep, self._ledger.folder / COPIES, loaded)

    # telling

    def _telling(self, kind: str, call: Call, done: Swapped) -> Telling:
        """The event of a call that is done."""
        facts = call.words
        for name in ("measured", "contract"):
            if (told := getattr(done, name)) is not None:
                facts[name] = msgspec.to_builtins(told)
        return Telling(
            kind=kind,
            who=call.who,
            model=call.model,
            before=short(done.before),
            after=short(done.after),
            facts=facts,
        )

    def _outcome(
        self, call: Call, version: str, before: Slots, *, changed: bool, after: Slots | None = None
    ) -> Swapped:
        return Swapped(
            swap=call.swap,
            model=call.model,
            version=version,
            before=before,
            after=after or before,
            generation=self._runtime.routes.generation,
            changed=changed,
            dry_run=call.asked.dry_run,
        )


def _said(error: Exception) -> str:
    """Of an error of ours the message says it all; of others its kind is to be known."""
    is_ours = isinstance(error, ServingError | SettingsError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"
