"""Two real instances behind a real balancer, as the recipes in deploy/ have them."""

import contextlib
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.in_thread import Connection
from tests.serving import Server, lasting_port, serving
from tests.tiny import pack_tiny
from tests.workers import (
    REQUEST,
    Known,
    Load,
    children_of,
    known_answers,
    wait_for_ends,
    wait_until,
)

DEPLOY: Final = Path(__file__).parent.parent / "deploy"
STOP_SECONDS: Final = 60
QUICK, SLOW = 8, 16
"""Callers that ask as soon as they have an answer, and callers that think for a while."""


@dataclass
class Instance:
    """A server that can be stopped and started again on its ports.

    Attributes:
        version: of the bundle that it serves; every answer tells it.
        arguments: of `keelmark serve`.
    """

    version: str
    store: Path
    folder: Path
    arguments: Sequence[str] = ()
    port: int = field(default_factory=lasting_port)
    ops_port: int = field(default_factory=lasting_port)
    server: Server | None = None
    _running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self) -> None:
        """Returns when it is ready."""
        ports = self.port, self.ops_port
        running = serving(self.store, self.folder, *self.arguments, ports=ports)
        self.server = self._running.enter_context(running)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Returns when all its processes have ended; workers are told by the death of theirs."""
        if self.server is not None:
            started = children_of(self.server.process.pid, "")
            self.server.process.send_signal(sign)
            code = self.server.process.wait(STOP_SECONDS)
            assert sign is signal.SIGKILL or code == 0, self.server.log.read_text()
            wait_for_ends(started)
            self.server = None
        self._running.close()


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running one.

    Attributes:
        port: where callers come.
        pid: of its first process.
        switch: the arguments of the recipe's `switch.py`, but whereto.
    """

    port: int
    pid: int
    switch: Sequence[str | Path]

    def switched(self, to: str) -> subprocess.CompletedProcess[str]:
        """What the recipe's program says to it."""
        return run([sys.executable, *self.switch, to])

    def switch_to(self, to: str) -> None:
        """As soon as the balancer sees that it can."""
        wait_until(lambda: self.switched(to).returncode == 0)

    def versions(self, requests: int = 1) -> set[str]:
        """Who answers that many requests, each over a connection of its own."""
        found: set[str] = set()
        for _ in range(requests):
            connection = Connection(self.port)
            answer = connection.ask(REQUEST)
            connection.close()
            assert answer.status == 200, answer
            found.add(answer.json["version"])
        return found

    def status(self) -> int:
        """Of the answer to one request."""
        connection = Connection(self.port)
        answer = connection.ask(REQUEST)
        connection.close()
        return answer.status


@contextlib.contextmanager
def called(port: int, known: Sequence[Known]) -> Generator[None]:
    """Callers keep their connections and check each answer; not one request may fail."""
    with (
        Load(port, QUICK, known, pause=0.002) as quick,
        Load(port, SLOW, known, pause=0.3) as slow,
    ):
        wait_until(lambda: quick.told > QUICK and slow.told > SLOW)
        yield
        asked = quick.asked, slow.asked
        wait_until(lambda: quick.told > asked[0] + QUICK and slow.told > asked[1] + SLOW)
    for load in (quick, slow):
        assert load.failures == []
        assert (load.refused, load.lost) == (0, 0)


@dataclass(frozen=True, slots=True)
class Front:
    """A balancer and what is behind it: what every one of them is held to.

    Attributes:
        blue, green: a server of one process, of version 1, and one with workers, of version 2.
    """

    balancer: Balancer
    blue: Instance
    green: Instance

    def called(self) -> contextlib.AbstractContextManager[None]:
        """See the function."""
        return called(self.balancer.port, known_answers(self.blue.store))

    def switch_under_load(self, rounds: int) -> None:
        """Nothing fails, and it holds as soon as the recipe's program has ended."""
        balancer = self.balancer
        balancer.switch_to("blue")
        kept = Connection(balancer.port)
        with self.called():
            for _ in range(rounds):
                for to, version in (("green", "2"), ("blue", "1")):
                    balancer.switch_to(to)
                    assert {kept.ask(REQUEST).json["version"] for _ in range(3)} == {version}
                    assert balancer.versions(3) == {version}
        kept.close()

    def stop_under_load(self, rounds: int) -> None:
        """One of two equal ones, and the one that answers while the other is in reserve.

        Nothing fails; who has come back is asked again.
        """
        with self.called():
            for _ in range(rounds):
                for live, stopped, other in (
                    ("both", self.green, self.blue),
                    ("blue", self.blue, self.green),
                ):
                    self.balancer.switch_to(live)
                    stopped.stop()
                    assert self.balancer.versions(5) == {other.version}
                    stopped.start()
                    wait_until(lambda it=stopped: it.version in self.balancer.versions(5))

    def pass_over_who_was_killed(self) -> None:
        """Who asks afterwards notices nothing."""
        self.balancer.switch_to("both")
        self.green.stop(signal.SIGKILL)
        try:
            assert self.balancer.versions(20) == {self.blue.version}
        finally:
            self.green.start()

    def refuse_what_is_not_ready(self) -> str:
        """A switch to it changes nothing; gives what was said."""
        self.balancer.switch_to("blue")
        self.green.stop()
        try:
            told = self.balancer.switched("green")
            assert (told.returncode, told.stdout) == (1, "")
            assert self.balancer.versions() == {self.blue.version}
            return told.stderr
        finally:
            self.green.start()


@contextlib.contextmanager
def instances(folder: Path) -> Generator[tuple[Instance, Instance]]:
    """Blue and green, of versions 1 and 2, which give the same answers."""
    made: list[Instance] = []
    with contextlib.ExitStack() as stack:
        for version, arguments in (("1", ()), ("2", ("--workers", "2"))):
            own = folder / version
            own.mkdir()
            pack_tiny(own / "store", version)
            instance = Instance(version, own / "store", own, arguments)
            stack.callback(instance.stop)
            instance.start()
            made.append(instance)
        yield made[0], made[1]


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """A program to its end."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def program(name: str) -> str:
    """Where a balancer is, which not every user has among his programs."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        assert "CI" not in os.environ, f"{name} is missing; `make test` installs it"
        pytest.skip(f"{name} is not installed; `make test` installs it, or the package {name}")
    return found


def placed(recipe: Path, places: Mapping[str, object]) -> str:
    """A recipe with other ports and paths; each has to be there."""
    text = recipe.read_text()
    for usual, own in places.items():
        assert usual in text, f"{recipe} has no {usual}"
        text = text.replace(usual, str(own))
    return text


@contextlib.contextmanager
def running(command: Sequence[str | Path], port: int, log: Path) -> Generator[int]:
    """A balancer that listens; gives its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process.pid
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Silent(socketserver.ThreadingTCPServer):
    """Ready whenever it is asked; reads each prediction's request, and closes without a word.

    So does a server that dies over a request, and nobody can know how far it had come.

    Attributes:
        read: requests for predictions that came whole.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", lasting_port()), _Silence)
        self.read = 0
        self.port: int = self.server_address[1]

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """In a thread."""
        thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Silence(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        first = self.rfile.readline()
        size = 0
        while (line := self.rfile.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        if first.startswith(b"GET"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif first and len(self.rfile.read(size)) == size:
            self.server.read += 1
