"""Canaries, in one process and with workers alike: who answers whom, and what operators may do."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from server.facts import read_facts
from server.picking import place_of
from tests.in_thread import Response, post, server_over
from tests.operating import Since, ask
from tests.swapping import Swapping
from tests.three import (
    NAME,
    answer_of,
    pack_strict,
    pack_three,
    pack_versions,
    record,
    version_of,
)
from tests.tiny import pack_tiny

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
PATH = f"/predict/{NAME}"
KEYS = [f"caller-{n}" for n in range(60)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, of which the first is wished live; callers are told apart by `y`."""
    store = pack_versions(tmp_path_factory.mktemp("store"), 2, route_key="y")
    pack_strict(store)
    return store


@pytest.fixture(scope="module")
def running(packed: Path, state: Path, workers: int) -> Generator[Swapping]:
    with server_over(packed, state, workers=workers, deadline_ms=60_000) as client:
        yield Swapping(client, state, NAME)


@pytest.fixture
def server(running: Swapping) -> Swapping:
    """Version 2 is the candidate, and takes no part; mostly it is there already."""
    if running.slots() != ("1", "2", None):
        running.clear()
        running.do("load", version="2")
    for swap in ("canary", "shadow"):
        running.do(swap, version="2", share=0)
    return running


def asked(server: Swapping, body: Any, *headers: str, query: str = "") -> Response:
    return server.client.send(post(f"{PATH}{query}", json.dumps(body).encode(), *headers))


def version(answer: Response, y: int = 1) -> str:
    """The version that answered, by all that tells it."""
    said = answer.json
    rows = said.get("predictions", [said])
    found = {str(version_of(row["prediction"], y)) for row in rows}
    assert found == {said["version"]} == {answer.headers["keelmark-version"]}, answer.body
    return said["version"]


def callers_of(server: Swapping, wanted: str) -> set[str]:
    """The keys whose requests a version answers."""
    return {
        key for key in KEYS if version(asked(server, record(), f"Keelmark-Key: {key}")) == wanted
    }


def kept_share(state: Path) -> float:
    """Of the canary, as it is on the disk."""
    second = read_facts(state).slots[NAME].second
    assert second is not None
    return second.canary


def below(share: float) -> set[str]:
    return {key for key in KEYS if place_of(NAME, key.encode()) < share}


def test_a_growing_share_keeps_its_callers_and_adds_others(server: Swapping):
    before: set[str] = set()
    for share in (0.02, 0.3, 0.7, 1.0):
        done = server.do("canary", version="2", share=share)
        assert done["changed"]
        assert done["after"] == {"canary": share, "shadow": 0.0}
        callers = callers_of(server, "2")
        assert callers == below(share)
        assert callers >= before
        before = callers
    assert before == set(KEYS)
    server.do("canary", version="2", share=0)
    assert callers_of(server, "2") == set()


def test_one_request_is_answered_by_one_bundle_whatever_its_rows(server: Swapping):
    """By the key of the request; the rows of a list have none of their own."""
    server.do("canary", version="2", share=0.5)
    wanted = below(0.5)
    for key in KEYS[:20]:
        answer = asked(server, [record()] * 5, f"Keelmark-Key: {key}")
        assert (version(answer) == "2") == (key in wanted)


def test_without_a_header_the_key_is_the_field_that_the_bundle_names(server: Swapping):
    places = {y: place_of(NAME, str(y).encode()) for y in range(6)}
    assert min(places.values()) < 0.4 < max(places.values())
    server.do("canary", version="2", share=0.4)
    for y, place in places.items():
        for value in (float(y), y):
            answer = asked(server, {"x": 99.0, "y": value})
            assert version(answer, y) == ("2" if place < 0.4 else "1")
        key = next(key for key in KEYS if (place_of(NAME, key.encode()) < 0.4) != (place < 0.4))
        assert version(asked(server, record(y), f"Keelmark-Key: {key}"), y) != version(answer, y)


