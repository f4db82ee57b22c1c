"""Several who change something at once, ends in the middle of it, and events that are all told."""

import itertools
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from server.cli.ops_client import NotRunning, call
from server.events import Event, events_in
from server.facts import read_facts
from tests.in_thread import Response, until
from tests.killed import KILL
from tests.operating import Since
from tests.overriding import GOOD, NAME, TO_RULES, Operated, operated, own_copy, two_versions
from tests.serving import serving
from tests.workers import children_of, wait_for_ends

pytestmark = pytest.mark.in_turn

BUSY_SECONDS = 60.0
CHANGES = (
    "overridden",
    "override_ended",
    "forced",
    "promoted",
    "rolled_back",
    "loaded",
    "unloaded",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_versions(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def running(store: Path, state: Path, workers: int) -> Generator[Operated]:
    with operated(store, state, workers) as server:
        yield server


@pytest.fixture
def server(running: Operated) -> Generator[Operated]:
    yield running
    running.clear()


def at_once(*calls: Callable[[], Response]) -> list[Response]:
    """The answers to calls that are sent together, in their order."""
    found: dict[int, Response] = {}
    begin = threading.Barrier(len(calls))

    def send(place: int) -> None:
        begin.wait(BUSY_SECONDS)
        found[place] = calls[place]()

    threads = [threading.Thread(target=send, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BUSY_SECONDS)
    return [found[place] for place in range(len(calls))]


def assert_in_order(told: list[Event]) -> None:
    """Each begins where the one before it ended, as the events of one change after the other do."""
    generations = [event.facts["generation"] for event in told]
    assert generations == sorted(generations)
    overrides = [event for event in told if event.kind.startswith("overrid")]
    for before, event in itertools.pairwise([None, *overrides]):
        assert event is not None
        assert event.before == (before and before.after)


# at once


def test_one_of_two_who_saw_the_same_generation_is_refused(server: Operated):
    since = Since(server.state)
    generation = server.status()["generation"]
    said = {"reason": "a test", "dry_run": False, "if_generation": generation}
    answers = at_once(
        lambda: server.ask("override", changes=TO_RULES, **said),
        lambda: server.ask("override", changes={"rung": "baseline"}, **said),
        lambda: server.ask("override", changes={"rung": "rules"}, **said),
    )
    assert sorted(answer.status for answer in answers) == [200, 409, 409]
    (done,) = [answer.json for answer in answers if answer.status == 200]
    assert server.status()["override"] == done["after"]
    assert [event.after for event in since("overridden")] == [done["after"]]
    assert len(since("swap_refused")) == 2


def test_whatever_is_asked_at_once_is_done_one_after_the_other_or_refused(server: Operated):
    """Overrides, forced rungs and swaps: the log and the facts tell the same story."""
    server.do("load", version="2")
    since = Since(server.state)
    said = {"reason": "a test", "dry_run": False}
    for _ in range(3):
        server.override({"policies": {"carrier": {"missing": "rules"}}})
        answers = at_once(
            lambda: server.ask("override", changes=TO_RULES, **said),
            lambda: server.ask("override", changes={"rung": "baseline"}, **said),
            lambda: server.ask("promote", version="2"),
            lambda: server.ask("force-fallback", rung="rules", reason="a test"),
            lambda: server.ask("override", changes=None, **said),
        )
        assert {answer.status for answer in answers} <= {200, 409}
        assert answers[2].status == 200
        at_once(
            lambda: server.ask("rollback"),
            lambda: server.ask("override", changes=TO_RULES, **said),
            lambda: server.ask("force-fallback", rung="baseline", reason="a test"),
        )
        assert server.status()["version"] == "1"
    told = [event for event in since.all if event.kind in CHANGES]
    assert_in_order(told)
    status, facts = server.status(), read_facts(server.state)
    overrides = [event for event in told if event.kind.startswith("overrid")]
    assert overrides[-1].after == status["override"]
    forced = [event for event in told if event.kind == "forced"]
    assert forced[-1].after == (facts.forced[NAME].rung if NAME in facts.forced else "model")
    assert facts.generation == status["generation"] == told[-1].facts["generation"]
    assert (NAME in facts.overrides) == (status["override"] is not None)


def test_twice_the_same_at_once_is_done_once(server: Operated):
    since = Since(server.state)
    said = {"reason": "a test", "dry_run": False, "changes": TO_RULES}
    answers = at_once(*[lambda: server.ask("override", **said)] * 4)
    done = [answer.json for answer in answers if answer.status == 200]
    # Who was still trying it when another was put to use is told so, and asks again.
    assert {answer.status for answer in answers} <= {200, 409}
    assert [each["changed"] for each in done].count(True) == 1
    assert len(since("overridden")) == 1
    assert not server.override(TO_RULES)["changed"]


# ends in the middle of something


def test_an_end_during_a_swap_is_told_once_and_leaves_nothing_behind(server: Operated):
    """Overrides end about when the model is promoted and rolled back: before, during, after."""
    server.do("load", version="2")
    since = Since(server.state)
    for n in range(8):
        seconds = 0.001 * 2**n
        server.override(TO_RULES, expires_seconds=seconds)
        server.do("rollback") if n % 2 else server.do("promote", version="2")
        ended = n + 1
        assert until(lambda ended=ended: len(since("override_ended")) == ended, BUSY_SECONDS)
        assert server.says(distance=None) == ("model", [])
        assert read_facts(server.state).overrides == {}
    told = [event for event in since.all if event.kind in CHANGES]
    assert_in_order(told)
    kinds = [event.kind for event in told]
    assert kinds.count("overridden") == kinds.count("override_ended") == 8


def test_what_a_generation_was_seen_for_is_refused_after_an_end(server: Operated):
    """Whoever looked while the override stood decided by what is no longer so."""
    server.do("load", version="2")
    seen = server.override(TO_RULES, expires_seconds=0.3)["generation"]
    since = Since(server.state)
    assert until(lambda: bool(since("override_ended")), BUSY_SECONDS)
    answer = server.ask("promote", version="2", if_generation=seen)
    assert (answer.status, answer.error["code"]) == (409, "conflict")
    assert f"not {seen}" in answer.error["message"]
    assert server.status()["version"] == "1"


# events


def kinds_of_changes(state: Path) -> list[str]:
    return [event.kind for event in events_in(state) if event.kind in CHANGES]


CUT: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "override": ("override", {"changes": TO_RULES, "dry_run": False}, ["overridden"]),
    "promote": ("promote", {"version": "2"}, ["promoted", "override_ended"]),
}


@pytest.mark.parametrize("what", CUT)
def test_a_server_that_is_killed_before_it_tells_is_caught_up_with(
    store: Path, tmp_path: Path, workers: int, what: str
):
    """The facts are on the disk, the events are not: the next start tells them all."""
    path, body, expected = CUT[what]
    own, state = own_copy(store, tmp_path), tmp_path / "state"
    arguments = ("--workers", str(workers), "--drain-delay-seconds", "0", "--deadline-ms", "60000")

    def do(what: str, **body: Any) -> Any:
        given = {"reason": "a test"} | body
        return call(f"/models/{NAME}/{what}", given, server=None, state_dir=state)

    with serving(own, tmp_path, *arguments, program=("-m", "tests.killed")) as server:
        if what == "promote":
            do("load", version="2")
            do("override", changes=TO_RULES, dry_run=False)
        before, started = kinds_of_changes(state), children_of(server.process.pid, "")
        (state / KILL).touch()
        with pytest.raises((NotRunning, OSError)):
            do(path, **body)
        assert server.process.wait(BUSY_SECONDS) == -signal.SIGKILL
        wait_for_ends(started)
    (state / KILL).unlink()
    assert kinds_of_changes(state) == before
    with serving(own, tmp_path, *arguments) as server:
        answer = server.predict(NAME, {**GOOD, "distance": None}).body
        holds = (answer["version"], answer["served_by"])
        assert holds == (("2", "model") if what == "promote" else ("1", "rules"))
    assert kinds_of_changes(state) == before + expected
    told = [event for event in events_in(state) if event.kind in expected][-len(expected) :]
    assert [event.facts["told"] for event in told] == ["at the next start"] * len(expected)
    assert len({event.facts["generation"] for event in told}) == 1
