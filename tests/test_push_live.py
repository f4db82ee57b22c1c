"""A push of a bundle goes live on servers that run, and callers notice nothing."""

import shutil
import time
from pathlib import Path
from typing import Final

import pytest

from models.store import Store
from server.cli.ops_client import call
from server.events import events_in
from tests.pushing import IN_A_ROW, LIMIT_SECONDS, Callers, Repository
from tests.serving import Server, serving
from tests.three import NAME, pack_versions
from tests.workers import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

PATIENT: Final = ("--deadline-ms", "60000", "--drain-delay-seconds", "0")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_versions(tmp_path_factory.mktemp("packed"), 3)


@pytest.fixture
def repository(tmp_path: Path, packed: Path) -> Repository:
    return Repository(tmp_path, packed)


def pushed_and_live(repository: Repository, server: Server, state: Path) -> float:
    """Pushes version 2 to a server that serves 1; seconds until it is live."""
    repository.bundle("2")
    repository.commit()
    with Callers(server) as callers:
        wait_until(lambda: callers.asked > 20)
        began = time.monotonic()
        taken, said = repository.push()
        assert taken, said
        wait_until(lambda: len(callers.last) > IN_A_ROW and set(callers.last) == {2})
        seconds = time.monotonic() - began
    assert Store(repository.store).resolve(NAME) == "2"
    (model,) = call("/status", server=None, state_dir=state)["models"]
    assert model["version"] == "2"
    return seconds


def first_push(repository: Repository) -> None:
    """Version 1, while there is no server."""
    repository.bundle("1")
    repository.commit()
    taken, said = repository.push()
    assert taken, said


def test_a_push_goes_live_on_a_server_that_follows(repository: Repository, tmp_path: Path):
    first_push(repository)
    arguments = (*PATIENT, "--follow", "--follow-seconds", "0.5")
    with serving(repository.store, tmp_path, *arguments) as server:
        pushed_and_live(repository, server, tmp_path / "state")


DEPLOY: Final = "--shadow 2s --canary 50 --bake 2s --requests 20"


def test_a_push_goes_live_by_a_deploy(repository: Repository, tmp_path: Path):
    """The pusher sees how it goes; the first version of a model has nothing to be compared with."""
    first_push(repository)
    state = tmp_path / "state"
    with serving(repository.store, tmp_path, *PATIENT) as server:
        repository.set(server=f"--state-dir {state}", deploy=DEPLOY)
        pushed_and_live(repository, server, state)
        wait_until(lambda: "deploy_ended" in {event.kind for event in events_in(state)})
        (ended,) = [event for event in events_in(state) if event.kind == "deploy_ended"]
        assert ended.after == "promoted"


@pytest.mark.trial
@pytest.mark.parametrize("way", ["follow", "follow by a deploy", "deploy"])
def test_a_push_is_live_within_a_minute(repository: Repository, tmp_path: Path, way: str):
    """With 25 requests a second, and no other command."""
    first_push(repository)
    state, arguments = tmp_path / "state", ["--workers", "2"]
    if way == "deploy":
        repository.set(server=f"--state-dir {state}")
    else:
        arguments.append("--follow")
    if way == "follow by a deploy":
        plan = "shadow=10s canary=50 bake=10s"
        arguments += ["--follow-with", "deploy", "--follow-plan", plan]
    with serving(repository.store, tmp_path, *arguments) as server:
        seconds = pushed_and_live(repository, server, state)
    assert seconds < LIMIT_SECONDS
