"""A real server process for tests: started, waited for, and ended by its id."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 240
STOP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Answered:
    """An HTTP answer: status, headers in lower case, and the body's JSON (or text)."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Server:
    """A running `keelmark serve`."""

    port: int
    ops_port: int
    process: subprocess.Popen[bytes]
    log: Path

    def predict(self, model: str, value: Any, **headers: str) -> Answered:
        return self.post(f"/predict/{model}", json.dumps(value).encode(), **headers)

    def post(self, path: str, body: bytes, **headers: str) -> Answered:
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): text for name, text in headers.items()}
        return _ask(urllib.request.Request(self.url(path), body, sent))

    def get(self, path: str) -> Answered:
        return _ask(urllib.request.Request(self.url(path)))

    def ops(self, path: str) -> Answered:
        return _ask(urllib.request.Request(f"http://127.0.0.1:{self.ops_port}{path}"))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of `/metrics` by name and labels."""
        return {
            (name, frozenset(_LABEL.findall(labels or ""))): float(value)
            for name, labels, value in _SAMPLE.findall(self.ops("/metrics").body)
        }


_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@contextlib.contextmanager
def serving(
    store: Path,
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    program: Sequence[str] = ("-m", "keelmark"),
    ports: tuple[int, int] | None = None,
) -> Generator[Server]:
    """Runs `keelmark serve` over a store until the block ends; ready when the block begins.

    `folder` takes the state folder and the log, which goes on after a restart; `program` is what
    Python runs as `keelmark`; `ports` are the data port and the ops port, free ones where none are
    given.
    """
    port, ops_port = ports or (free_port(), free_port())
    log = folder / "server.log"
    command = [
        *(sys.executable, *program, "serve", "--store", str(store)),
        *("--port", str(port), "--ops-port", str(ops_port)),
        *("--state-dir", str(folder / "state"), *arguments),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ if environment is None else environment,
        )
    server = Server(port, ops_port, process, log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(process)


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(OSError):
            if server.get("/health/ready").status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{server.log.read_text()}")


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ends the process as an operator would; kills it if that does not help."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lasting_port() -> int:
    """A free port that no connection takes by itself while its server is away."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _ask(request: urllib.request.Request) -> Answered:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return _answered(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return _answered(error.code, error.headers, error.read())


def _answered(status: int, headers: Any, body: bytes) -> Answered:
    names = {name.lower(): value for name, value in headers.items()}
    text = body.decode()
    is_json = "json" in names.get("content-type", "")
    return Answered(status, names, json.loads(text) if is_json else text)
