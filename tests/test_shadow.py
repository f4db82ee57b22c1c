"""Shadows, in one process and with workers alike: compared, counted, and noticed by nobody."""

import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.evidence import Evidence
from models.store import Store
from models.vocabulary import OUTCOMES
from server.regions import Region
from server.runtime import InProcessRuntime
from server.shadow_counters import Shadow, ShadowCounter, read_shadow
from server.supervisor import SupervisorRuntime
from tests.counters import small_layout
from tests.in_thread import post, server_over, until
from tests.swapping import Swapping
from tests.three import NAME, answer_of, pack_three, record, small_model, version_of

pytestmark = pytest.mark.filterwarnings("ignore:fields .* may be missing")
PATH = f"/predict/{NAME}"
RAISES = 3.25
"""A value of `y` that the model of version `raising` cannot take."""
BUSY_SECONDS = 60.0


def raising_model() -> onnx.ModelProto:
    """Version 2's, which looks up a table at a place that it has not where y is `RAISES`."""
    model = small_model(2)
    nodes = [
        helper.make_node("Gather", ["f", "second"], ["y"], axis=1, name="take_y"),
        helper.make_node("Equal", ["y", "bad"], ["is_bad"], name="compare"),
        helper.make_node("Cast", ["is_bad"], ["place"], to=onnx.TensorProto.INT64, name="cast"),
        helper.make_node("Gather", ["table", "place"], ["zero"], axis=0, name="look_up"),
        helper.make_node("Add", ["sum", "zero"], ["value"], name="add"),
    ]
    model.graph.node[0].output[0] = "sum"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "second"),
            numpy_helper.from_array(np.array([2 * RAISES], np.float32), "bad"),
            numpy_helper.from_array(np.zeros(1, np.float32), "table"),
        ]
    )
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 live, one that answers the same, one that does not, and one that raises."""
    store = tmp_path_factory.mktemp("store")
    pack_three(store, 1)
    pack_three(store, 1, version="same")
    pack_three(store, 2)
    pack_three(store, 2, version="raising", model=raising_model())
    Store(store).set_live(NAME, "1", by="the tests")
    return store


class Shadowing(Swapping):
    """A server, and what its shadows have counted since it was last looked at."""

    def spare(self) -> dict[str, float]:
        """Units of shadows by what became of them, up to now."""
        line = 'keelmark_spare_work_total{kind="shadow",result="%s"}'
        return {name: self.client.metric(line % name) for name in ("done", "dropped", "failed")}

    def counted(self, version: str) -> Shadow:
        """What a loaded version has counted, as it lies in memory."""
        runtime = self.client.serving.runtime
        if isinstance(runtime, InProcessRuntime):
            (route,) = (r for r in runtime.routes.loaded if r.bundle.version == version)
            return read_shadow([route.counter.region])
        assert isinstance(runtime, SupervisorRuntime)
        (shared,) = (r for r in runtime.routes.loaded if r.bundle.version == version)
        return read_shadow(shared.regions)

    def send(self, bodies: list[Any], *headers: str, query: str = "") -> int:
        """Requests that version 1 answers; gives their rows."""
        rows = 0
        with self.client.connect() as connection:
            for body in bodies:
                content = json.dumps(body).encode()
                said = connection.ask(post(f"{PATH}{query}", content, *headers)).json
                for row in said.get("predictions", [said]):
                    rows += 1
                    assert row["served_by"] == "model"
                assert said["version"] == "1"
        return rows


@pytest.fixture(scope="module")
def running(packed: Path, state: Path, workers: int) -> Generator[Shadowing]:
    with server_over(packed, state, workers=workers, deadline_ms=60_000) as client:
        yield Shadowing(client, state, NAME)


@pytest.fixture
def server(running: Shadowing) -> Generator[Shadowing]:
    yield running
    running.clear()


def settled(server: Shadowing, before: dict[str, float], offered: int) -> dict[str, float]:
    """What became of the units that were offered, once all of them are counted: to the unit."""

    def is_so() -> bool:
        return sum(server.spare().values()) >= sum(before.values()) + offered

    assert until(is_so, BUSY_SECONDS), server.spare()
    now = server.spare()
    became = {name: now[name] - before[name] for name in now}
    assert sum(became.values()) == offered
    return became


BODIES = [record(y) for y in (0, 1, 2, 3)] * 5 + [[record(1), record(2), record(4)]] * 4


def shadowed(server: Shadowing, least: int) -> int:
    """Sends until so many rows were compared on a machine that may be busy; gives how many."""
    done = 0
    end = time.monotonic() + BUSY_SECONDS
    while done < least:
        assert time.monotonic() < end
        before = server.spare()
        became = settled(server, before, server.send(BODIES))
        assert became["failed"] == 0
        done += int(became["done"])
    return done


def test_what_differs_is_counted_and_callers_hear_nothing(server: Shadowing):
    server.do("load", version="2")
    rows = f'keelmark_predictions_total{{model="{NAME}",version="%s",outcome="model"}}'
    before = [server.client.metric(rows % n) for n in (1, 2)]
    server.do("shadow", version="2", share=1)
    done = shadowed(server, 100)
    candidate, live = server.counted("2"), server.counted("1")
    assert (candidate.compared, candidate.changed) == (done, done)
    assert sum(candidate.outcomes) == sum(live.outcomes) == done
    assert candidate.arm.outcomes[OUTCOMES.index("model")] == done
    after = [server.client.metric(rows % n) for n in (1, 2)]
    assert after[1] == before[1]
    assert after[0] >= before[0] + done
    # Of a value in standard deviations of training: about a thousand over some hundreds.
    assert candidate.differences[-1] + candidate.differences[-2] == done
    assert candidate.difference > done
    server.do("shadow", version="2", share=0)
    before_spare = server.spare()
    assert server.send(BODIES) == 32
    server.do("shadow", version="2", share=1)
    became = settled(server, before_spare, server.send([record()]))  # and nothing of the others
    assert server.counted("2").compared == done + became["done"]


def test_what_is_the_same_is_the_same(server: Shadowing):
    server.do("load", version="same")
    own = f'model="{NAME}",version="same"'
    lines = (
        f'keelmark_shadow_compared_total{{{own},result="same"}}',
        f'keelmark_shadow_rows_total{{{own},outcome="model"}}',
        f'keelmark_shadow_difference_bucket{{{own},le="0.0"}}',
        f"keelmark_shadow_run_duration_seconds_count{{{own}}}",
        f'keelmark_shadow_compared_total{{{own},result="changed"}}',
    )
    before = [server.client.metric(line) for line in lines]
    server.do("shadow", version="same", share=1)
    done = shadowed(server, 100)
    candidate = server.counted("same")
    assert (candidate.compared, candidate.changed, candidate.difference) == (done, 0, 0)
    assert candidate.differences[0] == done
    after = [server.client.metric(line) for line in lines]
    added = [b - a for a, b in zip(before, after, strict=True)]
    assert added == [done, done, done, done, 0]
    assert server.client.metric(f"keelmark_shadow_share_ratio{{{own}}}") == 1
    assert server.client.metric(f"keelmark_canary_share_ratio{{{own}}}") == 0


def test_both_sides_are_evidence_of_the_same_rows(server: Shadowing):
    """Requests, squares, runs and bins of outputs, each of all that was compared."""
    server.do("load", version="same")
    server.do("shadow", version="same", share=1)
    zero = server.counted("1")
    shadowed(server, 100)
    candidate, live = server.counted("same"), server.counted("1")
    evidence = Evidence(
        candidate=candidate.arm,
        live=live.arm,
        compared=candidate.compared,
        changed=candidate.changed,
    )
    arm = evidence.candidate
    assert arm.rows == evidence.compared == evidence.live.rows - zero.arm.rows
    assert 0 < arm.requests < arm.rows <= arm.squares < 9 * arm.requests
    assert evidence.live.requests - zero.arm.requests == arm.requests
    assert sum(arm.latency) == arm.rows
    assert sum(evidence.live.latency) - sum(zero.arm.latency) == arm.rows
    assert sum(arm.outputs["value"]) == arm.rows
    assert arm.outputs["value"] == tuple(
        a - b
        for a, b in zip(evidence.live.outputs["value"], zero.arm.outputs["value"], strict=True)
    )
    assert arm.faults == 0


def test_a_candidate_that_raises_costs_nobody_anything(server: Shadowing):
    """Its ladder answers, its faults are counted; its breaker is for those who wait for answers."""
    server.do("load", version="raising")
    server.do("shadow", version="raising", share=1)
    before, end = server.spare(), time.monotonic() + BUSY_SECONDS
    sent = 0
    while server.counted("raising").arm.faults < 30:
        assert time.monotonic() < end
        sent += server.send([{"x": 1.0, "y": RAISES}] * 10)
        settled(server, before, sent)
    became = settled(server, before, sent)
    candidate = server.counted("raising").arm
    assert candidate.faults == candidate.outcomes[OUTCOMES.index("rules")] == became["done"]
    assert (became["failed"], sum(candidate.latency)) == (0, 0)
    assert server.counted("raising").changed == became["done"]
    assert server.status()["second"]["breaker"] == "closed"
    answer = server.predict({"x": 1.0, "y": RAISES}, "?version=raising").json
    assert answer["reasons"] == ["model_error"]


def test_who_names_a_version_and_who_asks_the_canary_is_not_copied(server: Shadowing):
    server.do("load", version="2")
    server.do("shadow", version="2", share=1)
    before = server.spare()
    server.send([record()] * 10, query="?version=1")
    server.do("canary", version="2", share=1)
    for _ in range(10):
        assert version_of(server.predict(record()).json["prediction"]) == 2
    assert server.spare() == before
    server.do("canary", version="2", share=0)
    settled(server, before, server.send([record()] * 10))


def test_a_share_of_the_requests_is_copied(server: Shadowing):
    server.do("load", version="same")
    server.do("shadow", version="same", share=0.2)
    before = server.spare()
    sent = server.send([record()] * 400)
    server.do("shadow", version="same", share=0)
    assert sent == 400

    def copied() -> float:
        return sum(server.spare().values()) - sum(before.values())

    assert until(lambda: copied() >= 40, BUSY_SECONDS), copied()  # 80, and five standard deviations
    assert copied() <= 130


def test_the_end_of_a_shadow_gives_the_memory_of_its_candidate_back(server: Shadowing):
    """Nothing that waits holds the bundle, also where it is unloaded right after requests."""
    server.do("load", version="2")
    server.do("shadow", version="2", share=1)
    for _ in range(3):
        server.send(BODIES)
    assert server.do("unload", version="2")["released"]
    assert server.predict(record()).json["prediction"] == answer_of(1)


def test_a_candidate_that_is_loaded_again_counts_on(server: Shadowing):
    line = f'keelmark_shadow_rows_total{{model="{NAME}",version="same",outcome="model"}}'
    server.do("load", version="same")
    before = server.client.metric(line)
    server.do("shadow", version="same", share=1)
    done = shadowed(server, 30)
    server.do("unload", version="same")
    assert server.client.metric(line) == before + done
    server.do("load", version="same")
    assert server.client.metric(line) == before + done


# how it is counted


def test_a_shadow_is_counted_in_words_that_add_up():
    layout = small_layout()
    regions = [Region.anonymous(layout) for _ in range(2)]
    one, other = map(ShadowCounter, regions)
    model, rules = OUTCOMES.index("model"), OUTCOMES.index("rules")
    one.row(model, is_fault=False, outputs=[0.3])
    one.row(rules, is_fault=True, outputs=None)
    other.row(model, is_fault=False, outputs=[0.75])
    other.row(model, is_fault=False, outputs=[float("nan")])
    one.run(30_000)
    other.run(3_000_000_000)
    one.request(2)
    other.request(1)
    other.request(1)
    one.compared(is_changed=True, difference=0.25)
    one.compared(is_changed=False, difference=None)
    other.compared(is_changed=False, difference=9.0)
    found = read_shadow(regions)
    assert (found.compared, found.changed, found.difference) == (3, 1, 9.25)
    assert found.outcomes == tuple({"model": 3, "rules": 1}.get(name, 0) for name in OUTCOMES)
    arm = found.arm
    assert (arm.requests, arm.squares, arm.faults) == (3, 6, 1)
    assert arm.outputs == {"probability": (0, 1, 1)}
    assert (sum(arm.latency), arm.latency[-1], arm.bounds) == (2, 1, layout.total_bounds)
    assert arm.latency[arm.bounds.index(5e-05)] == 1
    assert found.run_ns == 3_000_030_000
    assert sum(found.differences) == 2
    assert found.differences[-1] == 1
    assert (found + found).words == tuple(2 * word for word in found.words)
