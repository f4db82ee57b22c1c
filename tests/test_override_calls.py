"""Overrides of a model that serves, in one process and with workers alike."""

import time
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from models.overrides import LONGEST_SECONDS, Changes, Override
from server.events import events_in
from server.facts import StateFacts, read_facts, write_facts
from server.ops import overriding
from tests.in_thread import get, until
from tests.operating import Since, ask
from tests.overriding import NAME, TO_RULES, Operated, operated, rule, two_versions


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


@pytest.fixture
def since(server: Operated) -> Since:
    return Since(server.state)


# trying and applying


def test_without_a_word_it_is_tried_and_nothing_is_changed(server: Operated, since: Since):
    before = server.status()
    tried = server.do("override", changes=TO_RULES, reason="a try")
    assert (tried["dry_run"], tried["changed"]) == (True, True)
    effect = tried["effect"]
    assert effect["rows"] > effect["changed"] > 0
    assert {moved["after"] for moved in effect["moved"]} == {"rules"}
    assert "distance:missing" in effect["examples"][0]["reasons"]
    assert server.status() == before
    assert server.says(distance=None) == ("model", [])
    assert since.all == []


def test_it_holds_from_the_next_request_on_and_is_seen_everywhere(server: Operated, since: Since):
    before = server.status()["generation"]
    done = server.override(TO_RULES, reason="the meter is broken", expires_seconds=3_600)
    assert (done["before"], done["changed"], done["dry_run"]) == (None, True, False)
    assert done["generation"] == before + 1
    assert server.says(distance=None) == ("rules", ["distance:missing", "operator"])
    assert server.says() == ("model", [])
    status = server.status()
    assert status["override"]["reason"] == "the meter is broken"
    assert status["override"]["changes"]["policies"] == TO_RULES["policies"]
    assert status["override"]["by"].startswith("operator-")
    page = server.client.send(get(f"/models/{NAME}")).json
    (field,) = [field for field in page["fields"] if field["name"] == "distance"]
    assert field["policies"]["missing"] == "rules"
    assert page["overridden_until"] == status["override"]["expires"]
    assert [server.count("keelmark_overridden", part=part) for part in ("policies", "rules")] == [
        1,
        0,
    ]

    ended = server.override(None, reason="it works again")
    assert (ended["after"], ended["before"]) == (None, done["after"])
    assert ended["effect"]["changed"] == done["effect"]["changed"]
    assert server.says(distance=None) == ("model", [])
    assert server.status()["override"] is None
    assert server.count("keelmark_overridden", part="policies") == 0
    first, second = since.all
    assert (first.kind, first.before, first.after) == ("overridden", None, done["after"])
    assert (second.kind, second.before, second.after) == ("overridden", done["after"], None)
    assert first.facts["reason"] == "the meter is broken"
    assert [event.facts["generation"] for event in (first, second)] == [before + 1, before + 2]


def test_values_and_milder_policies_let_the_model_answer(server: Operated):
    assert server.says(carrier="ZZ")[0] == "rules"
    changes = {
        "policies": {"carrier": {"unknown": "accept"}, "distance": {"missing": "repair"}},
        "values": {"distance": 40.0},
    }
    server.override(changes)
    assert server.says(carrier="ZZ")[0] == "model"
    repaired = server.answers(distance=None)
    assert repaired["repaired"] == {"distance": "missing"}
    assert repaired["prediction"] == server.answers(distance=40.0)["prediction"]


def test_rules_of_an_operator_are_counted_apart_from_those_of_one_name(server: Operated):
    """Whatever they are called: the bundle has a rule `unknown_carrier` too."""
    named = {"metric": "keelmark_rule_answers_total"}
    before = [server.count(**named, rule=name) for name in ("unknown_carrier", "#operator")]
    defaults = server.count(**named, rule="default")
    raised = server.count("keelmark_rule_errors_total", rule="#operator")
    rules = [
        rule("r.distance == 33.0 && int(r.carrier) > 0", 0.5, "odd"),
        rule("flag.carrier == 'unknown' && r.distance > 10.0", 0.125, "unknown_carrier"),
    ]
    server.override({"rules": rules})
    answer = server.answers(carrier="ZZ")
    assert (answer["prediction"], answer["rule"]) == (0.125, "unknown_carrier")
    assert answer["reasons"] == ["carrier:unknown", "operator"]
    assert server.answers(carrier="ZZ", distance=5.0)["rule"] == "default"
    assert server.answers(carrier="ZZ", distance=33.0)["rule"] == "unknown_carrier"
    after = [server.count(**named, rule=name) for name in ("unknown_carrier", "#operator")]
    assert [now - was for now, was in zip(after, before, strict=True)] == [0, 2]
    assert server.count(**named, rule="default") == defaults + 1
    assert server.count("keelmark_rule_errors_total", rule="#operator") == raised + 1


