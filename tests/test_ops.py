"""The ops port beyond metrics and health: who gets in, and what operators' calls do."""

import contextlib
import json
import sys
import time
from collections.abc import Generator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import call
from server.events import Event, events_in
from server.facts import FACTS
from server.ops import access as guarding
from server.settings import SettingsError
from server.tokens import (
    Access,
    digest_of,
    new_token,
    own_token,
    read_tokens,
    token_of,
    write_tokens,
)
from tests.in_thread import Client, Response, server_over
from tests.serving import serving
from tests.tiny import GOOD, pack_tiny

FORCE = {"rung": "rules", "reason": "a test"}
CALLS: dict[str, tuple[str, Access, Any]] = {
    "/status": ("GET", "viewer", None),
    "/events": ("GET", "viewer", None),
    "/models/tiny/force-fallback": ("POST", "operator", FORCE),
    "/workers/replace": ("POST", "operator", {}),
}
"""Every call that is not open: method, who may, a body that would do something."""


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(2, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))],
    ids=["one process", "two workers"],
)
def workers(request: pytest.FixtureRequest) -> int:
    """Both kinds of a server do the same."""
    return request.param


@pytest.fixture(scope="module")
def state(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the server that most tests share."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def running(store: Path, state: Path, workers: int) -> Generator[Client]:
    """A server that writes an event for each refusal, however many there are."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(guarding, "REFUSALS_SECONDS", 0.0)
            server = stack.enter_context(server_over(store, state, workers=workers))
        yield server


@pytest.fixture
def client(running: Client, state: Path) -> Generator[Client]:
    """The shared server, with nothing forced before and after."""
    yield running
    operator = bearer(state, "operator")
    off = {"rung": None, "reason": "the test is over"}
    ask(running, "/models/tiny/force-fallback", off, authorization=operator)


class Since:
    """The events that a test has caused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = len(list(events_in(folder)))

    def __call__(self, kind: str) -> list[Event]:
        caused = list(events_in(self._folder))[self._before :]
        return [event for event in caused if event.kind == kind]


@pytest.fixture
def since(client: Client, state: Path) -> Since:
    return Since(state)


def ask(client: Client, path: str, body: Any = None, **headers: str) -> Response:
    """A call on the ops port; a header that is empty is left out."""
    method = "GET" if body is None else "POST"
    content = b"" if body is None else json.dumps(body).encode()
    sent = {"host": f"127.0.0.1:{client.ops_port}", "content_type": "application/json"} | headers
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in sent.items() if text]
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


REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no token": ({}, 401, "unauthorized"),
    "a wrong token": ({"authorization": "Bearer keelmark_wrong"}, 401, "unauthorized"),
    "no bearer": ({"authorization": "Basic b3BlcmF0b3I6eA=="}, 401, "unauthorized"),
    "a foreign host": ({"authorization": "right", "host": "evil.example"}, 403, "forbidden"),
    "a foreign host with our port": (
        {"authorization": "right", "host": "evil.example:{port}"},
        403,
        "forbidden",
    ),
    "a foreign origin": (
        {"authorization": "right", "origin": "https://evil.example"},
        403,
        "forbidden",
    ),
    "a sandboxed page": ({"authorization": "right", "origin": "null"}, 403, "forbidden"),
    "another port's page": (
        {"authorization": "right", "origin": "http://127.0.0.1:1"},
        403,
        "forbidden",
    ),
}


@pytest.mark.parametrize(("path", "why"), list(product(CALLS, REFUSED)))
def test_who_may_not_is_refused_nothing_is_done_and_an_event_tells(
    client: Client, state: Path, since: Since, path: str, why: str
):
    headers, status, code = REFUSED[why]
    _, access, body = CALLS[path]
    sent = {name: text.replace("{port}", str(client.ops_port)) for name, text in headers.items()}
    if sent.get("authorization") == "right":
        sent["authorization"] = bearer(state, access)
    answer = ask(client, path, body, **sent)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
    assert served_by(client) == "model"
    (event,) = since("access_refused")
    assert (event.facts["path"], event.facts["code"]) == (path, code)
    assert not since("forced")


