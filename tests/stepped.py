"""A server that something happens to in the middle of swaps, its callers, and what is left then."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from server.cli.ops_client import NotRunning, ServerSaysNo, call
from server.events import events_in
from server.facts import read_facts
from tests.calling import Calling, received
from tests.in_thread import post
from tests.serving import Server, lasting_port, serving
from tests.stepping import FOLDER, SWAP_EVENTS, Act, arm
from tests.three import NAME, record, version_of
from tests.workers import wait_until

CALLERS: Final = 4
PATH: Final = f"/predict/{NAME}"
LIMIT_SECONDS: Final = 120.0
"""Of a call: it returns, or fails, long before."""


class Slots(NamedTuple):
    """The versions in the slots of the model."""

    live: str | None
    candidate: str | None = None
    previous: str | None = None


SWAPS: Final[dict[str, tuple[dict[str, str], Slots, Slots]]] = {
    "load": ({"version": "2"}, Slots("1"), Slots("1", candidate="2")),
    "promote": ({"version": "2"}, Slots("1", candidate="2"), Slots("2", previous="1")),
    "rollback": ({}, Slots("2", previous="1"), Slots("1", candidate="2")),
    "unload": ({"version": "2"}, Slots("1", candidate="2"), Slots("1")),
}
"""What each is asked with, and the slots before and after it."""


@dataclass
class Callers(Calling):
    """Callers in a closed loop, single records and lists, who open a connection again when it ends.

    Attributes:
        port: of the data plane.
        now: versions that may answer requests that are sent now.
        answered: requests.
        broken: connections that ended with a request under way.
        away: answers that nothing is loaded.
        wrong: answers that are none of a single version, or of one that may not answer.
    """

    port: int
    now: frozenset[int] = frozenset({1})
    answered: int = 0
    broken: int = 0
    away: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def _each(self) -> Iterable[Coroutine[Any, Any, None]]:
        return map(self._one, range(CALLERS))

    async def _one(self, n: int) -> None:
        while not self._stop:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                while not self._stop:
                    await self._ask(reader, writer, [1, 2, 3] if n % 2 else [n])
                    await asyncio.sleep(0.002)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
            finally:
                writer.close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ys: list[int]
    ) -> None:
        body: Any = [record(y) for y in ys] if len(ys) > 1 else record(ys[0])
        allowed = self.now
        writer.write(post(PATH, json.dumps(body).encode()))
        head, answer = await received(reader)
        if answer.get("error", {}).get("code") == "not_loaded":
            self.away += 1
            await asyncio.sleep(0.02)
            return
        rows = answer.get("predictions", [answer])
        found = {version_of(row.get("prediction", 0), y) for row, y in zip(rows, ys, strict=True)}
        is_one = len(found) == 1 and answer.get("version") == str(*found)
        if not head.startswith(b"http/1.1 200") or not is_one or not found <= allowed | self.now:
            self.wrong.append(f"allowed: {sorted(allowed)}, {head!r} {answer}")
        self.answered += 1


class Outcome(NamedTuple):
    """What an operator was told: the answer, or the refusal, or that nobody is there."""

    done: Any = None
    refused: ServerSaysNo | None = None
    broken: NotRunning | None = None


class Stepped:
    """A server over a store with versions 1 and 2 of `tests.three`, of which 1 is wished live.

    Args:
        store: of bundles.
        folder: for the state folder, the steps and the log.
        workers: how many.
    """

    def __init__(self, store: Path, folder: Path, workers: int) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.steps = folder / "steps"
        self.workers = workers
        self._store = store
        self._ports = lasting_port(), lasting_port()
        self._tables: dict[int, Slots] = {}
        self._running = contextlib.ExitStack()
        self.steps.mkdir(parents=True)
        self.server = self._started()
        self.callers = Callers(self._ports[0])

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failing:
            failing.callback(self._running.close)
            self.wait_until_whole(Slots("1"))
            self.callers.__enter__()
            failing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._running:
            self.callers.__exit__()

    def _started(self) -> Server:
        arguments = ("--deadline-ms", "60000", "--drain-delay-seconds", "0")
        running = serving(
            self._store,
            self.folder,
            *("--workers", str(self.workers), *arguments),
            environment={**os.environ, FOLDER: str(self.steps)},
            program=("-m", "tests.stepping_server"),
            ports=self._ports,
        )
        return self._running.enter_context(running)

    # what operators ask and see

    def ask(self, swap: str) -> Outcome:
        """A call, whatever comes of it."""
        body, before, after = SWAPS[swap]
        self.callers.now = frozenset({int(before.live or 0), int(after.live or 0)})
        try:
            done = call(
                f"/models/{NAME}/{swap}",
                body,
                server=None,
                state_dir=self.state,
                timeout_seconds=LIMIT_SECONDS,
            )
        except ServerSaysNo as error:
            return Outcome(refused=error)
        except NotRunning as error:
            return Outcome(broken=error)
        slots = Slots(**done["after"])
        self._seen(done["generation"], slots)
        self.callers.now = frozenset({int(slots.live or 0)})
        return Outcome(done)

    def do(self, swap: str) -> None:
        """A call to which nothing happens."""
        outcome = self.ask(swap)
        assert (outcome.done or {}).get("changed"), outcome

    def bring_to(self, wanted: Slots) -> None:
        """Swaps until the slots hold what is wanted."""
        turns = {Slots("1"): "load", Slots("2", previous="1"): "rollback"}
        while (slots := self.slots()) != wanted:
            down = "unload" if wanted == Slots("1") else "promote"
            self.do(turns.get(slots, down))

    def status(self) -> dict[str, Any]:
        return call("/status", server=None, state_dir=self.state)

    def slots(self) -> Slots:
        """As status tells them; a generation is never told of two states."""
        status = self.status()
        slots = slots_of(status)
        self._seen(status["generation"], slots)
        return slots

    def pids(self) -> set[int]:
        """Of the workers."""
        return {worker["pid"] for worker in self.status()["workers"]}

    def _seen(self, generation: int, slots: Slots) -> None:
        assert self._tables.setdefault(generation, slots) == slots, "a generation was used twice"

    # what happens to it

    def happens(self, swap: str, step: str, act: Act) -> Outcome:
        """A call in the middle of which something happens; it has happened when this returns."""
        self.bring_to(SWAPS[swap][1])
        arm(self.steps, step, act)
        outcome = self.ask(swap)
        wait_until(lambda: not list(self.steps.iterdir()))
        return outcome

    def restart(self) -> None:
        """Waits for the end of a server that was killed, and of all that it had, and starts it."""
        self.server.process.wait(LIMIT_SECONDS)
        wait_until(lambda: not self.processes())
        facts = read_facts(self.state).slots.get(NAME)
        self.server = self._started()
        if facts is not None:
            second = facts.second
            found = {} if second is None else {second.role: second.version}
            wait_until(lambda: slots_of(self.status()) == Slots(facts.live, **found))

    # what is left

    def processes(self) -> list[int]:
        """All that run for this server, itself too."""
        found: list[int] = []
        mark = str(self.steps).encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                told = (path / "environ").read_bytes() + (path / "cmdline").read_bytes()
                if mark in told or str(self.state).encode() in told:
                    found.append(int(path.name))
        return found

    def wait_until_whole(self, slots: Slots) -> None:
        """Until it is as if nothing had happened, with these slots; fails where it never is."""
        wait_until(lambda: not self._lacks(slots), LIMIT_SECONDS)
        assert self.slots() == slots
        last = [event for event in events_in(self.state) if event.kind in SWAP_EVENTS][-1:]
        told = [Slots(**event.after) for event in last]
        assert told in ([], [slots]), "the log does not tell of the last change"
        live, *others = (version for version in slots if version is not None)
        for version in (live, *others):
            body = self.server.predict(f"{NAME}?version={version}", record()).body
            assert (body["version"], version_of(body["prediction"])) == (version, int(version))
        body = self.server.predict(NAME, record()).body
        assert body["version"] == live
        assert not self.callers.wrong, self.callers.wrong[:3]

    def _lacks(self, slots: Slots) -> Any:
        """What is not yet as it was; nothing if all is."""
        status = self.status()
        states = [worker["state"] for worker in status["workers"]]
        count = self.workers if self.workers > 1 else 0
        loaded = len([version for version in slots if version is not None])
        found: dict[str, Any] = {}
        if slots_of(status) != slots:
            found["slots"] = slots_of(status)
        if states != ["ready"] * count:
            found["workers"] = states
        if len(self.processes()) != 1 + (count and count + 1):  # a dealer
            found["processes"] = self.processes()
        if left := self._left(status):
            found["files"] = left
        if count:
            pids = [worker["pid"] for worker in status["workers"]]
            held = [counters_of(pid) for pid in (self.server.process.pid, *pids)]
            if held != [loaded] * len(held):
                found["counters"] = held
        return found

    def _left(self, status: dict[str, Any]) -> list[str]:
        """Files in the state folder that belong to nothing that is loaded."""
        (model,) = status["models"]
        loaded = [model["digest"][:24]]
        loaded += [model["second"]["digest"][:24]] if model["second"] else []
        new = [path.name for path in self.state.rglob("*.new*")]
        copies = [path.name for path in (self.state / "opened").iterdir()]
        return new + [name for name in copies if name.partition("-")[0] not in loaded]


def slots_of(status: dict[str, Any]) -> Slots:
    """The slots of the one model of a status."""
    (model,) = status["models"]
    second = model["second"]
    return Slots(model["version"], **({second["slot"]: second["version"]} if second else {}))


def counters_of(pid: int) -> int:
    """How many bundles a process has counters of; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return 0
    return len({line.split()[4] for line in lines if "keelmark-counters" in line})


def seconds_since(began: float) -> float:
    return round(time.monotonic() - began, 2)


Row = tuple[str, str, Act]
