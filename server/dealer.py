"""The dealer: accepts connections and passes each to the least loaded worker. A process of its own.

A shared listening socket does not balance, and `SO_REUSEPORT` loses the connections that wait for a
worker which died or hangs. Here a connection is in the listening queue, which the supervisor holds
too, or in a worker's pair, both ends of which are open here and in the supervisor, or with a
worker. What a worker has not taken 250 ms after its last heartbeat is taken back and dealt again.

Standard library only, so that it starts in a moment and takes little memory; started by the
supervisor (`server.dealing`), whose messages are JSON with descriptors, one a packet, each answered
with `{}` when it is done.
"""

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from server.board import Board
from server.handing import ask_to_move, hand, take
from server.orphans import die_with

STALE_NS: Final = 250_000_000
"""A heartbeat older than this: nothing is dealt to the worker, and what it has not taken is taken
back."""
TICK_MS: Final = 50
AT_ONCE: Final = 64
"""Connections accepted before anything else gets its turn."""
LONGEST: Final = 4096
PAUSE_SECONDS: Final = 0.01
EVENS_SECONDS: Final = 5.0
EVEN_PAUSE_SECONDS: Final = 0.2


@dataclass(slots=True, eq=False)
class Hand:
    """A worker as the dealer sees it: its slot, both ends of its pair, how many it was dealt."""

    slot: int
    ours: socket.socket
    theirs: socket.socket
    dealt: int
    is_ready: bool = False


