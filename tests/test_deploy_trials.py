"""Deploys under real load: good candidates come through, bad ones are rolled back soon, and why.

The server is a process of its own, and so is whoever asks for the deploy; callers keep asking, as
they would. A short run is in CI; `make trials` keeps the promise of twenty good ones in twenty, and
tries versions of the flights example.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from models.store import Store
from tests.deploying import BAD, BETTER, GOOD, NAME, REASONS, Callers, pack_risk, write_rows
from tests.serving import Server, serving

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")

SHORT: Final = ("--shadow", "2s", "--canary", "25,50", "--bake", "2s", "--requests", "100")
LONG: Final = ("--shadow", "10s", "--canary", "10,50", "--bake", "10s")
CANARY: Final = ("--shadow", "0", "--canary", "25,50", "--bake", "60s", "--max-wait", "10m")
"""Nothing is looked at before callers get its answers."""
MOST_REQUESTS: Final = 2_000
MOST_SECONDS: Final = 60.0
"""Before the canary answered so many, or so long after it began, whichever is later."""
DEPLOY_SECONDS: Final = 900


@dataclass(frozen=True)
class Ended:
    """How a deploy went.

    Attributes:
        code: exit code of the command.
        result: what became of it.
        reasons: their kinds.
        canary: requests that the candidate answered for callers.
        seconds: from the first of them to the end.
        said: all that is known of it.
    """

    code: int
    result: str
    reasons: tuple[str, ...]
    canary: int
    seconds: float
    said: dict[str, Any]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    pack_risk(store, "live")
    for version, made in {"good": GOOD, "better": BETTER, **BAD}.items():
        pack_risk(store, version.replace(" ", "-"), made)
    Store(store).set_live(NAME, "live", by="the tests")
    return store


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("1", marks=pytest.mark.trial),
        pytest.param("2", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux")),
    ],
    ids=["one process", "two workers"],
)
def server(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Generator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("server")
    with serving(packed, folder, "--workers", request.param) as running:
        yield running, folder / "state"


def keelmark(state: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command, about the server of a state folder."""
    return subprocess.run(
        [sys.executable, "-m", "keelmark", *arguments, "--state-dir", str(state), "--json"],
        capture_output=True,
        text=True,
        timeout=DEPLOY_SECONDS,
        check=False,
    )


