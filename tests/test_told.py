"""Every change is told by the event log, once, whatever happens between it and its event."""

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import NotRunning, call
from server.events import EventLog, events_in
from server.facts import FACTS, read_facts
from server.ops import ledger
from tests.in_thread import Client, server_over, until
from tests.killed import KILL
from tests.operating import Since, ask, bearer, served_by
from tests.serving import serving
from tests.tiny import GOOD
from tests.workers import children_of, wait_for_ends

pytestmark = pytest.mark.in_turn

PATH = "/models/tiny/force-fallback"
BUSY_SECONDS = 60.0


@pytest.fixture(scope="module")
def client(store: Path, state: Path, workers: int) -> Generator[Client]:
    with server_over(store, state, workers=workers) as server:
        yield server


def force(client: Client, state: Path, rung: str | None) -> Any:
    body = {"rung": rung, "reason": "a test"}
    return ask(client, PATH, body, authorization=bearer(state, "operator")).json


def told(state: Path) -> list[str]:
    """The ends of the changes that the log tells."""
    return [event.after for event in events_in(state) if event.kind == "forced"]


def test_a_change_that_the_log_does_not_take_is_told_with_the_next_one(
    client: Client, state: Path, monkeypatch: pytest.MonkeyPatch
):
    since = Since(state)
    append = EventLog.append

    def full(self: Any, kind: str, **words: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventLog, "append", full)
    assert force(client, state, "rules")["changed"]
    assert served_by(client) == "rules"
    assert since.all == []
    assert [telling.after for telling in read_facts(state).events] == ["rules"]
    monkeypatch.setattr(EventLog, "append", append)
    force(client, state, None)
    assert [event.after for event in since("forced")] == ["rules", "model"]
    force(client, state, "rules")
    assert [telling.after for telling in read_facts(state).events] == ["rules"]


def test_a_server_that_is_killed_before_it_tells_is_caught_up_with(
    store: Path, tmp_path: Path, workers: int
):
    """The facts are on the disk, the event is not: the next start tells it first."""
    arguments = ("--workers", str(workers), "--drain-delay-seconds", "0")
    state = tmp_path / "state"
    body = {"rung": "rules", "reason": "a test"}
    with serving(store, tmp_path, *arguments, program=("-m", "tests.killed")) as server:
        started = children_of(server.process.pid, "")
        (state / KILL).touch()
        with pytest.raises((NotRunning, OSError)):
            call(PATH, body, server=None, state_dir=state)
        assert server.process.wait(BUSY_SECONDS) == -signal.SIGKILL
        wait_for_ends(started)
    (state / KILL).unlink()
    assert told(state) == []
    with serving(store, tmp_path, *arguments) as server:
        assert server.predict("tiny", GOOD).body["served_by"] == "rules"
    assert told(state) == ["rules"]
    (event,) = [event for event in events_in(state) if event.kind == "forced"]
    assert (event.who, event.facts["reason"]) == ("operator.token", "a test")
    assert event.facts["told"] == "at the next start"
    following = next(each for each in events_in(state) if each.n > event.n)
    assert following.kind == "started"


def test_what_the_log_has_is_not_told_again(store: Path, tmp_path: Path):
    """Killed after the event, facts and log both have it."""
    with server_over(store, tmp_path) as client:
        force(client, tmp_path, "rules")
        facts = (tmp_path / FACTS).read_bytes()
    assert [telling.kind for telling in read_facts(tmp_path).events] == ["forced"]
    for _ in range(2):
        (tmp_path / FACTS).write_bytes(facts)
        with server_over(store, tmp_path) as client:
            assert served_by(client) == "rules"
    assert told(tmp_path) == ["rules"]


def test_an_end_that_failed_is_tried_again_until_it_comes(
    client: Client, state: Path, monkeypatch: pytest.MonkeyPatch
):
    """After the facts of the change the disk takes none for a while, and then it does."""
    force(client, state, None)
    tries: list[Any] = []
    write = ledger.write_facts

    def full(*given: Any) -> None:
        tries.append(given)
        raise OSError(28, "No space left on device")

    def write_the_last(*given: Any) -> None:
        write(*given)
        monkeypatch.setattr(ledger, "write_facts", full)

    monkeypatch.setattr("server.ops.expiry.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(ledger, "write_facts", write_the_last)
    body = {"rung": "rules", "reason": "a test", "expires_seconds": 0.2}
    assert ask(client, PATH, body, authorization=bearer(state, "operator")).json["changed"]
    assert until(lambda: len(tries) > 1, BUSY_SECONDS)
    assert served_by(client) == "rules"
    monkeypatch.setattr(ledger, "write_facts", write)
    assert until(lambda: served_by(client) == "model", BUSY_SECONDS)
