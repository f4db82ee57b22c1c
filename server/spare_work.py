"""Work that nobody waits for, done while the loop has nothing else to do: copies, self-tests.

A *task* has *units*, each of which takes about as long as a request of one row. A unit is done
after answers have been handed over, one a turn of the loop, so that the sockets are looked at
between any two; and only while the loop is less than 1 ms late and no request waits for it or for
the runner's thread. A request that comes meanwhile waits for one unit at most.

A unit that would hold up the loop is done in a thread of its own, begun while the runner is idle.
It is not the runner's thread: callers must not stand behind what nobody waits for.

What finds no room is dropped, and so is all that waits when the loop is late. Dropped units are
counted and not tried again: whoever offers what has to be done, as a self-test, offers it again.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from time import perf_counter_ns
from typing import Any, Final, Protocol

from models.vocabulary import SPARE_KINDS
from server.logs import Seldom, logger, where

LATE_NS: Final = 1_000_000
"""A loop that is so late has no time to spare."""
MOST_UNITS: Final = 1024
MOST_BYTES: Final = 1 << 20
"""What may wait: units, and the bytes of what they hold. A larger task finds no room at all."""
LOOKED_AT: Final = 8
"""So many tasks are looked at for one that need not wait for the thread."""
LOOK_SECONDS: Final = 0.002
"""How soon it is looked again whether the runner is idle."""
STOP_SECONDS: Final = 5.0
"""How long a unit that goes on in the thread is waited for when the server stops."""

_log = logger("spare")


class Task(Protocol):
    """Some units of work of one kind. All but `do` is called on the loop.

    Attributes:
        kind: one of `vocabulary.SPARE_KINDS`.
        units: how many it has; at least one.
        n_bytes: about what it holds in memory while it waits.
    """

    @property
    def kind(self) -> str: ...
    @property
    def units(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...

    def is_wanted(self) -> bool:
        """Whether it is still to be done; a task that is not is dropped, and holds nothing more."""
        ...

    def is_long(self) -> bool:
        """Whether its next unit would hold up the loop."""
        ...

    def do(self) -> Any:
        """Does the next unit, on the loop or in a thread; changes nothing that the loop reads.

        Whatever it raises counts the unit as failed, goes to the log, and costs nothing else.
        """
        ...

    def take(self, outcome: Any) -> None:
        """Takes in what `do` gave."""
        ...

    def end(self) -> None:
        """No unit of it is done any more: all were, or the rest is dropped. Once."""
        ...


class Queue(Protocol):
    """What is to be known of the runner."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for its thread, and it does nothing."""
        ...


Count = Callable[[str, str, int], None]
"""Counts units of a kind by one of `vocabulary.SPARE_RESULTS`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A task, and how many of its units have not been begun."""

    task: Task
    left: int