class Dealer:
    """Deals until the supervisor says to stop or ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)
        self._listener: socket.socket | None = None
        self._board: Board | None = None
        self._hands: dict[int, Hand] = {}
        self._waiting: deque[tuple[socket.socket, bool]] = deque()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._is_listening = False
        self._evens_until = self._evened = 0.0

    def run(self) -> None:
        """Returns when the supervisor has gone."""
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(TICK_MS)}
            if self._control.fileno() in ready and not self._obey():
                return
            if self._board is None:
                continue
            self._board.dealer_beats()
            for hand_ in [h for h in self._hands.values() if h.ours.fileno() in ready]:
                self._take(hand_.ours, None)
            for hand_ in self._hands.values():
                if not self._is_fresh(hand_):
                    self._take(hand_.theirs, hand_)
            self._deal_waiting()
            self._even_out()
            if self._listener is not None and self._listener.fileno() in ready:
                self._accept(AT_ONCE)
            self._listen_if_any_can_take()

    # messages of the supervisor

    def _obey(self) -> bool:
        """Does all that has been said, before anything is dealt to those named first."""
        while True:
            try:
                found = socket.recv_fds(self._control, LONGEST, 4)
            except BlockingIOError:
                return True
            except ConnectionResetError:  # how an end arrives that has left something unread
                return False
            message, descriptors = found[:2]
            if not message:
                return False
            said = json.loads(message)
            getattr(self, "_on_" + said.pop("say"))(descriptors, **said)
            try:
                self._control.send(b"{}")
            except ConnectionError:  # it did not wait for the answer, or for one before
                return False

    def _on_begin(self, descriptors: list[int]) -> None:
        """The board, and the state folder's lock, which is only held."""
        self._board = Board(descriptors[0])

    def _on_listen(self, descriptors: list[int]) -> None:
        self._listener = socket.socket(fileno=descriptors[0])
        self._listener.setblocking(False)

    def _on_add(self, descriptors: list[int], worker: int, slot: int) -> None:
        """A worker, with what the dealer before this one has dealt to it.

        What it has not taken of that is dealt again: only then is known how many it was dealt.
        """
        assert self._board is not None
        ours, theirs = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        self._take(theirs, None)
        self._hands[worker] = Hand(slot, ours, theirs, self._board.taken(slot))
        self._poll.register(ours, select.POLLIN)

    def _on_deal(self, _: list[int], worker: int, on: bool) -> None:  # noqa: FBT001  (a message's)
        self._hands[worker].is_ready = on
        self._evens_until = time.monotonic() + EVENS_SECONDS

    def _on_gone(self, _: list[int], worker: int) -> None:
        """The worker has ended: what is in its pair goes to others."""
        gone = self._hands.pop(worker)
        self._poll.unregister(gone.ours)
        self._take(gone.ours, None)
        self._take(gone.theirs, gone)
        gone.ours.close()
        gone.theirs.close()
        self._evens_until = time.monotonic() + EVENS_SECONDS

    def _on_stop(self, _: list[int]) -> None:
        """Deals what has been accepted by the kernel; then nobody listens here any more."""
        if self._listener is not None:
            self._accept(None)
            if self._is_listening:
                self._poll.unregister(self._listener)
            self._listener.close()
            self._listener = None

    # dealing

    def _accept(self, most: int | None) -> None:
        assert self._listener is not None
        while most is None or most > 0:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # the caller did not wait for its turn
                continue
            except OSError:  # no descriptor is free: the next turn tries again
                time.sleep(PAUSE_SECONDS)
                return
            self._deal(connection, is_used=False)
            most = None if most is None else most - 1

    def _deal(self, connection: socket.socket, *, is_used: bool) -> None:
        if self._give(connection, is_used=is_used):
            connection.close()
        else:
            self._waiting.append((connection, is_used))

    def _give(self, connection: socket.socket, *, is_used: bool) -> bool:
        for each in sorted(filter(self._can_take, self._hands.values()), key=self._load):
            if hand(each.ours, connection.fileno(), is_used=is_used):
                each.dealt += 1
                return True
        return False

    def _deal_waiting(self) -> None:
        while self._waiting:
            connection, is_used = self._waiting[0]
            if not self._give(connection, is_used=is_used):
                return
            self._waiting.popleft()
            connection.close()

    def _take(self, end: socket.socket, dealt_to: Hand | None) -> None:
        """Deals again what is in an end: taken back from a worker, or given back by one."""
        try:
            while (found := take(end)) is not None:
                if found.connection is None:
                    continue
                if dealt_to is not None:
                    dealt_to.dealt -= 1
                self._deal(socket.socket(fileno=found.connection), is_used=found.is_used)
        except OSError:  # no descriptor is free; they stay where they are
            return

    def _even_out(self) -> None:
        """Asks those that have more than their share to give some back when they are idle.

        For a while after workers have come or gone, not when callers come and go.
        """
        now = time.monotonic()
        if now > self._evens_until or now < self._evened + EVEN_PAUSE_SECONDS:
            return
        self._evened = now
        ready = [each for each in self._hands.values() if self._can_take(each)]
        share = -(-sum(map(self._load, ready)) // max(1, len(ready)))
        for each in ready:
            ask_to_move(each.ours, max(0, self._load(each) - share))

    def _load(self, each: Hand) -> int:
        assert self._board is not None
        return each.dealt - self._board.closed(each.slot)

    def _can_take(self, each: Hand) -> bool:
        return each.is_ready and self._is_fresh(each)

    def _is_fresh(self, each: Hand) -> bool:
        assert self._board is not None
        return time.monotonic_ns() - self._board.beat(each.slot) < STALE_NS

    def _listen_if_any_can_take(self) -> None:
        """Where nobody can take connections they wait in the kernel's queue."""
        if self._listener is None:
            self._is_listening = False
            return
        can = not self._waiting and any(map(self._can_take, self._hands.values()))
        if can != self._is_listening:
            self._is_listening = can
            if can:
                self._poll.register(self._listener, select.POLLIN)
            else:
                self._poll.unregister(self._listener)


def main(arguments: list[str]) -> None:
    """`python -m server.dealer CONTROL PARENT`: its control socket, and its parent's id."""
    control, parent = map(int, arguments)
    die_with(parent)
    Dealer(socket.socket(fileno=control)).run()


def message(say: str, **facts: Any) -> bytes:
    """A message to the dealer."""
    return json.dumps({"say": say, **facts}).encode()


if __name__ == "__main__":
    main(sys.argv[1:])
