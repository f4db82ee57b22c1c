"""The supervisor's workers: started, watched, replaced, and ended.

A worker that ends is replaced at once, in its slot, whose counters its successor goes on with. One
that gives no sign of life is killed first: dealing to it stops at 250 ms without a heartbeat (the
dealer looks), killing begins at 2 s of silence (`server.usage.Silence`). There is a slot more than
workers: when one is replaced on purpose, its successor is ready before it goes.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from server.board import Board
from server.control import (
    Begin,
    Channel,
    Holds,
    Hurry,
    Leave,
    Message,
    Refuses,
    Released,
    Stop,
    Tested,
    make_ends,
)
from server.dealing import Dealing, Pair
from server.handing import make_pair
from server.logs import logger
from server.processes import Child
from server.settings import Settings
from server.usage import Silence, cpu_seconds, memory_bytes

WATCH_SECONDS: Final = 0.05
LATE_NS: Final = 250_000_000
"""A look that comes so late says more about this process than about the workers."""
SILENCE_NS: Final = 2_000_000_000
START_NS: Final = 60_000_000_000
"""A worker that gives no first sign of life for so long is killed."""
PAUSES_SECONDS: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)
"""Before a successor, by how many in a row have ended before they were ready."""
SPARE_SECONDS: Final = 10.0
"""Beyond the drain time, until a worker that was told to end is killed."""

_log = logger("fleet")


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process.

    Attributes:
        number: never used twice.
        must_hold: the generation that it has to hold before it is dealt to.
        holds: the latest that it has said it holds.
        released: the latest turn in which it has let go of what it was told to.
        instead_of: pid of the one it replaces, and why (`vocabulary.REPLACEMENT_REASONS`).
        is_extra: in a slot beyond the wanted ones, until the one it replaces has gone.
    """

    number: int
    slot: int
    child: Child
    channel: Channel
    pair: Pair
    silence: Silence
    must_hold: int
    instead_of: tuple[int, str] | None
    is_extra: bool = False
    state: str = "starting"
    holds: int = -1
    released: int = -1
    is_stuck: bool = False
    began: float = field(default_factory=time.monotonic)


class Server(Protocol):
    """What the workers are to serve, and who hears of them."""

    def greetings(self) -> tuple[list[tuple[Message, list[int]]], int]:
        """What a new worker is told, and the generation that it then has to hold."""
        ...

    def refused(self, refusal: Refuses) -> None:
        """A worker cannot hold a table."""
        ...

    def released(self, stalls: Sequence[float] = ()) -> None:
        """A worker has let go of bundles, or ended; `stalls` are seconds that each stopped it."""
        ...

    def tested(self, slot: int, pid: int, message: Tested) -> None:
        """A worker's self-test has found something, or that all is good again."""
        ...

    def buried(self, slot: int) -> None:
        """Nobody has the slot any more: what its worker counted can be folded."""
        ...

    def died(self, holds: int) -> None:
        """A worker has ended by itself; `holds` is the latest generation that it held."""
        ...

    def tell(self, kind: str, facts: dict[str, Any], who: str) -> None:
        """An event for the log."""
        ...


