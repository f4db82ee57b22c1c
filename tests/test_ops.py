"""What operators' calls do, and what they are told; who gets in is in `test_access`."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import call
from server.events import events_in
from server.facts import FACTS
from server.ops import ledger
from server.settings import SettingsError
from server.tokens import own_token
from tests.in_thread import Client, server_over
from tests.operating import Since, ask, bearer, events, served_by
from tests.serving import serving
from tests.tiny import GOOD, pack_tiny

FORCE = {"rung": "rules", "reason": "a test"}


@pytest.fixture(scope="module")
def running(store: Path, state: Path, workers: int) -> Generator[Client]:
    with server_over(store, state, workers=workers) as server:
        yield server


@pytest.fixture
def client(running: Client, state: Path) -> Generator[Client]:
    """The shared server, with nothing forced before and after."""
    yield running
    operator = bearer(state, "operator")
    off = {"rung": None, "reason": "the test is over"}
    ask(running, "/models/tiny/force-fallback", off, authorization=operator)


@pytest.fixture
def since(client: Client, state: Path) -> Since:
    return Since(state)


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


def test_a_full_disk_refuses_and_changes_nothing(
    client: Client, state: Path, since: Since, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    calls = {
        "force-fallback": FORCE,
        "selftest": {"version": "1", "action": "report", "reason": "a test"},
    }
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "write_facts", full)
        for name, body in calls.items():
            answer = ask(
                client, f"/models/tiny/{name}", body, authorization=bearer(state, "operator")
            )
            assert (answer.status, answer.error["code"]) == (409, "conflict"), name
            assert "nothing was changed; make room there" in answer.error["message"], name
    assert served_by(client) == "model"
    assert not since.all


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
