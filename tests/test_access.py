"""Who may ask what of the ops port: a row for each of its routes, tried with every wrong caller."""

import contextlib
from collections.abc import Generator
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from fastapi.routing import APIRoute

from server.ops import access as guarding
from server.ops.access import Sparing
from server.tokens import Access, digest_of, new_token, own_token, read_tokens
from tests.in_thread import Client, Connection, get, server_over
from tests.operating import Since, ask, bearer, served_by

FORCE = {"rung": "rules", "reason": "a test"}


class Row(NamedTuple):
    """A route: who may call it, and a call of it that would show or do something."""

    access: Access | Literal["open"]
    path: str
    body: Any = None


ROUTES: dict[tuple[str, str], Row] = {
    ("GET", "/metrics"): Row("open", "/metrics"),
    ("GET", "/health/live"): Row("open", "/health/live"),
    ("HEAD", "/health/live"): Row("open", "/health/live"),
    ("GET", "/health/ready"): Row("open", "/health/ready"),
    ("HEAD", "/health/ready"): Row("open", "/health/ready"),
    ("GET", "/health/startup"): Row("open", "/health/startup"),
    ("HEAD", "/health/startup"): Row("open", "/health/startup"),
    ("GET", "/status"): Row("viewer", "/status"),
    ("GET", "/events"): Row("viewer", "/events?last=3"),
    ("POST", "/models/{model}/force-fallback"): Row(
        "operator", "/models/tiny/force-fallback", FORCE
    ),
    ("POST", "/models/{model}/selftest"): Row(
        "operator",
        "/models/tiny/selftest",
        {"version": "1", "action": "report", "reason": "a test"},
    ),
    ("POST", "/models/{model}/override"): Row(
        "operator",
        "/models/tiny/override",
        {"changes": {"rung": "rules"}, "reason": "a test", "dry_run": False},
    ),
    ("POST", "/models/{model}/load"): Row("operator", "/models/tiny/load", {"version": "2"}),
    ("POST", "/models/{model}/unload"): Row("operator", "/models/tiny/unload", {"version": "2"}),
    ("POST", "/models/{model}/promote"): Row("operator", "/models/tiny/promote", {"version": "2"}),
    ("POST", "/models/{model}/rollback"): Row("operator", "/models/tiny/rollback", {}),
    ("POST", "/models/{model}/canary"): Row(
        "operator", "/models/tiny/canary", {"version": "2", "share": 0.5}
    ),
    ("POST", "/models/{model}/shadow"): Row(
        "operator", "/models/tiny/shadow", {"version": "2", "share": 0.5}
    ),
    ("GET", "/models/{model}/deploy"): Row("viewer", "/models/tiny/deploy"),
    ("POST", "/models/{model}/deploy"): Row("operator", "/models/tiny/deploy", {"version": "2"}),
    ("POST", "/models/{model}/deploy/cancel"): Row("operator", "/models/tiny/deploy/cancel", {}),
    ("POST", "/workers/replace"): Row("operator", "/workers/replace", {}),
}
GUARDED = [route for route, row in ROUTES.items() if row.access != "open"]
CHANGES = [route for route, row in ROUTES.items() if row.access == "operator"]
OPEN = [route for route, row in ROUTES.items() if row.access == "open"]


