"""What all tests share."""

import os
import subprocess
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING
from zlib import crc32

# Before anything can import onnxruntime: it reports and writes into the home folder otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from pathlib import Path

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.serving import Server

KINDS = ("one process", "two workers")
"""Of servers, as tests of both are named."""
ROOT = Path(__file__).resolve().parent.parent

# A busy machine is no counterexample; what fails prints how to see it again.
settings.register_profile("keelmark", deadline=None, print_blob=True)
settings.load_profile("keelmark")


@pytest.fixture(scope="session")
def oldest_python() -> Path:
    """A Python with the oldest onnxruntime that bundles promise, without onnx and pyarrow.

    `make test` sets it up; KEELMARK_ORT120_PYTHON names another.
    """
    python = Path(os.environ.get("KEELMARK_ORT120_PYTHON", ROOT / ".venv-ort120/bin/python"))
    if not python.exists():
        assert "CI" not in os.environ, f"{python} is missing; `make test` sets it up"
        pytest.skip(f"no onnxruntime 1.20 at {python}; `make test` sets it up")
    return python


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the small bundle `tiny`, packed once; tests that write have stores of their own.

    Tests of other bundles have a fixture of this name nearer to them.
    """
    from tests.tiny import pack_tiny

    folder = tmp_path_factory.mktemp("store")
    pack_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def bike_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that the bike example's own command packs into; tests that write copy it."""
    store = tmp_path_factory.mktemp("bike") / "store"
    command = [sys.executable, "-W", "error", ROOT / "examples/bike/train.py", "--store", store]
    subprocess.run(command, check=True, timeout=170, env={"PYTHONPATH": str(ROOT)})
    return store


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(2, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))],
    ids=KINDS,
)
def workers(request: pytest.FixtureRequest) -> int:
    """Both kinds of a server do the same."""
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What stands on both kinds of servers alike runs with one of them, and the rest is a trial."""
    for item in items:
        kinds = [kind for kind in KINDS if kind in item.name]
        if kinds and item.get_closest_marker("in_turn"):
            turn = crc32(item.nodeid.replace(kinds[0], "").encode()) % len(KINDS)
            if kinds[0] != KINDS[turn]:
                item.add_marker(pytest.mark.trial)


@pytest.fixture(scope="module")
def state(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the server that most tests of a module share."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `shared`."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def shared(store: Path, folder: Path) -> "Generator[Server]":
    """A server with two workers over the small bundle, as a process of its own."""
    from tests.serving import serving
    from tests.workers import ARGUMENTS

    # Half a request is to wait for as long as a starved machine takes to replace a worker.
    with serving(store, folder, *ARGUMENTS, "--header-timeout-seconds", "60") as server:
        yield server


@pytest.fixture
def server(shared: "Server", folder: Path) -> "Server":
    """The shared server, with two workers that are ready and have no connection."""
    from tests.workers import is_quiet, wait_until

    wait_until(lambda: is_quiet(folder))
    return shared
