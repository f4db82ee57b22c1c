"""Deadlines, overload, a breaker and forced rungs, through real sockets: who answers, and when."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from server.asked import Request
from server.breaker import Breaker
from server.core import Core
from server.cost import curve
from server.facts import NO_FACTS
from server.opening import configured, make_route
from server.pace import Pace
from server.protocols.predict import decode
from server.routes import Route
from server.settings import Settings, SettingsError
from tests.in_thread import TIMEOUT_SECONDS, Client, Response, post, server_over, until
from tests.open_loop import open_loop
from tests.tiny import GOOD, NAME

PATH = f"/predict/{NAME}"
LABELS = f'model="{NAME}",version="1"'


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server_over(store, tmp_path_factory.mktemp("state"), queue_requests=4) as client:
        yield client


class Slowed:
    """A model on a machine that has become slow: every run takes that much longer, or raises.

    Attributes:
        may_end: set; while it is not, runs in the thread do not end.
    """

    def __init__(self, session: Any, seconds: float = 0.0) -> None:
        self.session = session
        self.seconds = seconds
        self.raises: BaseException | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.runs = 0
        self.threads: set[str] = set()

    def run(self, rows: Any) -> Any:
        self.runs += 1
        thread = threading.current_thread().name
        self.threads.add(thread)
        if thread == "keelmark-runner":
            assert self.may_end.wait(TIMEOUT_SECONDS)
        if self.seconds:
            time.sleep(self.seconds)
        if self.raises is not None:
            raise self.raises
        return self.session.run(rows)


@contextlib.contextmanager
def slowed(server: Client, seconds: float = 0.0, **changes: Any) -> Generator[tuple[Slowed, Route]]:
    """The server while its model takes longer than the gate measured; `changes` are the route's.

    The route begins with a pace and a breaker of its own.
    """
    core = server.core
    before = core.routes.live[NAME]
    session, route = slow_down(server, seconds, **changes)
    try:
        yield session, route
    finally:
        session.may_end.set()
        assert until(lambda: core.runner is not None and core.runner.is_idle)
        before.notice.breaker("closed")
        server.call(setattr, core, "routes", core.routes.with_route(before))


def slow_down(server: Client, seconds: float, **changes: Any) -> tuple[Slowed, Route]:
    """See `slowed`."""
    core = server.core
    before = core.routes.live[NAME]
    session = Slowed(before.bundle.session, seconds)
    bundle = dataclasses.replace(before.bundle, session=session)
    fresh: dict[str, Any] = {"pace": Pace(), "breaker": Breaker(before.notice.breaker)}
    # What the gate measures differs from machine to machine; here a row takes 2 ms.
    fresh |= {"cost": curve({1: 2e-3, 256: 512e-3}), "below": curve({1: 10e-6, 64: 640e-6})}
    route = dataclasses.replace(before, bundle=bundle, **(fresh | changes))
    server.call(setattr, core, "routes", core.routes.with_route(route))
    return session, route


def predictions(server: Client, outcome: str) -> float:
    return server.metric(f'keelmark_predictions_total{{{LABELS},outcome="{outcome}"}}')


def outcomes(server: Client) -> list[float]:
    words = ("model", "baseline", "rules", "rejected", "failed")
    return [predictions(server, word) for word in words]


def deadline(ms: int) -> str:
    return f"Keelmark-Deadline-Ms: {ms}"


def in_thread(server: Client, record: Any, *headers: str) -> list[Response]:
    """Where the answer to a request will be, which another thread waits for."""
    answers: list[Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.predict(record, *headers)))
    asking.start()
    return answers


# the header, the setting, the objective


@pytest.mark.parametrize(
    "value", ["0", "0.5", "1.5", "60001", "-5", "abc", "", "1e3", "nan", "9" * 400]
)
def test_a_deadline_that_is_none_is_refused(server: Client, value: str):
    response = server.predict(GOOD, f"Keelmark-Deadline-Ms: {value}")
    assert (response.status, response.error["code"]) == (400, "undecodable")
    assert "1 to 60000" in response.error["message"]


@pytest.mark.parametrize("value", ["60000", "1000"])
def test_a_deadline_that_is_one_is_taken(server: Client, value: str):
    assert server.predict(GOOD, deadline(int(value))).json["served_by"] == "model"


@pytest.mark.parametrize(
    ("setting", "objective", "expected_ms"),
    [
        (None, None, 1000),
        (None, 0.02, 80),
        (250, 0.02, 250),
        (None, 1e-9, 1),
        (None, 1e6, 60_000),
    ],
)
def test_without_a_header_the_setting_counts_then_the_objective(
    store: Path, setting: float | None, objective: float | None, expected_ms: int
):
    from msgspec import structs

    bundle = Bundle.open(store / NAME / "1")
    promised = structs.replace(bundle.manifest.objectives, latency_seconds=objective)
    manifest = structs.replace(bundle.manifest, objectives=promised)
    route = make_route(dataclasses.replace(bundle, manifest=manifest), curve({1: 20e-6}))
    settings = Settings(deadline_ms=setting)
    assert configured(route, settings, NO_FACTS).deadline_ns == expected_ms * 1_000_000


# who is not done in time


def test_a_run_that_overruns_is_abandoned_and_counted_until_it_ends(server: Client):
    missed = f"keelmark_deadline_missed_total{{{LABELS}}}"
    active = f"keelmark_abandoned_runs_active{{{LABELS}}}"
    abandoned = f"keelmark_abandoned_runs_total{{{LABELS}}}"
    before = outcomes(server)
    counts = server.metric(missed), server.metric(abandoned)
    with slowed(server) as (session, _):
        session.may_end.clear()
        response = server.predict(GOOD, deadline(100))
        assert (response.status, response.json["reasons"]) == (200, ["deadline"])
        assert response.json["served_by"] == "rules"
        assert server.metric(active) == 1
        assert (server.metric(missed), server.metric(abandoned)) == (counts[0] + 1, counts[1] + 1)
        session.may_end.set()
        assert until(lambda: server.metric(active) == 0)
        assert session.runs == 1
    assert outcomes(server) == [before[0], before[1], before[2] + 1, *before[3:]]


def test_who_would_wait_too_long_for_its_turn_is_answered_at_once(server: Client):
    with slowed(server) as (session, _):
        session.may_end.clear()
        held = in_thread(server, GOOD, deadline(60_000))
        assert until(lambda: session.runs == 1)
        time.sleep(1)  # the run has overrun what was expected of it by far
        began = time.monotonic()
        answer = server.predict(GOOD, deadline(900)).json
        assert (answer["served_by"], answer["reasons"]) == ("rules", ["deadline"])
        assert time.monotonic() - began < 0.6
        session.may_end.set()
        assert until(lambda: len(held) == 1)
        assert (held[0].json["served_by"], session.runs) == ("model", 1)


def test_a_batch_that_cannot_be_done_in_time_is_not_begun(server: Client):
    with slowed(server) as (session, _):
        response = server.predict([GOOD] * 20, deadline(20))
        assert {tuple(item["reasons"]) for item in response.json["predictions"]} == {("deadline",)}
        assert response.headers["keelmark-served-by"] == "rules"
        assert session.runs == 0
        server.predict([GOOD] * 20, deadline(2000))
        assert session.runs == 1


def test_where_lower_rungs_cost_too_much_too_nobody_answers(server: Client):
    missed = f"keelmark_deadline_missed_total{{{LABELS}}}"
    before, failed = server.metric(missed), predictions(server, "failed")
    with slowed(server, below=curve({1: 1.5e-3})) as (session, _):
        response = server.predict([GOOD] * 20, deadline(20))
        assert (response.status, response.error["code"]) == (504, "deadline")
        assert session.runs == 0
    assert predictions(server, "failed") == failed + 20
    assert server.metric(missed) == before + 20


def test_many_rules_are_evaluated_in_the_thread(server: Client, monkeypatch: pytest.MonkeyPatch):
    seen: set[str] = set()
    ladder = type(server.core.routes.live[NAME].bundle.ladder)
    judge = ladder.judge

    def judged(self: Any, plan: Any, outputs: Any, *, failed: str = "model_error") -> Any:
        seen.add(threading.current_thread().name)
        return judge(self, plan, outputs, failed=failed)

    monkeypatch.setattr(ladder, "judge", judged)
    bad = [{**GOOD, "member": "x"}] * 40
    with slowed(server, cost=curve({1: 1e-6}), below=curve({1: 10e-6})):
        answers = server.predict(bad).json["predictions"]
        assert {item["served_by"] for item in answers} == {"rules"}
        assert seen == {"keelmark-runner"}
        seen.clear()
        server.predict(bad[:3])
        assert "keelmark-runner" not in seen


def test_a_run_on_the_loop_is_never_cut_and_its_answer_is_counted_as_late(server: Client):
    late = f"keelmark_late_requests_total{{{LABELS}}}"
    before = server.metric(late)
    with slowed(server, 0.08, cost=curve({1: 1e-6})) as (session, _):
        assert server.predict(GOOD, deadline(30)).json["served_by"] == "model"
        assert session.threads != {"keelmark-runner"}
    assert server.metric(late) == before + 1


def test_strict_says_504_for_a_deadline(server: Client):
    with slowed(server, 0.3):
        response = server.predict(GOOD, deadline(50), "Keelmark-Strict: 1")
        assert (response.status, response.error["code"]) == (504, "strict")


# more than the thread can do


def test_a_full_queue_is_answered_by_lower_rungs_or_503(server: Client):
    with slowed(server) as (session, route):
        session.may_end.clear()
        held = [in_thread(server, GOOD, deadline(20_000)) for _ in range(4)]
        queued = f"keelmark_queue_depth{{{LABELS}}}"
        assert until(lambda: server.metric(queued) == 3)
        answer = server.predict(GOOD, deadline(20_000)).json
        assert (answer["served_by"], answer["reasons"]) == ("rules", ["overload"])
        response = server.predict(GOOD, deadline(20_000), "Keelmark-Strict: 1")
        assert (response.status, response.error["code"]) == (503, "strict")
        # Rules that take more than half of the model's time relieve nobody.
        costs = {"cost": curve({1: 400e-6}), "below": curve({1: 220e-6})}
        costly = dataclasses.replace(route, pace=Pace(), **costs)
        core = server.core
        server.call(setattr, core, "routes", core.routes.with_route(costly))
        response = server.predict(GOOD, deadline(20_000))
        assert (response.status, response.error["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] == "1"
        session.may_end.set()
        assert until(lambda: all(held))
        assert {answers[0].json["served_by"] for answers in held} == {"model"}
        assert session.runs == 4


def test_stopping_answers_what_waits_for_the_thread(store: Path, tmp_path: Path):
    with server_over(store, tmp_path) as server:
        session, _ = slow_down(server, 0.2)
        session.may_end.clear()
        held = [in_thread(server, GOOD, deadline(60_000)) for _ in range(4)]
        assert until(lambda: server.metric(f"keelmark_queue_depth{{{LABELS}}}") == 3)
        session.may_end.set()
    assert until(lambda: all(held))
    assert [answers[0].json["served_by"] for answers in held] == ["model"] * 4
    assert session.runs == 4


def test_small_requests_are_answered_while_the_thread_is_busy(server: Client):
    with slowed(server, cost=curve({1: 1e-6, 4: 1e-6, 8: 1.0})) as (session, _):
        session.may_end.clear()
        held = in_thread(server, [GOOD] * 8, deadline(20_000))
        assert until(lambda: session.runs == 1)
        assert server.predict(GOOD).json["served_by"] == "model"
        assert held == []
        session.may_end.set()
        assert until(lambda: len(held) == 1)
        assert len(session.threads) == 2


# reading in the thread


@pytest.fixture
def large(server: Client) -> Iterator[Client]:
    """The server while decoding is taken to be so slow that nothing is decoded on the loop."""
    core = server.core
    route = core.routes.live[NAME]
    reading = dataclasses.replace(route.reading, byte_ns=5_000.0)
    slow = dataclasses.replace(route, reading=reading, cost=curve({1: 2e-3}))
    server.call(setattr, core, "routes", core.routes.with_route(slow))
    yield server
    server.call(setattr, core, "routes", core.routes.with_route(route))


def test_a_body_that_is_read_in_the_thread_gets_the_same_answer(server: Client, large: Client):
    before = outcomes(server)
    records = [{**GOOD, "age": age} for age in (20, None, 70)] + [17]
    items = large.predict(records, deadline(20_000)).json["predictions"]
    assert [item.get("served_by") for item in items] == ["model", None, "model", None]
    alone = large.predict(GOOD, deadline(20_000)).json
    assert alone["prediction"] == server.predict(GOOD, deadline(20_000)).json["prediction"]
    assert outcomes(server) == [before[0] + 4, *before[1:3], before[3] + 2, before[4]]


def test_a_large_body_is_decoded_in_the_thread(large: Client, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def decoded(body: bytes, settings: Settings) -> Any:
        seen.append(threading.current_thread().name)
        return decode(body, settings)

    monkeypatch.setattr("server.reading.decode", decoded)
    assert large.predict(GOOD, deadline(20_000)).json["served_by"] == "model"
    assert seen == ["keelmark-runner"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[1,]", 400), (b"17", 400), (b"[" + b"{}," * 10_000 + b"{}]", 413)],
)
def test_a_bad_body_that_is_read_in_the_thread_is_refused_as_ever(
    large: Client, body: bytes, status: int
):
    padded = body + b" " * 2_000
    response = large.send(post(PATH, padded, deadline(20_000)))
    assert response.status == status
    assert response.error["request_id"]


def test_an_empty_list_that_is_read_in_the_thread_has_no_items(large: Client):
    response = large.send(post(PATH, b"[]" + b" " * 2_000, deadline(20_000)))
    assert (response.status, response.json["predictions"]) == (200, [])


def test_a_body_that_cannot_be_read_in_time_is_504(large: Client):
    body = json.dumps([GOOD] * 30).encode()
    response = large.send(post(PATH, body, deadline(5)))
    assert (response.status, response.error["code"]) == (504, "deadline")


# a thread that dies


def test_where_the_thread_dies_its_requests_are_answered(server: Client):
    with slowed(server) as (session, _):
        session.raises = SystemExit()
        answer = server.predict(GOOD, deadline(20_000)).json
        assert (answer["served_by"], answer["reasons"]) == ("rules", ["model_error"])
        session.raises = None
        assert server.predict(GOOD, deadline(20_000)).json["served_by"] == "model"


def test_a_defect_in_the_thread_is_an_internal_error(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    def defect(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("inner secret")

    failed = predictions(server, "failed")
    with slowed(server):
        monkeypatch.setattr("server.threaded.work", defect)
        response = server.predict(GOOD, deadline(20_000))
        assert (response.status, response.error["code"]) == (500, "internal")
        assert b"secret" not in response.body
    assert predictions(server, "failed") == failed + 1


# the breaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [20e-6, 2e-3], ids=["loop", "thread"])
def test_the_breaker_opens_probes_and_closes_and_metrics_show_it(server: Client, seconds: float):
    def state() -> str:
        family = f"keelmark_breaker_state{{{LABELS},state="
        words = [w for w in ("closed", "half_open", "open") if server.metric(f'{family}"{w}"}}')]
        return ",".join(words)

    def reasons() -> list[str]:
        return server.predict(GOOD, deadline(20_000)).json.get("reasons", [])

    clock = Clock()
    openings = f"keelmark_breaker_openings_total{{{LABELS}}}"
    before = server.metric(openings)
    notice = server.core.routes.live[NAME].notice
    breaker = Breaker(notice.breaker, clock)
    cost = curve({1: seconds, 64: 64 * seconds})
    with slowed(server, cost=cost, breaker=breaker) as (session, _):
        session.raises = RuntimeError("no")
        assert [reasons() for _ in range(5)] == [["model_error"]] * 5
        assert (state(), server.metric(openings)) == ("open", before + 1)
        assert reasons() == ["breaker"]
        assert session.runs == 5
        strict = server.predict(GOOD, deadline(20_000), "Keelmark-Strict: 1")
        assert (strict.status, strict.error["code"]) == (503, "strict")
        clock.now += 5
        assert reasons() == ["model_error"]
        assert (state(), session.runs, server.metric(openings)) == ("open", 6, before + 2)
        session.raises = None
        clock.now += 9.9
        assert reasons() == ["breaker"]
        clock.now += 0.1
        assert reasons() == []
        assert (state(), session.runs) == ("closed", 7)


def test_invalid_outputs_of_more_than_half_of_the_rows_open_the_breaker(server: Client):
    class Wrong(Slowed):
        def run(self, rows: Any) -> Any:
            arrays = [array.copy() for array in super().run(rows)]
            arrays[0][: len(rows) * 2 // 3] = float("nan")
            return arrays

    core = server.core
    with slowed(server) as (_, route):
        wrong = Wrong(route.bundle.session)
        spoilt = dataclasses.replace(route, bundle=dataclasses.replace(route.bundle, session=wrong))
        server.call(setattr, core, "routes", core.routes.with_route(spoilt))
        for _ in range(5):
            items = server.predict([GOOD] * 6, deadline(20_000)).json["predictions"]
            assert sum(item.get("reasons") == ["output_invalid"] for item in items) == 4
        assert server.predict(GOOD, deadline(20_000)).json["reasons"] == ["breaker"]


# forced rungs


def test_a_forced_rung_answers_and_the_model_is_not_run(store: Path, tmp_path: Path):
    with server_over(store, tmp_path, force=(f"{NAME}=rules",)) as server:
        answer = server.predict(GOOD).json
        assert (answer["served_by"], answer["reasons"]) == ("rules", ["operator"])
        assert server.metric(f'keelmark_forced_rung{{{LABELS},rung="rules"}}') == 1
        assert predictions(server, "rules") == 1
        assert server.predict({**GOOD, "age": None}).status == 422
        response = server.predict(GOOD, "Keelmark-Strict: 1")
        assert (response.status, response.error["code"]) == (503, "strict")


@pytest.mark.parametrize(
    ("force", "said"),
    [
        ("other=rules", f"'other', which the store has not; it has {NAME}"),
        (f"{NAME}=baseline", "no baseline"),
    ],
)
def test_a_rung_that_is_not_there_is_refused_at_the_start(
    store: Path, tmp_path: Path, force: str, said: str
):
    with pytest.raises(SettingsError, match=said), server_over(store, tmp_path, force=(force,)):
        pass


# an open loop: requests come at their times, whatever the server does


def test_a_model_slowed_tenfold_is_relieved_by_lower_rungs(server: Client):
    """Marks and counts; the times themselves are `test_..._in_time`'s."""
    before = outcomes(server)
    with slowed(server, 0.02) as (session, _):
        sent = open_loop(server.port, rate=100, seconds=2, deadline_ms=60, connections=8)
        assert len(sent) == 200
        by_rules = [one for one in sent if one.served_by == "rules"]
        assert {one.reason for one in by_rules} <= {"deadline", "overload"}
        assert len(by_rules) > 60
        assert session.runs >= 200 - len(by_rules)
    after = outcomes(server)
    assert after[0] - before[0] == 200 - len(by_rules)
    assert after[2] - before[2] == len(by_rules)
    assert after[3:] == before[3:]