def test_without_any_key_it_is_the_request_id(server: Swapping):
    """A list has no field; a request without an id gets one."""
    server.do("canary", version="2", share=0.5)
    for name in KEYS[:20]:
        answer = asked(server, [record()], f"X-Request-Id: {name}")
        assert (version(answer) == "2") == (place_of(NAME, name.encode()) < 0.5)
    found = [version(asked(server, [record()])) for _ in range(60)]
    assert 5 < found.count("2") < 55  # both are, but for one chance in 10^9
    server.do("canary", version="2", share=1)
    assert version(asked(server, {"x": 99.0, "y": 1.0})) == "2"


def test_who_names_a_version_gets_that_one(server: Swapping):
    server.do("canary", version="2", share=1)
    assert version(asked(server, record(), "Keelmark-Key: a", query="?version=1")) == "1"
    assert version(asked(server, record(), "Keelmark-Key: a", query="?version=2")) == "2"
    server.do("canary", version="2", share=0)
    assert version(asked(server, record(), "Keelmark-Key: a", query="?version=2")) == "2"


def test_a_body_that_nobody_can_read_is_refused_as_ever(server: Swapping):
    server.do("canary", version="2", share=0.5)
    answer = server.client.send(post(PATH, b'{"y": 1'))
    assert (answer.status, answer.error["code"]) == (400, "undecodable")
    assert asked(server, {"y": [1]}).status == 200


def test_answers_of_a_canary_are_counted_as_the_candidates_own(server: Swapping):
    line = f'keelmark_predictions_total{{model="{NAME}",version="%s",outcome="model"}}'
    share = f'keelmark_canary_share_ratio{{model="{NAME}",version="%s"}}'
    before = [server.client.metric(line % n) for n in (1, 2)]
    server.do("canary", version="2", share=0.5)
    assert [server.client.metric(share % n) for n in (1, 2)] == [0, 0.5]
    callers = callers_of(server, "2")
    after = [server.client.metric(line % n) for n in (1, 2)]
    counted = [b - a for a, b in zip(before, after, strict=True)]
    assert counted == [len(KEYS) - len(callers), len(callers)]
    assert server.status()["second"]["canary"] == 0.5


def test_a_promotion_or_the_end_of_the_candidate_ends_its_canary(server: Swapping):
    server.do("canary", version="2", share=1)
    server.do("promote", version="2")
    assert version(asked(server, record())) == "2"
    server.do("rollback")
    assert server.status()["second"] | {"canary": 0.0, "shadow": 0.0} == server.status()["second"]
    assert callers_of(server, "2") == set()
    server.do("canary", version="2", share=1)
    server.do("unload", version="2")
    assert callers_of(server, "1") == set(KEYS)
    server.do("load", version="2")
    assert callers_of(server, "1") == set(KEYS)


# what operators may do


@pytest.mark.parametrize("swap", ["canary", "shadow"])
def test_twice_the_same_changes_nothing_and_a_dry_run_nothing_at_all(server: Swapping, swap: str):
    since = Since(server.state)
    said = server.do(swap, version="2", share=0.25, dry_run=True)
    assert (said["changed"], said["dry_run"], said["after"][swap]) == (True, True, 0.25)
    assert server.status()["second"][swap] == 0
    assert since.all == []
    first = server.do(swap, version="2", share=0.25, reason="a try")
    again = server.do(swap, version="2", share=0.25)
    assert (again["changed"], again["generation"]) == (False, first["generation"])
    (event,) = since(f"{swap}_changed")
    assert (event.model, event.who[:8]) == (NAME, "operator")
    other = {"canary": "shadow", "shadow": "canary"}[swap]
    assert (event.before, event.after) == ({swap: 0, other: 0}, {swap: 0.25, other: 0})
    assert event.facts["reason"] == "a try"
    assert event.facts["generation"] == first["generation"]
    ended = server.do(swap, version="2", share=0, if_generation=first["generation"])
    assert ended["changed"]
    assert len(since(f"{swap}_changed")) == 2