class Fleet:
    """The workers of one server; on the supervisor's loop.

    Args:
        settings: of the server.
        count: of workers.
        server: what they serve.
        dealing: passes connections to them.
        board: the shared words.
        descriptors: of the board, of the counters of requests, and of the lock if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        server: Server,
        dealing: Dealing,
        board: Board,
        descriptors: Sequence[int],
    ) -> None:
        self._settings = settings
        self._count = count
        self._server = server
        self._dealing = dealing
        self._board = board
        self._descriptors = descriptors
        self._workers: dict[int, Worker] = {}
        self._free = {count}
        self._past_cpu = [0.0] * (count + 1)
        self._numbers = 0
        self._failures = 0
        self._is_stopping = False
        self._changed = asyncio.Event()
        self._looked_ns = 0
        self._ready_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._replacing = asyncio.Lock()

    @property
    def workers(self) -> list[Worker]:
        """Those that run, by slot."""
        return sorted(self._workers.values(), key=lambda worker: worker.slot)

    @property
    def ready(self) -> int:
        """How many can be dealt to."""
        return sum(worker.state == "ready" for worker in self._workers.values())

    @property
    def seconds_without(self) -> float:
        """How long no worker has been ready."""
        return 0.0 if self.ready else time.monotonic() - self._ready_at

    def connections(self, worker: Worker) -> int:
        """That it has."""
        return self._board.taken(worker.slot) - self._board.closed(worker.slot)

    def cpu_seconds(self, slot: int) -> float:
        """What the workers of a slot have used up to now."""
        running = [cpu_seconds(w.child.pid) for w in self._workers.values() if w.slot == slot]
        return self._past_cpu[slot] + sum(running)

    def memory_bytes(self, slot: int) -> int:
        """What the worker of a slot has in memory."""
        return sum(memory_bytes(w.child.pid) for w in self._workers.values() if w.slot == slot)

    def start(self) -> None:
        """Starts the dealer and the workers, and begins to watch them."""
        self._dealing.start()
        for slot in range(self._count):
            self._spawn(slot)
        self._watch_later()

    def say(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Tells every worker."""
        for worker in self._workers.values():
            worker.channel.send(message, descriptors)

    def hand_out(
        self,
        messages: Sequence[tuple[Message, list[int]]],
        generation: int,
        to: Worker | None = None,
    ) -> None:
        """Tells workers of a table; one that starts is not dealt to before it holds it.

        Args:
            messages: that make a worker hold it.
            generation: of the table.
            to: one worker; None for all.
        """
        for worker in self.workers if to is None else [to]:
            if worker.state == "starting":
                worker.must_hold = max(worker.must_hold, generation)
            for message, descriptors in messages:
                worker.channel.send(message, descriptors)

    def is_there(self, worker: Worker) -> bool:
        """Whether it has not ended."""
        return worker.number in self._workers

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until something holds that depends on the workers."""
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    def wake(self) -> None:
        """Has those who wait look again."""
        self._changed.set()

    @property
    def newest(self) -> int:
        """The number of the worker that was started last."""
        return self._numbers

    def states_until(self, newest: int) -> list[str]:
        """Of the workers up to one that was started then."""
        return [worker.state for worker in self.workers if worker.number <= newest]

    async def replace(
        self, who: str, reason: str, *, why: str = "asked", newest: int | None = None
    ) -> int:
        """Replaces each worker by a successor that is ready first; gives how many were.

        Args:
            who: wants it.
            reason: for the event log.
            why: of `vocabulary.REPLACEMENT_REASONS`.
            newest: number of the last one to be replaced; None for all.

        Raises:
            ChildProcessError: a successor ended before it was ready; the rest stay.
        """
        async with self._replacing:
            last = self._numbers if newest is None else newest
            chosen = [worker for worker in self.workers if worker.number <= last]
            old = [worker for worker in chosen if worker.state == "ready"]
            for done, worker in enumerate(old):
                if worker.number not in self._workers:
                    continue  # it has ended, and has or will have a successor
                if not await self._replace(worker, who, reason, why):
                    raise ChildProcessError(
                        f"a successor ended before it was ready, or the server stops; {done} of "
                        f"{len(old)} workers were replaced. The reason is in the text log"
                    )
            return len(old)

    async def _replace(self, old: Worker, who: str, reason: str, why: str) -> bool:
        if self._is_stopping:
            return False
        try:
            new = self._spawn(min(self._free), (old.child.pid, why), is_extra=True)
        except OSError as error:
            _log.error("worker_not_started", reason=str(error))
            return False
        await self.until(lambda: new.state == "ready" or new.number not in self._workers)
        if new.state != "ready":
            return False
        new.is_extra = False
        facts = self._replacement(new) | {"reason": reason}
        # If it died meanwhile, whoever has its slot now is one too many.
        surplus = [worker for worker in self.workers if worker.slot == old.slot]
        for worker in surplus:
            await self._send_off(worker)
        self._server.tell("worker_replaced", facts, who)
        return True

    async def _send_off(self, worker: Worker) -> None:
        """Ends a worker whose connections go to others."""
        worker.state = "leaving"
        self._dealing.deal(worker.number, on=False)
        await self._dealing.settled()
        worker.channel.send(Leave())
        gone = self.until(lambda: worker.number not in self._workers)
        limit = self._settings.drain_seconds + SPARE_SECONDS
        try:
            await asyncio.wait_for(gone, limit)
        except TimeoutError:
            worker.child.kill()
            await self.until(lambda: worker.number not in self._workers)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ends all workers, which answer what they have; then the dealer.

        Args:
            hurry: when it is set, idle connections are no longer waited for.
        """
        self._is_stopping = True
        limit = self._settings.drain_seconds + SPARE_SECONDS
        if self._workers:
            with contextlib.suppress(TimeoutError):  # a dealer may hang, or not start
                await asyncio.wait_for(self._dealing.stop_listening(), limit)
        self.say(Stop())
        hurrying = self._loop.create_task(self._hurry(hurry))
        ended = self.until(lambda: not self._workers)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended, limit)
        for worker in self._workers.values():
            worker.child.kill()
        await self.until(lambda: not self._workers)
        hurrying.cancel()
        await self._dealing.end()

    async def _hurry(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        self.say(Hurry())

    # starting and burying

    def _spawn(
        self, slot: int, instead_of: tuple[int, str] | None = None, *, is_extra: bool = False
    ) -> Worker:
        self._board.clear(slot)
        self._numbers += 1
        number = self._numbers
        ours, theirs = make_ends()
        with contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            pair = Pair(slot, *make_pair())
            stack.callback(pair.close)
            child = Child("server.worker", theirs, lambda: self._on_end(number))
            stack.pop_all()
        self._free.discard(slot)
        channel = Channel(ours, lambda message, _: self._on_message(number, message), self.wake)
        given = self._settings.model_dump(mode="json")
        begin = Begin(slot=slot, slots=self._count + 1, settings=given)
        channel.send(begin, [pair.theirs.fileno(), *self._descriptors])
        greetings, must_hold = self._server.greetings()
        for message, descriptors in greetings:
            channel.send(message, descriptors)
        silence = Silence(child.pid)
        worker = Worker(
            number, slot, child, channel, pair, silence, must_hold, instead_of, is_extra
        )
        self._workers[number] = worker
        self._dealing.add(number, pair)
        return worker

    def _on_message(self, number: int, message: Any) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return
        if isinstance(message, Holds):
            worker.holds = max(worker.holds, message.generation)
            if worker.state == "starting" and worker.holds >= worker.must_hold:
                self._is_ready(worker)
        elif isinstance(message, Released):
            worker.released = max(worker.released, message.turn)
            self._server.released(message.stalls)
        elif isinstance(message, Tested):
            self._server.tested(worker.slot, worker.child.pid, message)
        elif isinstance(message, Refuses):
            _log.error("table_refused", pid=worker.child.pid, reason=message.reason)
            self._server.refused(message)
            if worker.state == "starting" and message.generation <= worker.must_hold:
                worker.child.kill()  # it cannot serve what is served; perhaps the next one can
        self.wake()

    def _is_ready(self, worker: Worker) -> None:
        worker.state = "ready"
        self._failures = 0
        self._dealing.deal(worker.number, on=True)
        if worker.instead_of is not None and not worker.is_extra:
            self._server.tell("worker_replaced", self._replacement(worker), "server")

    def _replacement(self, worker: Worker) -> dict[str, Any]:
        assert worker.instead_of is not None
        pid, why = worker.instead_of
        seconds = round(time.monotonic() - worker.began, 3)
        return {
            "slot": worker.slot,
            "why": why,
            "ended": pid,
            "pid": worker.child.pid,
            "ready_after_seconds": seconds,
        }

    def _on_end(self, number: int) -> None:
        """A worker has ended, and is not waited for yet: its pid is still its own."""
        worker = self._workers.pop(number)
        self._past_cpu[worker.slot] += cpu_seconds(worker.child.pid)
        worker.channel.close()
        self._dealing.gone(number)
        self._free.add(worker.slot)
        # The process is a zombie: it writes nothing any more, and may be folded.
        self._server.buried(worker.slot)
        is_expected = self._is_stopping or worker.state == "leaving"
        if not is_expected:
            self._has_died(worker)
        self.wake()

    def _has_died(self, worker: Worker) -> None:
        why = "stuck" if worker.is_stuck else "died"
        _log.error("worker_ended", slot=worker.slot, pid=worker.child.pid, why=why)
        self._failures += worker.state == "starting"
        self._server.died(worker.holds)
        if worker.is_extra:
            return
        self._free.discard(worker.slot)
        self._succeed_later(worker.slot, worker.child.pid, why)

    def _succeed_later(self, slot: int, pid: int, why: str) -> None:
        pause = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._loop.call_later(pause, self._succeed, slot, pid, why)

    def _succeed(self, slot: int, pid: int, why: str) -> None:
        """Starts the successor, unless it has been seen to otherwise.

        One that is still to become an asked-for successor counts for nothing: it may never be one.
        """
        staying = [w for w in self._workers.values() if not w.is_extra and w.state != "leaving"]
        if self._is_stopping or len(staying) >= self._count:
            self._free.add(slot)
            return
        try:
            self._spawn(slot, (pid, why))
        except OSError as error:  # the machine has no process or descriptor to spare
            _log.error("worker_not_started", slot=slot, reason=str(error))
            self._failures += 1
            self._succeed_later(slot, pid, why)

    # watching

    def _watch_later(self) -> None:
        self._looked_ns = time.monotonic_ns()
        self._loop.call_later(WATCH_SECONDS, self._watch)

    def _watch(self) -> None:
        now_ns = time.monotonic_ns()
        if self.ready:
            self._ready_at = time.monotonic()
        if now_ns - self._looked_ns < WATCH_SECONDS * 1e9 + LATE_NS:
            self._dealing.watch(now_ns)
            for worker in self._workers.values():
                self._look_at(worker, now_ns)
        if self._workers or not self._is_stopping:
            self._watch_later()

    def _look_at(self, worker: Worker, now_ns: int) -> None:
        beat_ns = self._board.beat(worker.slot)
        limit = SILENCE_NS if beat_ns else START_NS
        if worker.silence.look(beat_ns, now_ns) > limit and not worker.is_stuck:
            worker.is_stuck = True
            worker.child.kill()
