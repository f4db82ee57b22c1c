"""What follows where a self-test fails: an operator's word for one version, over the setting."""

from dataclasses import replace
from typing import Annotated, Any

import msgspec

from models.times import time_now
from server.facts import SelftestFact, Telling
from server.ops.ledger import LONGEST_REASON, Ledger, OperatorError
from server.routes import AnyRoutes
from server.settings import SelftestAction


class SetSelftest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of a call that says what follows where the self-test of a loaded version fails.

    `if_generation` refuses the call where the route table has another generation; `dry_run` says
    what would be done.
    """

    version: str
    action: SelftestAction
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_REASON)]
    if_generation: int | None = None
    dry_run: bool = False


class SelftestSet(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to; asked twice, nothing is changed the second time.

    `found` is what the self-test finds wrong just now, if anything.
    """

    model: str
    version: str
    before: SelftestAction
    after: SelftestAction
    generation: int
    changed: bool
    found: str | None
    dry_run: bool = False


class Selftesting:
    """Takes these calls, on the loop that serves."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime

    async def open(self) -> None:
        """Forgets what was said of versions that are live no more."""
        live, facts = self._runtime.routes.live, self._ledger.facts
        left = {
            model: fact
            for model, fact in facts.selftests.items()
            if model in live and live[model].bundle.version == fact.version
        }
        if left != facts.selftests:
            await self._ledger.write(msgspec.structs.replace(facts, selftests=left))

    async def set(self, model: str, asked: SetSelftest, *, who: str) -> SelftestSet:
        """Says what follows where a version's self-test fails, from now on.

        Raises:
            OperatorError: it is not loaded, another generation, or nobody can serve so.
        """
        async with self._ledger.changing:
            route = self._checked(model, asked)
            finding = self._runtime.golden.of(route.bundle.digest)
            done = SelftestSet(
                model=model,
                version=asked.version,
                before=route.on_selftest,
                after=asked.action,
                generation=self._runtime.routes.generation,
                changed=route.on_selftest != asked.action,
                found=None if finding is None else finding.sentence,
                dry_run=asked.dry_run,
            )
            if asked.dry_run or not done.changed:
                return done
            await self._do(route, asked, who)
            return msgspec.structs.replace(done, generation=self._runtime.routes.generation)

    def _checked(self, model: str, asked: SetSelftest) -> Any:
        """The route of the version."""
        self._ledger.check_known(model)
        self._ledger.check_generation(asked.if_generation)
        for route in self._runtime.routes.loaded:
            if (route.bundle.name, route.bundle.version) == (model, asked.version):
                return route
        raise OperatorError(
            "unknown_version",
            f"version {asked.version} of {model!r} is not loaded; `keelmark status` shows what is",
        )

    async def _do(self, route: Any, asked: SetSelftest, who: str) -> None:
        model, changed = route.bundle.name, replace(route, on_selftest=asked.action)

        def change(table: AnyRoutes) -> AnyRoutes:
            if table.live.get(model) is route:
                return table.with_route(changed)
            return table.with_second(replace(table.second[model], route=changed))

        fact = SelftestFact(
            version=asked.version,
            action=asked.action,
            by=who,
            at=time_now(),
            reason=asked.reason,
        )
        telling = Telling(
            kind="selftest_set",
            who=who,
            model=model,
            before=route.on_selftest,
            after=asked.action,
            facts={"version": asked.version, "reason": asked.reason},
        )
        facts = {**self._ledger.facts.selftests, model: fact}
        await self._ledger.publish(change, telling, selftests=facts)