@pytest.mark.parametrize("swap", ["canary", "shadow"])
def test_what_cannot_be_is_refused_and_changes_nothing(server: Swapping, swap: str):
    since = Since(server.state)
    generation = ask(server.client, "/status", authorization=server.operator).json["generation"]
    assert "is not its candidate" in server.refused(swap, "conflict", version="1", share=0.1)
    said = server.refused(swap, "conflict", version="2", share=0.1, if_generation=generation - 1)
    assert f"the generation is {generation}" in said
    for share in (-0.1, 1.5, "a lot", None):
        server.refused(swap, "invalid", version="2", share=share)
    server.do("promote", version="2")
    assert "1 as previous" in server.refused(swap, "conflict", version="1", share=0.1)
    assert [event.facts["swap"] for event in since("swap_refused")] == [swap] * 3
    assert since(f"{swap}_changed") == []


def test_a_contract_that_breaks_callers_is_a_canary_only_by_word(server: Swapping):
    """A shadow answers nobody, and may."""
    server.do("unload", version="2")
    contract = server.do("load", version="strict")["contract"]
    assert contract["verdict"] == "breaking"
    server.do("shadow", version="strict", share=1)
    said = server.refused("canary", "conflict", version="strict", share=0.1)
    assert contract["changes"][0] in said
    assert "--breaking" in said
    assert callers_of(server, "1") == set(KEYS)
    assert server.do("canary", version="strict", share=1, breaking=True)["contract"] == contract
    assert server.do("canary", version="strict", share=0)["changed"]


def test_both_shares_hold_at_once_and_survive_a_restart(packed: Path, tmp_path: Path, workers: int):
    store = tmp_path / "store"
    shutil.copytree(packed, store)
    state = tmp_path / "state"
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        server = Swapping(client, state, NAME)
        server.do("load", version="2")
        server.do("shadow", version="2", share=0.2)
        server.do("canary", version="2", share=0.6)
        assert kept_share(state) == 0.6
        callers = callers_of(server, "2")
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        server = Swapping(client, state, NAME)
        second = server.status()["second"]
        assert (second["version"], second["canary"], second["shadow"]) == ("2", 0.6, 0.2)
        assert callers_of(server, "2") == callers == below(0.6)
        server.do("promote", version="2")
        assert kept_share(state) == 0


def test_nothing_takes_part_where_nothing_is_live(tmp_path: Path, workers: int):
    store, state = tmp_path / "store", tmp_path / "state"
    pack_tiny(store)
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        pack_three(store, 1)
        server = Swapping(client, state, NAME)
        server.do("load", version="1")
        said = server.refused("canary", "conflict", version="1", share=1)
        assert "nothing of 'three' is live" in said
        assert server.predict(record(), "?version=1").json["prediction"] == answer_of(1)


# the commands


def test_the_commands_set_and_end_shares(server: Swapping, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = server.command("canary", NAME, "2", "10%", "--dry-run")
    assert (shown.exit_code, shown.stdout.splitlines()[0]) == (
        0,
        "three 2 would be: canary 10 %, shadow 0 % (before: canary 0 %, shadow 0 %)",
    )
    shown = server.command("shadow", NAME, "2", "1", "--reason", "a look")
    assert "three 2 is: canary 0 %, shadow 100 %" in shown.stdout
    shown = server.command("canary", NAME, "2", "0.5%", "--json")
    assert json.loads(shown.stdout)["after"] == {"canary": 0.005, "shadow": 1.0}
    shown = server.command("status")
    assert "2 (candidate), canary 0.5 %, shadow 100 %" in shown.stdout
    shown = server.command("shadow", NAME, "2", "0")
    assert "shadow 0 % (before: canary 0.5 %, shadow 100 %)" in shown.stdout
    assert "nothing to do" in server.command("shadow", NAME, "2", "0").stdout


@pytest.mark.parametrize("share", ["10", "-1%", "101%", "half", "1%%", "nan"])
def test_a_share_that_is_none_is_wrong_usage(server: Swapping, share: str):
    """10 is none: it may be meant as 10 %, and is not taken for all."""
    shown = server.command("canary", "--", NAME, "2", share)
    assert shown.exit_code == 2, shown.output
    assert server.status()["second"]["canary"] == 0
