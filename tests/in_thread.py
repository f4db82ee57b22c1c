"""The real server on real sockets, in a thread of the test, and a client that sees every byte."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from server.core import Core
from server.runtime import InProcessRuntime
from server.serve import LocalPort, Serving
from server.settings import Settings

TIMEOUT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer as it came; header names in lower case."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Connection:
    """A TCP connection that sends what it is told and reads answers one by one."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> Response:
        """The next answer."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        version, status, _ = first.split(" ", 2)
        size = int(headers.get("content-length", 0))
        while len(self._buffer) < size:
            self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Response(version, int(status), headers, body)

    def ask(self, request: bytes) -> Response:
        self.send(request)
        return self.receive()

    def is_closed(self) -> bool:
        """Waits for the server to close; whether it did, without another byte."""
        try:
            return self._buffer == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError(f"closed in an answer, after {self._buffer!r}")
        self._buffer += data


def post(path: str, body: bytes, *headers: str, version: str = "1.1") -> bytes:
    """A POST request; `headers` replace or add to the usual ones."""
    names = [header.partition(":")[0].lower() for header in headers]
    usual = [f"Content-Length: {len(body)}", "Content-Type: application/json", "Host: test"]
    kept = [line for line in usual if line.partition(":")[0].lower() not in names]
    head = "\r\n".join([f"POST {path} HTTP/{version}", *kept, *headers])
    return head.encode() + b"\r\n\r\n" + body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


class Asker:
    """A server's ports, with short ways to ask it."""

    def __init__(self, port: int, ops_port: int) -> None:
        self.port = port
        self.ops_port = ops_port

    @contextlib.contextmanager
    def connect(self) -> Generator[Connection]:
        connection = Connection(self.port)
        try:
            yield connection
        finally:
            connection.close()

    def send(self, request: bytes) -> Response:
        with self.connect() as connection:
            return connection.ask(request)

    def predict(self, value: Any, *headers: str, model: str = "tiny") -> Response:
        return self.send(post(f"/predict/{model}", json.dumps(value).encode(), *headers))

    def ops(self, path: str) -> Response:
        return self.ops_send(get(path))

    def ops_send(self, request: bytes) -> Response:
        connection = Connection(self.ops_port)
        try:
            return connection.ask(request)
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """The value of the series that is written so."""
        text = self.ops("/metrics").body.decode()
        return float(next(x for x in text.splitlines() if x.startswith(line + " ")).split()[-1])


class Client(Asker):
    """A server in a thread of the test, and its ports."""

    def __init__(self, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        port, ops_port = (
            int(url.rpartition(":")[2]) for url in (serving.data_url, serving.ops_url)
        )
        super().__init__(port, ops_port)
        self.serving = serving
        self.loop = loop

    @property
    def core(self) -> Core:
        """The path of its requests, where one process does everything."""
        runtime = self.serving.runtime
        assert isinstance(runtime, InProcessRuntime)
        return runtime.core

    @property
    def connections(self) -> set[Any]:
        """uvicorn's protocols of its open connections, where one process does everything."""
        port = self.serving._port
        assert isinstance(port, LocalPort)
        return port._server.server_state.connections

    def call(self, function: Any, *arguments: Any) -> Any:
        """Runs something on the server's loop, and waits for it."""
        done = threading.Event()
        result: list[Any] = []

        def run() -> None:
            result.append(function(*arguments))
            done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(TIMEOUT_SECONDS)
        return result[0]


@contextlib.contextmanager
def server_over(store: Path, folder: Path, **settings: Any) -> Generator[Client]:
    """Runs the server over a store until the block ends; its models are open when it begins."""
    given = Settings(
        store=store, state_dir=folder, port=0, ops_port=0, log_level="error", **settings
    )
    folder.mkdir(parents=True, exist_ok=True)
    ready, stop = threading.Event(), threading.Event()
    clients: list[Client] = []
    errors: list[BaseException] = []

    async def serve() -> None:
        serving = Serving(given, folder)
        clients.append(Client(serving, asyncio.get_running_loop()))
        try:
            await serving.start()
            ready.set()
            await asyncio.to_thread(stop.wait)
        finally:
            await serving.stop(delay_seconds=0)

    def run() -> None:
        try:
            uvloop.run(serve())
        except BaseException as error:  # noqa: BLE001  (raised again by the test)
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if errors:
            raise errors[0]
        yield clients[0]
    finally:
        stop.set()
        thread.join(TIMEOUT_SECONDS)


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False
