"""A server that follows its store, as tests ask it."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

from models.store import Store
from tests.in_thread import Client, Response, post, server_over
from tests.operating import Since, ask, bearer
from tests.three import NAME, record, version_of
from tests.workers import wait_until

SECONDS: Final = 0.05


class Following:
    """A server that follows, and short ways to ask it."""

    def __init__(self, client: Client, state: Path, store: Store) -> None:
        self.client = client
        self.store = store
        self.since = Since(state)
        self._operator = bearer(state, "operator")
        self._follower = client.serving._desk._follower
        assert self._follower is not None
        self._looks = 0
        look = self._follower._look

        async def counted() -> None:
            await look()
            self._looks += 1

        self._follower._look = counted

    def ask(self, swap: str, **body: Any) -> Response:
        return ask(self.client, f"/models/{NAME}/{swap}", body, authorization=self._operator)

    def do(self, swap: str, **body: Any) -> None:
        answer = self.ask(swap, **body)
        assert answer.status == 200, answer.body

    def wish(self, version: str, name: str = NAME) -> None:
        self.store.set_live(name, version, by="ann")

    def get(self, path: str) -> Any:
        """What the ops port answers."""
        return ask(self.client, path, authorization=self._operator).json

    def status(self) -> Any:
        return self.get("/status")

    def stands(self, name: str = NAME) -> tuple[str, str | None, str]:
        """State, wished version and why."""
        found = {wish["model"]: wish for wish in self.status()["wishes"]}
        return found[name]["state"], found[name]["version"], found[name]["why"]

    def until(self, state: str, version: str | None, name: str = NAME) -> str:
        """Waits until it stands so; gives why."""

        def is_so() -> bool:
            known = {wish["model"] for wish in self.status()["wishes"]}
            return name in known and self.stands(name)[:2] == (state, version)

        wait_until(is_so)
        return self.stands(name)[2]

    def looks(self, more: int = 4) -> None:
        """Waits until it has looked so often again."""
        seen = self._looks
        wait_until(lambda: self._looks > seen + more)

    def slots(self) -> tuple[str | None, str | None]:
        """Live, and what is beside it."""
        model = next(m for m in self.status()["models"] if m["model"] == NAME)
        second = model["second"]
        return model["version"], second and f"{second['slot']} {second['version']}"

    def answers(self) -> int | None:
        answer = self.client.send(post(f"/predict/{NAME}", json.dumps(record()).encode()))
        return version_of(answer.json["prediction"])

    def told(self, *kinds: str) -> list[tuple[str, str]]:
        """Kinds of the events, and who."""
        return [(event.kind, event.who) for event in self.since.all if event.kind in kinds]


@contextlib.contextmanager
def following(store: Store, state: Path, **settings: Any) -> Generator[Following]:
    given = {"follow": True, "follow_seconds": SECONDS, "deadline_ms": 60_000} | settings
    with server_over(store.root, state, **given) as client:
        yield Following(client, state, store)
