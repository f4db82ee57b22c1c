"""Deploys go on after restarts, and the command that watches them."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app as commands
from server.cli.deploy import percents_of, watch
from server.cli.ops_client import VARIABLE, NotRunning
from server.deploy_records import read_records
from server.events import events_in
from server.settings import SettingsError
from tests.deploy_calls import QUIET, Deploying, deploying, pack_all
from tests.deploying import BAD, GOOD, NAME, Callers
from tests.serving import serving
from tests.workers import kill, wait_until

pytestmark = [
    pytest.mark.in_turn,
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_all(tmp_path_factory.mktemp("store"), {"2": GOOD, "shifted": BAD["shifted"]})


@pytest.fixture(scope="module")
def running(packed: Path, state: Path, workers: int) -> Generator[Deploying]:
    with deploying(packed, state, workers) as running:
        yield running


@pytest.fixture
def server(running: Deploying) -> Generator[Deploying]:
    yield running
    running.clear()


# restarts


def test_a_restart_goes_on_in_the_same_stage(packed: Path, tmp_path: Path, workers: int):
    with deploying(packed, tmp_path, workers) as first:
        first.deploy("2", shadow_seconds=0, canary_percents=[50], bake_seconds=1, requests=50)
        wait_until(lambda: first.share == 0.5)
        before = first.seen
    with deploying(packed, tmp_path, workers) as again:
        assert again.seen["id"] == before["id"]
        assert again.seen["stage"] == "canary 50 %"
        assert again.share == 0.5
        with Callers(again.client.port):
            assert again.ended() == ("promoted", [])
    assert [event.kind for event in events_in(tmp_path)].count("deploy_resumed") == 1
    with deploying(packed, tmp_path, workers) as last:
        assert (last.seen["result"], last.slots()) == ("promoted", ("2", None, "1"))
    assert [event.kind for event in events_in(tmp_path)].count("deploy_resumed") == 1


def test_a_restart_while_the_candidate_is_loaded_loads_it_again(
    packed: Path, tmp_path: Path, workers: int
):
    with deploying(packed, tmp_path, workers) as first:
        begun = first.deploy("2", shadow_seconds=0, canary_percents=[50])
        assert begun["deploy"]["stage"] == "load"
    with deploying(packed, tmp_path, workers) as again, Callers(again.client.port):
        assert again.ended() == ("promoted", [])


def test_a_plan_that_cannot_be_read_stops_nothing(packed: Path, tmp_path: Path):
    (tmp_path / "deploys").mkdir()
    (tmp_path / "deploys" / f"{NAME}.json").write_text("{")
    assert set(read_records(tmp_path)[1]) == {NAME}
    with deploying(packed, tmp_path, 1) as server:
        (event,) = [e for e in events_in(tmp_path) if e.kind == "deploy_ended"]
        assert event.after == "held"
        server.deploy("2", **QUIET)
        assert server.ended() == ("held", ["few_requests"])


@pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")
def test_a_killed_server_goes_on_with_its_deploy(packed: Path, tmp_path: Path):
    """Killed while the canary answers, and started again with the same state folder."""
    arguments = ("--workers", "2", "--drain-delay-seconds", "0", "--deadline-ms", "60000")
    plan = ("--shadow", "0", "--canary", "50", "--bake", "2s", "--requests", "50")
    where = ("--state-dir", str(tmp_path / "state"))
    with serving(packed, tmp_path, *arguments) as server:
        begun = CliRunner().invoke(commands, ["deploy", NAME, "2", *plan, *where, "--detach"])
        assert begun.exit_code == 0, begun.output
        wait_until(lambda: seen(where)["stage"] == "canary 50 %")
        kill(server)
    with serving(packed, tmp_path, *arguments) as server, Callers(server.port) as callers:
        ended = CliRunner().invoke(commands, ["deploy", NAME, *where])
        assert ended.exit_code == 0, ended.output
        assert "promoted" in ended.output
    assert callers.failures == []


# the command


def seen(where: tuple[str, ...]) -> Any:
    """The deploy, as the command's JSON of a detached look has it."""
    found = CliRunner().invoke(commands, ["deploy", NAME, "--detach", "--json", *where])
    assert found.exit_code == 0, found.output
    return json.loads(found.output)["deploy"]


def test_the_command_watches_and_its_exit_code_tells(server: Deploying):
    quick = ("--shadow", "0", "--canary", "30,60%", "--bake", "0.5s", "--requests", "20")

    def run(*arguments: str) -> tuple[int, str]:
        found = server.command("deploy", NAME, *arguments, "--state-dir", str(server.state))
        return found.exit_code, found.output

    code, said = run("2", *quick, "--dry-run")
    assert code == 0
    assert "would be deployed, beside 1" in said
    assert "canary 30 %: 0.5 s, 20 requests" in said
    code, said = run("2", *quick, "--max-wait", "1s")
    assert code == 3, said
    assert "held: the verdict is yours" in said
    assert "has answered 0 of 20 requests" in said
    with Callers(server.client.port):
        code, said = run("2", *quick)
        assert (code, said.splitlines()[-1]) == (0, "bake: promoted: it has all traffic")
        assert "canary 30 %" in said
        code, said = run("--json")
        assert (code, json.loads(said)["result"]) == (0, "promoted")
        server.clear()
        code, said = run("shifted", *quick, "--requests", "200")
        assert code == 1, said
        assert "PSI" in said
    with pytest.raises(SettingsError, match="no list of percentages"):
        percents_of("lots")


def test_watching_ends_where_the_server_has_lost_the_deploy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.cli.deploy.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("server.cli.deploy.AWAY_SECONDS", -1.0)
    monkeypatch.setattr("server.cli.deploy.call", lambda path, **where: {"deploy": None})
    known = {"id": "1", "model": NAME, "ended": None}
    with pytest.raises(NotRunning, match="knows nothing of the deploy"):
        watch("/models/any/deploy", known, {}, as_json=True)


def test_ctrl_c_ends_the_watching_and_cancel_the_deploy(
    server: Deploying, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, server.token)
    where = [
        "--state-dir",
        str(server.state),
        "--server",
        f"http://127.0.0.1:{server.client.ops_port}",
    ]
    command = [sys.executable, "-m", "keelmark", "deploy", NAME]
    process = subprocess.Popen(
        [*command, "2", "--shadow", "30m", *where], stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: (server.status()["second"] or {"shadow": 0})["shadow"] == 1)
        assert process.stdout is not None
        assert "is being deployed" in process.stdout.readline()
        assert any("shadow" in line for line in process.stdout)  # it watches
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
    assert process.returncode == 130
    assert "it goes on" in said
    assert server.seen["ended"] is None
    ended = CliRunner().invoke(commands, ["deploy", NAME, "--cancel", *where])
    assert (ended.exit_code, server.seen["result"]) == (0, "rolled_back"), ended.output
