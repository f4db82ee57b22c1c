"""The event log: who changed what of a server, when, and who was refused. Appended, never sampled.

Each line carries the sha256 of the line before it. So an edited, removed or moved line is found, as
long as not all lines after it are written anew; cutting off the last lines is found by whoever
noted the head elsewhere (`keelmark status` prints it). It detects edits, it does not prevent them.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from models.vocabulary import EVENT_KINDS

EVENTS: Final = "events.jsonl"
NOTHING: Final = "0" * 64
"""Stands where the first line would have the digest of the line before."""
LONGEST_TEXT: Final = 500
"""Characters of a text that somebody sent: a line is for people to read."""
STEP_BYTES: Final = 4096
"""Read at a time, from the end backwards."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line of the log.

    Attributes:
        n: its number, from 1.
        at: when, ISO 8601 in UTC.
        kind: of the closed set `vocabulary.EVENT_KINDS`.
        who: name of the token that asked, or `server`.
        model: it is about, if one.
        before, after: what was changed, JSON-ready; None where nothing was.
        facts: whatever else is to be known.
        previous: sha256 of the line before, hexadecimal.
    """

    n: int
    at: str
    kind: str
    who: str
    model: str | None = None
    before: Any = None
    after: Any = None
    facts: dict[str, Any] = {}
    # Last and always written: a line without it is no line of this log.
    previous: str = msgspec.field(name="sha256_of_previous", default="")


@dataclass(frozen=True, slots=True)
class Head:
    """How far a log goes: the number of its last event, 0 for none, and the digest of its line."""

    n: int = 0
    sha256: str = NOTHING


class EventsCorrupt(Exception):
    """A log whose lines do not follow each other; the message names the first that does not."""


class EventLog:
    """The open log of a server. Safe to append to from several threads.

    Args:
        folder: the state folder, which is locked by this server.
        now: the clock; UTC.
    """

    def __init__(
        self, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.path: Final = folder / EVENTS
        self._now = now
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        torn = _cut_torn_line(self._file)
        self._head = _last(self.path, self._file)
        if torn:
            self.append("log_mended", facts={"bytes_cut": torn})

    @property
    def head(self) -> Head:
        """Of the last event."""
        return self._head

    def append(
        self,
        kind: str,
        *,
        who: str = "server",
        model: str | None = None,
        before: Any = None,
        after: Any = None,
        facts: dict[str, Any] | None = None,
    ) -> Event:
        """Adds an event; it is on the disk when this returns. See `Event`.

        Raises:
            OSError: the disk did not take it, and nothing was added.
        """
        assert kind in EVENT_KINDS, kind
        with self._lock:
            event = Event(
                n=self._head.n + 1,
                at=self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                kind=kind,
                who=who,
                model=model,
                before=before,
                after=after,
                facts=facts or {},
                previous=self._head.sha256,
            )
            line = msgspec.json.encode(event)
            self._write(line + b"\n")
            self._head = Head(event.n, sha256_of(line))
        return event

    def behind(self, number: int) -> Iterator[Event]:
        """The events after the one of this number, the newest first."""
        end = os.fstat(self._file).st_size
        while end > 0:
            start = _after_line_break(self._file, end - 1)
            event = _event(self.path, 0, os.pread(self._file, end - 1 - start, start))
            if event.n <= number:
                return
            yield event
            end = start

    def _write(self, line: bytes) -> None:
        """All of the line, or none of it."""
        end = os.fstat(self._file).st_size
        try:
            left = memoryview(line)
            while left:  # a full disk takes a part first, and raises then
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, end)
            raise

    def close(self) -> None:
        os.close(self._file)


def events_in(folder: Path) -> Iterator[Event]:
    """The events of a state folder, oldest first, each compared with the one before.

    A last line that is still being written is left out. A running server may go on appending.

    Raises:
        EventsCorrupt: a line is no event, or does not follow the one before it.
    """
    path = folder / EVENTS
    if not path.exists():
        return
    head = Head()
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            event = _event(path, head.n + 1, line)
            if event.n != head.n + 1 or event.previous != head.sha256:
                raise EventsCorrupt(
                    f"{path}: line {head.n + 1} does not follow the line before it: somebody "
                    "edited, removed or moved a line. What is before it is as it was written."
                )
            yield event
            head = Head(event.n, sha256_of(line[:-1]))


def sha256_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def shortened(text: str) -> str:
    """A text that somebody sent, as far as a line has room for it."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _event(path: Path, number: int, line: bytes) -> Event:
    try:
        return msgspec.json.decode(line, type=Event)
    except msgspec.MsgspecError as error:
        raise EventsCorrupt(f"{path}: line {number} is no event ({error})") from error


def _cut_torn_line(file: int) -> int:
    """Cuts off what a crash left of a line without its end; the number of bytes."""
    size = os.fstat(file).st_size
    end = _after_line_break(file, size)
    if end < size:
        os.ftruncate(file, end)
        os.fsync(file)
    return size - end


def _last(path: Path, file: int) -> Head:
    """The head of a log of whole lines; only the last is read: the others are for `events_in`."""
    size = os.fstat(file).st_size
    if not size:
        return Head()
    start = _after_line_break(file, size - 1)
    last = os.pread(file, size - 1 - start, start)
    return Head(_event(path, 0, last).n, sha256_of(last))


def _after_line_break(file: int, end: int) -> int:
    """Where the line begins that is before `end`: behind the last line break before that."""
    while end > 0:
        start = max(0, end - STEP_BYTES)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