@pytest.mark.trial
def test_a_model_slowed_tenfold_is_answered_for_in_time(server: Client):
    with slowed(server, 0.02):
        sent = open_loop(server.port, rate=100, seconds=60, deadline_ms=60, connections=16)
    late = sorted((one.seconds, one.unsent_seconds) for one in sent if one.seconds > 0.070)
    assert len(sent) == 6_000
    assert len(late) <= len(sent) / 1000, f"{len(late)} late, seconds and unsent: {late[-10:]}"
    assert sum(one.served_by == "rules" for one in sent) > len(sent) / 4


# the pace of a model


def test_a_slowed_model_moves_to_the_thread_and_back_when_it_recovers(server: Client):
    cost, thread = curve({1: 50e-6}), "keelmark-runner"
    with slowed(server, 0.004, cost=cost) as (session, route):
        for _ in range(8):
            server.predict(GOOD, deadline(20_000))
        session.threads.clear()
        server.predict(GOOD, deadline(20_000))
        assert session.threads == {thread}
        assert route.pace.ratio > 5
        session.seconds = 0.0

        def is_back() -> bool:
            session.threads.clear()
            assert server.predict(GOOD, deadline(20_000)).json["served_by"] == "model"
            return thread not in session.threads

        assert until(lambda: all(is_back() for _ in range(5)))


