"""Twice as many requests as the server can run: open loops over real sockets, from outside.

Who was answered by whom, and that nothing was lost or left over. How quickly is looked at by the
trials of `test_overload_trials.py`.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from features.runtime import Session
from server.cost import RunCost, curve
from server.pace import Pace
from server.settings import SHIPPED_STORE
from tests.in_thread import Client, server_over, until
from tests.memory import Memory
from tests.open_loop import Sent, open_loop
from tests.tiny import GOOD, NAME

LABELS: Final = f'model="{NAME}",version="1"'
TOO_MANY: Final = 5
"""Times its capacity that a model is asked in the short ones: what is measured on a busy machine
may be half of what it can do a moment later. Its runs take so long that HTTP can take as many."""
GOLDEN: Final = json.loads((SHIPPED_STORE / "flights" / "1" / "golden.json").read_text("utf-8"))
FLIGHT: Final = next(r["record"] for r in GOLDEN["rows"] if r["name"].startswith("sample"))


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server_over(store, tmp_path_factory.mktemp("state")) as client:
        yield client


class Heavy:
    """The model's real session, and before it one that has to multiply large matrices.

    Many rows at once for each row of a request: a batch gains little, as with trees.
    """

    def __init__(self, session: Any, rows: int, width: int) -> None:
        self._session = session
        self._matrix = np.random.default_rng(0).normal(0, 1, (rows, width)).astype(np.float32)
        self._product = Session(product(width))

    def run(self, rows: Any) -> Any:
        for _ in range(len(rows)):
            self._product.run(self._matrix)
        return self._session.run(rows)


def product(width: int) -> bytes:
    """A model that multiplies with a square matrix."""
    weights = numpy_helper.from_array(np.ones((width, width), np.float32), "w")
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, [None, width])],
        [helper.make_tensor_value_info("y", kind, [None, width])],
        [weights],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def measured(session: Any, n_fields: int) -> RunCost:
    """The curve of its runs, here and now."""
    seconds: dict[int, float] = {}
    for size in (1, 2, 4, 8):
        rows = np.ones((size, n_fields))
        taken: list[float] = []
        for _ in range(5):
            began = time.perf_counter()
            session.run(rows)
            taken.append(time.perf_counter() - began)
        seconds[size] = sorted(taken)[2]
    return curve(seconds)


@contextlib.contextmanager
def heavy(server: Client, *, below_seconds: float = 10e-6) -> Generator[float]:
    """The server while its model has to work; gives the rows a second that it can run."""
    core = server.core
    before = core.routes.live[NAME]
    session = Heavy(before.bundle.session, rows=1_000, width=512)
    cost = measured(session, len(before.bundle.fields))
    bundle = dataclasses.replace(before.bundle, session=session)
    changes: dict[str, Any] = {"cost": cost, "below": curve({1: below_seconds}), "pace": Pace()}
    route = dataclasses.replace(before, bundle=bundle, **changes)
    server.call(setattr, core, "routes", core.routes.with_route(route))
    most = cost.rows[-1]
    try:
        yield most / cost.predict_seconds(most)
    finally:
        assert until(lambda: core.runner is not None and core.runner.is_idle)
        server.call(setattr, core, "routes", core.routes.with_route(before))


def outcome(server: Client, word: str) -> float:
    return server.metric(f'keelmark_predictions_total{{{LABELS},outcome="{word}"}}')


def overloaded(
    server: Client, rate: float, seconds: float, connections: int, deadline_ms: int
) -> list[Sent]:
    return open_loop(
        server.port, rate=rate, seconds=seconds, deadline_ms=deadline_ms, connections=connections
    )


def for_a_third(connections: int, capacity: float) -> int:
    """A deadline within which a third of the connections can be answered, however fast it is."""
    return max(5, round(1_000 * connections / capacity / 3))


def recovers(server: Client) -> None:
    """Some time after, the model answers again."""
    time.sleep(0.5)
    for _ in range(10):
        assert server.predict(GOOD, "Keelmark-Deadline-Ms: 5000").json["served_by"] == "model"


# a model whose run is nearly all that a request costs


def test_what_the_model_cannot_run_lower_rungs_answer_and_nothing_is_lost(server: Client):
    before = outcome(server, "model"), outcome(server, "rules")
    with heavy(server) as capacity, Memory(os.getpid()) as memory:
        deadline_ms = for_a_third(64, capacity)
        sent = overloaded(server, TOO_MANY * capacity, 2, 64, deadline_ms)
        recovers(server)
    assert len(sent) == int(TOO_MANY * capacity * 2)
    assert {one.status for one in sent} == {200}
    by_model = sum(one.served_by == "model" for one in sent)
    assert outcome(server, "model") - before[0] == by_model + 10
    assert outcome(server, "rules") - before[1] == len(sent) - by_model
    assert len(sent) / 100 < by_model < len(sent) * 0.9
    assert memory.growth_mib < 100
    assert server.metric(f"keelmark_queue_depth{{{LABELS}}}") == 0


def test_what_nobody_can_answer_in_time_is_refused_with_a_time_to_come_again(server: Client):
    failed = outcome(server, "failed")
    with heavy(server, below_seconds=1.0) as capacity:
        deadline_ms = for_a_third(64, capacity)
        sent = overloaded(server, TOO_MANY * capacity, 2, 64, deadline_ms)
        recovers(server)
    assert len(sent) == int(TOO_MANY * capacity * 2)
    refused = [one for one in sent if one.status != 200]
    assert {one.served_by for one in sent if one.status == 200} == {"model"}
    assert {one.reason for one in refused} <= {"overloaded", "deadline"}
    assert any(one.reason == "overloaded" for one in refused)
    assert outcome(server, "failed") == failed + len(refused)


# a model so cheap that HTTP is what there is too much of


def test_more_requests_than_http_can_take_are_all_answered(tmp_path: Path):
    with server_over(SHIPPED_STORE, tmp_path) as server, Memory(os.getpid()) as memory:
        sent = open_loop(
            server.port,
            rate=20_000,
            seconds=0.5,
            deadline_ms=10_000,
            connections=64,
            model="flights",
            value=FLIGHT,
        )
        assert len(sent) == 10_000
        assert {one.status for one in sent} == {200}
        family = "keelmark_request_duration_seconds_count"
        assert server.metric(f'{family}{{model="flights",version="1"}}') == len(sent)
    assert memory.growth_mib < 100
