"""`keelmark serve` as a process: starting, refusing to start, stopping without a loss."""

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from models.store import Store
from models.tensor_packing import pack_tensors
from server.health import Phase
from server.opening import make_route
from server.runtime import InProcessRuntime
from server.settings import Settings
from server.state_folder import StateFolder, running_server
from tests.serving import Server, serving
from tests.test_tensor_packing import EXAMPLES, two_inputs
from tests.tiny import GOOD, NAME, SECRET, pack_tiny

EITHER = pytest.mark.parametrize(
    "workers",
    ["1", pytest.param("2", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))],
)
"""A server in one process and one with workers do the same."""


def keelmark(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keelmark", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def log_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_it_serves_and_ends_with_0(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--drain-delay-seconds", "0") as server:
        assert server.predict(NAME, GOOD).body["served_by"] == "model"
        assert server.ops("/health/ready").status == 200
        ports = running_server(tmp_path / "state")
        assert ports is not None
        assert ports.data.endswith(f":{server.port}")
        assert ports.ops.endswith(f":{server.ops_port}")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    events = [line["event"] for line in log_of(server)]
    assert events == ["model_loaded", "serving", "stopping", "stopped"]
    assert all(list(line)[:3] == ["timestamp", "level", "event"] for line in log_of(server))
    assert running_server(tmp_path / "state") is None


