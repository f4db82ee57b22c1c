"""Words that the processes of one server share: who is alive, and which route table holds.

One anonymous file of 8-byte words, made by the supervisor and mapped by all. A cache line for the
whole server, then one for each worker slot; every word has one writer at a time.

    line 0          generation of the route table that holds; the dealer's heartbeat
    line 1 + slot   the worker's heartbeat, connections it has taken, connections it has closed

Standard library only: the dealer imports it.
"""

import fcntl
import mmap
import os
import time
from typing import Final

LINE_WORDS: Final = 8
LINE_BYTES: Final = 8 * LINE_WORDS
SEALS: Final = 0x0002 | 0x0004 | 0x0001  # F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL
ADD_SEALS: Final = 1033  # F_ADD_SEALS, which `fcntl` names only from Python 3.13 on

_GENERATION, _DEALER_BEAT = 0, 1
_BEAT, _TAKEN, _CLOSED = 0, 1, 2


def sealed_file(name: str, n_bytes: int) -> int:
    """A descriptor of zeroed memory that nobody can shorten: readers would get SIGBUS."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, n_bytes)
    fcntl.fcntl(descriptor, ADD_SEALS, SEALS)
    return descriptor


def mapped(descriptor: int) -> mmap.mmap:
    """The whole of such a file, for reading and writing."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)


def board_bytes(slots: int) -> int:
    """Size of a board's file."""
    return LINE_BYTES * (1 + slots)


class Board:
    """The shared words, mapped from their file."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mapped(descriptor)
        self._words = memoryview(self._memory).cast("q")

    @property
    def generation(self) -> int:
        """Of the route table by which requests are routed that begin now."""
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._words[_GENERATION] = generation

    def dealer_beats(self) -> None:
        """The dealer is alive."""
        self._words[_DEALER_BEAT] = time.monotonic_ns()

    @property
    def dealer_beat(self) -> int:
        """When the dealer was last alive, monotonic nanoseconds; 0 before."""
        return self._words[_DEALER_BEAT]

    def forget_dealer(self) -> None:
        """A new dealer is about to start. The supervisor, when the old one is dead."""
        self._words[_DEALER_BEAT] = 0

    def clear(self, slot: int) -> None:
        """A new worker is about to have the slot. The supervisor, when nobody has it."""
        at = LINE_WORDS * (1 + slot)
        self._words[at + _BEAT] = self._words[at + _TAKEN] = self._words[at + _CLOSED] = 0

    def beat(self, slot: int) -> int:
        """When a worker was last alive, monotonic nanoseconds; 0 before its first heartbeat."""
        return self._words[LINE_WORDS * (1 + slot) + _BEAT]

    def taken(self, slot: int) -> int:
        """Connections that the slot's worker has taken from its pair."""
        return self._words[LINE_WORDS * (1 + slot) + _TAKEN]

    def closed(self, slot: int) -> int:
        """Those of them that it has no longer."""
        return self._words[LINE_WORDS * (1 + slot) + _CLOSED]

    def beats(self, slot: int) -> None:
        """The slot's worker is alive. Its own."""
        self._words[LINE_WORDS * (1 + slot) + _BEAT] = time.monotonic_ns()

    def has_taken(self, slot: int) -> None:
        """The slot's worker has one connection more. Its own."""
        self._words[LINE_WORDS * (1 + slot) + _TAKEN] += 1

    def has_closed(self, slot: int) -> None:
        """The slot's worker has one connection less. Its own."""
        self._words[LINE_WORDS * (1 + slot) + _CLOSED] += 1
