"""The supervisor's side of the dealer: what it is to do, said again to each new one.

A dealer that ends is replaced at once. Nothing is lost with it but the connection it had in hand:
the listening socket and both ends of every worker's pair are open here too.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from server.board import Board
from server.dealer import message
from server.listening import let_in, let_nobody_in
from server.logs import logger
from server.processes import Child
from server.usage import Silence

START_NS: Final = 30_000_000_000
SILENCE_NS: Final = 2_000_000_000
END_SECONDS: Final = 2.0
PAUSES_SECONDS: Final = (0.02, 0.02, 0.5, 1.0, 2.0, 5.0)
"""Before a successor, by how many in a row have ended before they gave a sign of life."""

_log = logger("dealing")


@dataclass(slots=True, eq=False)
class Pair:
    """A worker's pair, and what the dealer is to make of it."""

    slot: int
    ours: socket.socket
    theirs: socket.socket
    is_ready: bool = False
    is_gone: bool = False

    def close(self) -> None:
        """Both ends."""
        self.ours.close()
        self.theirs.close()


class Dealing:
    """Keeps a dealer running; on the loop.

    Args:
        listener: of the data port, bound; closed when it is stopped.
        board: the shared words.
        descriptors: of the board, and of the state folder's lock if there is one.
        replaced: is called when a new dealer has been started, with how the old one ended.
    """

    def __init__(
        self,
        listener: socket.socket,
        board: Board,
        descriptors: Sequence[int],
        replaced: Callable[[int], None],
    ) -> None:
        self._listener: socket.socket | None = listener
        self._board = board
        self._descriptors = descriptors
        self._replaced = replaced
        self._pairs: dict[int, Pair] = {}
        self._unanswered: int = 0
        self._settled = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._is_open = self._is_over = False
        self._control: socket.socket | None = None
        self._child: Child | None = None
        self._silence: Silence | None = None
        self._heard_ns = time.monotonic_ns()
        self._failures = 0
        self._loop = asyncio.get_running_loop()

    @property
    def pid(self) -> int:
        """Of the present dealer."""
        assert self._child is not None
        return self._child.pid

    @property
    def seconds_without(self) -> float:
        """How long no dealer has given a sign of life: nothing was accepted meanwhile."""
        self._hear()
        return (time.monotonic_ns() - self._heard_ns) / 1e9

    def start(self) -> None:
        """Starts a dealer and tells it everything.

        Raises:
            OSError: the machine has no process to spare.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._hear()
        self._board.forget_dealer()
        self._unanswered = 0
        ours.setblocking(False)
        with contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            self._child = Child("server.dealer", theirs, self._on_end)
            stack.pop_all()
        self._control = ours
        self._silence = Silence(self._child.pid)
        self._loop.add_reader(ours.fileno(), self._on_answer)
        self._say("begin", self._descriptors)
        if self._listener is not None and self._is_open:
            self._say("listen", [self._listener.fileno()])
        for worker, pair in list(self._pairs.items()):
            self._say("add", [pair.ours.fileno(), pair.theirs.fileno()], worker, slot=pair.slot)
            if pair.is_gone:
                self._say("gone", [], worker)
            elif pair.is_ready:
                self._say("deal", [], worker, on=True)

    def let_in(self) -> None:
        """Connections are accepted from now on.

        Raises:
            SettingsError: another server has the port.
        """
        if self._listener is not None:
            let_in(self._listener)
            self._is_open = True
            self._say("listen", [self._listener.fileno()])

    def add(self, worker: int, pair: Pair) -> None:
        """A worker has been started; it is not dealt to yet."""
        self._pairs[worker] = pair
        self._say("add", [pair.ours.fileno(), pair.theirs.fileno()], worker, slot=pair.slot)

    def deal(self, worker: int, *, on: bool) -> None:
        """Connections may be dealt to a worker from now on, or no longer."""
        self._pairs[worker].is_ready = on
        self._say("deal", [], worker, on=on)

    def gone(self, worker: int) -> None:
        """A worker has ended: what it has not taken is dealt to others."""
        self._pairs[worker].is_gone = True
        self._say("gone", [], worker)

    async def settled(self) -> None:
        """Returns when the dealer has done all that it was told."""
        await self._settled.wait()

    async def stop_listening(self) -> None:
        """What the kernel has accepted is dealt; nobody listens when this returns."""
        if self._listener is None:
            return
        if self._is_open:
            await let_nobody_in(self._listener)
        # First here: the dealer, which takes all that waits, is then the last to close it.
        self._listener.close()
        self._listener = None
        self._say("stop", [])
        await self.settled()

    def watch(self, now_ns: int) -> None:
        """Ends a dealer that gives no sign of life; it is replaced."""
        if self._silence is None or self._child is None or self._is_over:
            return
        beat_ns = self._board.dealer_beat
        if self._silence.look(beat_ns, now_ns) > (SILENCE_NS if beat_ns else START_NS):
            self._child.kill()

    async def end(self) -> None:
        """Ends the dealer."""
        self._is_over = True
        if self._control is not None:
            self._hang_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_ended.wait(), END_SECONDS)
            if self._child is not None:
                self._child.kill()  # it does nothing any more, if it has not ended
            await self._has_ended.wait()
        for pair in self._pairs.values():
            pair.close()
        self._pairs.clear()
        if self._listener is not None:
            self._listener.close()

    def _say(
        self,
        say: str,
        descriptors: Sequence[int],
        worker: int | None = None,
        **facts: object,
    ) -> None:
        """Sends; what a dead dealer does not hear its successor is told."""
        if self._control is None:
            return
        if worker is not None:
            facts["worker"] = worker
        self._unanswered += 1
        self._settled.clear()
        try:
            socket.send_fds(self._control, [message(say, **facts)], descriptors)
        except BlockingIOError:  # it takes nothing: its successor is told all of it
            assert self._child is not None
            self._child.kill()
        except OSError:
            return

    def _on_answer(self) -> None:
        assert self._control is not None
        try:
            answer = self._control.recv(16)
        except OSError:
            answer = b""
        if not answer:
            self._loop.remove_reader(self._control.fileno())  # its end is heard of elsewhere
            return
        self._unanswered -= 1
        if not self._unanswered:
            self._settled.set()
            for worker in [w for w, pair in self._pairs.items() if pair.is_gone]:
                self._pairs.pop(worker).close()

    def _on_end(self) -> None:
        child = self._child
        assert child is not None
        self._hang_up()
        if self._is_over:
            self._has_ended.set()
            return
        self._failures = 0 if self._board.dealer_beat else self._failures + 1
        self._start_later(child)

    def _start_later(self, ended: Child) -> None:
        pause = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._loop.call_later(pause, self._start_again, ended)

    def _start_again(self, ended: Child) -> None:
        if self._is_over:
            self._has_ended.set()
            return
        try:
            self.start()
        except OSError as error:
            _log.error("dealer_not_started", reason=str(error))
            self._failures += 1
            self._start_later(ended)
        else:
            self._replaced(ended.code)

    def _hear(self) -> None:
        self._heard_ns = max(self._heard_ns, self._board.dealer_beat)

    def _hang_up(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