@pytest.fixture(scope="module")
def client(store: Path, state: Path, workers: int) -> Generator[Client]:
    """A server that writes an event for each refusal, however many there are."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(guarding, "REFUSALS_AT_ONCE", 1_000_000)
            server = stack.enter_context(server_over(store, state, workers=workers))
        yield server


@pytest.fixture
def since(client: Client, state: Path) -> Since:
    return Since(state)


def test_every_route_of_the_ops_port_has_a_row(client: Client):
    """A new one says here who may call it, and is then tried with everybody else."""
    app: Any = client.serving._ops.config.app
    assert {type(route) for route in app.routes} == {APIRoute}
    assert {(method, route.path) for route in app.routes for method in route.methods} == set(ROUTES)


@pytest.mark.parametrize("route", OPEN, ids=" ".join)
def test_who_is_let_in_everywhere_needs_no_token_and_no_name(client: Client, route: Any):
    method, _ = route
    for host in ("10.1.2.3:8081", "evil.example"):
        head = f"{method} {ROUTES[route].path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        connection = Connection(client.ops_port)
        connection.send(head.encode() + b"Origin: https://evil.example\r\n\r\n")
        assert connection.sock.recv(64).startswith(b"HTTP/1.1 200 ")
        connection.close()


RIGHT = {"authorization": "right"}
REFUSED: dict[str, tuple[dict[str, str], int, str]] = {
    "no token": ({}, 401, "unauthorized"),
    "an empty token": ({"authorization": "Bearer "}, 401, "unauthorized"),
    "a wrong token": ({"authorization": "Bearer keelmark_wrong"}, 401, "unauthorized"),
    "no bearer": ({"authorization": "Basic b3BlcmF0b3I6eA=="}, 401, "unauthorized"),
    "the digest of a token": ({"authorization": "digest"}, 401, "unauthorized"),
    "two tokens": ({**RIGHT, "twice": "Authorization: Bearer x"}, 403, "forbidden"),
    "no host": ({**RIGHT, "host": ""}, 403, "forbidden"),
    "a foreign host": ({**RIGHT, "host": "evil.example"}, 403, "forbidden"),
    "a foreign host with our port": ({**RIGHT, "host": "evil.example:{port}"}, 403, "forbidden"),
    "a host that begins as ours": ({**RIGHT, "host": "127.0.0.1.evil.example"}, 403, "forbidden"),
    "a host behind ours": ({**RIGHT, "host": "127.0.0.1:{port}@evil"}, 403, "forbidden"),
    "two hosts": ({**RIGHT, "twice": "Host: evil.example"}, 403, "forbidden"),
    "a foreign origin": ({**RIGHT, "origin": "https://evil.example"}, 403, "forbidden"),
    "an origin that begins as ours": (
        {**RIGHT, "origin": "http://127.0.0.1:{port}.evil.example"},
        403,
        "forbidden",
    ),
    "a sandboxed page": ({**RIGHT, "origin": "null"}, 403, "forbidden"),
    "another port's page": ({**RIGHT, "origin": "http://127.0.0.1:1"}, 403, "forbidden"),
    "two origins": (
        {**RIGHT, "origin": "http://127.0.0.1:{port}", "twice": "Origin: https://evil.example"},
        403,
        "forbidden",
    ),
}
MEDIA_TYPES = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
)


def filled(headers: dict[str, str], client: Client, state: Path, access: Any) -> dict[str, str]:
    """The headers with this server's port and tokens."""
    sent = {name: text.replace("{port}", str(client.ops_port)) for name, text in headers.items()}
    if sent.get("authorization") == "right":
        sent["authorization"] = bearer(state, access)
    if sent.get("authorization") == "digest":
        sent["authorization"] = f"Bearer {digest_of(own_token(state, make=True))}"
    return sent


def assert_nothing_done(client: Client, since: Since, path: str, code: str, who: str = "unknown"):
    """The model answers, no worker was replaced, and the log has the refusal and nothing else."""
    assert served_by(client) == "model"
    (event,) = since.all
    assert (event.kind, event.who) == ("access_refused", who)
    assert (event.facts["path"], event.facts["code"]) == (path.partition("?")[0], code)


@pytest.mark.parametrize(("route", "why"), list(product(GUARDED, REFUSED)), ids=str)
def test_who_may_not_is_refused_nothing_is_done_and_an_event_tells(
    client: Client, state: Path, since: Since, route: Any, why: str
):
    headers, status, code = REFUSED[why]
    access, path, body = ROUTES[route]
    answer = ask(client, path, body, method=route[0], **filled(headers, client, state, access))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
    assert_nothing_done(client, since, path, code)


@pytest.mark.parametrize(("route", "media_type"), list(product(CHANGES, MEDIA_TYPES)), ids=str)
def test_a_change_comes_as_json(
    client: Client, state: Path, since: Since, route: Any, media_type: str
):
    """Pages of others can send every other type without being asked first."""
    _, path, body = ROUTES[route]
    operator = bearer(state, "operator")
    answer = ask(client, path, body, authorization=operator, content_type=media_type)
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    assert_nothing_done(client, since, path, "unsupported_media_type")


@pytest.mark.parametrize("route", CHANGES, ids=str)
def test_a_viewer_changes_nothing_and_is_named(
    client: Client, state: Path, since: Since, route: Any
):
    _, path, body = ROUTES[route]
    viewer = bearer(state, "viewer")
    answer = ask(client, path, body, authorization=viewer)
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert_nothing_done(client, since, path, "forbidden", read_tokens(state)[-1].name)


