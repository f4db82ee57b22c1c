"""What a server that follows its store does next about a wish: decided from a look, with no effect.

A wish is settled once: it has been followed, it has failed, or an operator has overruled it. Only a
newer one, or another bundle in the place of one that failed, is a reason to begin again.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from models.store import LiveWish
from server.routes import Role

SettledState = Literal["followed", "failed", "overruled"]
Rest = Literal["rest", "settle", "wait", "watch", "fail"]
Move = Literal["load", "promote", "rollback", "unload", "deploy", "cancel"]
Do = Rest | Move


class Settled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of a wish.

    Attributes:
        revision: of the wish.
        version: that was wished.
        state: what became of it.
        why: in words, where it was not followed.
        mark: of the bundle's folder when it failed, see `models.wishes.mark_of`.
        deploy: that ended so; empty for none.
    """

    revision: int
    version: str
    state: SettledState
    why: str = ""
    mark: str = ""
    deploy: str = ""


class Heeded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of a model that is followed, also over restarts.

    Attributes:
        settled: the last wish that came to an end; None for none yet.
        brought: the version that following has put into the second slot, or is about to.
    """

    settled: Settled | None = None
    brought: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploying:
    """A deploy of the model that goes on, or the last one.

    Attributes:
        id: of the deploy.
        version: that it brings.
        by: who asked for it.
        is_ours: following did.
        is_of_wish: for this very wish.
        is_over: whether it has ended; `why` says how, where it was not promoted.
    """

    id: str
    version: str
    by: str
    is_ours: bool
    is_of_wish: bool
    is_over: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A model as a look found it.

    Attributes:
        wish: of the store.
        heeded: what is kept of it.
        live: the version that answers.
        second: the version beside it; `role` is what it is, and `was_live` whether it was rolled
            back from.
        mark: of the wished bundle's folder.
        deploy: the last deploy of the model, if there was one.
        by_deploy: whether wishes are followed by deploys.
    """

    wish: LiveWish
    heeded: Heeded
    live: str | None
    second: str | None = None
    role: Role | None = None
    was_live: bool = False
    mark: str = ""
    deploy: Deploying | None = None
    by_deploy: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and why, where that is to be told.

    `rest`: nothing; `settle`: the wish holds already, which is to be kept; `wait`: for an operator;
    `watch`: a deploy for it goes on; `fail`: the deploy came to nothing; `cancel`: a deploy for
    an older wish is to end.
    """

    do: Do
    why: str = ""


def next_step(look: Look) -> Step:
    """The one thing to do next; with every look again, until it is `rest` or `wait`."""
    settled, wish, deploy = look.heeded.settled, look.wish, look.deploy
    if deploy is not None and not deploy.is_over:
        return _beside(deploy, look)
    if settled is not None and wish.revision < settled.revision:
        return Step("rest", _older(wish, settled))
    is_known = settled is not None and settled.revision == wish.revision
    if look.live == wish.live:
        is_kept = is_known and settled is not None and settled.state == "followed"
        return Step("rest" if is_kept else "settle")
    if is_known and settled is not None and not _is_repaired(settled, look):
        return Step("rest", settled.why)
    if (
        deploy is not None
        and deploy.is_of_wish
        and (settled is None or settled.deploy != deploy.id)
    ):
        return Step("fail", deploy.why)
    return _towards(look)


def _beside(deploy: Deploying, look: Look) -> Step:
    """While a deploy goes on."""
    if not deploy.is_ours:
        return Step("wait", f"{deploy.by} is deploying {deploy.version}; it is waited for")
    return Step("watch" if deploy.version == look.wish.live else "cancel")


def _is_repaired(settled: Settled, look: Look) -> bool:
    return settled.state == "failed" and settled.mark != look.mark


def _towards(look: Look) -> Step:
    """What brings the wished version nearer, by what is in the second slot."""
    is_deployed = look.by_deploy and look.live is not None
    if look.second == look.wish.live and look.role == "previous":
        return Step("rollback")
    if look.second == look.wish.live:
        return Step("deploy" if is_deployed else "promote")
    if look.role != "candidate":
        return Step("deploy" if is_deployed else "load")
    if look.was_live or look.second == look.heeded.brought:
        return Step("unload")
    return Step(
        "wait",
        f"the second slot holds the candidate {look.second}, which somebody has loaded; promote it "
        f"or unload it, and the wish for {look.wish.live} is followed",
    )


def _older(wish: LiveWish, settled: Settled) -> str:
    return (
        f"the store's wish has revision {wish.revision}, and {settled.revision} was seen before: "
        "live.json was replaced by an older one. `keelmark publish --live` makes newer ones"
    )