def test_nothing_is_written_but_the_state_folder(store: Path, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    before = sorted(store.rglob("*"))
    with serving(store, tmp_path, "--drain-delay-seconds", "0", environment=environment) as server:
        server.predict(NAME, GOOD)
    assert list(home.iterdir()) == []
    assert sorted(store.rglob("*")) == before
    kept = {".gitignore", "lock", "facts.json", "events.jsonl", "operator.token", "opened"}
    assert {path.name for path in (tmp_path / "state").iterdir()} == kept
    assert (tmp_path / "state" / ".gitignore").read_text() == "*\n"


class Caller(threading.Thread):
    """Asks one request after the other over a kept connection, as a client with manners does."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.answered = self.told_to_close = 0
        self.failures: list[str] = []

    def run(self) -> None:
        body = json.dumps(GOOD)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while True:
            is_fresh = connection.sock is None
            try:
                if is_fresh:
                    connection.connect()
            except ConnectionError:
                return  # it has stopped; nothing was sent
            try:
                connection.request(
                    "POST", f"/predict/{NAME}", body, {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                response.read()
            except OSError as error:
                # Elsewhere than on Linux, one that the kernel had queued when the port closed.
                if not is_fresh or sys.platform == "linux":
                    self.failures.append(repr(error))
                return
            if response.status != 200:
                self.failures.append(str(response.status))
            self.answered += 1
            self.told_to_close += response.getheader("connection") == "close"


def test_a_stop_under_load_fails_no_request(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--drain-delay-seconds", "0.7") as server:
        callers = [Caller(server.port) for _ in range(8)]
        for caller in callers:
            caller.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while server.get("/health/ready").status != 503:
            assert time.monotonic() - began < 0.6
        assert server.ops("/health/ready").body["phase"] == "draining"
        assert server.ops("/health/live").status == 200
        assert server.process.wait(20) == 0
        for caller in callers:
            caller.join(20)
    assert [caller.failures for caller in callers] == [[]] * 8
    assert all(caller.answered > 0 for caller in callers)
    assert all(caller.told_to_close > 0 for caller in callers)


@EITHER
def test_what_is_under_way_ends_when_it_stops(store: Path, tmp_path: Path, workers: str):
    body = json.dumps([GOOD] * 3).encode()
    with serving(store, tmp_path, "--workers", workers, "--drain-delay-seconds", "0.5") as server:
        with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
            head = (
                f"POST /predict/{NAME} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            sock.sendall(head.encode() + body[:5])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            sock.sendall(body[5:])
            answer = sock.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert server.process.wait(20) == 0


@EITHER
def test_ctrl_c_does_not_wait_for_the_delay(store: Path, tmp_path: Path, workers: str):
    with serving(store, tmp_path, "--workers", workers, "--drain-delay-seconds", "60") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0


@EITHER
def test_a_second_signal_ends_the_delay(store: Path, tmp_path: Path, workers: str):
    with serving(store, tmp_path, "--workers", workers, "--drain-delay-seconds", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health/ready").status != 503:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_a_stop_while_a_model_is_being_opened(store: Path, tmp_path: Path):
    command = [sys.executable, "-m", "keelmark", "serve", "--store", str(store), "--port", "0"]
    command += ["--ops-port", "0", "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while running_server(tmp_path / "state") is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc")
def test_a_stop_while_a_gate_hangs_ends_both(store: Path, tmp_path: Path):
    command = [sys.executable, "-m", "keelmark", "serve", "--store", str(store), "--port", "0"]
    command += ["--ops-port", "0", "--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (gates := children_of(process.pid)):
            time.sleep(0.002)
        os.kill(gates[0], signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(10) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(gates[0], signal.SIGKILL)
            process.kill()
        assert process.stderr is not None
        assert "model_not_loaded" not in process.stderr.read()


def test_a_start_that_ends_after_the_stop_serves_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    runtime = InProcessRuntime(Settings(store=store))
    opening, go_on = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        opening.set()
        go_on.wait(20)
        raise OSError

    monkeypatch.setattr("server.runtime.open_route", slow)

    async def stopped_early() -> None:
        starting = asyncio.create_task(runtime.start())
        await asyncio.to_thread(opening.wait, 20)
        await runtime.stop()
        go_on.set()
        await starting

    asyncio.run(stopped_early())
    assert runtime.phase is Phase.STOPPED
    assert runtime._timer is None


# what is served beside a model that is not


def test_a_bundle_of_tensors_is_described_and_answered_409(tmp_path: Path):
    pack_tiny(tmp_path / "store")
    pack_tensors(tmp_path / "store", "linear", "1", model=two_inputs(), examples=EXAMPLES)
    with serving(tmp_path / "store", tmp_path, "--drain-delay-seconds", "0") as server:
        refused = server.predict("linear", {"left": [1, 2]})
        assert refused.status == 409
        assert refused.body["error"]["code"] == "takes_tensors"
        assert "/v2/models/linear/infer" in refused.body["error"]["message"]
        page = server.get("/models/linear").body
        assert page["live"] == "1"
        assert page["tensors"][0] == {"name": "left", "dtype": "float32", "shape": [-1, 2]}
        assert [output["name"] for output in page["outputs"]] == ["scores", "best"]
        assert server.predict(NAME, GOOD).status == 200
        assert server.get("/openapi.json").status == 200
        assert server.ops("/metrics").status == 200


def test_one_bad_wish_does_not_stop_the_other_models(tmp_path: Path):
    store = tmp_path / "store"
    for name in (NAME, "garbled", "gone", "folder"):
        pack_tiny(store, name=name)
    (store / "garbled" / "live.json").write_text("{")
    Store(store).set_live("gone", "1", by="the tests")
    wish = json.loads((store / "gone" / "live.json").read_text())
    (store / "gone" / "live.json").write_text(json.dumps({**wish, "live": "9"}))
    (store / "folder" / "live.json").mkdir()
    arguments = ("--drain-delay-seconds", "0", "--required-models", NAME)
    with serving(store, tmp_path, *arguments) as server:
        assert server.predict(NAME, GOOD).status == 200
        for name in ("garbled", "gone", "folder"):
            assert server.predict(name, GOOD).body["error"]["code"] == "not_loaded"
            assert "which version" in server.get(f"/models/{name}").body["why"]
    said = {e["model"]: e["reason"] for e in log_of(server) if e["event"] == "model_not_loaded"}
    assert said.keys() == {"garbled", "gone", "folder"}
    assert "no gone/9" in said["gone"]


def test_whatever_one_model_raises_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in (NAME, "odd"):
        pack_tiny(tmp_path, name=name)

    def made(bundle: Any, cost: Any) -> Any:
        if bundle.name == "odd":
            raise IndexError("odd")
        return make_route(bundle, cost)

    monkeypatch.setattr("server.opening.make_route", made)
    runtime = InProcessRuntime(Settings(store=tmp_path))

    async def started_and_stopped() -> None:
        await runtime.start()
        await runtime.stop()

    asyncio.run(started_and_stopped())
    assert list(runtime.routes.live) == [NAME]
    assert list(runtime.routes.unavailable) == ["odd"]
    assert any("IndexError" in str(record.msg) for record in caplog.records)


def test_a_model_whose_folder_cannot_be_read_is_still_named(
    store: Path, monkeypatch: pytest.MonkeyPatch
):
    def unreadable(_: Store, name: str) -> list[str]:
        raise PermissionError(name)

    monkeypatch.setattr(Store, "versions", unreadable)
    assert Store(store).names() == [NAME]


def test_values_of_sensitive_fields_are_not_in_the_log(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--log-level", "debug", "--drain-delay-seconds", "0") as server:
        server.predict(NAME, {**GOOD, "salary": SECRET})
        server.predict(NAME, {**GOOD, "salary": f"{SECRET}"})
        server.predict(NAME, {**GOOD, "age": None, "salary": f"{SECRET}"})
    assert str(SECRET) not in server.log.read_text()


# what it refuses to start with


def test_a_port_in_use_is_named(store: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = keelmark("serve", "--store", store, "--port", port, "--state-dir", tmp_path)
    assert ran.returncode == 2
    assert f"127.0.0.1:{port} cannot be listened on" in ran.stderr
    assert "--port" in ran.stderr


def test_a_store_that_is_not_there(tmp_path: Path):
    ran = keelmark(
        *("serve", "--store", tmp_path / "nowhere", "--port", "0", "--ops-port", "0"),
        *("--state-dir", tmp_path),
    )
    assert ran.returncode == 4
    assert "StoreError" in ran.stderr


def test_an_empty_store(tmp_path: Path):
    (tmp_path / "store").mkdir()
    ran = keelmark(
        *("serve", "--store", tmp_path / "store", "--port", "0", "--ops-port", "0"),
        *("--state-dir", tmp_path / "state"),
    )
    assert ran.returncode == 4
    assert "StoreError" in ran.stderr
    assert "has no model in it" in ran.stderr


def test_several_versions_and_no_wish(tmp_path: Path):
    for version in ("1", "2"):
        pack_tiny(tmp_path / "store", version)
    ran = keelmark(
        *("serve", "--store", tmp_path / "store", "--port", "0", "--ops-port", "0"),
        *("--state-dir", tmp_path / "state"),
    )
    assert ran.returncode == 4
    assert "NothingLive" in ran.stderr
    assert "['1', '2']" in ran.stderr


def test_a_state_folder_that_another_server_has(store: Path, tmp_path: Path):
    with serving(store, tmp_path, "--drain-delay-seconds", "0"):
        ran = keelmark(
            *("serve", "--store", store, "--port", "0", "--ops-port", "0"),
            *("--state-dir", tmp_path / "state"),
        )
    assert ran.returncode == 2
    assert "in use by another server" in ran.stderr


def test_a_state_folder_that_cannot_be_made(store: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    ran = keelmark("serve", "--store", store, "--state-dir", tmp_path / "file" / "state")
    assert ran.returncode == 2
    assert "cannot be written" in ran.stderr
    assert "--state-dir" in ran.stderr


def test_a_command_that_only_looks_at_the_state_folder_stops_no_server(tmp_path: Path):
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        StateFolder(tmp_path).close()


def test_the_limit_on_open_files_is_raised_and_too_low_a_one_is_told(store: Path, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        arguments = ("--drain-delay-seconds", "0", "--max-connections", str(hard))
        with serving(store, tmp_path, *arguments) as server:
            limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == [str(hard)] * 2
    (said,) = [line for line in log_of(server) if line["event"] == "few_open_files"]
    assert said["needed"] == hard + 128
