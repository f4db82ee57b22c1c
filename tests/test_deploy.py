"""How deploys go: in stages, judged by what callers and shadows did, or by kept rows."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.deploy_calls import QUIET, Deploying, deploying, pack_all
from tests.deploying import BAD, BETTER, GOOD, NAME, Callers, write_rows
from tests.operating import Since, ask
from tests.workers import wait_until

pytestmark = [
    pytest.mark.in_turn,
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_all(
        tmp_path_factory.mktemp("store"), {"2": GOOD, "better": BETTER, "shifted": BAD["shifted"]}
    )


@pytest.fixture(scope="module")
def running(packed: Path, state: Path, workers: int) -> Generator[Deploying]:
    with deploying(packed, state, workers) as running:
        yield running


@pytest.fixture
def server(running: Deploying) -> Generator[Deploying]:
    yield running
    running.clear()


# going well


def test_a_good_version_goes_through_all_stages_and_stays(server: Deploying):
    since = Since(server.state)
    promoted = server.metric('keelmark_deploys_total{result="promoted"}')
    with Callers(server.client.port) as callers:
        done = server.deploy("better", reason="it knows y better")
        assert done["changed"]
        assert [stage["name"] for stage in done["deploy"]["stages"]] == [
            *("shadow", "canary 30 %", "canary 60 %", "bake")
        ]
        assert server.ended() == ("promoted", [])
    assert callers.failures == []
    assert callers.answered["better"] > 40
    assert server.slots() == ("better", None, "1")
    assert server.metric('keelmark_deploys_total{result="promoted"}') == promoted + 1
    for stage in ("load", "shadow", "canary", "bake"):
        assert server.metric(f'keelmark_deploy_stage{{model="{NAME}",stage="{stage}"}}') == 0

    told = [event for event in since.all if event.kind.startswith("deploy_")]
    assert [(event.kind, event.before, event.after) for event in told] == [
        ("deploy_started", None, None),
        ("deploy_advanced", "load", "shadow"),
        ("deploy_advanced", "shadow", "canary 30 %"),
        ("deploy_advanced", "canary 30 %", "canary 60 %"),
        ("deploy_advanced", "canary 60 %", "bake"),
        ("deploy_ended", None, "promoted"),
    ]
    assert told[0].who.startswith("operator")
    assert told[0].facts["reason"] == "it knows y better"
    (event,) = since("promoted")
    assert "deploy of better" in event.facts["reason"]


def test_a_bad_version_is_taken_back_before_it_is_promoted(server: Deploying):
    with Callers(server.client.port):
        server.deploy("shifted", requests=250)
        result, reasons = server.ended()
        seen = server.seen
    assert (result, reasons[0]) == ("rolled_back", "shifted")
    assert "PSI" in seen["reasons"][0]["sentence"]
    assert server.slots() == ("1", None, None)


def test_what_a_deploy_waits_for_and_sees_is_shown(server: Deploying):
    with Callers(server.client.port):
        server.deploy("2", shadow_seconds=0, canary_percents=[50], bake_seconds=40)
        server.until("canary 50 %")
        wait_until(lambda: server.seen["requests"] > 100)  # some of them lists, for either
        seen = server.seen
    assert seen["watched_seconds"] > 0
    assert seen["reasons"][-1]["kind"] == "time"
    for arm in (seen["candidate"], seen["beside"]):
        assert arm["rows"] > arm["requests"] > 10
        assert 0 < arm["p50"] <= arm["p99"]
    assert server.metric(f'keelmark_deploy_stage{{model="{NAME}",stage="canary"}}') == 1
    answer = ask(server.client, "/status", authorization=server.operator)
    assert [deploy["stage"] for deploy in answer.json["deploys"]] == ["canary 50 %"]
    assert server.status()["second"]["canary"] == 0.5


# a quiet server


def test_a_quiet_server_holds(server: Deploying):
    server.deploy("2", **QUIET)
    assert server.ended() == ("held", ["few_requests"])
    assert server.slots() == ("1", "2", None)
    second = server.status()["second"]
    assert (second["canary"], second["shadow"]) == (0, 0)
    server.deploy("2", **QUIET)  # what is loaded already is taken up
    assert server.ended() == ("held", ["few_requests"])


def test_who_names_a_version_is_no_evidence(server: Deploying):
    with Callers(server.client.port, query="?version=2") as callers:
        server.do("load", version="2")
        wait_until(lambda: callers.answered["2"] > 20)
        before = callers.answered["2"]
        server.deploy("2", shadow_seconds=0, canary_percents=[50], max_wait_seconds=1.5)
        assert server.ended() == ("held", ["few_requests"])
        assert server.seen["candidate"]["requests"] == 0
    assert callers.answered["2"] > before


def test_kept_rows_decide_on_a_quiet_server(server: Deploying, tmp_path: Path):
    rows = str(write_rows(tmp_path / "rows.jsonl"))
    plan = {**QUIET, "evidence": "replay", "rows": rows, "requests": 200}
    plan |= {"shadow_seconds": 0, "canary_percents": [50], "bake_seconds": 0.3}
    server.deploy("better", **plan)
    assert server.ended() == ("promoted", [])
    server.clear()
    server.deploy("shifted", **plan)
    result, reasons = server.ended()
    assert (result, reasons) == ("rolled_back", ["shifted"])
    assert server.seen["compared"] > 2_000
    assert server.slots() == ("1", None, None)
    server.deploy("better", **plan, max_changed_decisions=0.02)
    assert server.ended() == ("rolled_back", ["changed_decisions"])


def test_too_few_kept_rows_hold_at_once(server: Deploying):
    server.deploy("2", evidence="replay", requests=5_000, max_wait_seconds=3_000)
    assert server.ended() == ("held", ["few_requests"])


def test_rows_that_cannot_be_read_hold(server: Deploying, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("no json\n")
    server.deploy("2", evidence="replay", rows=str(tmp_path / "rows.jsonl"))
    assert server.ended() == ("held", ["refused"])
    assert "line 1 is not a JSON object" in server.seen["reasons"][0]["sentence"]
