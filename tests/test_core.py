"""The core by itself: what shares a run, what a flush takes, how rows keep to themselves."""

import asyncio
import dataclasses
import json
import resource
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle import Bundle
from models.errors import RequestError
from models.gate import run_gate
from server.asked import Asked, Request
from server.core import Core, by_route
from server.cost import UNMEASURED, curve
from server.iteration import FLUSH_REQUESTS, take
from server.opening import make_route
from server.prediction_ids import PredictionIds
from server.protocols.predict import Answer
from server.regions import read_totals
from server.routes import Route, RouteTable, Unavailable
from server.runtime import InProcessRuntime
from server.settings import Settings
from server.warm_up import warm_up
from tests.tiny import GOOD, NAME, pack_tiny

AGES = (20, 70, None, 999, "old")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = pack_tiny(tmp_path_factory.mktemp("store"))
    return Bundle.open(folder, batch_exact=run_gate(folder).batch_exact)


class Runs:
    """A session that remembers how many rows each run had, and may raise for some."""

    def __init__(self, session: Any, spoilt: Callable[[Any], bool] = lambda _: False) -> None:
        self._session = session
        self._spoilt = spoilt
        self.rows: list[int] = []

    def run(self, rows: Any) -> Any:
        self.rows.append(len(rows))
        if self._spoilt(rows):
            raise RuntimeError("spoilt")
        return self._session.run(rows)


def route_of(bundle: Bundle, **changes: Any) -> tuple[Route, Runs]:
    spoilt = changes.pop("spoilt", lambda _: False)
    runs = Runs(bundle.session, spoilt)
    changed = dataclasses.replace(bundle, session=runs, **changes)
    return make_route(changed, curve({1: 20e-6, 64: 100e-6})), runs


def core_with(*routes: Route) -> Core:
    core = Core(Settings())
    for route in routes:
        core.routes = core.routes.with_route(route)
    return core


def arrive(core: Core, value: Any, answers: list[Answer], **given: Any) -> Asked:
    model = given.pop("model", NAME)
    request = Request(model, json.dumps(value).encode(), perf_counter_ns(), **given)
    return core.arrive(request, answers.append)


def settled(core: Core, *values: Any, **given: Any) -> list[dict[str, Any]]:
    """Bodies of the answers to requests that came in one loop iteration, without ids."""
    answers: list[list[Answer]] = [[] for _ in values]
    core.settle(
        [arrive(core, value, own, **given) for value, own in zip(values, answers, strict=True)]
    )
    bodies = [json.loads(answer.body) for (answer,) in answers]
    for body in bodies:
        body.pop("prediction_id", None)
        body.get("error", body).pop("request_id")
    return bodies


# sharing a run


def test_requests_of_one_iteration_share_a_run(bundle: Bundle):
    route, runs = route_of(bundle)
    settled(core_with(route), GOOD, [GOOD, GOOD], GOOD)
    assert runs.rows == [4]


def test_where_batches_have_other_bits_nothing_is_shared(bundle: Bundle):
    route, runs = route_of(bundle, batch_exact=False)
    settled(core_with(route), GOOD, [GOOD, GOOD], GOOD)
    assert runs.rows == [1, 1, 1, 1]


@given(st.lists(st.one_of(st.sampled_from(AGES), st.lists(st.sampled_from(AGES))), max_size=12))
def test_an_answer_does_not_depend_on_its_company(bundle: Bundle, ages: list[Any]):
    core = core_with(route_of(bundle)[0])
    values = [
        [{**GOOD, "age": one} for one in age] if isinstance(age, list) else {**GOOD, "age": age}
        for age in ages
    ]
    assert settled(core, *values) == [settled(core, value)[0] for value in values]


def test_rows_of_different_models_are_never_mixed(bundle: Bundle):
    other = dataclasses.replace(bundle, manifest=_renamed(bundle, "other"))
    (one, first), (two, second) = route_of(bundle), route_of(other)
    core = core_with(one, two)
    answers: list[Answer] = []
    asked = [arrive(core, GOOD, answers, model=m) for m in (NAME, "other", NAME)]
    core.settle(asked)
    assert (first.rows, second.rows) == ([2], [1])
    models = sorted(json.loads(answer.body)["model"] for answer in answers)
    assert models == ["other", NAME, NAME]


