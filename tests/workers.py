"""What tests of a server with workers share: who runs, what is counted, and callers that check."""

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from models.store import Store
from server.cli.answers import answer_records
from server.cli.ops_client import call
from tests.calling import HEAD_END, PATIENT, Calling, received
from tests.in_thread import post
from tests.serving import Server
from tests.tiny import GOOD, NAME

PATH: Final = f"/predict/{NAME}"
REQUEST: Final = post(PATH, json.dumps(GOOD).encode())
WAIT_SECONDS: Final = 60.0
ARGUMENTS: Final = ("--workers", "2", "--drain-delay-seconds", "0.3")
MOST_ROWS: Final = 3
"""Of a request of `known_answers`."""
BY_ANYBODY: Final = {200, 422, 503, 504}
COUNTER_ENDS: Final = ("_total", "_count", "_sum", "_bucket")
OF_ONE_ANSWER: Final = {"model", "version", "request_id", "prediction_id"}

Record = Callable[[str, object], None]
"""Of a test's report."""
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def workers_of(folder: Path) -> list[dict[str, Any]]:
    """The workers, by slot, as the server that has `folder` tells them."""
    return call("/status", server=None, state_dir=folder / "state")["workers"]


def is_quiet(folder: Path, count: int = 2) -> bool:
    """Whether all workers are ready and none has a connection."""
    found = workers_of(folder)
    return [(w["state"], w["connections"]) for w in found] == [("ready", 0)] * count


def is_whole(folder: Path, *, without: int, count: int = 2) -> bool:
    """Whether all workers are ready, and none is the one that was ended."""
    found = workers_of(folder)
    states = [worker["state"] for worker in found]
    return states == ["ready"] * count and without not in {worker["pid"] for worker in found}


def wait_until(
    is_so: Callable[[], bool], seconds: float = WAIT_SECONDS, *, pause: float = 0.02
) -> float:
    """Waits until something holds; gives the seconds it took. It looks after each `pause`."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds, "it did not come to hold in time"
        time.sleep(pause)
    return time.monotonic() - began


def children_of(pid: int, module: str) -> list[int]:
    """Processes that a process has started, by what they run."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and module in (path / "cmdline").read_text():
                found.append(int(path.name))
    return found


def wait_for_ends(pids: Sequence[int]) -> None:
    """Waits until processes are gone, as those of a killed server are a moment after it."""
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def kill(server: Server) -> None:
    """Kills a server; returns when all that it has started has ended too."""
    started = children_of(server.process.pid, "")
    server.process.kill()
    server.process.wait()
    wait_for_ends(started)


def descriptors_of(server: Server) -> list[int]:
    """How many the supervisor and the dealer have open, besides those of callers."""
    pids = [server.process.pid, *children_of(server.process.pid, "server.dealer")]
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]


def counted(server: Server, samples: Samples | None = None) -> float:
    """Rows of the model, whatever became of them."""
    found = (samples or server.samples()).items()
    return sum(value for (name, _), value in found if name == "keelmark_predictions_total")


def replace_workers(folder: Path) -> None:
    """Puts a new process into the place of each of two workers."""
    done = call(
        "/workers/replace", {}, server=None, state_dir=folder / "state", timeout_seconds=300
    )
    assert done == {"replaced": 2}


def force(folder: Path, rung: str | None, served: list[str]) -> None:
    """Forces a rung, and says who answers from then on."""
    body = {"rung": rung, "reason": "a trial"}
    call(f"/models/{NAME}/force-fallback", body, server=None, state_dir=folder / "state")
    served.append(rung or "model")


def requests_counted(server: Server) -> float:
    """Requests for predictions, whatever became of them."""
    found = server.samples().items()
    return sum(
        value
        for (name, labels), value in found
        if name == "keelmark_requests_total" and ("path", "/predict/{model}") in labels
    )


class Watch:
    """Scrapes all the time; `drops` has every counter that was ever less than before, or gone."""

    def __init__(self, server: Server, pause: float = 0.05) -> None:
        self.drops: list[Any] = []
        self.scrapes = 0
        self._server = server
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert self.scrapes > 1
        assert not self.drops, self.drops[:5]

    def _look(self) -> None:
        before: Samples = {}
        while not self._stop.wait(self._pause):
            now = self._server.samples()
            counters = {key: n for key, n in now.items() if key[0].endswith(COUNTER_ENDS)}
            self.drops += [
                (key, value, counters.get(key))
                for key, value in before.items()
                if counters.get(key, -1.0) < value
            ]
            before = counters
            self.scrapes += 1