class SpareWork:
    """What waits to be done, and the thread for what is long. On one loop.

    Args:
        runner: whose jobs come first.
        requests: where requests wait, which come first too.
        count: is told what becomes of each unit; None where nobody wants to know.

    Attributes:
        waiting: units that wait.
        is_stopping: `stop` was called: nothing is taken any more.
    """

    def __init__(
        self, runner: Queue, requests: Sequence[Sized] = (), count: Count | None = None
    ) -> None:
        self._runner = runner
        self._requests = requests
        self._count = count or _nobody_counts
        self._loop = asyncio.get_running_loop()
        self._tasks: deque[_Waiting] = deque()
        self._n_bytes = 0
        self._is_scheduled = False
        self._in_thread: _Waiting | None = None
        self._units: SimpleQueue[Task | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._seldom = Seldom()
        self.waiting = 0
        self.is_stopping = False

    def has_room(self, units: int, n_bytes: int) -> bool:
        """Whether a task of so many units that holds so many bytes would be taken."""
        has_units = self.waiting + units <= MOST_UNITS
        return has_units and self._n_bytes + n_bytes <= MOST_BYTES and not self.is_stopping

    def drop(self, kind: str, units: int) -> None:
        """Counts what has no room, for whoever makes no task of it then."""
        self._count(kind, "dropped", units)

    def offer(self, task: Task) -> bool:
        """Takes a task, to be done while there is time; False where it has no room."""
        assert task.kind in SPARE_KINDS, task.kind
        if not self.has_room(task.units, task.n_bytes):
            self.drop(task.kind, task.units)
            task.end()
            return False
        self._tasks.append(_Waiting(task, task.units))
        self.waiting += task.units
        self._n_bytes += task.n_bytes
        self._schedule()
        return True

    async def stop(self) -> bool:
        """Drops what waits; gives whether the thread does nothing any more."""
        self.is_stopping = True
        self._drop_all()
        if self._thread is None:
            return True
        self._units.put(None)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        await asyncio.sleep(0)  # what it gave back last is taken in
        return not self._thread.is_alive()

    # turns of the loop

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._turn, perf_counter_ns())

    def _schedule_later(self) -> None:
        # The timer only wakes: how late it is says more about its grain than about the loop.
        self._is_scheduled = True
        self._loop.call_later(LOOK_SECONDS, self._wake)

    def _wake(self) -> None:
        self._is_scheduled = False
        if self._tasks:
            self._schedule()

    def _turn(self, due_ns: int) -> None:
        """One unit, if there is time for it; everything else of the loop has its turn before."""
        self._is_scheduled = False
        self._drop_unwanted()
        if perf_counter_ns() - due_ns >= LATE_NS:
            self._drop_all()
        elif any(map(len, self._requests)):
            self._schedule_if_any()
        elif self._runner.is_idle:
            self._begin()
        elif self._tasks:
            self._schedule_later()

    def _begin(self) -> None:
        """The first task whose unit can be done now; long ones wait for the thread."""
        for waiting in islice(self._tasks, LOOKED_AT):
            if waiting is self._in_thread:
                continue  # its units are done one after the other
            is_long = waiting.task.is_long()
            if is_long and self._in_thread is not None:
                continue
            self._take_unit(waiting)
            if is_long:
                self._begin_in_thread(waiting)
            else:
                self._finish(waiting, *_attempt(waiting.task))
            self._schedule_if_any()
            return  # where all wait for the thread, its end schedules the next turn

    def _take_unit(self, waiting: _Waiting) -> None:
        waiting.left -= 1
        self.waiting -= 1
        if not waiting.left:
            self._tasks.remove(waiting)
            self._n_bytes -= waiting.task.n_bytes

    def _finish(self, waiting: _Waiting, outcome: Any, error: BaseException | None) -> None:
        """Takes in a unit that was done, or what it raised."""
        task = waiting.task
        if error is None:
            is_done = self._has_taken(task, outcome)
        else:
            is_done = False
            self._say(task, error)
        self._count(task.kind, "done" if is_done else "failed", 1)
        if not waiting.left:
            self._end(task)

    def _has_taken(self, task: Task, outcome: Any) -> bool:
        """Whether a task could take in what came of a unit."""
        try:
            task.take(outcome)
        except Exception as error:  # noqa: BLE001  (it costs this unit, and nobody anything else)
            self._say(task, error)
            return False
        return True

    def _end(self, task: Task) -> None:
        try:
            task.end()
        except Exception as error:  # noqa: BLE001  (as above)
            self._say(task, error)

    def _schedule_if_any(self) -> None:
        if self._tasks:
            self._schedule()

    # dropping

    def _drop_unwanted(self) -> None:
        while self._tasks and not self._tasks[0].task.is_wanted():
            self._drop(self._tasks[0])

    def _drop_all(self) -> None:
        while self._tasks:
            self._drop(self._tasks[0])

    def _drop(self, waiting: _Waiting) -> None:
        self._tasks.remove(waiting)
        self.waiting -= waiting.left
        self._n_bytes -= waiting.task.n_bytes
        self._count(waiting.task.kind, "dropped", waiting.left)
        waiting.left = 0
        if self._in_thread is not waiting:  # else its end comes with the unit that goes on
            self._end(waiting.task)

    # the thread for long units

    def _begin_in_thread(self, waiting: _Waiting) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="keelmark-spare", daemon=True)
            self._thread.start()
        self._in_thread = waiting
        self._units.put(waiting.task)

    def _main(self) -> None:
        while (task := self._units.get()) is not None:
            try:
                outcome, error = _attempt(task)
            except BaseException as raised:  # noqa: BLE001  (what no code should catch: it goes on)
                outcome, error = None, raised
            del task  # a thread that waits holds no bundle
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._take_back, outcome, error)
            del outcome, error

    def _take_back(self, outcome: Any, error: BaseException | None) -> None:
        waiting, self._in_thread = self._in_thread, None
        assert waiting is not None
        self._finish(waiting, outcome, error)
        self._schedule_if_any()

    def _say(self, task: Task, error: BaseException) -> None:
        """One line a second."""
        held_back = self._seldom.held_back(task.kind)
        if held_back is not None:
            facts = {"kind": type(error).__name__, "where": where(error), "held_back": held_back}
            _log.error("spare_work_failed", work=task.kind, **facts)


def _attempt(task: Task) -> tuple[Any, BaseException | None]:
    """One unit: what came of it, or what it raised."""
    try:
        return task.do(), None
    except Exception as error:  # noqa: BLE001  (whatever it is, nobody waits for it)
        return None, error


def _nobody_counts(kind: str, result: str, units: int) -> None:
    """Where there are no metrics."""
