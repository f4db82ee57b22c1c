"""How commands call an ops port: who gets to see the token."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final

import pytest

from server.cli.ops_client import VARIABLE, NotRunning, ServerSaysNo, call
from server.settings import SettingsError
from server.tokens import own_token

SECRET: Final = "a token of the ops port"


class Elsewhere(BaseHTTPRequestHandler):
    """Sends everybody on to another path of its own, and keeps what they brought there."""

    seen: Final[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if self.path == "/status" else 200)
        self.send_header("Location", f"http://localhost:{self.headers['Host'].rpartition(':')[2]}/")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its base's name)
        """Nothing on stderr."""


class Ends(BaseHTTPRequestHandler):
    """Takes a call, and is gone before it has answered all of it."""

    def do_POST(self) -> None:
        if self.path in ("/half", "/refused"):
            self.send_response(409 if self.path == "/refused" else 200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"changed": ')
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its base's name)
        """Nothing on stderr."""


def test_another_machine_does_not_get_the_token_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(VARIABLE, raising=False)
    own_token(tmp_path, make=True)
    with pytest.raises(
        SettingsError, match=r"http://there\.example:8081 is another machine.*set KEE"
    ):
        call("/status", server="http://there.example:8081", state_dir=tmp_path)


def test_no_proxy_gets_the_token_of_this_machine(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It would be refused there: nothing listens."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(ServerSaysNo):
        call("/refused", {}, server=ends, state_dir=tmp_path)


@pytest.fixture
def ends() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Ends) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("path", ["/none", "/half"])
def test_a_server_that_ends_while_it_is_asked(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
):
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(NotRunning, match="wholly or not at all; `keelmark status` says which"):
        call(path, {}, server=ends, state_dir=tmp_path)


def test_a_refusal_that_breaks_off_is_one(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(ServerSaysNo, match="it answered 409"):
        call("/refused", {}, server=ends, state_dir=tmp_path)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_token_goes_nowhere_but_where_it_was_sent(
    elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(ServerSaysNo, match="it answered 302"):
        call("/status", server=elsewhere, state_dir=tmp_path)
    assert Elsewhere.seen == [("/status", f"Bearer {SECRET}")]
