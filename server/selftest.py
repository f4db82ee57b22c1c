"""The timed self-test: golden rows put to every open bundle again and again, while it serves.

A bundle has passed its gate when it is opened. What happens to its memory afterwards, or to the
processor, nobody would see: a model that computes something else computes it quietly. So each
process puts the golden rows of its bundles to them, a row at a time, as spare work, and compares as
the gate does. It counts no predictions, and nobody waits for it.

A row that differs is put once more at once. Where it differs again, the rungs that it spoils are
not trusted any more *in this process*, and whoever is to know is told. It ends when all rows have
been good, one after the other.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from models.bundle import Bundle
from models.errors import GoldenMismatch
from models.replay import count_rows, replay_row
from server.cost import LOOP_NS
from server.findings import Finding
from server.logs import logger
from server.routes import Route
from server.spare_work import Task

LOOK_SECONDS: Final = 1.0
"""How often it is looked which bundles are open."""
AGAIN_SECONDS: Final = 0.25
"""After a row that differed, and after one for which there was no time."""
SHARE: Final = 0.1
"""Of a processor, at most, for the rows of one bundle."""

Hear = Callable[[Route, Finding | None], None]
"""Hears that a bundle is not good any more in this process, and why; None: it is good again."""

_log = logger("selftest")


class Spare(Protocol):
    """Whoever does spare work."""

    def offer(self, task: Task) -> bool: ...


@dataclass(slots=True)
class Progress:
    """How far the replay of one bundle is.

    Attributes:
        due: monotonic seconds at which its next row is.
        place: of that row.
        good: rows that have been good, one after the other.
        is_doubted: the row has differed, and is put once more.
        row_ns: what the last one took; 0 before.
        finding: what is wrong.
    """

    due: float
    place: int = 0
    good: int = 0
    is_doubted: bool = False
    row_ns: int = 0
    finding: Finding | None = None


class SelfTest:
    """Replays golden rows in one process. On its loop.

    Args:
        routes: gives what is open.
        spare: does the work.
        seconds: in which all rows of a bundle have had their turn; longer where they are slow or
            there is no time.
        hear: see `Hear`.
    """

    def __init__(
        self, routes: Callable[[], Iterable[Route]], spare: Spare, seconds: float, hear: Hear
    ) -> None:
        self._routes = routes
        self._spare = spare
        self._seconds = seconds
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._progress: WeakKeyDictionary[Bundle, Progress] = WeakKeyDictionary()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def start(self) -> None:
        """From now on."""
        self._next_in(0.0)

    def stop(self) -> None:
        """No more rows."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _next_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Offers the row that is due first, or looks again later."""
        now = self._loop.time()
        open_now = [(self._of(route.bundle, now), route) for route in self._routes()]
        due = min(open_now, key=lambda each: each[0].due, default=None)
        if due is None or due[0].due > now:
            self._next_in(LOOK_SECONDS if due is None else min(due[0].due - now, LOOK_SECONDS))
            return
        progress, route = due
        self._spare.offer(Row(self, route, progress.place, is_long=not _is_short(progress)))

    def _of(self, bundle: Bundle, now: float) -> Progress:
        """Of a bundle; one that was opened just now has been through its gate just now."""
        progress = self._progress.get(bundle)
        if progress is None:
            rows = count_rows(bundle)
            pause = self._seconds / rows if rows else float("inf")
            progress = self._progress[bundle] = Progress(now + pause)
        return progress

    def is_open(self, bundle: Bundle) -> bool:
        """Whether a bundle is still to be tested."""
        return not self._is_stopped and any(r.bundle is bundle for r in self._routes())

    def take(self, route: Route, outcome: "Outcome") -> None:
        """Takes in what came of a row."""
        if not self.is_open(route.bundle):
            return
        progress = self._progress[route.bundle]
        progress.row_ns = outcome.took_ns
        route.notice.replayed(is_same=outcome.finding is None)
        if outcome.finding is None:
            self._same(route, progress)
        else:
            self._different(route, progress, outcome.finding)

    def ended(self, route: Route, *, is_done: bool) -> None:
        """A row has been done, or there was no time for it."""
        if self._is_stopped:
            return
        progress = self._progress[route.bundle]
        pause = AGAIN_SECONDS
        if is_done and not progress.is_doubted:
            most = progress.row_ns / 1e9 / SHARE
            pause = max(self._seconds / count_rows(route.bundle), most)
        progress.due = self._loop.time() + pause
        self._next_in(0.0)

    def _same(self, route: Route, progress: Progress) -> None:
        rows = count_rows(route.bundle)
        if progress.is_doubted:
            _log.warning("golden_row_differed_once", **_words(route.bundle))
        progress.is_doubted = False
        progress.good += 1
        progress.place = (progress.place + 1) % rows
        if progress.good < rows:
            return
        progress.good = 0
        route.notice.passed(time.time())
        if progress.finding is not None:
            progress.finding = None
            route.breaker.trust(None)
            route.notice.failing(is_so=False)
            _log.info("selftest_passed", **_words(route.bundle))
            self._hear(route, None)

    def _different(self, route: Route, progress: Progress, finding: Finding) -> None:
        progress.good = 0
        progress.is_doubted = not progress.is_doubted
        if progress.is_doubted:  # it might have been one wrong bit in a register: put once more
            return
        progress.place = (progress.place + 1) % count_rows(route.bundle)
        known = progress.finding
        if known is not None and finding.below in (known.below, "baseline"):
            return
        progress.finding = finding
        route.breaker.trust(finding.below)
        route.notice.failing(is_so=True)
        _log.error("selftest_failed", **_words(route.bundle), found=finding.sentence)
        self._hear(route, finding)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a golden row."""

    finding: Finding | None
    took_ns: int


class Row:
    """One golden row, as spare work."""

    __slots__ = ("_is_done", "_is_long", "_place", "_route", "_test")

    kind = "selftest"
    units = 1
    n_bytes = 0

    def __init__(self, test: SelfTest, route: Route, place: int, *, is_long: bool) -> None:
        self._test = test
        self._route = route
        self._place = place
        self._is_long = is_long
        self._is_done = False

    def is_wanted(self) -> bool:
        """While its bundle is open."""
        return self._test.is_open(self._route.bundle)

    def is_long(self) -> bool:
        """Whether it would hold up the loop, by the one before it."""
        return self._is_long

    def do(self) -> Outcome:
        """Replays it."""
        began_ns = perf_counter_ns()
        finding = found(self._route.bundle, self._place)
        return Outcome(finding, perf_counter_ns() - began_ns)

    def take(self, outcome: Any) -> None:
        """Takes in what came of it."""
        self._is_done = True
        self._test.take(self._route, outcome)

    def end(self) -> None:
        """It was done, or dropped."""
        self._test.ended(self._route, is_done=self._is_done)


def found(bundle: Bundle, place: int) -> Finding | None:
    """What is wrong with the answer to a golden row, if anything is."""
    try:
        replay_row(bundle, place)
    except GoldenMismatch as error:
        below = "baseline" if error.spoils == "model" else "rules"
        return Finding(row=error.row, got=error.got, expected=error.expected, below=below)
    except Exception as error:  # noqa: BLE001  (onnxruntime raises many kinds; a good model raises none)
        rows = bundle.golden.rows or bundle.golden.tensors
        got = f"it raises {type(error).__name__}: {error}"
        return Finding(row=rows[place].name, got=got, expected="an answer", below="baseline")
    return None


def _is_short(progress: Progress) -> bool:
    """Whether a row does not hold up the loop, as the one before it shows."""
    return 0 < progress.row_ns < LOOP_NS


def _words(bundle: Bundle) -> dict[str, str]:
    return {"model": bundle.name, "version": bundle.version}