def test_the_longest_rules_come_through(server: Operated):
    """A table of routes must not become too long to be sent, and rules cost what they cost."""
    long = "flag.carrier == 'unknown' && r.distance == 12.5 && " + " && ".join(
        ["r.distance > 1.0"] * 40
    )
    rules = [rule(f"{long} && r.distance > {n}.0", 0.25, f"rule_{n}") for n in range(50, 0, -1)]
    assert len(msgspec.json.encode(rules)) > 40_000
    server.override({"rules": rules})
    assert server.answers(carrier="ZZ")["rule"] == "rule_12"


def test_a_new_override_takes_the_place_of_the_old_one_whole(server: Operated):
    server.override(TO_RULES)
    done = server.override({"policies": {"carrier": {"missing": "rules"}}})
    assert done["before"]["changes"]["policies"] == TO_RULES["policies"]
    assert server.says(distance=None)[0] == "model"
    assert server.says(carrier=None) == ("rules", ["carrier:missing", "operator"])


def test_twice_the_same_changes_nothing_the_second_time(server: Operated, since: Since):
    first = server.override(TO_RULES)
    again = server.override(TO_RULES)
    assert (again["changed"], again["generation"]) == (False, first["generation"])
    assert again["after"] == first["after"]
    longer = server.override(TO_RULES, expires_seconds=48 * 3_600)
    assert longer["changed"]
    assert longer["effect"]["changed"] == 0
    assert longer["after"]["expires"] > first["after"]["expires"]
    server.override(None)
    assert not server.override(None)["changed"]
    assert [event.kind for event in since.all] == ["overridden"] * 3


def test_a_whole_number_is_another_value_than_true():
    """Python takes 1, 1.0 and true for equal."""

    def standing(value: Any) -> Any:
        changes = {"values": {"a": value}}
        given = {"version": "1", "changes": changes, "by": "x", "at": "y", "reason": "z"}
        return msgspec.convert(given | {"expires": 100.0}, overriding.Override)

    assert overriding._is_same(standing(1), standing(1), 0.0)
    assert not overriding._is_same(standing(1), standing(True), 0.0)


class Refused(NamedTuple):
    """What is asked; the status and a part of the message; whether it got as far as a call."""

    body: dict[str, Any]
    status: int
    words: str
    is_call: bool = True


