"""The timed self-test: what it finds where memory is spoilt under a server, and what follows."""

import asyncio
import contextlib
import dataclasses
import sys
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from msgspec import structs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.gate import run_gate
from models.store import Store
from server.cli import main
from server.cost import curve
from server.findings import Finding, Findings
from server.opening import make_route
from server.routes import Route
from server.selftest import SelfTest, found
from server.spare_work import Task
from server.standing import Standing, read_standing
from tests.in_thread import Asker, Response, post, server_over
from tests.memory import exchange, places_of
from tests.operating import Since, ask, bearer
from tests.packed import edited, full_bundle, rewritten
from tests.serving import serving
from tests.three import NAME, pack_three
from tests.workers import wait_until as wait

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc"),
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
]

GOLDEN_ROWS = 10
MARKS = (10007, 20011, 30011, 40009, 50021, 60013, 70001, 80021)
"""Weights that nothing else in memory looks like; with those that take them back they sum to 1."""


def weights(*, are_spoilt: bool = False) -> NDArray[np.float32]:
    """Made anew each time: an array that is kept would be found in memory and spoilt too."""
    found = [*MARKS, *(-mark for mark in MARKS[:-1]), 1 - MARKS[-1]]
    found[3] += 2 * are_spoilt
    return np.array(found, np.float32)


