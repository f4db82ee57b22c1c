"""The event log: what is in it stays in it, and what was changed is found."""

import os
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from models.vocabulary import EVENT_KINDS
from server.events import EVENTS, Event, EventLog, EventsCorrupt, Head, events_in, sha256_of


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path, now=lambda: datetime(2024, 5, 6, 7, 8, 9, 123456, UTC))


def forced(log: EventLog, count: int) -> list[Event]:
    return [log.append("forced", who="ann", model="flights", after=f"{n}") for n in range(count)]


def test_an_event_says_who_did_what_and_when(log: EventLog, tmp_path: Path):
    log.append("forced", who="ann", model="flights", before=None, after="rules", facts={"x": 1})
    (event,) = events_in(tmp_path)
    assert (event.n, event.at, event.who) == (1, "2024-05-06T07:08:09.123Z", "ann")
    assert (event.kind, event.model, event.after, event.facts) == (
        "forced",
        "flights",
        "rules",
        {"x": 1},
    )


def test_each_line_carries_the_digest_of_the_line_before(log: EventLog, tmp_path: Path):
    forced(log, 3)
    lines = (tmp_path / EVENTS).read_bytes().splitlines()
    written = [msgspec.json.decode(line)["sha256_of_previous"] for line in lines]
    assert written == ["0" * 64, sha256_of(lines[0]), sha256_of(lines[1])]
    assert log.head == Head(3, sha256_of(lines[2]))


def test_a_log_is_gone_on_with_after_a_restart(log: EventLog, tmp_path: Path):
    forced(log, 2)
    log.close()
    again = EventLog(tmp_path)
    assert again.append("stopped").n == 3
    assert [event.n for event in events_in(tmp_path)] == [1, 2, 3]


def edited(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"after":"1"', b'"after":"9"'), *lines[2:]]


ALTERED = {
    "edited": (edited, 3),
    "removed": (lambda lines: [lines[0], *lines[2:]], 2),
    "first removed": (lambda lines: lines[1:], 1),
    "swapped": (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
    "doubled": (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
    "no event": (lambda lines: [lines[0], b"{}\n", *lines[2:]], 2),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_changed_line_is_found(log: EventLog, tmp_path: Path, what: str):
    forced(log, 4)
    alter, line = ALTERED[what]
    path = tmp_path / EVENTS
    path.write_bytes(b"".join(alter(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(EventsCorrupt, match=f"line {line} "):
        list(events_in(tmp_path))


@pytest.mark.parametrize("cut", [1, 20, 90])
def test_a_line_that_a_crash_cut_off_is_taken_out_and_told(tmp_path: Path, cut: int):
    log = EventLog(tmp_path)
    forced(log, 3)
    log.close()
    path = tmp_path / EVENTS
    size = path.stat().st_size
    torn = len(path.read_bytes().splitlines(keepends=True)[-1]) - cut
    os.truncate(path, size - cut)
    assert [event.n for event in events_in(tmp_path)] == [1, 2]
    EventLog(tmp_path).close()
    assert [(event.n, event.kind, event.facts) for event in events_in(tmp_path)][2:] == [
        (3, "log_mended", {"bytes_cut": torn})
    ]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path):
    """The process may write 600 bytes into a file: the disk is full in the middle of a line."""
    program = (
        "import sys; from pathlib import Path; from server.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1])); n = 0\n"
        "try:\n"
        "    while True: log.append('forced', model='flights', after='rules'); n += 1\n"
        "except OSError as error: print(n, type(error).__name__)\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    written, kind = done.stdout.split()
    assert kind == "OSError"
    assert int(written) > 0
    assert [event.n for event in events_in(tmp_path)] == list(range(1, int(written) + 1))
    assert (tmp_path / EVENTS).read_bytes().endswith(b"\n")


def test_only_known_kinds_are_written(log: EventLog):
    with pytest.raises(AssertionError):
        log.append("something")
    assert len(set(EVENT_KINDS)) == len(EVENT_KINDS)


def test_the_log_is_readable_for_its_owner_alone(log: EventLog):
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_folder_without_a_log_has_no_events(tmp_path: Path):
    assert list(events_in(tmp_path)) == []


def test_a_log_is_gone_on_with_after_a_last_line_of_any_length(tmp_path: Path):
    """Only the end of a log is read when it is opened."""
    for length in (0, 4000, 5000, 20_000):
        log = EventLog(tmp_path)
        log.append("forced", facts={"reason": "x" * length})
        head = log.head
        log.close()
        again = EventLog(tmp_path)
        assert again.head == head
        again.close()
    assert len(list(events_in(tmp_path))) == 4