def _renamed(bundle: Bundle, name: str) -> Any:
    from msgspec import structs

    return structs.replace(bundle.manifest, name=name)


def test_a_request_keeps_the_bundle_that_it_picked(bundle: Bundle):
    (old, old_runs), (new, new_runs) = route_of(bundle), route_of(bundle)
    core = core_with(old)
    answers: list[Answer] = []
    asked = arrive(core, GOOD, answers)
    core.routes = core.routes.with_route(new)
    core.settle([asked])
    assert (old_runs.rows, new_runs.rows, len(answers)) == ([1], [], 1)


def test_when_a_shared_run_raises_each_request_is_run_alone(bundle: Bundle):
    ages = bundle.encoder.encode([{**GOOD, "age": 13}]).rows[0, :]
    route, runs = route_of(bundle, spoilt=lambda rows: bool((rows == ages).all(axis=1).any()))
    clean, spoilt, last = settled(core_with(route), GOOD, {**GOOD, "age": 13}, GOOD)
    assert clean == last
    assert clean["served_by"] == "model"
    assert (spoilt["served_by"], spoilt["reasons"]) == ("rules", ["model_error"])
    assert runs.rows == [3, 1, 1, 1]


def test_rejected_rows_are_not_put_to_the_model(bundle: Bundle):
    route, runs = route_of(bundle)
    settled(core_with(route), {**GOOD, "age": None})
    assert runs.rows == []


def test_a_defect_answers_500_and_counts_the_rows_as_failed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    route, _ = route_of(bundle)
    core = core_with(route)

    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("server.core.write_rows", defect)
    (body,) = settled(core, [GOOD, GOOD])
    assert body["error"]["code"] == "internal"
    outcomes = read_totals(route.counter.region).of("outcomes").tolist()
    assert outcomes == [0, 0, 0, 0, 2]


def test_n_rows_in_n_outcomes_counted(bundle: Bundle):
    route, _ = route_of(bundle)
    core = core_with(route)
    settled(core, GOOD, [GOOD, {**GOOD, "age": None}, 17], {**GOOD, "member": "x"}, [])
    settled(core, {**GOOD, "height": 99}, is_strict=True)
    totals = read_totals(route.counter.region)
    assert totals.of("outcomes").tolist() == [2, 0, 1, 3, 0]
    assert int(totals.of("total_buckets").sum()) == 4  # the empty list has no row to stand on


def test_draining_refuses_new_requests(bundle: Bundle):
    core = core_with(route_of(bundle)[0])
    core.is_draining = True
    with pytest.raises(RequestError) as raised:
        arrive(core, GOOD, [])
    assert raised.value.code == "draining"


# what a flush takes


def waiting(bundle: Bundle, sizes: list[int], flush_share: float) -> deque[Asked]:
    route, _ = route_of(bundle)
    cost = dataclasses.replace(route.cost, flush_share=flush_share)
    core = core_with(dataclasses.replace(route, cost=cost))
    return deque(arrive(core, [GOOD] * size, []) for size in sizes)


def test_a_flush_takes_64_requests_at_most(bundle: Bundle):
    queue = waiting(bundle, [1] * 100, 0.0)
    assert (len(take(queue)), len(queue)) == (FLUSH_REQUESTS, 36)


def test_a_flush_takes_what_fits_into_its_time(bundle: Bundle):
    queue = waiting(bundle, [1] * 10, 0.3)
    assert [len(take(queue)) for _ in range(4)] == [3, 3, 3, 1]


def test_a_flush_takes_one_request_however_large(bundle: Bundle):
    queue = waiting(bundle, [50, 1], 0.3)
    assert [len(take(queue)), len(take(queue))] == [1, 1]


