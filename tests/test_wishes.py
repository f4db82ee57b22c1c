"""What a server that follows its store does next, decided from a look; and how it looks."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from models.errors import BundleCorrupt, StoreError
from models.store import LiveWish, Store
from models.wishes import NOT_THERE, WishReader, mark_of
from server.following import Deploying, Heeded, Look, Settled, SettledState, next_step


def wish(live: str = "8", revision: int = 12) -> LiveWish:
    return LiveWish(format=1, live=live, previous="7", revision=revision, at="now", by="ann")


def settled(state: SettledState = "followed", revision: int = 12, **more: Any) -> Heeded:
    return Heeded(settled=Settled(revision=revision, version="8", state=state, **more))


def look(**given: Any) -> Look:
    """7 is live and 8 is wished, for the first time, but for what is given."""
    usual: dict[str, Any] = {"wish": wish(), "heeded": Heeded(), "live": "7"}
    return Look(**(usual | given))


def deploying(**given: Any) -> Deploying:
    """Ours of 8, for this wish, that goes on, but for what is given."""
    usual: dict[str, Any] = {"id": "d", "version": "8", "by": "server", "is_over": False}
    ours: dict[str, Any] = {"is_ours": True, "is_of_wish": True}
    return Deploying(**(usual | ours | given))


LOOKS: dict[str, tuple[Look, str]] = {
    "nothing beside it": (look(), "load"),
    "nothing is live": (look(live=None), "load"),
    "the previous version beside it": (look(second="6", role="previous"), "load"),
    "it is the previous version": (look(second="8", role="previous"), "rollback"),
    "it is the candidate": (look(second="8", role="candidate"), "promote"),
    "it was rolled back from, and is wished anew": (
        look(second="8", role="candidate", was_live=True, heeded=settled(revision=11)),
        "promote",
    ),
    "somebody's candidate beside it": (look(second="9", role="candidate"), "wait"),
    "our candidate beside it": (
        look(second="9", role="candidate", heeded=Heeded(brought="9")),
        "unload",
    ),
    "one that was rolled back from beside it": (
        look(second="9", role="candidate", was_live=True),
        "unload",
    ),
    "it is live": (look(live="8"), "settle"),
    "it is live, and that is known": (look(live="8", heeded=settled()), "rest"),
    "it is live again": (look(live="8", heeded=settled("overruled")), "settle"),
    "an operator rolled it back": (look(heeded=settled("overruled")), "rest"),
    "an operator rolled it back before that was kept": (look(heeded=settled("followed")), "rest"),
    "a newer wish after that": (look(heeded=settled("overruled", 11)), "load"),
    "it failed": (look(heeded=settled("failed", mark="a"), mark="a"), "rest"),
    "it failed, and is repaired": (look(heeded=settled("failed", mark="a"), mark="b"), "load"),
    "it was not there, and is": (look(heeded=settled("failed"), mark="b"), "load"),
    "an older wish than one before": (look(heeded=settled("followed", 13)), "rest"),
    "by a deploy": (look(by_deploy=True), "deploy"),
    "by a deploy, which drops the previous version": (
        look(by_deploy=True, second="6", role="previous"),
        "deploy",
    ),
    "by a deploy of the candidate": (
        look(by_deploy=True, second="8", role="candidate"),
        "deploy",
    ),
    "there is nothing to compare with": (look(by_deploy=True, live=None), "load"),
    "back, which needs no deploy": (look(by_deploy=True, second="8", role="previous"), "rollback"),
    "our deploy of it goes on": (look(deploy=deploying()), "watch"),
    "our deploy of it bakes": (look(live="8", deploy=deploying()), "watch"),
    "our deploy of another goes on": (look(deploy=deploying(version="9")), "cancel"),
    "somebody's deploy goes on": (look(deploy=deploying(by="ann", is_ours=False)), "wait"),
    "our deploy was rolled back": (
        look(deploy=deploying(is_over=True, why="it was rolled back")),
        "fail",
    ),
    "our deploy was rolled back, which is kept": (
        look(
            deploy=deploying(is_over=True),
            heeded=settled("failed", deploy="d", mark="a"),
            mark="a",
        ),
        "rest",
    ),
    "our deploy was rolled back, and the bundle was repaired": (
        look(
            by_deploy=True,
            deploy=deploying(is_over=True),
            heeded=settled("failed", deploy="d", mark="a"),
            mark="b",
        ),
        "deploy",
    ),
    "our deploy for an older wish was rolled back": (
        look(by_deploy=True, deploy=deploying(is_over=True, is_of_wish=False)),
        "deploy",
    ),
    "an operator rolled our deploy back": (
        look(deploy=deploying(is_over=True), heeded=settled("overruled")),
        "rest",
    ),
}


@pytest.mark.parametrize("what", LOOKS)
def test_the_next_step(what: str):
    seen, expected = LOOKS[what]
    step = next_step(seen)
    assert step.do == expected
    assert bool(step.why) == (expected in ("wait", "fail") or what.startswith("an older"))


def applied(seen: Look, do: str) -> dict[str, Any]:
    """The slots after a step that came off."""
    live, second = seen.live, seen.second
    if do == "load":
        return {"second": seen.wish.live, "role": "candidate", "was_live": False}
    if do == "unload":
        return {"second": None, "role": None, "was_live": False}
    role = None if live is None else "previous" if do == "promote" else "candidate"
    return {"live": second, "second": live, "role": role, "was_live": role == "candidate"}


def test_whatever_is_found_steps_come_to_an_end():
    """From every state of the slots: what is wished is live, or somebody is to be waited for."""
    slots = [(None, None, False), ("9", "candidate", True), ("8", "candidate", True)]
    slots += [(s, r, False) for s, r in product("689", ("candidate", "previous"))]
    for live, (second, role, was_live), brought in product((None, "7"), slots, (None, "9")):
        values: dict[str, Any] = {
            "live": live,
            "second": second,
            "role": role,
            "was_live": was_live,
            "heeded": Heeded(brought=brought),
        }
        step = next_step(look(**values))
        for _ in range(6):
            if step.do in ("settle", "wait"):
                break
            values |= applied(look(**values), step.do)
            step = next_step(look(**values))
        is_theirs = role == "candidate" and not was_live and second not in ("8", brought)
        assert step.do == ("wait" if is_theirs else "settle"), values


# looking


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for name in ("a", "b"):
        (tmp_path / name / "1").mkdir(parents=True)
    return Store(tmp_path)


def test_a_wish_is_read_again_when_its_file_is_another_one(store: Store):
    reader = WishReader(store)
    assert reader.names() == ["a", "b"]
    assert reader.read("a") is None
    first = store.set_live("a", "1", by="ann")
    assert reader.read("a") == first
    assert reader.read("a") is reader.read("a")
    assert reader.read("b") is None
    second = store.set_live("a", "1", by="bob")
    assert reader.read("a") == second
    (store.root / "a" / "live.json").unlink()
    assert reader.read("a") is None


def test_a_wish_that_is_none_is_said_until_it_is_one(store: Store):
    reader, path = WishReader(store), store.root / "a" / "live.json"
    path.write_text("{")
    for _ in range(2):
        with pytest.raises(BundleCorrupt, match=r"live\.json"):
            reader.read("a")
    path.unlink()
    assert reader.read("a") is None
    assert store.set_live("a", "1", by="ann") == reader.read("a")


def test_what_is_no_model_is_not_looked_at(store: Store):
    (store.root / ".git").mkdir()
    (store.root / "notes.txt").write_text("x")
    (store.root / "file").write_text("x")
    assert WishReader(store).names() == ["a", "b", "file"]
    assert WishReader(store).read("file") is None


def test_a_store_that_cannot_be_read_is_said(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot be read"):
        WishReader(Store(tmp_path / "nothing")).names()


def test_a_bundle_has_another_mark_when_a_file_of_it_changes(store: Store):
    folder = store.root / "a" / "1"
    assert mark_of(store, "a", "1") == NOT_THERE
    assert mark_of(store, "a", "9") == NOT_THERE
    (folder / "model.onnx").write_bytes(b"x")
    first = mark_of(store, "a", "1")
    assert first not in (NOT_THERE, mark_of(store, "b", "1"))
    assert mark_of(store, "a", "1") == first
    (folder / "model.onnx").write_bytes(b"xy")
    assert (second := mark_of(store, "a", "1")) != first
    os.utime(folder / "model.onnx", (0, 0))
    assert mark_of(store, "a", "1") != second
