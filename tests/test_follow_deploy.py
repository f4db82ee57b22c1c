"""Wishes that are followed by deploys; those of operators are waited for."""

import json
import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self

import pytest

from models.store import Store
from tests.following import Following, following
from tests.in_thread import Client, post
from tests.three import NAME, pack_versions
from tests.workers import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
PLAN = "shadow=0 canary=50 bake=1s requests=20"
LONG = "shadow=0 canary=50 bake=10m requests=20"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_versions(tmp_path_factory.mktemp("store"), 3)


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(packed, tmp_path / "store"))


class Traffic:
    """Calls all the time, with records as those of the training."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.failures: list[Any] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failures == []

    def _call(self) -> None:
        n = 0
        while not self._stop.wait(0.01):
            n += 1
            body = json.dumps({"x": float(n % 10), "y": float(n // 10 % 5)}).encode()
            answer = self._client.send(post(f"/predict/{NAME}", body))
            if answer.status != 200:
                self.failures.append(answer)


def deploys(server: Following) -> list[tuple[str, str, Any]]:
    """Kinds of their events, who, and how they ended."""
    kinds = ("deploy_started", "deploy_ended")
    return [(e.kind, e.who, e.after) for e in server.since.all if e.kind in kinds]


def test_a_wish_comes_by_a_deploy_and_goes_back_at_once(store: Store, tmp_path: Path):
    given = {"follow_with": "deploy", "follow_plan": PLAN}
    with following(store, tmp_path / "state", **given) as server, Traffic(server.client):
        server.until("followed", "1")
        assert deploys(server) == []
        server.wish("2")
        server.until("moving", "2")
        server.until("followed", "2")
        assert deploys(server) == [
            ("deploy_started", "server", None),
            ("deploy_ended", "server", "promoted"),
        ]
        server.wish("1")
        server.until("followed", "1")
        assert len(deploys(server)) == 2
        assert server.slots() == ("1", "candidate 2")


@pytest.fixture
def slow(store: Store, tmp_path: Path) -> Generator[Following]:
    """A server whose deploys take longer than a test."""
    given = {"follow_with": "deploy", "follow_plan": LONG}
    with following(store, tmp_path / "state", **given) as server:
        yield server


def is_deployed(server: Following, version: str) -> bool:
    """Whether a deploy of it goes on, and the candidate has callers."""
    deploy = server.get(f"/models/{NAME}/deploy")["deploy"]
    return deploy is not None and deploy["version"] == version and "canary" in deploy["stage"]


def test_a_newer_wish_cancels_and_an_operator_who_cancels_has_the_wish_failed(slow: Following):
    slow.wish("2")
    wait_until(lambda: is_deployed(slow, "2"))
    slow.wish("3")
    wait_until(lambda: is_deployed(slow, "3"))
    assert slow.stands()[:2] == ("moving", "3")
    slow.do("deploy/cancel", reason="not today")
    why = slow.until("failed", "3")
    assert "rolled back" in why
    assert "not today" in why
    slow.looks()
    assert [after for kind, _, after in deploys(slow) if kind == "deploy_ended"] == [
        "rolled_back",
        "rolled_back",
    ]
    assert len(slow.since("wish_not_followed")) == 1
    assert slow.slots() == ("1", None)


def test_an_operators_deploy_is_waited_for_and_wins(slow: Following):
    body = {"version": "3", "shadow_seconds": 0, "canary_percents": [50], "bake_seconds": 600}
    slow.do("deploy", **body)
    wait_until(lambda: is_deployed(slow, "3"))
    slow.wish("2")
    assert "is deploying 3" in slow.until("waiting", "2")
    slow.looks()
    slow.do("promote", version="3")
    assert slow.until("overruled", "2").startswith("operator-")
    slow.looks()
    assert slow.slots() == ("3", "previous 1")
