"""Following: a server that watches the wishes of its store, and goes over to what is wished.

It does what an operator would do, by the same calls: load, promote, roll back; so a wish comes
through the gate and the contract, is told in the event log, and is refused for the same reasons.
What is decided is in `server.following`; what is kept over restarts is in a file of the state
folder.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from models.errors import ServingError, StoreError
from models.folders import replace_file
from models.store import LiveWish, Store
from models.wishes import NOT_THERE, WishReader, mark_of
from server.follow import Follow
from server.following import Deploying, Heeded, Look, Move, Settled, SettledState, next_step
from server.health import Phase
from server.logs import Seldom, logger, where
from server.ops.deploy_shown import DeployShown
from server.ops.deploys import Cancel, Deploy, Deploys
from server.ops.ledger import Ledger, OperatorError
from server.ops.swap_bodies import Load, Promote, Rollback, Unload
from server.ops.swaps import Swaps
from server.routes import AnyRoutes
from server.settings import SettingsError
from server.wish_counters import WishCounters

FOLLOWED: Final = "followed.json"
OURSELVES: Final = "server"
"""Who does what following does, as the event log has it."""
OVERRULED: Final = "has made another version live; the next wish is followed again"
SELDOM_SECONDS: Final = 300.0
"""Between two lines that say that the store cannot be read."""
MOST_STEPS: Final = 8
"""Of one model in one look: taking out a candidate, loading, promoting, and some to spare."""

_log = logger("follower")

Keep = dict[str, Heeded]


class WishStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a server stands to the wish for a model, see `vocabulary.WISH_STATES`.

    Attributes:
        version: that is wished; None, as what follows, where the wish cannot be read.
        revision, by, at: of the wish.
        why: it is not followed.
    """

    model: str
    version: str | None
    revision: int | None
    by: str | None
    at: str | None
    state: str
    why: str = ""


