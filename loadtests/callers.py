"""The callers, for locust. `loadtests/run.py` starts it with what they send and where.

A *board* asks for flight after flight, as they depart, over one connection; a *desk* for lists of
them; a *station* for the bikes of hour after hour. A *passer-by* opens a new connection for each
call. *Strays* send what is no request. Each answer is compared with what the bundle itself said.
"""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import msgspec
from _calls import Call
from _checks import Counts, counted_by, problem_with
from locust import FastHttpUser, between, events, task

CALLS = [
    msgspec.json.decode(line, type=Call)
    for line in Path(os.environ["LOADTEST_CALLS"]).read_bytes().splitlines()
]
COUNTS = Path(os.environ["LOADTEST_COUNTS"])
DEADLINE_MS = "30000"
"""So patient that nobody is answered by a lower rung for the load alone."""

_counts = Counts()
_ids = itertools.count()


def in_order(caller: str) -> Iterator[Call]:
    """The calls of one kind of caller, one after the other, and from the beginning again."""
    return itertools.cycle([call for call in CALLS if call.caller == caller])


BOARD, DESK, STATION, STRAY = map(in_order, ("board", "desk", "station", "stray"))


class Caller(FastHttpUser):
    """Sends calls and looks at the answers."""

    abstract = True
    connection_timeout = network_timeout = 30.0
    closes = False

    def make(self, call: Call) -> None:
        request_id = f"load-{next(_ids)}"
        headers = {
            "Content-Type": "application/json",
            "Keelmark-Deadline-Ms": DEADLINE_MS,
            **call.headers,
            "X-Request-Id": request_id,
        }
        if self.closes:
            headers["Connection"] = "close"
        name = f"{call.caller}, {call.status}"
        with self.client.post(
            call.path, data=call.body, headers=headers, catch_response=True, name=name
        ) as answer:
            if answer.status_code == 0:
                why = answer.error  # pyright: ignore[reportAttributeAccessIssue]  (locust adds it)
                answer.failure(f"lost: {why}")
                return
            problem = problem_with(call, answer.status_code, answer.content or b"", request_id)
            if problem is None:
                answer.success()
            else:
                answer.failure(f"wrong: {problem}")
            _counts.update(counted_by(call))


class Board(Caller):
    """Keeps its connection, and asks for each flight as it leaves."""

    weight = 4
    wait_time = between(0.005, 0.05)

    @task
    def flight(self) -> None:
        self.make(next(BOARD))


class Desk(Caller):
    """Asks for lists of flights."""

    weight = 2
    wait_time = between(0.05, 0.2)

    @task
    def flights(self) -> None:
        self.make(next(DESK))


class Station(Caller):
    """Asks how many bikes will be rented in each hour."""

    weight = 2
    wait_time = between(0.01, 0.1)

    @task
    def hour(self) -> None:
        self.make(next(STATION))


class PasserBy(Caller):
    """Opens a connection for every call."""

    weight = 1
    closes = True
    wait_time = between(0.02, 0.2)

    @task(4)
    def flight(self) -> None:
        self.make(next(BOARD))

    @task(1)
    def hour(self) -> None:
        self.make(next(STATION))


class Stray(Caller):
    """Sends what is no request for a prediction, over a connection that it keeps."""

    weight = 1
    wait_time = between(0.05, 0.2)

    @task
    def stray(self) -> None:
        self.make(next(STRAY))


@events.test_start.add_listener
def look_at_the_clock(**_: Any) -> None:
    """Reading the calls took a while, which is not to be taken off the time of the run."""
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener
def write_counts(**_: Any) -> None:
    """Leaves what was answered to `run.py`, which compares it with the server's metrics."""
    COUNTS.write_text(json.dumps([[*key, n] for key, n in sorted(_counts.items())]))
