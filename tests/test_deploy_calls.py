"""Which deploys may begin, and what becomes of one when an operator does something by hand."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy_calls import Deploying, deploying, pack_all
from tests.deploying import BETTER, GOOD, NAME, Callers, pack_risk
from tests.operating import Since
from tests.workers import wait_until

pytestmark = [
    pytest.mark.in_turn,
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_all(tmp_path_factory.mktemp("store"), {"2": GOOD, "better": BETTER})


@pytest.fixture(scope="module")
def running(packed: Path, state: Path, workers: int) -> Generator[Deploying]:
    with deploying(packed, state, workers) as running:
        yield running


@pytest.fixture
def server(running: Deploying) -> Generator[Deploying]:
    yield running
    running.clear()


# what may begin


def test_one_deploy_a_model_goes_on(server: Deploying):
    server.deploy("2", shadow_seconds=40)
    assert not server.deploy("2")["changed"]
    said = server.refused("deploy", "conflict", version="better")
    assert "version 2 of 'risk' is being deployed just now" in said
    assert server.do("deploy/cancel", reason="changed our minds")["changed"]
    assert server.ended() == ("rolled_back", ["cancelled"])
    assert "changed our minds" in server.seen["reasons"][0]["sentence"]
    assert server.slots() == ("1", None, None)
    assert not server.do("deploy/cancel")["changed"]


def test_a_dry_run_says_what_would_be_and_changes_nothing(server: Deploying):
    server.do("load", version="2")
    server.do("promote", version="2")
    since = Since(server.state)
    said = server.deploy("better", dry_run=True)
    assert (said["changed"], said["drops"]) == (True, "1")
    assert said["contract"]["verdict"] == "compatible"
    assert [stage["kind"] for stage in said["deploy"]["stages"]] == [
        *("shadow", "canary", "canary", "bake")
    ]
    assert server.slots() == ("2", None, "1")
    assert since.all == []


@pytest.fixture(scope="module")
def strict(packed: Path) -> str:
    """A version that refuses records which live answers."""
    return pack_risk(packed, "strict", GOOD, policies={"y": {"missing": "reject"}}).name


def test_what_cannot_be_deployed_is_refused(server: Deploying, strict: str, tmp_path: Path):
    since = Since(server.state)
    assert "live already" in server.refused("deploy", "conflict", version="1")
    assert "no risk/9" in server.refused("deploy", "unknown_version", version="9")
    said = server.refused("deploy", "conflict", version=strict)
    assert "--breaking" in said
    said = server.refused("deploy", "invalid", version="2", canary_percents=[50, 10])
    assert "expected rising ones" in said
    rows = str(tmp_path / "rows.txt")
    assert "none of .csv" in server.refused(
        "deploy", "invalid", version="2", evidence="replay", rows=rows
    )
    assert "--evidence replay" in server.refused("deploy", "invalid", version="2", rows=rows)
    server.do("load", version="better")
    assert "unload" in server.refused("deploy", "conflict", version="2")
    server.do("force-fallback", rung="rules", reason="a test")
    assert "forced" in server.refused("deploy", "conflict", version="better")
    assert len(since("swap_refused")) == 8
    assert server.slots() == ("1", "better", None)


@pytest.fixture(scope="module")
def liar(packed: Path) -> str:
    """Its manifest is right, so the plan can be made; its golden rows are another version's."""
    folder = pack_risk(packed, "liar", GOOD)
    model = (packed / NAME / "better" / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(model)
    manifest = json.loads((folder / "manifest.json").read_text())
    other = json.loads((packed / NAME / "better" / "manifest.json").read_text())
    (entry,) = [each for each in other["files"] if each["name"] == "model.onnx"]
    manifest["files"] = [
        entry if each["name"] == "model.onnx" else each for each in manifest["files"]
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder.name


def test_a_version_that_does_not_pass_is_rolled_back_at_once(server: Deploying, liar: str):
    server.deploy(liar)
    assert server.ended() == ("rolled_back", ["refused"])
    assert "golden row" in server.seen["reasons"][0]["sentence"]
    assert server.slots() == ("1", None, None)


def test_a_version_that_was_rolled_back_from_makes_room(server: Deploying):
    server.do("load", version="2")
    server.do("promote", version="2")
    server.do("rollback")
    assert server.slots() == ("1", "2", None)
    assert server.deploy("better", dry_run=True)["drops"] == "2"
    server.deploy("better", shadow_seconds=40)
    server.until("shadow")
    assert server.slots() == ("1", "better", None)


# operators in between


def by_hand(server: Deploying, call: str, **body: Any) -> tuple[str, list[str]]:
    """What becomes of a canary when an operator calls."""
    server.deploy("2", shadow_seconds=0, canary_percents=[50], bake_seconds=40)
    wait_until(lambda: server.share == 0.5)
    server.do(call, **body)
    return server.ended()


def test_who_promotes_by_hand_overrules(server: Deploying):
    assert by_hand(server, "promote", version="2") == ("held", ["overruled"])
    assert server.slots() == ("2", None, "1")


def test_who_unloads_by_hand_overrules(server: Deploying):
    assert by_hand(server, "unload", version="2") == ("held", ["overruled"])
    assert server.slots() == ("1", None, None)


def test_a_share_given_by_hand_stands(server: Deploying):
    assert by_hand(server, "canary", version="2", share=0.2) == ("held", ["overruled"])
    assert server.status()["second"]["canary"] == 0.2


def test_who_forces_a_rung_overrules_and_the_share_is_taken_back(server: Deploying):
    said = by_hand(server, "force-fallback", rung="rules", reason="an incident")
    assert said == ("held", ["overruled"])
    assert server.status()["second"]["canary"] == 0
    assert server.status()["forced"] == "rules"


def baking(server: Deploying) -> None:
    """Deploys a version, and waits until it bakes, which takes longer than any test."""
    with Callers(server.client.port):
        server.deploy("2", canary_percents=[], bake_seconds=600, max_wait_seconds=600)
        server.until("bake")
        wait_until(lambda: server.slots() == ("2", None, "1"))


def test_who_rolls_back_while_it_bakes_overrules(server: Deploying):
    baking(server)
    server.do("rollback")
    assert server.ended() == ("held", ["overruled"])
    assert server.slots() == ("1", "2", None)


def test_cancelling_while_it_bakes_rolls_back(server: Deploying):
    baking(server)
    server.do("deploy/cancel")
    assert server.ended() == ("rolled_back", ["cancelled"])
    assert server.slots() == ("1", "2", None)