def test_the_cost_curve_never_falls():
    cost = curve({1: 30e-6, 2: 20e-6, 4: 40e-6})
    assert cost.seconds == (30e-6, 30e-6, 40e-6)
    assert cost.predict_seconds(3) == pytest.approx(35e-6)
    assert cost.predict_seconds(8) == pytest.approx(80e-6)
    assert cost.predict_seconds(1) == 30e-6


@given(st.integers(1, 10_000))
def test_more_rows_never_cost_less(rows: int):
    cost = curve({1: 20e-6, 8: 25e-6, 64: 90e-6, 256: 300e-6})
    assert cost.predict_seconds(rows) <= cost.predict_seconds(rows + 1)


# routes and ids


def test_the_route_table_is_replaced_whole(bundle: Bundle):
    empty = RouteTable()
    route, _ = route_of(bundle)
    full = empty.with_route(route)
    gone = full.without(Unavailable(NAME, "2", "it is broken"))
    assert (empty.names(), full.names(), gone.names()) == ([], [NAME], [NAME])
    assert full.generation == empty.generation + 1
    assert full.pick(NAME) is route
    with pytest.raises(RequestError, match="it is broken"):
        gone.pick(NAME)


def test_groups_are_by_route(bundle: Bundle):
    core = core_with(route_of(bundle)[0])
    asked = [arrive(core, GOOD, []) for _ in range(3)]
    ((route, group),) = by_route(asked)
    assert (route, group) == (core.routes.live[NAME], asked)


def test_prediction_ids_rise_when_the_clock_does_not(monkeypatch: pytest.MonkeyPatch):
    ids = PredictionIds()
    times = iter([5_000_000, 5_000_000, 4_000_000, 9_000_000])
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    made = [ids.next() for _ in range(4)]
    assert made == sorted(set(made))
    assert len({len(one) for one in made}) == 1


def test_prediction_ids_of_two_processes_differ():
    assert PredictionIds().next().split(b"-")[1] != PredictionIds().next().split(b"-")[1]


def test_a_stray_is_in_no_distribution(bundle: Bundle, tmp_path: Path):
    route, _ = route_of(bundle)
    settled(core_with(route), [17, "x"])
    totals = read_totals(route.counter.region)
    assert not totals.of("quality").any()
    assert not np.any(totals.of("bins"))


# warming up, and what a loop does beside requests


def test_warming_up_runs_one_row_and_a_batch_and_counts_nothing(bundle: Bundle):
    route, runs = route_of(bundle)
    warm_up(route)
    assert 1 in runs.rows
    assert max(runs.rows) > 1
    assert route.counter.pending == 0
    assert read_totals(route.counter.region).rows == 0


def test_after_warming_up_the_ring_has_its_pages(bundle: Bundle):
    route, _ = route_of(bundle)
    warm_up(route)
    memory = route.counter.region.memory
    pages = range(0, len(memory), resource.getpagesize())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for at in pages:
        memory[at] = memory[at]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < len(pages) / 2


def test_a_model_that_raises_on_its_golden_records_is_warmed_up_all_the_same(bundle: Bundle):
    route, runs = route_of(bundle, spoilt=lambda _: True)
    warm_up(route)
    assert runs.rows


def test_a_gate_that_measured_no_runs_gives_a_cost_too():
    cost = curve({})
    assert cost is UNMEASURED
    assert cost.flush_share == 1.0
    assert cost.predict_seconds(4) == 4 * cost.predict_seconds(1) > 0


def test_a_fold_that_raises_is_logged_and_another_comes(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    route, _ = route_of(bundle)
    calls: list[int] = []

    def due(_: Any) -> bool:
        calls.append(1)
        raise RuntimeError("defect")

    monkeypatch.setattr(type(route.counter), "due", due)
    monkeypatch.setattr("server.runtime.FOLD_SECONDS", 0.001)

    async def folding() -> None:
        runtime = InProcessRuntime(Settings())
        runtime.core.routes = runtime.routes.with_route(route)
        runtime._fold(asyncio.get_running_loop())
        await asyncio.sleep(0.05)
        await runtime.stop()

    asyncio.run(folding())
    assert len(calls) > 1
    assert sum("fold_failed" in str(record.msg) for record in caplog.records) == 1