def test_one_slow_run_alone_says_nothing():
    pace = Pace()
    for _ in range(10):
        pace.took(100, 100, False)
    pace.took(50_000, 100, False)
    pace.took(100, 100, False)
    assert pace.ratio == pytest.approx(1.0)
    ratios = []
    for _ in range(12):
        pace.took(1_000, 100, False)
        ratios.append(pace.ratio)
    assert ratios[-1] > 7
    assert all(a <= b for a, b in pairwise(ratios))


def test_a_quick_trial_is_believed_at_once():
    pace = Pace()
    for _ in range(20):
        pace.took(100_000, 100, False)
    pace.took(110, 100, True)
    assert pace.ratio == pytest.approx(1.1)
    assert pace.may_probe(10.0)
    assert not pace.may_probe(10.9)
    assert pace.may_probe(11.0)


def test_quick_runs_on_the_loop_bring_the_pace_down(store: Path):
    route = make_route(Bundle.open(store / NAME / "1"), curve({1: 40e-6}))
    core = Core(Settings())
    core.routes = core.routes.with_route(route)
    for _ in range(12):
        route.pace.took(120_000, 40_000, False)
    slow = route.pace.ratio
    assert slow > 2
    body = json.dumps(GOOD).encode()
    answers: list[Any] = []
    for _ in range(20):
        request = Request(NAME, body, time.perf_counter_ns())
        core.settle([core.arrive(request, answers.append)])
    assert len(answers) == 20
    assert route.pace.ratio < slow - 0.1