class Known(NamedTuple):
    """A request, and what is to come of it: the status, and the answer without its ids."""

    request: bytes
    rows: int
    status: int
    answer: Any


@cache
def known_answers(store: Path) -> Sequence[Known]:
    """Requests with the answers that the bundle gives to them without a server."""
    bundle = Store(store).open(NAME, "1")
    records = [
        {**GOOD, "age": age, "city": city, "height": height, "salary": salary}
        for age, city, height, salary in itertools.product(
            (0, 40, 55, 90), ("Bern", "Oslo", "Rome", None), (1.5, None), (2.5, "much")
        )
    ]
    records[5::16] = [{**record, "age": 121} for record in records[5::16]]  # rejected
    records[6::16] = [{**record, "member": "no"} for record in records[6::16]]  # the rules'
    told = answer_records(bundle, records).as_dicts()
    known: list[Known] = []
    for record, said in zip(records, told, strict=True):
        is_refused = "error" in said
        answer = said["error"]["code"] if is_refused else said
        sent = post(PATH, json.dumps(record).encode())
        known.append(Known(sent, 1, 422 if is_refused else 200, answer))
    for first in range(0, 24, 8):
        part = slice(first, first + 3)
        sent = post(PATH, json.dumps(records[part]).encode())
        known.append(Known(sent, 3, 200, told[part]))
    return known


def without_ids(body: Any) -> Any:
    """What `known_answers` says of such a body."""
    if "error" in body:
        return body["error"]["code"]
    return body.get("predictions") or {k: v for k, v in body.items() if k not in OF_ONE_ANSWER}


@dataclass
class Load(Calling):
    """Callers in a closed loop over kept connections; each opens a new one after a failure.

    Attributes:
        known: requests that are sent in turn, with what has to come back.
        by_anybody: what comes back may be a lower rung's, or say that none is in time; otherwise
            the model is given the time that it takes.
        sent, answered: rows, the latter of answers received whole.
        asked, told: the same of requests.
        failures: of connections, each of which had one request under way.
        wrong: answers that are not as known.
        closed: answers that said `Connection: close`.
        refused: connections that could not be opened, after which a caller gives up.
        looks: a caller looks before it asks whether its connection has been closed.
        closed_idle: connections of which it found that.
        slowest: answer, in seconds.
    """

    port: int
    callers: int
    known: Sequence[Known]
    pause: float = 0.0
    by_anybody: bool = False
    looks: bool = False
    sent: int = 0
    answered: int = 0
    asked: int = 0
    told: int = 0
    failures: list[str] = field(default_factory=list[str])
    wrong: list[Any] = field(default_factory=list[Any])
    closed: int = 0
    refused: int = 0
    closed_idle: int = 0
    slowest: float = 0.0
    _names: Iterator[int] = field(default_factory=itertools.count)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        assert not self.wrong, self.wrong[:5]

    @property
    def lost(self) -> int:
        """Rows that were sent and not answered, once nobody calls any more."""
        return self.sent - self.answered

    def _each(self) -> Iterable[Coroutine[Any, Any, None]]:
        return map(self._one, range(self.callers))

    async def _one(self, number: int) -> None:
        turns = itertools.cycle(self.known)
        for _ in range(number * 5 % len(self.known)):
            next(turns)
        while not self._stop:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused += 1
                return  # the server has stopped; nothing was sent
            try:
                while await self._ask(reader, writer, next(turns)) and not self._stop:
                    if self.pause:
                        await asyncio.sleep(self.pause)
                    if self.looks and reader.at_eof():
                        self.closed_idle += 1
                        break
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
            finally:
                writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: Known
    ) -> bool:
        """Whether the connection may be used again."""
        began = time.monotonic()
        self.sent += known.rows
        self.asked += 1
        name = str(next(self._names))
        patience = "" if self.by_anybody else f"\r\n{PATIENT}"
        headers = f"\r\nX-Request-Id: {name}{patience}".encode()
        writer.write(known.request.replace(HEAD_END, headers + HEAD_END, 1))
        head, body = await received(reader)
        self.answered += known.rows
        self.told += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        status = int(head.split(b" ", 2)[1])
        is_known = (status, without_ids(body)) == (known.status, known.answer)
        is_ours = body.get("error", body)["request_id"] == name
        if not (is_ours and (is_known or (self.by_anybody and status in BY_ANYBODY))):
            self.wrong.append((known.answer, status, name, body))
        is_told_to_close = b"connection: close" in head
        self.closed += is_told_to_close
        return not is_told_to_close
