"""Asking for deploys of a server that a test runs, and what is to be seen of them."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from models.store import Store
from tests.deploying import NAME, Made, pack_risk
from tests.in_thread import Client, server_over
from tests.operating import ask
from tests.swapping import Swapping
from tests.workers import wait_until

QUICK: Final[dict[str, Any]] = {
    "shadow_seconds": 0.5,
    "canary_percents": [30, 60],
    "bake_seconds": 0.5,
    "max_wait_seconds": 60.0,
    "requests": 20,
}
"""Stages of half a second, which a hundred requests a second fill."""
QUIET: Final[dict[str, Any]] = {**QUICK, "max_wait_seconds": 1.0}


def pack_all(store: Path, versions: dict[str, Made]) -> Path:
    """Version 1, which is live, and others."""
    pack_risk(store, "1")
    for version, made in versions.items():
        pack_risk(store, version, made)
    Store(store).set_live(NAME, "1", by="the tests")
    return store


class Deploying(Swapping):
    """A server, and short ways to ask for deploys."""

    def __init__(self, client: Client, state: Path) -> None:
        super().__init__(client, state, NAME)

    def deploy(self, version: str, **plan: Any) -> Any:
        """Begins one."""
        return self.do("deploy", version=version, **(QUICK | plan))

    @property
    def seen(self) -> Any:
        """The deploy that goes on, or the last one."""
        path = f"/models/{NAME}/deploy"
        return ask(self.client, path, authorization=self.operator).json["deploy"]

    def until(self, stage: str) -> None:
        """Waits until the deploy is in a stage."""
        wait_until(lambda: self.seen["stage"] == stage or self.seen["ended"] is not None)
        assert self.seen["stage"] == stage, self.seen

    def ended(self) -> tuple[str, list[str]]:
        """Waits until it has ended; gives how, and the kinds of its reasons."""
        wait_until(lambda: self.seen["ended"] is not None)
        return self.seen["result"], [reason["kind"] for reason in self.seen["reasons"]]

    @property
    def share(self) -> float:
        """Of the callers, that the candidate has."""
        return (self.status()["second"] or {"canary": 0})["canary"]

    def metric(self, line: str) -> float:
        return self.client.metric(line)

    def clear(self) -> None:
        """Version 1 live, nothing beside it, and no deploy."""
        if self.seen is not None and self.seen["ended"] is None:
            self.do("deploy/cancel")
            self.ended()
        self.ask("force-fallback", rung=None, reason="the test is over")
        live, _, previous = self.slots()
        if live != "1" and previous == "1":
            self.do("rollback")
        elif live != "1":
            self.do("load", version="1", drop_previous=True)
            self.do("promote", version="1", breaking=True)
        _, candidate, previous = self.slots()
        if candidate or previous:
            self.do("unload", version=candidate or previous)


@contextmanager
def deploying(packed: Path, state: Path, workers: int) -> Generator[Deploying]:
    """A server over a store."""
    with server_over(packed, state, workers=workers, deadline_ms=60_000) as client:
        yield Deploying(client, state)