@pytest.mark.parametrize("route", GUARDED, ids=str)
def test_a_token_opens_nothing_anywhere_but_in_its_header(
    client: Client, state: Path, since: Since, route: Any
):
    _, path, body = ROUTES[route]
    token = bearer(state, "operator").removeprefix("Bearer ")
    for name in ("token", "access_token", "authorization"):
        address = f"{path}{'&' if '?' in path else '?'}{name}={token}"
        assert ask(client, address, body, method=route[0]).status == 401
    assert ask(client, path, body, method=route[0], cookie=f"token={token}").status == 401
    assert token not in str(since.all)


@pytest.mark.parametrize("route", GUARDED, ids=str)
def test_other_methods_of_a_guarded_path_are_not_answered(
    client: Client, state: Path, since: Since, route: Any
):
    _, path, body = ROUTES[route]
    operator = bearer(state, "operator")
    answered = {method for method, same in ROUTES if same == route[1]}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - answered:
        answer = ask(client, path, body, method=method, authorization=operator)
        assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
        assert not {name for name in answer.headers if name.startswith("access-control-")}
    assert since.all == []
    assert served_by(client) == "model"


def test_what_is_wrong_with_a_call_is_told_only_to_who_may_make_it(client: Client):
    for path, body in (("/events?last=x", None), ("/models/nobody/force-fallback", {"x": 1})):
        assert ask(client, path, body).status == 401


def test_who_may_look_looks(client: Client, state: Path, since: Since):
    for access, route in product(("viewer", "operator"), GUARDED):
        row = ROUTES[route]
        if row.access == "viewer":
            answer = ask(client, row.path, authorization=bearer(state, access))
            assert answer.status == 200
    assert since.all == []


@pytest.mark.parametrize("origin", ["", "http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
def test_our_own_pages_and_those_without_a_page_may_ask(client: Client, state: Path, origin: str):
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


def test_the_data_port_answers_no_operator(client: Client, state: Path, since: Since):
    operator = bearer(state, "operator")
    own = {(method, path) for method, path in ROUTES if path.startswith("/health/")}
    for method, path in ROUTES.keys() - own:
        lines = f"{method} {ROUTES[method, path].path} HTTP/1.1\r\nHost: x\r\n"
        request = f"{lines}Authorization: {operator}\r\nContent-Length: 0\r\n\r\n"
        assert client.send(request.encode()).status == 404
    assert client.send(get("/health/ready")).status == 200
    assert since.all == []


# what refusals may cost


def test_refusals_do_not_fill_the_log_and_a_token_that_is_ours_is_not_drowned(
    store: Path, tmp_path: Path
):
    with server_over(store, tmp_path) as server:
        since = Since(tmp_path)
        viewer = bearer(tmp_path, "viewer")
        for _ in range(guarding.REFUSALS_AT_ONCE + 30):
            ask(server, "/status")
        assert ask(server, "/workers/replace", {}, authorization=viewer).status == 403
    told = since("access_refused")
    assert [event.who for event in told[:-1]] == ["unknown"] * guarding.REFUSALS_AT_ONCE
    assert told[-1].who == read_tokens(tmp_path)[-1].name


def test_a_flood_is_written_a_few_times_an_hour_with_the_number_held_back():
    now = 0.0
    sparing = Sparing(guarding.REFUSALS_AT_ONCE, lambda: now)
    written: list[int] = []
    for second in range(86_400):
        now = float(second)
        held = sparing.held_back("unknown")
        written += [] if held is None else [held]
    assert len(written) <= guarding.REFUSALS_AT_ONCE + 24 * 12
    assert sum(written) + len(written) > 86_400 - guarding.REFUSALS_EVERY_SECONDS
    assert sparing.held_back("ci") == 0


def test_a_disk_that_takes_no_event_lets_nobody_in(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with server_over(store, tmp_path) as server:

        def full(*_: Any, **__: Any) -> Any:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(server.serving.events, "append", full)
            assert ask(server, "/status").status == 401
            wrong = ask(server, "/workers/replace", {}, authorization=f"Bearer {new_token()}")
            assert wrong.status == 401
        assert served_by(server) == "model"
