"""The memory of a process: how it grows, what is in it, and what a bit that flips does."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

PIECE: Final = 1 << 20


class Memory:
    """Watches the memory of a process, from a beginning on."""

    def __init__(self, pid: int) -> None:
        self._statm = Path(f"/proc/{pid}/statm")

    def __enter__(self) -> Self:
        self.before = self.most = self._bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, self._bytes())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _bytes(self) -> int:
        return int(self._statm.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def growth_mib(self) -> float:
        return (self.most - self.before) / (1 << 20)


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    """Start and end of the private memory of a process."""
    for line in Path(f"/proc/{pid}/maps").read_text("ascii").splitlines():
        span, rights, _, _, _, *name = line.split(maxsplit=5)
        if rights.startswith("rw-p") and not (name and name[0].startswith("[v")):
            start, end = (int(text, 16) for text in span.split("-"))
            yield start, end


def places_of(pid: int, pattern: bytes) -> list[int]:
    """Addresses at which a process has these bytes in its own memory."""
    found: list[int] = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for start, end in _writable(pid):
            # Piece by piece: a read ends at the first page that is not there.
            for piece in range(start, end, PIECE):
                try:
                    memory.seek(piece)
                    content = memory.read(min(PIECE + len(pattern) - 1, end - piece))
                except OSError:  # gone meanwhile, or a guard page
                    continue
                at = content.find(pattern)
                while at >= 0:
                    found.append(piece + at)
                    at = content.find(pattern, at + 1)
    return found


def exchange(pid: int, places: list[int], before: bytes, after: bytes) -> int:
    """Puts other bytes into a process's memory where these are still; gives how often.

    What has been freed meanwhile is somebody else's, or nobody's.
    """
    done = 0
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        for place in places:
            try:
                memory.seek(place)
                if memory.read(len(before)) != before:
                    continue
                memory.seek(place)
                memory.write(after)
            except OSError:
                continue
            done += 1
    return done
