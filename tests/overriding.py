"""A server with the bundle `trips` in two versions, and short ways to override what answers."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.store import Store
from tests.in_thread import Client, server_over
from tests.operating import ask
from tests.packed import full_bundle
from tests.swapping import Swapping

NAME = "trips"
GOOD = {
    "distance": 12.5,
    "driver": "badge 7781",
    "carrier": "UA",
    "is_weekend": False,
    "leaves": "2013-02-01T12:00:00Z",
}
TO_RULES: dict[str, Any] = {"policies": {"distance": {"missing": "rules"}}}
"""Changes by which a record without distance, which the model answers as packed, goes to rules."""


def rule(when: str, answer: float, name: str = "mine") -> dict[str, Any]:
    return {"name": name, "when": when, "outputs": {"probability": answer}}


def two_versions(store: Path) -> Path:
    """A store with two versions that answer alike, of which the first is live."""
    full_bundle(store)
    full_bundle(store, "2")
    Store(store).set_live(NAME, "1", by="the tests")
    return store


class Operated(Swapping):
    """A server, and what an operator does with it."""

    def __init__(self, client: Client, state: Path) -> None:
        super().__init__(client, state, NAME)

    def override(self, changes: Any, **body: Any) -> Any:
        """Puts an override to use; None ends it."""
        given: dict[str, Any] = {"reason": "a test", "dry_run": False}
        return self.do("override", changes=changes, **(given | body))

    def status(self) -> Any:
        """Of the one model."""
        answer = ask(self.client, "/status", authorization=self.operator)
        (model,) = answer.json["models"]
        return model | {"generation": answer.json["generation"]}

    def answers(self, **changed: Any) -> Any:
        """The answer to a record, of which some fields are given."""
        return self.client.predict({**GOOD, **changed}, model=NAME).json

    def says(self, **changed: Any) -> tuple[str, list[str]]:
        """Who answers a record, and why."""
        answer = self.answers(**changed)
        return answer["served_by"], answer.get("reasons", [])

    def count(self, metric: str, version: str = "1", **labels: str) -> float:
        pairs = {"model": NAME, "version": version, **labels}
        shown = ",".join(f'{name}="{text}"' for name, text in pairs.items())
        return self.client.metric(f"{metric}{{{shown}}}")

    def clear(self) -> None:
        """Version 1 live, with nothing beside it and nothing said of it."""
        self.override(None)
        self.do("force-fallback", rung=None, reason="the test is over")
        if self.status()["version"] != "1":
            self.do("rollback")
        if second := self.status()["second"]:
            self.do("unload", version=second["version"])


@contextmanager
def operated(store: Path, state: Path, workers: int) -> Generator[Operated]:
    # By default the model has a tenth of a second, which may be too short on a busy machine.
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        yield Operated(client, state)


def own_copy(store: Path, folder: Path) -> Path:
    return Path(shutil.copytree(store, folder / "store"))