def deployed(
    state: Path, callers: Callers | None, version: str, plan: Sequence[str], model: str = NAME
) -> Ended:
    """Deploys a version, to the end."""
    before = 0 if callers is None else callers.answered[version]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "keelmark", "deploy", model, version, *plan),
            *("--state-dir", str(state), "--json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    began: float | None = None
    try:
        while process.poll() is None:
            if began is None and callers is not None and callers.answered[version] > before:
                began = time.monotonic()
            time.sleep(0.02)
        ended = time.monotonic()
        printed, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    said = json.loads(printed)
    canary = 0 if callers is None else callers.answered[version] - before
    return Ended(
        process.returncode,
        said["result"],
        tuple(reason["kind"] for reason in said["reasons"]),
        canary,
        0.0 if began is None else ended - began,
        said,
    )


def back_to(state: Path, live: str, promoted: str, model: str = NAME) -> None:
    """Makes the version live again that was."""
    keelmark(state, "rollback", model)
    assert keelmark(state, "unload", model, promoted).returncode == 0


def test_a_good_candidate_comes_through(server: tuple[Server, Path]):
    """One that decides otherwise in a sixth of all rows, because it knows better."""
    running, state = server
    with Callers(running.port) as callers:
        ended = deployed(state, callers, "better", SHORT)
        assert (ended.code, ended.result) == (0, "promoted"), ended
        assert ended.canary > 100
        back_to(state, "live", "better")
    assert callers.failures == []


@pytest.mark.parametrize(
    "fault",
    [
        *("slower", "failing"),
        *(pytest.param(each, marks=pytest.mark.trial) for each in ("shifted", "broken feature")),
    ],
)
def test_bad_candidates_are_rolled_back_soon_with_the_right_reason(
    server: tuple[Server, Path], fault: str
):
    running, state = server
    with Callers(running.port) as callers:
        ended = deployed(state, callers, fault.replace(" ", "-"), CANARY)
    assert (ended.code, ended.result) == (1, "rolled_back"), ended
    assert set(ended.reasons) & REASONS[fault], ended
    assert ended.canary <= MOST_REQUESTS or ended.seconds <= MOST_SECONDS, ended
    assert callers.answered["live"] > 0
    assert callers.failures == []  # rows that the model cannot answer have lower rungs


def test_bad_candidates_do_not_reach_callers_where_a_shadow_comes_first(
    server: tuple[Server, Path],
):
    running, state = server
    with Callers(running.port) as callers:
        ended = deployed(state, callers, "failing", ("--shadow", "60s", "--canary", "50"))
    assert (ended.result, ended.canary) == ("rolled_back", 0), ended
    assert set(ended.reasons) & REASONS["failing"]


def test_a_quiet_server_holds_and_kept_rows_decide(server: tuple[Server, Path], tmp_path: Path):
    _, state = server
    quiet = ("--shadow", "0", "--canary", "50", "--bake", "0.5s", "--max-wait", "1s")
    ended = deployed(state, None, "good", quiet)
    assert (ended.code, ended.result, ended.reasons) == (3, "held", ("few_requests",))
    keelmark(state, "unload", NAME, "good")
    replay = (*quiet, "--evidence", "replay", "--rows", str(write_rows(tmp_path / "rows.jsonl")))
    for fault in ("shifted", "failing"):
        ended = deployed(state, None, fault.replace(" ", "-"), replay)
        assert (ended.code, ended.result) == (1, "rolled_back"), ended
        assert set(ended.reasons) & REASONS[fault], ended
    ended = deployed(state, None, "better", replay)
    assert (ended.code, ended.result) == (0, "promoted"), ended
    back_to(state, "live", "better")


@pytest.mark.trial
@pytest.mark.timeout(3_600)
def test_twenty_good_candidates_of_twenty_are_promoted(server: tuple[Server, Path]):
    running, state = server
    rounds = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "20"))
    ends: list[Ended] = []
    with Callers(running.port) as callers:
        for number in range(rounds):
            version = "better" if number % 2 else "good"
            ends.append(deployed(state, callers, version, LONG))
            if ends[-1].result == "promoted":
                back_to(state, "live", version)
    assert [ended.said for ended in ends if ended.result != "promoted"] == []
    assert callers.failures == []


# the flights example


@pytest.fixture(scope="module")
def flights_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Server, Path]]:
    from tests.flights_versions import pack_flights

    folder = tmp_path_factory.mktemp("flights")
    pack_flights(folder / "store")
    with serving(folder / "store", folder, "--workers", "2") as running:
        yield running, folder / "state"


@pytest.mark.trial
@pytest.mark.timeout(3_600)
def test_versions_of_flights_are_promoted_or_rolled_back_as_they_deserve(
    flights_server: tuple[Server, Path],
):
    """The better one has more leaves and trees; `tests/flights_versions.py` has the bad ones."""
    from tests import flights_versions as versions

    running, state = flights_server
    rounds = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "20"))
    records = versions.callers_records()
    with Callers(running.port, model=versions.NAME, records=records) as callers:
        for fault in versions.FAULTS:
            ended = deployed(state, callers, fault, CANARY, versions.NAME)
            assert ended.result == "rolled_back", ended
            assert set(ended.reasons) & versions.REASONS[fault], ended
            assert ended.canary <= MOST_REQUESTS or ended.seconds <= MOST_SECONDS, ended
        for _ in range(rounds):
            ended = deployed(state, callers, "better", LONG, versions.NAME)
            assert ended.result == "promoted", ended
            back_to(state, "live", "better", versions.NAME)
    assert callers.failures == []