STRANGER = {"policies": {"speed": {"missing": "rules"}}}
GUESS = {"policies": {"distance": {"missing": "guess"}}}
ODD_RULE = {"rules": [rule("int(r.carrier) > 1", 0.5)]}
TOO_LONG = {"changes": TO_RULES, "expires_seconds": LONGEST_SECONDS + 1}
REFUSED = {
    "nothing": Refused({"changes": {}}, 400, "nothing is changed"),
    "a field that is not there": Refused({"changes": STRANGER}, 400, "unknown fields"),
    "a bad value": Refused({"changes": {"values": {"distance": 500.0}}}, 400, "out_of_bounds"),
    "a rule that raises": Refused({"changes": ODD_RULE}, 400, "cannot be told for golden row"),
    "another generation": Refused(
        {"changes": TO_RULES, "if_generation": 0}, 409, "the generation is"
    ),
    "a policy that is none": Refused({"changes": GUESS}, 400, "guess", is_call=False),
    "no reason": Refused({"changes": TO_RULES, "reason": ""}, 400, "reason", is_call=False),
    "no changes at all": Refused({}, 400, "changes", is_call=False),
    "too long": Refused(TOO_LONG, 400, "<= 604800", is_call=False),
    "an end now": Refused({"changes": TO_RULES, "expires_seconds": 0}, 400, "> 0", is_call=False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused_in_words(server: Operated, since: Since, what: str):
    refused = REFUSED[what]
    code = "invalid" if refused.status == 400 else "conflict"
    before = server.status()
    for dry_run in (True, False):
        answer = server.ask("override", **({"reason": "a test", "dry_run": dry_run} | refused.body))
        assert (answer.status, answer.error["code"]) == (refused.status, code)
        assert refused.words in answer.error["message"]
    assert server.status() == before
    # A body that is none is refused before it is a call, and a dry run is none of the log's.
    told = since("swap_refused")
    assert [event.facts["swap"] for event in told] == ["override"] * refused.is_call


def test_a_model_that_is_not_there_is_refused(server: Operated):
    body = {"changes": TO_RULES, "reason": "x"}
    answer = ask(server.client, "/models/nothing/override", body, authorization=server.operator)
    assert (answer.status, answer.error["code"]) == (404, "unknown_model")


# the command


def run(server: Operated, *arguments: str) -> tuple[int, str]:
    """`keelmark override` with these arguments: its exit code, and what it prints."""
    done = server.command("override", NAME, *arguments, "--reason", "a test")
    return done.exit_code, " ".join(done.output.split())


def test_the_command_tries_applies_and_ends(server: Operated, tmp_path: Path):
    said = ("--field", "distance", "--field", "carrier", "--missing", "rules", "--expires", "4h")
    code, printed = run(server, *said)
    assert code == 0
    assert "golden rows are answered otherwise" in printed
    assert "model -> rules" in printed
    assert printed.endswith("Nothing was changed; --apply puts it to use.")
    assert server.says(distance=None)[0] == "model"
    assert "would be" not in run(server, *said, "--apply")[1]
    assert server.says(distance=None)[0] == server.says(carrier=None)[0] == "rules"
    assert "nothing to do; it stands already, until" in run(server, *said, "--apply")[1]
    rules = tmp_path / "rules.json"
    rules.write_bytes(msgspec.json.encode([rule("true", 0.875)]))
    values = ("--field", "distance", "--missing", "repair", "--value", "distance=40.0")
    assert run(server, *values, "--rules", str(rules), "--apply")[0] == 0
    assert server.answers(distance=None)["repaired"] == {"distance": "missing"}
    assert server.answers(carrier="ZZ")["prediction"] == 0.875
    assert "is as packed again" in run(server, "--end", "--apply")[1]
    changes = tmp_path / "changes.json"
    changes.write_bytes(msgspec.json.encode(TO_RULES))
    assert run(server, "--changes", str(changes), "--apply")[0] == 0
    assert server.says(distance=None)[0] == "rules"
    assert "no override stands" not in run(server, "--end", "--apply")[1]
    assert "nothing to do; no override stands" in run(server, "--end", "--apply")[1]


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--end", "--rung", "rules"),
        ("--changes", "a.json", "--rung", "rules"),
        ("--missing", "rules"),
        ("--field", "distance"),
        ("--value", "distance"),
    ],
)
def test_a_command_that_says_too_little_or_too_much_is_wrong(server: Operated, wrong: Any):
    assert run(server, *wrong)[0] == 2


# its end


def test_it_ends_when_its_time_is_over(server: Operated, since: Since):
    done = server.override(TO_RULES, expires_seconds=0.4)
    assert until(lambda: server.says(distance=None)[0] == "model", 60)
    assert until(lambda: len(since("override_ended")) == 1, 60)
    (event,) = since("override_ended")
    assert (event.who, event.before, event.after) == ("server", done["after"], None)
    assert event.facts["why"] == overriding.EXPIRED
    assert server.status()["override"] is None
    assert read_facts(server.state).overrides == {}


def test_an_old_end_does_not_end_a_new_override(server: Operated, since: Since):
    server.override(TO_RULES, expires_seconds=2.0)
    server.override({"policies": {"carrier": {"missing": "rules"}}})
    new = server.override(TO_RULES, expires_seconds=4.0)["after"]
    assert until(lambda: bool(since("override_ended")), 60)
    (event,) = since("override_ended")
    assert event.before == new
    assert datetime.fromisoformat(event.at) >= datetime.fromisoformat(new["expires"])