def test_a_viewer_may_look_and_change_nothing(client: Client, state: Path, since: Since):
    viewer = bearer(state, "viewer")
    for path, (_, access, body) in CALLS.items():
        answer = ask(client, path, body, authorization=viewer)
        assert answer.status == (200 if access == "viewer" else 403), path
    assert served_by(client) == "model"
    refused = [path for path, (_, access, _) in CALLS.items() if access == "operator"]
    told = [(event.facts["path"], event.facts["code"]) for event in since("access_refused")]
    assert told == [(path, "forbidden") for path in refused]


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_a_change_comes_as_json(client: Client, state: Path, since: Since, media_type: str):
    operator = bearer(state, "operator")
    path = "/models/tiny/force-fallback"
    answer = ask(client, path, FORCE, authorization=operator, content_type=media_type)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert served_by(client) == "model"


@pytest.mark.parametrize("origin", ["", "http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
def test_our_own_pages_and_those_without_a_page_may_ask(
    client: Client, state: Path, since: Since, origin: str
):
    own = origin.replace("{port}", str(client.ops_port))
    answer = ask(client, "/status", authorization=bearer(state, "viewer"), origin=own)
    assert answer.status == 200


def test_a_name_that_the_settings_add_is_one_of_ours(store: Path, tmp_path: Path):
    with server_over(store, tmp_path, ops_hosts=("models.example",)) as client:
        viewer = bearer(tmp_path, "viewer")
        for host, status in (
            ("models.example:8081", 200),
            ("MODELS.example", 200),
            ("localhost", 200),
            ("[::1]:8081", 200),
            ("models.example.evil", 403),
        ):
            assert ask(client, "/status", authorization=viewer, host=host).status == status, host


def test_metrics_and_health_stay_open_under_any_name(client: Client):
    for path in ("/metrics", "/health/live", "/health/ready", "/health/startup"):
        assert ask(client, path, host="10.1.2.3:8081").status == 200


def test_refusals_do_not_fill_the_log(store: Path, tmp_path: Path):
    with server_over(store, tmp_path) as server:
        for _ in range(50):
            ask(server, "/status")
    told = events(tmp_path, "access_refused")
    assert 1 <= len(told) <= 5


def test_a_forced_rung_answers_from_the_next_request_on(client: Client, state: Path, since: Since):
    operator = bearer(state, "operator")
    path = "/models/tiny/force-fallback"
    done = ask(client, path, FORCE, authorization=operator).json
    assert (done["before"], done["after"], done["changed"]) == (None, "rules", True)
    answer = client.predict(GOOD).json
    assert (answer["served_by"], answer["reasons"]) == ("rules", ["operator"])
    off = {"rung": None, "reason": "over"}
    done = ask(client, path, off, authorization=operator).json
    assert (done["before"], done["after"]) == ("rules", None)
    assert served_by(client) == "model"
    told = [(event.before, event.after) for event in since("forced")]
    assert told == [("model", "rules"), ("rules", "model")]
    assert all(event.who.startswith("operator-") for event in since("forced"))


def test_asked_twice_nothing_is_changed_the_second_time(client: Client, state: Path, since: Since):
    operator = bearer(state, "operator")
    first, second = (
        ask(client, "/models/tiny/force-fallback", FORCE, authorization=operator).json
        for _ in range(2)
    )
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["generation"] == second["generation"]
    assert len(since("forced")) == 1


def test_a_dry_run_and_a_wrong_generation_change_nothing(client: Client, state: Path, since: Since):
    operator = bearer(state, "operator")
    path = "/models/tiny/force-fallback"
    dry = ask(client, path, {**FORCE, "dry_run": True}, authorization=operator).json
    assert (dry["after"], dry["changed"], dry["dry_run"]) == ("rules", True, True)
    wrong = {**FORCE, "if_generation": dry["generation"] + 1}
    refused = ask(client, path, wrong, authorization=operator)
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert served_by(client) == "model"
    right = {**FORCE, "if_generation": dry["generation"]}
    assert ask(client, path, right, authorization=operator).json["changed"]


BAD_BODIES: dict[str, tuple[str, Any, int, str]] = {
    "another model": ("nothing", FORCE, 404, "unknown_model"),
    "no such rung": ("tiny", {"rung": "model", "reason": "x"}, 400, "invalid"),
    "no baseline": ("tiny", {"rung": "baseline", "reason": "x"}, 400, "invalid"),
    "no reason": ("tiny", {"rung": "rules"}, 400, "invalid"),
    "an empty reason": ("tiny", {"rung": "rules", "reason": ""}, 400, "invalid"),
    "too long": ("tiny", {**FORCE, "expires_seconds": 8 * 86_400}, 400, "invalid"),
    "an unknown key": ("tiny", {**FORCE, "forever": True}, 400, "invalid"),
    "a list": ("tiny", [FORCE], 400, "invalid"),
    "too large": ("tiny", {**FORCE, "reason": "x" * 70_000}, 400, "invalid"),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_what_cannot_be_done_is_refused_in_words(
    client: Client, state: Path, since: Since, what: str
):
    model, body, status, code = BAD_BODIES[what]
    path = f"/models/{model}/force-fallback"
    answer = ask(client, path, body, authorization=bearer(state, "operator"))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["message"]
    assert served_by(client) == "model"
    assert not since("forced")


def test_a_forced_rung_ends_when_it_expires(client: Client, state: Path, since: Since):
    body = {**FORCE, "expires_seconds": 0.3}
    operator = bearer(state, "operator")
    assert ask(client, "/models/tiny/force-fallback", body, authorization=operator).json["changed"]
    assert served_by(client) == "rules"
    deadline = time.monotonic() + 10
    while served_by(client) == "rules" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert served_by(client) == "model"
    while len(since("forced")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [(e.who == "server", e.after) for e in since("forced")][1:] == [(True, "model")]


def test_a_forced_rung_survives_a_restart_and_ends_with_its_version(tmp_path: Path, workers: int):
    store, state = tmp_path / "store", tmp_path / "state"
    state.mkdir()
    pack_tiny(store)
    with server_over(store, state, workers=workers) as client:
        ask(client, "/models/tiny/force-fallback", FORCE, authorization=bearer(state, "operator"))
        before = ask(client, "/status", authorization=bearer(state, "viewer")).json["generation"]
    with server_over(store, state, workers=workers) as client:
        assert served_by(client) == "rules"
        status = ask(client, "/status", authorization=bearer(state, "viewer")).json
        assert status["generation"] > before
        assert status["models"][0]["forced_by"]["reason"] == "a test"
    pack_tiny(store, "2")
    (store / "tiny" / "live.json").write_bytes(
        b'{"format":1,"live":"2","previous":"1","revision":1,"at":"2024-01-01T00:00:00Z","by":"x"}'
    )
    with server_over(store, state, workers=workers) as client:
        assert served_by(client) == "model"
    assert [event.after for event in events(state, "forced")] == ["rules", "model"]


def test_facts_that_cannot_be_read_stop_the_start(store: Path, tmp_path: Path):
    (tmp_path / FACTS).write_text('{"format":2}')
    said = r"facts\.json cannot be read.*keelmark events"
    with pytest.raises(SettingsError, match=said), server_over(store, tmp_path):
        pass


def test_status_says_what_is_served_and_how_far_the_log_goes(client: Client, state: Path):
    status = ask(client, "/status", authorization=bearer(state, "viewer")).json
    (model,) = status["models"]
    assert (model["model"], model["version"], model["state"]) == ("tiny", "1", "live")
    assert (model["breaker"], model["forced"], model["signature"]) == ("closed", None, "unsigned")
    told = list(events_in(state))
    assert status["events"]["n"] == len(told)
    assert [event.kind for event in told][:2] == ["started", "model_loaded"]


def test_the_latest_events_come_oldest_first(client: Client, state: Path):
    viewer = bearer(state, "viewer")
    ask(client, "/status")
    ask(client, "/status")
    shown = ask(client, "/events?last=2", authorization=viewer).json
    assert [event["kind"] for event in shown] == ["access_refused"] * 2
    assert shown[0]["n"] + 1 == shown[1]["n"]
    wrong = ask(client, "/events?last=x", authorization=viewer)
    assert (wrong.status, wrong.error["code"]) == (400, "invalid")


def test_no_token_is_in_any_log(store: Path, tmp_path: Path):
    with serving(store, tmp_path) as server:
        state = tmp_path / "state"
        own = own_token(state, make=False)
        url = f"http://127.0.0.1:{server.ops_port}"
        call("/models/tiny/force-fallback", FORCE, server=url, state_dir=state)
        assert server.predict("tiny", GOOD).body["served_by"] == "rules"
    assert [event.who for event in events(state, "forced")] == ["operator.token"]
    for path in (server.log, state / "events.jsonl", state / FACTS):
        assert own not in path.read_text()
    assert [event.kind for event in events_in(state)][-1] == "stopped"