class Follower:
    """Follows the wishes of a store, on the loop that serves.

    Args:
        ledger: of the server.
        swaps: that move it.
        store: that is watched.
        deploys: by which it is moved, where there is a plan for it.
        follow: how.
    """

    def __init__(
        self, ledger: Ledger, swaps: Swaps, store: Store, deploys: Deploys, follow: Follow
    ) -> None:
        self._ledger = ledger
        self._runtime = ledger.runtime
        self._swaps = swaps
        self._deploys = deploys
        self._store = store
        self._seconds = follow.seconds
        self._plan = None if follow.plan is None else Deploy(version="", **follow.plan)
        self._counters: WishCounters = ledger.runtime.swaps.wishes
        self._reader = WishReader(store)
        self._path: Path = ledger.folder / FOLLOWED
        self._heeded: Keep = {}
        self._standing: dict[str, WishStatus] = {}
        self._told: dict[str, tuple[int | None, str]] = {}
        self._keeping = asyncio.Lock()
        self._seldom = Seldom(SELDOM_SECONDS)
        self._moving: str | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        swaps.flipped = self._flipped

    @property
    def wishes(self) -> list[WishStatus]:
        """How it stands to every wish that it has seen, by model."""
        return [self._standing[model] for model in sorted(self._standing)]

    def open(self) -> None:
        """Begins to follow, now that the models are open.

        Raises:
            SettingsError: what it kept cannot be read; without it, it might undo what operators
                did.
        """
        self._heeded = _read(self._path)
        self._task = asyncio.create_task(self._watch())

    def drain(self) -> None:
        """Begins nothing more."""
        self._closing.set()

    async def until_quiet(self) -> None:
        """Waits until what it does just now has ended; after `drain`."""
        if self._task is not None:
            await self._task

    async def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                await self._look()
            except StoreError as error:
                if self._seldom.held_back("store") is not None:
                    _log.error("store_not_readable", reason=str(error))
            try:
                async with asyncio.timeout(self._seconds):
                    await self._closing.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        names = await asyncio.to_thread(self._reader.names)
        for model in self._standing.keys() - set(names):
            self._forget(model)
        for model in names:
            try:
                await self._heed(model)
            except Exception as error:  # noqa: BLE001  (a defect of ours; the next look may do)
                if self._seldom.held_back(model) is not None:
                    facts = {"kind": type(error).__name__, "where": where(error)}
                    _log.error("look_failed", model=model, **facts)

    async def _heed(self, model: str) -> None:
        """Goes on with a model until there is nothing more to do."""
        for _ in range(MOST_STEPS):
            if self._closing.is_set() or self._runtime.phase is not Phase.SERVING:
                return
            if not await self._step(model):
                return

    async def _step(self, model: str) -> bool:
        """Does the next thing for a model; whether there may be another."""
        try:
            wish = await asyncio.to_thread(self._reader.read, model)
        except (ServingError, OSError) as error:
            await self._wait(model, None, f"the wish cannot be read: {error}")
            return False
        if wish is None:
            self._forget(model)
            return False
        look = await self._looked(model, wish)
        step = next_step(look)
        if step.do == "rest":
            await self._rest(model, wish, step.why)
        elif step.do == "settle":
            await self._settle(model, wish, "followed")
        elif step.do == "wait":
            await self._wait(model, wish, step.why)
        elif step.do == "watch":
            self._stands(model, wish, "moving")
        elif step.do == "fail":
            ended = look.deploy.id if look.deploy is not None else ""
            await self._settle(model, wish, "failed", step.why, look.mark, ended)
        else:
            return await self._move(model, step.do, look)
        return False

    async def _move(self, model: str, do: Move, look: Look) -> bool:
        """Changes something; whether it could be done."""
        wish = look.wish
        self._moving = model
        try:
            await self._doing(do)(model, wish, look)
        except OperatorError as error:
            if self._closing.is_set() or self._runtime.phase is not Phase.SERVING:
                return False
            if error.cause == "conflict":  # the next look tries it again
                await self._wait(model, wish, str(error))
            else:
                await self._settle(model, wish, "failed", str(error), look.mark)
            return False
        finally:
            self._moving = None
        return do not in ("deploy", "cancel")  # those take their time

    async def _looked(self, model: str, wish: LiveWish) -> Look:
        def version_of(routes: AnyRoutes) -> str | None:
            live = routes.live.get(model)
            return None if live is None else live.bundle.version

        mark = NOT_THERE
        if version_of(self._runtime.routes) != wish.live:
            mark = await asyncio.to_thread(mark_of, self._store, model, wish.live)
        routes, deploy = self._runtime.routes, self._deploys.of(model)
        second = routes.second.get(model)
        return Look(
            wish=wish,
            heeded=self._heeded.get(model, Heeded()),
            live=version_of(routes),
            second=None if second is None else second.version,
            role=None if second is None else second.role,
            was_live=second is not None and second.was_live,
            mark=mark,
            deploy=None if deploy is None else _deploying(deploy, wish),
            by_deploy=self._plan is not None,
        )

    # moving

    def _doing(self, do: str) -> Callable[[str, LiveWish, Look], Awaitable[None]]:
        return {
            "load": self._load,
            "promote": self._promote,
            "rollback": self._rollback,
            "unload": self._unload,
            "deploy": self._deploy,
            "cancel": self._cancel,
        }[do]

    async def _load(self, model: str, wish: LiveWish, look: Look) -> None:
        """Loads the wished version, if callers would not notice: nothing is given up for others."""
        words: dict[str, Any] = {"version": wish.live, "drop_previous": True}
        asked = Load(reason=_reason(wish), **words)
        tried = await self._swaps.load(
            model, msgspec.structs.replace(asked, dry_run=True), who=OURSELVES
        )
        if tried.contract is not None and tried.contract.verdict == "breaking":
            points = "; ".join(tried.contract.changes[:5])
            raise OperatorError(
                "conflict",
                f"{wish.live} breaks callers of {look.live}: {points}. When they know of it, "
                f"`keelmark load {model} {wish.live}` and `keelmark promote {model} {wish.live} "
                "--breaking` make it live",
                "contract",
            )
        self._stands(model, wish, "moving")
        await self._keep(model, brought=wish.live)
        await self._swaps.load(model, asked, who=OURSELVES)

    async def _promote(self, model: str, wish: LiveWish, look: Look) -> None:
        self._stands(model, wish, "moving")
        generation = self._runtime.routes.generation
        asked = Promote(version=wish.live, reason=_reason(wish), if_generation=generation)
        await self._swaps.promote(model, asked, who=OURSELVES)

    async def _rollback(self, model: str, wish: LiveWish, look: Look) -> None:
        self._stands(model, wish, "moving")
        generation = self._runtime.routes.generation
        asked = Rollback(reason=_reason(wish), if_generation=generation)
        await self._swaps.rollback(model, asked, who=OURSELVES)

    async def _unload(self, model: str, wish: LiveWish, look: Look) -> None:
        """Takes out a candidate that nobody tries out any more."""
        assert look.second is not None
        asked = Unload(version=look.second, reason=_reason(wish))
        await self._swaps.unload(model, asked, who=OURSELVES)

    async def _deploy(self, model: str, wish: LiveWish, look: Look) -> None:
        assert self._plan is not None
        asked = msgspec.structs.replace(self._plan, version=wish.live, reason=_reason(wish))
        tried = msgspec.structs.replace(asked, dry_run=True)
        await self._deploys.start(model, tried, who=OURSELVES)  # what is refused so is no event
        self._stands(model, wish, "moving")
        await self._keep(model, brought=wish.live)
        await self._deploys.start(model, asked, who=OURSELVES)

    async def _cancel(self, model: str, wish: LiveWish, look: Look) -> None:
        await self._deploys.cancel(model, Cancel(reason=_reason(wish)), who=OURSELVES)

    async def _flipped(self, model: str, who: str) -> None:
        """Somebody has made another version live: by an operator, the wish of now is overruled."""
        deploy = self._deploys.of(model)
        if who == OURSELVES:
            if self._moving == model or deploy is None or deploy.by == OURSELVES:
                return
            who = deploy.by
        live = self._runtime.routes.live.get(model)
        try:
            wish = await asyncio.to_thread(self._store.live, model)
            if wish is not None and (live is None or live.bundle.version != wish.live):
                await self._settle(model, wish, "overruled", f"{who} {OVERRULED}")
        except (ServingError, OSError) as error:  # what they did is done all the same
            _log.error("wish_not_readable", model=model, reason=str(error))

    # telling and keeping

    async def _rest(self, model: str, wish: LiveWish, why: str) -> None:
        """Says how it stands, also after a restart."""
        settled = self._heeded.get(model, Heeded()).settled
        if settled is None or settled.revision != wish.revision:
            await self._wait(model, wish, why)
            return
        live, state = self._runtime.routes.live.get(model), settled.state
        if state == "followed" and (live is None or live.bundle.version != wish.live):
            state, why = "overruled", f"somebody {OVERRULED}"
        self._stands(model, wish, state, why)

    async def _settle(
        self,
        model: str,
        wish: LiveWish,
        state: SettledState,
        why: str = "",
        mark: str = "",
        deploy: str = "",
    ) -> None:
        """A wish has come to an end; told once."""
        known = self._heeded.get(model, Heeded()).settled
        settled = Settled(
            revision=wish.revision,
            version=wish.live,
            state=state,
            why=why,
            mark=mark,
            deploy=deploy,
        )
        self._stands(model, wish, state, why)
        if settled == known:
            return
        self._counters.ended(state)
        await self._keep(model, settled=settled)
        if state != "followed":
            await self._tell(model, wish, state, why)

    async def _wait(self, model: str, wish: LiveWish | None, why: str) -> None:
        """Somebody or something is in the way; told once."""
        self._stands(model, wish, "waiting", why)
        revision = None if wish is None else wish.revision
        if self._told.get(model) != (revision, why):
            self._told[model] = revision, why
            await self._tell(model, wish, "waiting", why)

    async def _tell(self, model: str, wish: LiveWish | None, state: str, why: str) -> None:
        facts: dict[str, Any] = {"state": state, "why": why}
        if wish is not None:
            facts |= {"wished": wish.live, "revision": wish.revision, "by": wish.by}
        _log.warning("wish_not_followed", model=model, **facts)
        await self._ledger.tell("wish_not_followed", model=model, facts=facts)

    def _stands(self, model: str, wish: LiveWish | None, state: str, why: str = "") -> None:
        self._counters.stands(model, state)
        self._standing[model] = WishStatus(
            model=model,
            version=None if wish is None else wish.live,
            revision=None if wish is None else wish.revision,
            by=None if wish is None else wish.by,
            at=None if wish is None else wish.at,
            state=state,
            why=why,
        )

    def _forget(self, model: str) -> None:
        """There is no wish for it any more; what serves of it goes on."""
        if self._standing.pop(model, None) is not None:
            self._counters.forget(model)

    async def _keep(self, model: str, **changed: Any) -> None:
        """Puts on the disk what a restart is to know; where that fails, this server knows it."""
        heeded = msgspec.structs.replace(self._heeded.get(model, Heeded()), **changed)
        self._heeded[model] = heeded
        async with self._keeping:
            content = msgspec.json.format(msgspec.json.encode(self._heeded), indent=1) + b"\n"
            try:
                await asyncio.to_thread(replace_file, self._path, content, alone=True)
            except OSError as error:
                _log.error("followed_not_kept", model=model, reason=str(error))


def _deploying(deploy: DeployShown, wish: LiveWish) -> Deploying:
    sentences = "; ".join(reason.sentence for reason in deploy.reasons)
    result = (deploy.result or "").replace("_", " ")
    return Deploying(
        id=deploy.id,
        version=deploy.version,
        by=deploy.by,
        is_ours=deploy.by == OURSELVES,
        is_of_wish=deploy.by == OURSELVES and deploy.reason == _reason(wish),
        is_over=deploy.ended is not None,
        why=f"its deploy was {result}: {sentences}" if result else "",
    )


def _reason(wish: LiveWish) -> str:
    return f"the store's wish, revision {wish.revision}, by {wish.by}"[:500]


def _read(path: Path) -> Keep:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Keep)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error}), so it is not known which wishes of the store "
            "operators have overruled. Correct the file, or remove it to follow the store as it is"
        ) from error