@pytest.mark.parametrize("way", ["promote", "rollback"])
def test_it_ends_with_the_version(server: Operated, since: Since, way: str):
    server.do("load", version="2")
    if way == "rollback":
        server.do("promote", version="2")
    server.override(TO_RULES)
    server.do("force-fallback", rung="rules", reason="a test")
    body = {"version": "2"} if way == "promote" else {}
    done = server.do(way, **body)
    assert server.says(distance=None) == ("model", [])
    assert server.status()["override"] is None
    told = since.all[-3:]
    kind = {"promote": "promoted", "rollback": "rolled_back"}[way]
    assert [event.kind for event in told] == [kind, "forced", "override_ended"]
    assert {event.facts["generation"] for event in told} == {done["generation"]}
    assert {event.who for event in told} == {told[0].who}
    if way == "promote":  # nor does it come back
        server.do("rollback")
        assert server.says(distance=None) == ("model", [])


# beside what else is said


def test_the_lower_of_two_forced_rungs_holds_and_one_ends_without_the_other(server: Operated):
    force = {"reason": "a test"}
    server.override({"rung": "baseline"})
    assert server.says() == ("baseline", ["operator"])
    done = server.do("force-fallback", rung="rules", **force)
    assert done["before"] is None
    assert server.says() == ("rules", ["operator"])
    assert server.status()["forced"] == "rules"
    server.do("force-fallback", rung=None, **force)
    assert server.says()[0] == "baseline"
    server.do("force-fallback", rung="baseline", **force)
    server.override({"rung": "rules"})
    assert server.says()[0] == "rules"
    assert server.count("keelmark_forced_rung", rung="rules") == 1
    server.override(None)
    assert server.says()[0] == "baseline"
    server.do("force-fallback", rung=None, **force)
    assert server.says()[0] == "model"


def test_below_a_forced_rung_its_rules_answer_and_its_policies_reject(server: Operated):
    changes = {
        "policies": {"distance": {"missing": "reject"}},
        "rules": [rule("r.distance > 10.0", 0.875)],
    }
    server.do("force-fallback", rung="rules", reason="a test")
    tried = server.do("override", changes={"rung": "baseline"}, reason="a try")
    assert tried["effect"]["changed"] == 0
    server.override(changes)
    assert server.answers()["prediction"] == 0.875
    assert server.says() == ("rules", ["operator"])
    assert server.answers(distance=None)["error"]["code"] == "rejected_record"


# restarts and replacements


def test_it_survives_a_restart(store: Path, tmp_path: Path, workers: int):
    with operated(store, tmp_path, workers) as server:
        done = server.override({**TO_RULES, "rung": "baseline"}, expires_seconds=3_600)
    since = Since(tmp_path)
    with operated(store, tmp_path, workers) as server:
        assert server.says(distance=None)[0] == "rules"
        assert server.says() == ("baseline", ["operator"])
        status = server.status()
        assert status["override"] == done["after"]
        assert status["forced_by"] is None
        assert status["generation"] > done["generation"]
        server.override(None)
        assert server.says() == ("model", [])
    assert not since("override_ended")


@pytest.mark.parametrize("why", ["its time is over", "another version is live", "it does not fit"])
def test_it_does_not_come_back_with_a_restart_if_it_cannot_hold(
    store: Path, tmp_path: Path, workers: int, why: str
):
    changes = STRANGER if why == "it does not fit" else TO_RULES
    standing = Override(
        version="2" if why == "another version is live" else "1",
        changes=msgspec.convert(changes, Changes),
        by="ada",
        at="2026-01-01T00:00:00+00:00",
        reason="a test",
        expires=1.0 if why == "its time is over" else time.time() + 3_600,
    )
    write_facts(tmp_path, StateFacts(overrides={NAME: standing}))
    with operated(store, tmp_path, workers) as server:
        assert server.says(distance=None) == ("model", [])
        assert server.status()["override"] is None
    (event,) = [event for event in events_in(tmp_path) if event.kind == "override_ended"]
    assert (event.who, event.facts["why"]) == ("server", overriding.AT_THE_START)
    assert read_facts(tmp_path).overrides == {}


def test_successors_of_workers_have_it(server: Operated, workers: int):
    if workers == 1:
        pytest.skip("there are no workers")
    server.override(TO_RULES)
    ask(server.client, "/workers/replace", {}, authorization=server.operator)
    for _ in range(8):
        assert server.says(distance=None) == ("rules", ["distance:missing", "operator"])
    server.override(None)
    for _ in range(8):
        assert server.says(distance=None) == ("model", [])
