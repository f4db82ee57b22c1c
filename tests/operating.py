"""Calls on the ops port of a server that a test runs, tokens for them, and their events."""

import json
import time
from pathlib import Path
from typing import Any

from server.events import Event, events_in
from server.tokens import Access, digest_of, new_token, read_tokens, token_of, write_tokens
from tests.in_thread import Asker, Client, Response
from tests.tiny import GOOD


class Since:
    """The events that a test has caused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = len(list(events_in(folder)))

    def __call__(self, kind: str) -> list[Event]:
        return [event for event in self.all if event.kind == kind]

    @property
    def all(self) -> list[Event]:
        return list(events_in(self._folder))[self._before :]


def ask(
    client: Asker,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    twice: str = "",
    **headers: str,
) -> Response:
    """A call on the ops port; a header that is empty is left out, `twice` is a line more."""
    method = method or ("GET" if body is None else "POST")
    content = b"" if body is None else json.dumps(body).encode()
    sent = {"host": f"127.0.0.1:{client.ops_port}", "content_type": "application/json"} | headers
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in sent.items() if text]
    lines += [twice] if twice else []
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, f"content-length: {len(content)}"])
    return client.ops_send(head.encode() + b"\r\n\r\n" + content)


def bearer(folder: Path, access: Access) -> str:
    """What a holder of a new token sends."""
    token = new_token()
    name = f"{access}-{time.monotonic_ns()}"
    write_tokens(folder, (*read_tokens(folder), token_of(name, access, digest_of(token))))
    return f"Bearer {token}"


def events(folder: Path, kind: str) -> list[Event]:
    return [event for event in events_in(folder) if event.kind == kind]


def served_by(client: Client) -> str:
    return client.predict(GOOD).json["served_by"]
