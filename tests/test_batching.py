"""Requests that share runs in the thread: the real core, runner and onnxruntime, on a loop."""

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from models.bundle import Bundle
from models.gate import GateReport, run_gate
from models.vocabulary import OUTCOMES
from server.asked import Asked, Request
from server.core import Core
from server.cost import curve
from server.opening import make_route
from server.protocols.predict import Answer
from server.regions import read_totals
from server.settings import Settings
from server.standing import read_standing
from tests.in_thread import server_over
from tests.operating import events
from tests.tiny import GOOD, NAME

CURVE = {1: 2e-3, 2: 2.1e-3, 4: 2.3e-3, 8: 2.7e-3, 16: 3.5e-3}
"""Sixteen rows in a run cost little more than one: what a network with large layers does."""
HOUR_NS = 3_600_000_000_000
MS = 1_000_000


@pytest.fixture(scope="module")
def bundle(store: Path) -> Bundle:
    return Bundle.open(store / NAME / "1", batch_exact=True)


class Held:
    """The real session, each of whose runs waits to be let go, and may raise."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._free = threading.Semaphore(0)
        self.spoilt: Callable[[Any], bool] = lambda _: False
        self.rows: list[int] = []

    def run(self, rows: Any) -> Any:
        self.rows.append(len(rows))
        assert self._free.acquire(timeout=20)
        if self.spoilt(rows):
            raise RuntimeError("spoilt")
        return self._session.run(rows)

    def let_go(self, runs: int = 1_000) -> None:
        self._free.release(runs)


class Trial:
    """A core with its thread."""

    def __init__(self, bundle: Bundle, changes: dict[str, Any], given: dict[str, Any]) -> None:
        self.session = Held(bundle.session)
        held = dataclasses.replace(bundle, session=self.session, **changes)
        route = make_route(held, curve(CURVE))
        self.route = dataclasses.replace(route, deadline_ns=HOUR_NS, below=curve({1: 10e-6}))
        self.core = Core(Settings(**given))
        self.core.routes = self.core.routes.with_route(self.route)
        self.answers: list[list[Answer]] = []

    def change(self, **changes: Any) -> None:
        """Changes the route."""
        self.route = dataclasses.replace(self.route, **changes)
        self.core.routes = self.core.routes.with_route(self.route)

    def ask(self, value: Any, **given: Any) -> Asked:
        """One request in an iteration of its own."""
        own: list[Answer] = []
        self.answers.append(own)
        request = Request(NAME, json.dumps(value).encode(), perf_counter_ns(), **given)
        asked = self.core.arrive(request, own.append)
        self.core.settle([asked])
        return asked

    async def hold(self) -> None:
        """A request whose run goes on until it is let go."""
        before = len(self.session.rows)
        self.ask(GOOD)
        await self.until(lambda: len(self.session.rows) > before)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  (many things are waited for here)
                await asyncio.sleep(0.001)

    async def until_answered(self) -> None:
        await self.until(lambda: all(self.answers))

    @property
    def bodies(self) -> list[Any]:
        """Of the answers, in the order of the requests; each has exactly one."""
        return [json.loads(answer.body) for (answer,) in self.answers]

    @property
    def outcomes(self) -> dict[str, int]:
        """Rows by outcome, as the metrics have them."""
        self.route.counter.fold()
        counts = read_totals(self.route.counter.region).of("outcomes").tolist()
        return {word: n for word, n in zip(OUTCOMES, counts, strict=True) if n}

    @property
    def standing(self) -> Any:
        return read_standing([self.route.counter.region])


def in_trial(
    bundle: Bundle,
    test: Callable[[Trial], Awaitable[None]],
    given: dict[str, Any] | None = None,
    **changes: Any,
) -> Trial:
    """Runs a test on a loop; afterwards every run is let go and every request answered."""
    trial = Trial(bundle, changes, given or {})

    async def run() -> None:
        trial.core.start_runner()
        await test(trial)
        trial.session.let_go()
        await trial.until_answered()
        runner = trial.core.runner
        assert runner is not None
        await trial.until(lambda: runner.is_idle)
        assert await runner.stop()

    asyncio.run(run())
    return trial


def alone(bundle: Bundle, values: Sequence[Any], **given: Any) -> list[Any]:
    """What each request is answered that has a run of its own."""

    async def test(trial: Trial) -> None:
        trial.session.let_go()
        for value in values:
            trial.ask(value, **given)

    return [told(body) for body in in_trial(bundle, test, batch_exact=False).bodies]


def told(body: Any) -> Any:
    """An answer without what is its own: ids."""
    body = dict(body)
    body.pop("prediction_id", None)
    inner = body.get("error", body)
    inner.pop("request_id", None)
    return body


def test_what_gathers_during_a_run_shares_the_next_and_gets_the_answers_of_single_runs(
    bundle: Bundle,
):
    records = [{**GOOD, "age": age, "height": 1.4 + age / 100} for age in range(20, 45)]

    async def test(trial: Trial) -> None:
        await trial.hold()
        for record in records:
            trial.ask(record)

    trial = in_trial(bundle, test)
    assert trial.session.rows == [1, 16, 9]
    assert [told(body) for body in trial.bodies[1:]] == alone(bundle, records)
    assert trial.outcomes == {"model": 26}
    assert trial.standing.batches[:6] == (1, 0, 0, 0, 2, 0)
    assert trial.standing.batch_rows == 26


def test_odd_requests_share_a_run_and_keep_their_rows(bundle: Bundle):
    """Lists, strays, repaired and rejected rows beside each other: each gets what is its own."""
    values = [
        [GOOD, {**GOOD, "age": None}, 17],
        {**GOOD, "height": None},
        {**GOOD, "age": 999},
        [{**GOOD, "member": "x"}, {**GOOD, "age": 70}],
        {**GOOD, "surplus": 1},
    ]

    async def test(trial: Trial) -> None:
        await trial.hold()
        for value in values:
            trial.ask(value)

    trial = in_trial(bundle, test)
    assert len(trial.session.rows) == 2
    expected = alone(bundle, values)
    assert [_rows(body) for body in trial.bodies[1:]] == [_rows(body) for body in expected]
    assert trial.outcomes == {"model": 5, "rules": 1, "rejected": 3}


def _rows(body: Any) -> Any:
    body = told(body)
    return body.get("predictions", body)


def test_strict_requests_are_strict_in_company(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.ask({**GOOD, "height": 9}, is_strict=True)
        trial.ask({**GOOD, "height": 9})

    bodies = in_trial(bundle, test).bodies
    assert bodies[1]["error"]["code"] == "strict"
    assert bodies[2]["repaired"] == {"height": "out_of_bounds"}


def test_where_batches_have_other_bits_each_has_its_own_run(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        for _ in range(3):
            trial.ask(GOOD)

    trial = in_trial(bundle, test, batch_exact=False)
    assert trial.session.rows == [1] * 4
    assert trial.standing.batches[0] == 4


def test_the_setting_turns_it_off(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        for _ in range(3):
            trial.ask(GOOD)

    assert in_trial(bundle, test, {"max_batch": 1}).session.rows == [1] * 4


def test_a_request_alone_waits_for_nobody(bundle: Bundle):
    async def test(trial: Trial) -> None:
        trial.session.let_go()
        for _ in range(5):
            trial.ask(GOOD)
            await trial.until_answered()

    assert in_trial(bundle, test).session.rows == [1] * 5


def test_the_next_run_begins_before_the_last_is_answered(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.ask(GOOD)
        trial.session.let_go(1)
        end = time.monotonic() + 20
        while len(trial.session.rows) < 2 and time.monotonic() < end:
            time.sleep(0.001)  # noqa: ASYNC251  (the loop is held up on purpose)
        assert trial.session.rows == [1, 1]
        assert trial.answers == [[], []]

    in_trial(bundle, test)


def test_where_one_of_a_run_is_overdue_the_others_have_the_model(bundle: Bundle):
    async def test(trial: Trial) -> None:
        trial.change(cost=curve({**CURVE, 1: 1e-3}))
        await trial.hold()
        trial.ask([GOOD, GOOD], deadline_ns=500 * MS)
        trial.ask({**GOOD, "age": 30})
        trial.ask({**GOOD, "member": "x"})
        trial.session.let_go(1)
        await trial.until(lambda: trial.session.rows == [1, 4])
        await trial.until(lambda: bool(trial.answers[1]))
        assert (trial.standing.abandoned, trial.standing.abandoned_active) == (1, 1)
        assert trial.answers[2:] == [[], []]

    trial = in_trial(bundle, test)
    late, on_time, by_policy = trial.bodies[1:]
    assert [item["reasons"] for item in late["predictions"]] == [["deadline"]] * 2
    assert told(on_time) == alone(bundle, [{**GOOD, "age": 30}])[0]
    assert by_policy["reasons"] == ["member:invalid"]
    assert trial.outcomes == {"model": 2, "rules": 3}
    assert trial.standing.abandoned_active == 0


def test_when_a_shared_run_raises_only_who_breaks_it_falls(bundle: Bundle):
    place = [field.name for field in bundle.fields].index("age")

    async def test(trial: Trial) -> None:
        trial.session.spoilt = lambda rows: bool(np.any(rows[:, place] == 77))
        await trial.hold()
        for age in (20, 77, 30):
            trial.ask({**GOOD, "age": age})

    trial = in_trial(bundle, test)
    assert trial.session.rows == [1, 3, 1, 1, 1]
    served = [body["served_by"] for body in trial.bodies]
    assert served == ["model", "model", "rules", "model"]
    assert trial.bodies[2]["reasons"] == ["model_error"]
    assert trial.outcomes == {"model": 3, "rules": 1}


def test_a_run_that_would_end_too_late_is_not_begun_and_answered_from_below(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.ask(GOOD, deadline_ns=30_000 * MS)
        # It has become so slow meanwhile that there is no hope any more.
        waiting = trial.core.runner._waiting  # pyright: ignore[reportOptionalMemberAccess]
        next(iter(waiting._lines.values())).jobs[0].predicted_ns = 40_000.0 * MS

    trial = in_trial(bundle, test)
    assert trial.session.rows == [1]
    assert trial.bodies[1]["reasons"] == ["deadline"]
    assert trial.standing.abandoned == 0


def test_a_queue_with_too_many_rows_or_bytes_is_full(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        trial.ask([GOOD] * 9)
        trial.ask([GOOD] * 2)
        trial.ask(GOOD)

    for given_ in {"queue_rows": 11}, {"queue_bytes": 23 * len(json.dumps(GOOD)) // 2}:
        trial = in_trial(bundle, test, given_)
        items = trial.bodies[2]["predictions"]
        assert [item["reasons"] for item in items] == [["overload"]] * 2, given_
        assert trial.bodies[3].get("served_by") == "model"


def test_a_wait_that_is_too_long_is_overload_and_a_run_that_is_too_long_is_not(bundle: Bundle):
    """Where lower rungs cost too much to relieve anybody."""

    async def test(trial: Trial) -> None:
        trial.change(below=curve({1: 1.5e-3}))
        trial.ask(GOOD, deadline_ns=1 * MS)
        await trial.hold()
        await asyncio.sleep(0.2)  # it is expected to take as long again
        trial.ask(GOOD, deadline_ns=100 * MS)

    trial = in_trial(bundle, test)
    first, _, last = (answer for (answer,) in trial.answers)
    assert (first.status, first.code) == (504, "deadline")
    assert (last.status, last.code) == (503, "overloaded")
    assert (b"retry-after", b"1") in last.headers
    assert trial.session.rows == [1]


def test_stopping_runs_what_waits(bundle: Bundle):
    async def test(trial: Trial) -> None:
        await trial.hold()
        for _ in range(20):
            trial.ask(GOOD)
        trial.session.let_go()
        runner = trial.core.runner
        assert runner is not None
        assert await runner.stop()
        assert all(trial.answers)

    trial = in_trial(bundle, test)
    assert trial.outcomes == {"model": 21}


@settings(max_examples=25)
@given(st.data())
def test_every_request_is_answered_once_and_every_row_counted(bundle: Bundle, data: Any):
    """Whatever their sizes and deadlines, and whatever raises or takes its time."""
    sizes = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=20))
    urgent = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    spoils = data.draw(st.sampled_from([0, 3, 16]))
    pause = data.draw(st.sampled_from([0.0, 0.03]))

    async def test(trial: Trial) -> None:
        trial.session.spoilt = lambda rows: len(rows) == spoils
        await trial.hold()
        for size, is_urgent in zip(sizes, urgent, strict=True):
            trial.ask([GOOD] * size, deadline_ns=25 * MS if is_urgent else HOUR_NS)
        trial.session.let_go(2)
        await asyncio.sleep(pause)

    trial = in_trial(bundle, test)
    rows = [len(body["predictions"]) for body in trial.bodies[1:] if "predictions" in body]
    assert rows == [
        size for size, body in zip(sizes, trial.bodies[1:], strict=True) if "predictions" in body
    ]
    assert sum(trial.outcomes.values()) == 1 + sum(sizes)
    assert (trial.standing.abandoned_active, trial.standing.queued) == (0, 0)


# where there is none


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_bundle_that_has_other_bits_in_batches_here_is_told_of(
    store: Path, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_exact: bool
):
    def examined(*given: Any, **more: Any) -> GateReport:
        return structs.replace(run_gate(*given, **more), batch_exact=is_exact)

    monkeypatch.setattr("server.opening.run_gate", examined)
    with server_over(store, tmp_path, workers=workers) as client:
        assert client.predict([GOOD] * 3).status == 200
        limit = client.metric(f'keelmark_batch_rows_limit{{model="{NAME}",version="1"}}')
        assert (limit > 1) is is_exact
    told = [(event.model, event.facts) for event in events(tmp_path, "batching_off")]
    assert told == ([] if is_exact else [(NAME, {"version": "1"})])