def marked_model() -> onnx.ModelProto:
    """Version 1 of the small model, with weights that can be found in memory."""
    constants = [
        numpy_helper.from_array(weights().reshape(1, -1), "marks"),
        numpy_helper.from_array(np.array([[1.0], [0.0]], np.float32), "first"),
        numpy_helper.from_array(np.array([[0.0], [100.0]], np.float32), "second"),
        numpy_helper.from_array(np.array([1000.0], np.float32), "b"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    nodes = [
        helper.make_node("MatMul", ["f", "first"], ["x"], name="x"),
        helper.make_node("Mul", ["x", "marks"], ["many"], name="many"),
        helper.make_node("ReduceSum", ["many", "axis"], ["one"], name="one", keepdims=1),
        helper.make_node("Gemm", ["f", "second", "b"], ["rest"], name="rest"),
        helper.make_node("Add", ["one", "rest"], ["value"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "marked",
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def keep_few_rows(golden: Any) -> None:
    """So that a round is short."""
    golden["rows"] = golden["rows"][:GOLDEN_ROWS]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model whose weights can be found in memory."""
    store = tmp_path_factory.mktemp("store")
    for version in ("1", "1b"):
        folder = pack_three(store, 1, version=version, model=marked_model())
        rewritten(folder, "golden.json", edited(keep_few_rows))
    Store(store).set_live(NAME, "1", by="the tests")
    return store


def wait_until(is_so: Callable[[], bool]) -> None:
    """Looks seldom: who asks all the time leaves a server in the same process none to spare."""
    wait(is_so, pause=0.2)


class Watched:
    """A server whose self-test is quick, and short ways to ask it."""

    def __init__(self, client: Asker, state: Path, pid: int = 0) -> None:
        self.client = client
        self.state = state
        self._pid = pid
        self._operator = bearer(state, "operator")

    def ask(self, path: str, body: Any = None) -> Response:
        return ask(self.client, path, body, authorization=self._operator)

    def do(self, call: str, **body: Any) -> Any:
        """A call that is not refused."""
        answer = self.ask(f"/models/{NAME}/{call}", body)
        assert answer.status == 200, answer.body
        return answer.json

    def answers(self, *headers: str) -> list[Response]:
        """Over connections that are open at once, and so dealt to all workers."""
        request = post(f"/predict/{NAME}", b'{"x": 5.0, "y": 1.0}', *headers)
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(self.client.connect()) for _ in range(8)]
            return [connection.ask(request) for connection in opened]

    def status(self) -> Any:
        return self.ask("/status").json

    def pids(self) -> list[int]:
        """Of the processes that have the bundles open, by slot."""
        return [worker["pid"] for worker in self.status()["workers"]] or [self._pid]

    def metric(self, name: str, version: str = "1", more: str = "") -> float:
        return self.client.metric(f'{name}{{model="{NAME}",version="{version}"{more}}}')

    def rounds(self, count: int) -> Callable[[], bool]:
        """Whether every process has replayed this many rounds of version 1 since now."""
        same = self.metric("keelmark_golden_rows_total", more=',result="same"')
        more = count * GOLDEN_ROWS * len(self.pids())
        name = "keelmark_golden_rows_total"
        return lambda: self.metric(name, more=',result="same"') >= same + more

    def served_by(self) -> set[tuple[str, str]]:
        """Who answers in all workers, and why."""
        found = [answer.json for answer in self.answers()]
        return {(each["served_by"], ",".join(each.get("reasons", ()))) for each in found}


@pytest.fixture(scope="module")
def server(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, workers: int
) -> Generator[Watched]:
    """In processes of its own: other tests leave the same weights in the memory of this one."""
    folder = tmp_path_factory.mktemp("server")
    settings = ["--selftest-seconds", "0.2", "--deadline-ms", "60000", "--workers", f"{workers}"]
    with serving(packed, folder, *settings) as running:
        client = Asker(running.port, running.ops_port)
        yield Watched(client, folder / "state", running.process.pid)


class Spoiling:
    """The weights of version 1 in the memory of one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._places = places_of(pid, weights().tobytes())

    def __enter__(self) -> Self:
        good, bad = weights().tobytes(), weights(are_spoilt=True).tobytes()
        assert exchange(self._pid, self._places, good, bad), "the weights are not in memory"
        return self

    def __exit__(self, *_: object) -> None:
        good, bad = weights().tobytes(), weights(are_spoilt=True).tobytes()
        with contextlib.suppress(FileNotFoundError):  # the process has ended
            exchange(self._pid, self._places, bad, good)


# what happens under a server


def test_golden_rows_are_replayed_and_counted_as_no_predictions(server: Watched):
    wait_until(lambda: server.metric("keelmark_golden_passed_timestamp_seconds") > 0)
    assert server.metric("keelmark_golden_rows_total", more=',result="same"') > 0
    assert server.metric("keelmark_golden_rows_total", more=',result="different"') == 0
    assert server.metric("keelmark_golden_failing") == 0
    before = server.metric("keelmark_predictions_total", more=',outcome="model"')
    wait_until(server.rounds(1))
    assert server.metric("keelmark_predictions_total", more=',outcome="model"') == before


def test_spoilt_memory_is_found_and_lower_rungs_answer_until_it_is_good_again(
    server: Watched, workers: int
):
    since, pid = Since(server.state), server.pids()[0]
    with Spoiling(pid):
        wait_until(lambda: server.metric("keelmark_golden_failing") == 1)
        others = {("model", "")} if workers > 1 else set[tuple[str, str]]()
        assert server.served_by() == {("rules", "selftest")} | others
        strict = {answer.status for answer in server.answers("Keelmark-Strict: 1")}
        assert strict == ({200, 503} if workers > 1 else {503})
        ready = server.client.ops("/health/ready")
        assert (ready.status, ready.json["models"][NAME]["selftest"]) == (200, "failing")
        (failing,) = server.status()["selftests"]
        assert (failing["version"], failing["action"]) == ("1", "fallback")
        assert (failing["slots"], failing["finding"]["below"]) == ([0], "baseline")
        wait_until(lambda: len(since("selftest_failed")) == 1)
    wait_until(lambda: server.metric("keelmark_golden_failing") == 0)
    wait_until(lambda: len(since("selftest_passed")) == 1)
    assert server.served_by() == {("model", "")}
    assert server.status()["selftests"] == []
    assert "selftest" not in server.client.ops("/health/ready").json["models"][NAME]
    assert [event.kind for event in since.all] == ["selftest_failed", "selftest_passed"]
    (event,) = since("selftest_failed")
    assert (event.model, event.facts["version"]) == (NAME, "1")
    assert event.facts["row"] == failing["finding"]["row"]
    assert "output 'value' is" in event.facts["got"]
    assert event.facts["got"] != event.facts["expected"]
    assert server.metric("keelmark_golden_rows_total", more=',result="different"') >= 2


def test_an_operator_may_let_the_model_answer_all_the_same(server: Watched):
    with Spoiling(server.pids()[0]):
        wait_until(lambda: server.metric("keelmark_golden_failing") == 1)
        body = {"version": "1", "action": "report", "reason": "it is known"}
        assert server.do("selftest", **body, dry_run=True)["changed"]
        assert ("rules", "selftest") in server.served_by()
        since = Since(server.state)
        said = server.do("selftest", **body)
        assert (said["before"], said["after"], said["changed"]) == ("fallback", "report", True)
        assert "golden row" in said["found"]
        assert server.served_by() == {("model", "")}
        assert not server.do("selftest", **body)["changed"]
        (event,) = since("selftest_set")
        assert (event.before, event.after) == ("fallback", "report")
        assert event.facts["reason"] == "it is known"
        server.do("selftest", **body | {"action": "fallback"})
        assert ("rules", "selftest") in server.served_by()
    wait_until(lambda: server.metric("keelmark_golden_failing") == 0)
    refused = server.ask(f"/models/{NAME}/selftest", body | {"version": "9"})
    assert refused.error["code"] == "unknown_version"


def test_a_worker_that_fails_is_replaced_and_the_new_one_is_good(server: Watched, workers: int):
    if workers == 1:
        pytest.skip("there are no workers")
    with Spoiling(server.pids()[1]):
        wait_until(lambda: [each["slots"] for each in server.status()["selftests"]] == [[1]])
        assert server.ask("/workers/replace", {}).json == {"replaced": 2}
    assert server.status()["selftests"] == []
    assert server.metric("keelmark_golden_failing") == 0
    assert server.served_by() == {("model", "")}


def test_what_an_operator_said_survives_a_restart(
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with server_over(packed, tmp_path) as client:
        where = ["--server", f"http://127.0.0.1:{client.ops_port}", "--state-dir", str(tmp_path)]
        words = ["keelmark", "selftest", NAME, "1", "report", "--reason", "it is known", *where]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        printed = capsys.readouterr().out
        assert "a failing self-test does report (before: fallback)" in printed
        assert "all golden rows are good" in printed
    with server_over(packed, tmp_path) as client:
        asked = {"version": "1", "action": "report", "reason": "once more"}
        assert not Watched(client, tmp_path).do("selftest", **asked)["changed"]


def test_a_candidate_that_fails_is_not_promoted(server: Watched):
    server.do("load", version="1b")
    with Spoiling(server.pids()[0]):  # both versions have these weights
        wait_until(lambda: server.metric("keelmark_golden_failing", "1b") == 1)
        answer = server.ask(f"/models/{NAME}/promote", {"version": "1b"})
        assert (answer.status, answer.error["code"]) == (409, "conflict")
        assert "golden row" in answer.error["message"]
        assert "load it again" in answer.error["message"]
    wait_until(lambda: server.metric("keelmark_golden_failing", "1b") == 0)
    wait_until(lambda: server.metric("keelmark_golden_failing") == 0)
    server.do("promote", version="1b")
    server.do("rollback")
    server.do("unload", version="1b")


def test_a_model_that_is_altered_on_disk_after_it_was_opened_changes_nothing(server: Watched):
    (copy,) = (server.state / "opened").glob("*model.ort")
    content = copy.read_bytes()
    assert weights().tobytes() in content
    try:
        with copy.open("r+b") as file:  # the very file, not another in its place
            file.write(content.replace(weights().tobytes(), weights(are_spoilt=True).tobytes()))
        wait_until(server.rounds(1))
        assert server.metric("keelmark_golden_failing") == 0
        assert {answer.json["prediction"] for answer in server.answers()} == {1105}
    finally:
        copy.write_bytes(content)


# what is found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With a baseline, checks and rules."""
    folder = full_bundle(tmp_path_factory.mktemp("full"))
    return Bundle.open(folder, batch_exact=run_gate(folder).batch_exact)


class Spoilt:
    """A session whose first output is off by a little for some runs; or that raises."""

    def __init__(self, session: Any, left: int = 1, *, raises: bool = False) -> None:
        self._session = session
        self._raises = raises
        self.left = left

    def run(self, rows: Any) -> Any:
        if self._raises:
            raise RuntimeError("no such kernel")
        first, *rest = self._session.run(rows)
        self.left -= 1
        return [first + np.float32(0.01) * (self.left >= 0), *rest]


def test_what_is_found_says_which_rungs_are_right_still(full: Bundle):
    assert found(full, 0) is None
    model = found(dataclasses.replace(full, session=Spoilt(full.session)), 0)
    assert model is not None
    assert (model.row, model.below) == ("sample 0", "baseline")
    raised = found(dataclasses.replace(full, session=Spoilt(full.session, raises=True)), 0)
    assert raised is not None
    assert (raised.got, raised.below) == ("it raises RuntimeError: no such kernel", "baseline")
    assert full.baseline is not None
    session = full.baseline._session
    try:
        full.baseline._session = Spoilt(session)  # pyright: ignore[reportAttributeAccessIssue]
        baseline = found(full, 0)
    finally:
        full.baseline._session = session
    assert baseline is not None
    assert (baseline.below, "the baseline's" in baseline.got) == ("rules", True)


def test_findings_are_of_a_bundle_in_a_process():
    findings, one = Findings(), Finding(row="r", got="1", expected="2", below="rules")
    findings.put("a", 0, one)
    findings.put("a", 1, one)
    findings.put("b", 1, one)
    assert (findings.of("a"), findings.slots("a"), findings.of("c")) == (one, [0, 1], None)
    findings.ended(1)
    assert (findings.slots("a"), findings.of("b")) == ([0], None)
    findings.keep({"b"})
    assert findings.of("a") is None
    findings.put("b", 0, one)
    findings.put("b", 0, None)
    assert findings.of("b") is None


# how it goes on


class Spare:
    """Does what it is offered at once, or drops it."""

    def __init__(self) -> None:
        self.is_dropping = False
        self.rows = 0
        self.done = asyncio.Event()

    def offer(self, task: Task) -> bool:
        assert (task.kind, task.units) == ("selftest", 1)
        if not self.is_dropping and task.is_wanted():
            self.rows += 1
            task.take(task.do())
            self.done.set()
        task.end()
        return not self.is_dropping


class Rig:
    """A self-test of a bundle of five golden rows, which it goes through as quickly as it can."""

    def __init__(self, bundle: Bundle, spoilt_runs: int = 0) -> None:
        golden = structs.replace(bundle.golden, rows=bundle.golden.rows[:5])
        self.session = Spoilt(bundle.session, spoilt_runs)
        changed: Any = dataclasses.replace(bundle, session=self.session, golden=golden)
        self.routes = [make_route(changed, curve({1: 20e-6}))]
        self.heard: list[Finding | None] = []
        self.spare = Spare()
        self.test = SelfTest(
            lambda: self.routes, self.spare, 1e-6, lambda _, finding: self.heard.append(finding)
        )

    @property
    def route(self) -> Route:
        return self.routes[0]

    @property
    def told(self) -> Standing:
        """What the metrics say."""
        return read_standing([self.route.counter.region])

    async def until_rows(self, count: int) -> None:
        """Waits until exactly so many rows have been done: each lets the waiting look."""
        while self.spare.rows < count:
            self.spare.done.clear()
            await self.spare.done.wait()


def running(bundle: Bundle, spoilt_runs: int, check: Callable[[Rig], Any]) -> None:
    """Runs a self-test while something is looked at."""

    async def run() -> None:
        rig = Rig(bundle, spoilt_runs)
        rig.test.start()
        await check(rig)
        rig.test.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_row_that_differs_once_is_put_again_and_changes_nothing(full: Bundle):
    async def check(rig: Rig) -> None:
        await rig.until_rows(6)
        assert (rig.heard, rig.route.breaker.lets_through) == ([], True)
        assert (rig.told.golden_same, rig.told.golden_different) == (5, 1)
        assert rig.told.golden_passed > 0

    running(full, 1, check)


def test_a_row_that_differs_twice_takes_the_model_out_until_a_round_is_good(full: Bundle):
    async def check(rig: Rig) -> None:
        await rig.until_rows(2)
        (finding,) = rig.heard
        assert finding is not None
        assert (finding.row, rig.route.breaker.distrusted) == ("sample 0", "baseline")
        assert (rig.route.breaker.lets_through, rig.told.golden_failing) == (False, 1)
        await rig.until_rows(6)
        assert rig.heard == [finding]
        await rig.until_rows(7)
        assert rig.heard == [finding, None]
        assert (rig.route.breaker.distrusted, rig.told.golden_failing) == (None, 0)
        assert rig.route.breaker.lets_through

    running(full, 2, check)


def test_what_goes_on_is_told_once(full: Bundle):
    async def check(rig: Rig) -> None:
        await rig.until_rows(25)
        assert len(rig.heard) == 1
        assert (rig.told.golden_same, rig.told.golden_different) == (0, 25)

    running(full, 10**9, check)


def test_rows_for_which_there_is_no_time_have_their_turn_later(full: Bundle):
    async def check(rig: Rig) -> None:
        rig.spare.is_dropping = True
        await asyncio.sleep(0.3)
        assert (rig.told.golden_same, rig.told.golden_passed) == (0, 0)
        rig.spare.is_dropping = False
        await rig.until_rows(5)
        assert rig.told.golden_same == 5

    running(full, 0, check)


def test_a_bundle_that_is_let_go_of_is_not_held(full: Bundle):
    async def check(rig: Rig) -> None:
        await rig.until_rows(3)
        bundle = weakref.ref(rig.routes.pop().bundle)
        await asyncio.sleep(0.01)
        assert bundle() is None

    running(full, 0, check)
