"""Short ways to ask a server for swaps of one model, and to see what came of them."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from server.cli import app
from server.cli.ops_client import VARIABLE
from tests.in_thread import Client, Response, post
from tests.operating import ask, bearer


class Swapping:
    """A server whose model's slots change.

    Args:
        client: its ports.
        state: its state folder.
        model: whose slots.
    """

    def __init__(self, client: Client, state: Path, model: str) -> None:
        self.client = client
        self.state = state
        self.model = model
        self.operator = bearer(state, "operator")

    @property
    def token(self) -> str:
        """As commands send it."""
        return self.operator.removeprefix("Bearer ")

    def command(self, name: str, *arguments: str) -> Any:
        """What comes of a command to it, given by its operator."""
        url = f"http://127.0.0.1:{self.client.ops_port}"
        words = [name, "--server", url, *arguments]
        return CliRunner().invoke(app, words, env={VARIABLE: self.token})

    def ask(self, swap: str, **body: Any) -> Response:
        """A call, whatever comes of it."""
        return ask(self.client, f"/models/{self.model}/{swap}", body, authorization=self.operator)

    def do(self, swap: str, **body: Any) -> Any:
        """A call that is not refused."""
        answer = self.ask(swap, **body)
        assert answer.status == 200, answer.body
        return answer.json

    def refused(self, swap: str, code: str, **body: Any) -> str:
        """A call that is refused; gives its message."""
        answer = self.ask(swap, **body)
        assert answer.error["code"] == code, answer.body
        return answer.error["message"]

    def status(self) -> Any:
        """Of the model."""
        answer = ask(self.client, "/status", authorization=self.operator)
        return next(each for each in answer.json["models"] if each["model"] == self.model)

    def slots(self) -> tuple[str | None, str | None, str | None]:
        """Live, candidate and previous version, as status has them."""
        model = self.status()
        second = model["second"] or {"slot": None, "version": None}
        found = {second["slot"]: second["version"]}
        return model["version"], found.get("candidate"), found.get("previous")

    def predict(self, value: Any, query: str = "") -> Response:
        """An answer of the model."""
        return self.client.send(post(f"/predict/{self.model}{query}", json.dumps(value).encode()))

    def clear(self) -> None:
        """Version 1 live, and nothing beside it."""
        live, candidate, previous = self.slots()
        if live != "1":
            if previous == "1":
                self.do("rollback")
            else:
                if candidate or previous:
                    self.do("unload", version=candidate or previous)
                self.do("load", version="1")
                self.do("promote", version="1", breaking=True)
        _, candidate, previous = self.slots()
        if candidate or previous:
            assert self.do("unload", version=candidate or previous)["released"]
