"""What is sent over a socket is what the metrics tell, rung by rung and reason by reason."""

import dataclasses
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from models.bundle import Bundle
from models.ladder import Ladder
from models.manifest import Rule
from models.rules import Rules
from models.vocabulary import (
    BREAKER_STATES,
    OPERATORS_RULES,
    OUTPUT_TROUBLES,
    REASONS,
    RUNGS,
)
from server.breaker import Breaker
from server.cost import curve
from server.pace import Pace
from server.routes import Route
from tests.in_thread import Client, Response, server_over
from tests.packed import full_bundle

NAME = "trips"
GOOD = {
    "distance": 9.85,
    "driver": "badge 7781",
    "carrier": "UA",
    "is_weekend": False,
    "leaves": "2013-01-01T10:04:36Z",
}
STRICT = "Keelmark-Strict: 1"

Samples = dict[tuple[str, tuple[str, ...]], float]


class Case(NamedTuple):
    """A record, and everything that is to come of it."""

    change: dict[str, Any]
    outcome: str
    reason: str | None = None
    repaired: tuple[tuple[str, str], ...] = ()
    quality: tuple[tuple[str, str], ...] = ()
    checks: tuple[str, ...] = ()
    rule: str | None = None


INVALID_LEAVES = (("leaves", "invalid"),)
NO_WEEKEND = (("is_weekend", "missing"),)
CASES = {
    "clean": Case({}, "model"),
    "accepted": Case({"distance": None}, "model", quality=(("distance", "missing"),)),
    "repaired": Case({"leaves": 5}, "model", repaired=INVALID_LEAVES, quality=INVALID_LEAVES),
    "repaired twice": Case(
        {"leaves": 5, "driver": 5},
        "model",
        repaired=(*INVALID_LEAVES, ("driver", "invalid")),
        quality=(*INVALID_LEAVES, ("driver", "invalid")),
    ),
    "rejected by a policy": Case(
        {"distance": 500}, "rejected", quality=(("distance", "out_of_bounds"),)
    ),
    "rejected by a check": Case({"distance": 95}, "rejected", checks=("far_from_home",)),
    "rejected, both checks": Case(
        {"distance": 95, "is_weekend": True},
        "rejected",
        checks=("far_from_home", "workday_or_near"),
    ),
    "check": Case(
        {"distance": 75, "is_weekend": True}, "baseline", "check", checks=("workday_or_near",)
    ),
    "baseline": Case({"is_weekend": None}, "baseline", "missing", quality=NO_WEEKEND),
    "baseline, repaired": Case(
        {"is_weekend": None, "leaves": 5},
        "baseline",
        "missing",
        quality=(*NO_WEEKEND, *INVALID_LEAVES),
    ),
    "rule": Case(
        {"carrier": "ZZ"},
        "rules",
        "unknown",
        quality=(("carrier", "unknown"),),
        rule="unknown_carrier",
    ),
    "refused by the baseline": Case(
        {"carrier": 5}, "rules", "invalid", quality=(("carrier", "invalid"),), rule="default"
    ),
    "rule after a check": Case(
        {"carrier": "ZZ", "distance": 75, "is_weekend": True},
        "rules",
        "unknown",
        quality=(("carrier", "unknown"),),
        checks=("workday_or_near",),
        rule="long_weekend",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    store = tmp_path_factory.mktemp("store")
    full_bundle(store)
    with server_over(store, tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture
def replaced(server: Client) -> Iterator[Callable[[Callable[[Route], Route]], None]]:
    """Puts another route in the place of the live one, until the test ends."""
    core = server.core
    live = core.routes.live[NAME]

    def replace(change: Callable[[Route], Route]) -> None:
        fresh = dataclasses.replace(live, breaker=Breaker(live.notice.breaker), pace=Pace())
        route = change(fresh)
        server.call(setattr, core, "routes", core.routes.with_route(route))

    yield replace
    server.call(live.notice.breaker, "closed")
    server.call(setattr, core, "routes", core.routes.with_route(live))


def ask(server: Client, value: Any, *headers: str) -> Response:
    return server.predict(value, *headers, model=NAME)


def samples(server: Client) -> Samples:
    """Values of our series by name and the values of their labels beyond model and version."""
    page = server.ops("/metrics").body.decode()
    found: Samples = {}
    for name, labels, value in re.findall(r"^(keelmark_\w+)\{(.*)\} (\S+)$", page, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if pairs.pop("model", None) == NAME:
            assert pairs.pop("version") == "1"
            found[name.removeprefix("keelmark_"), tuple(pairs.values())] = float(value)
    return found


class Grown:
    """Which counters have grown since this was made, and by how much."""

    def __init__(self, server: Client) -> None:
        self._server = server
        self._before = samples(server)

    def __call__(self, name: str) -> dict[tuple[str, ...], float]:
        now = samples(self._server)
        return {
            labels: value - self._before[name, labels]
            for (family, labels), value in now.items()
            if family == name and value != self._before[name, labels]
        }


def expected(cases: Counter[str], pick: Callable[[Case], Any]) -> dict[tuple[str, ...], float]:
    """How often each of what `pick` gives for a case was to happen."""
    counts: Counter[tuple[str, ...]] = Counter()
    for name, n in cases.items():
        for labels in pick(CASES[name]):
            counts[labels] += n
    return dict(counts)


def assert_counted(grown: Grown, cases: Counter[str]) -> None:
    model = sum(n for name, n in cases.items() if CASES[name].outcome == "model")
    for family, pick in {
        "predictions_total": lambda case: [(case.outcome,)],
        "fallbacks_total": lambda case: [(case.outcome, case.reason)] if case.reason else [],
        "field_repaired_total": lambda case: case.repaired,
        "field_quality_total": lambda case: case.quality,
        "checks_failed_total": lambda case: [(name,) for name in case.checks],
        "rule_answers_total": lambda case: [(case.rule,)] if case.rule else [],
    }.items():
        assert grown(family) == expected(cases, pick), family
    assert sum(grown("output_values_total").values()) == model
    for family in ("rule_errors_total", "output_invalid_total", "deadline_missed_total"):
        assert grown(family) == {}, family


def some_of_each() -> Counter[str]:
    """Another number of each case, so that none can stand for another."""
    return Counter({name: n for n, name in enumerate(CASES, start=1)})


# what is sent is what is counted


def test_single_records_are_counted_as_they_were_answered(server: Client):
    grown = Grown(server)
    cases = some_of_each()
    for name in cases.elements():
        case = CASES[name]
        response = ask(server, {**GOOD, **case.change})
        if case.outcome == "rejected":
            assert response.status == 422, name
        else:
            assert response.json["served_by"] == case.outcome, name
            assert response.json.get("rule") == case.rule, name
    assert_counted(grown, cases)


def test_rows_of_a_list_are_counted_as_they_were_answered(server: Client):
    grown = Grown(server)
    cases = some_of_each()
    records = [{**GOOD, **CASES[name].change} for name in cases.elements()]
    response = ask(server, records)
    assert response.headers["keelmark-served-by"] == "rules"
    outcomes = [item.get("served_by", "rejected") for item in response.json["predictions"]]
    assert outcomes == [CASES[name].outcome for name in cases.elements()]
    assert_counted(grown, cases)


def test_more_rows_than_the_ring_holds_are_counted_too(server: Client):
    grown = Grown(server)
    core = server.core
    n = core.routes.live[NAME].counter.capacity // 3
    names = ["rule", "check", "repaired", "clean", "rejected by a check"]
    records = [{**GOOD, **CASES[name].change} for _ in range(n) for name in names]
    response = ask(server, records, "Keelmark-Deadline-Ms: 60000")
    assert len(response.json["predictions"]) == 5 * n
    assert_counted(grown, Counter(dict.fromkeys(names, n)))


def test_requests_that_share_a_run_keep_their_own_notes(server: Client):
    grown = Grown(server)
    names = [name for name in CASES for _ in range(3)]
    body = b"".join(
        b"POST /predict/trips HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(record), record)
        for record in (json.dumps({**GOOD, **CASES[name].change}).encode() for name in names)
    )
    with server.connect() as connection:
        connection.send(body)
        for name in names:
            answer = connection.receive()
            assert answer.json.get("rule") == CASES[name].rule
    assert_counted(grown, Counter(names))


def test_a_strict_caller_gets_no_answer_and_no_rung_is_counted(server: Client):
    """What failed is counted all the same: fields and checks of the rows were what they were."""
    grown = Grown(server)
    for case in CASES.values():
        response = ask(server, {**GOOD, **case.change}, STRICT)
        is_clean = case.outcome == "model" and not case.repaired
        assert response.status == (200 if is_clean else 422)
    assert grown("predictions_total") == {("model",): 2, ("rejected",): len(CASES) - 2}
    for family in ("fallbacks_total", "field_repaired_total", "rule_answers_total"):
        assert grown(family) == {}
    once = Counter(dict.fromkeys(CASES, 1))
    assert grown("checks_failed_total") == expected(once, lambda c: [(n,) for n in c.checks])
    assert grown("field_quality_total") == expected(once, lambda c: c.quality)
    assert sum(grown("output_values_total").values()) == 2


def test_a_check_that_rejects_is_named_with_what_should_hold(server: Client):
    """The other check sends rows to the baseline: it rejects nobody, and is not named."""
    error = ask(server, {**GOOD, "distance": 95, "is_weekend": True}).error
    assert "check far_from_home does not hold" in error["message"]
    [entry] = error["fields"]
    assert (entry["row"], entry["check"]) == (0, "far_from_home")
    assert "90" in entry["expected"]
    assert set(entry) == {"row", "check", "expected"}
    [_, item] = ask(server, [GOOD, {**GOOD, "distance": 95}]).json["predictions"]
    assert item["error"]["fields"] == [{**entry, "row": 1}]


def test_a_strict_caller_is_told_every_check_and_field_that_kept_the_model_away(server: Client):
    record = {**GOOD, "distance": 75, "is_weekend": True, "carrier": "ZZ", "leaves": 5}
    response = ask(server, record, STRICT)
    assert (response.status, response.error["code"]) == (422, "strict")
    named = [entry.get("field") or entry["check"] for entry in response.error["fields"]]
    assert named == ["leaves", "carrier", "workday_or_near"]


def test_answers_of_lower_rungs_are_in_no_distribution_of_the_model(server: Client):
    grown = Grown(server)
    lower = [name for name, case in CASES.items() if case.outcome in RUNGS]
    for name in lower:
        ask(server, {**GOOD, **CASES[name].change})
    for family in (
        "output_values_total",
        "output_standardized_total",
        "output_standardized_squares_total",
    ):
        assert grown(family) == {}
    assert sum(grown("decisions_total").values()) == len(lower)


def test_every_series_is_there_at_0_before_the_first_event(tmp_path: Path):
    full_bundle(tmp_path / "store")
    (tmp_path / "state").mkdir()
    with server_over(tmp_path / "store", tmp_path / "state") as fresh:
        found = samples(fresh)
        bundle = fresh.serving.runtime.routes.live[NAME].bundle
    rules = [rule.name for rule in bundle.fallback.rules]
    for name, *labels in (
        ("fallbacks_total", RUNGS, REASONS),
        ("checks_failed_total", [check.name for check in bundle.fallback.checks]),
        ("rule_answers_total", [*rules, "default", OPERATORS_RULES]),
        ("rule_errors_total", [*rules, OPERATORS_RULES]),
        ("output_invalid_total", ["probability"], OUTPUT_TROUBLES),
        ("deadline_missed_total",),
        ("late_requests_total",),
        ("abandoned_runs_total",),
        ("abandoned_runs_active",),
        ("queue_depth",),
        ("breaker_openings_total",),
        ("forced_rung", RUNGS),
    ):
        own = {labels: value for (family, labels), value in found.items() if family == name}
        assert own == dict.fromkeys(itertools.product(*labels), 0.0), name
    repaired = {labels for family, labels in found if family == "field_repaired_total"}
    policies = bundle.fallback.policies
    assert repaired == {(field, word) for field, words in policies.items() for word in words}
    states = {labels: v for (family, labels), v in found.items() if family == "breaker_state"}
    assert states == {(state,): float(state == "closed") for state in BREAKER_STATES}


# when the model does not answer


class Session:
    """The bundle's session, with an answer of its own."""

    def __init__(self, real: Any, answer: float | None = None, *, seconds: float = 0.0) -> None:
        self._real = real
        self._answer = answer
        self._seconds = seconds

    def run(self, rows: Any) -> Any:
        time.sleep(self._seconds)
        first, *rest = self._real.run(rows)
        return [first if self._answer is None else np.full_like(first, self._answer), *rest]


class Raising:
    def run(self, rows: Any) -> Any:
        raise RuntimeError("no")


def with_session(make: Callable[[Any], Any]) -> Callable[[Route], Route]:
    def change(route: Route) -> Route:
        bundle = route.bundle
        session = make(bundle.session)
        return dataclasses.replace(route, bundle=dataclasses.replace(bundle, session=session))

    return change


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [(float("nan"), "not_finite"), (float("inf"), "not_finite"), (7.0, "out_of_range")],
)
def test_an_answer_that_is_not_valid_is_counted_and_not_given(
    server: Client, replaced: Any, answer: float, trouble: str
):
    replaced(with_session(lambda real: Session(real, answer)))
    grown = Grown(server)
    said = ask(server, GOOD).json
    assert (said["served_by"], said["reasons"]) == ("baseline", ["output_invalid"])
    assert grown("output_invalid_total") == {("probability", trouble): 1}
    assert grown("fallbacks_total") == {("baseline", "output_invalid"): 1}
    assert grown("output_values_total") == {}


def test_a_strict_caller_is_told_that_the_server_is_the_cause(server: Client, replaced: Any):
    replaced(with_session(lambda real: Session(real, float("nan"))))
    grown = Grown(server)
    response = ask(server, GOOD, STRICT)
    assert (response.status, response.error["code"]) == (503, "strict")
    assert response.headers["retry-after"] == "1"
    assert "output_invalid" in response.error["message"]
    repaired = ask(server, {**GOOD, "leaves": 5}, STRICT)
    assert (repaired.status, repaired.error["fields"][0]["field"]) == (422, "leaves")
    assert grown("predictions_total") == {("failed",): 1, ("rejected",): 1}
    assert grown("output_invalid_total") == {("probability", "not_finite"): 2}


def test_a_strict_list_has_the_worst_status_of_its_rows(server: Client, replaced: Any):
    replaced(with_session(lambda real: Session(real, float("nan"))))
    response = ask(server, [{**GOOD, "distance": 500}, GOOD], STRICT)
    assert response.status == 503
    assert response.headers["retry-after"] == "1"
    codes = [item["error"]["code"] for item in response.json["predictions"]]
    assert codes == ["rejected_record", "strict"]


def test_the_breaker_is_on_the_page_and_the_server_stays_ready(server: Client, replaced: Any):
    replaced(with_session(lambda _: Raising()))
    grown = Grown(server)
    for _ in range(5):
        assert ask(server, GOOD).json["reasons"] == ["model_error"]
    for _ in range(3):
        assert ask(server, GOOD).json["reasons"] == ["breaker"]
    assert grown("fallbacks_total") == {("baseline", "model_error"): 5, ("baseline", "breaker"): 3}
    assert grown("breaker_openings_total") == {(): 1}
    assert grown("breaker_state") == {("closed",): -1, ("open",): 1}
    assert grown("output_values_total") == {}
    ready = server.ops("/health/ready")
    assert (ready.status, ready.json["models"][NAME]["breaker"]) == (200, "open")
    assert page_of(server)["breaker"] == "open"
    strict = ask(server, GOOD, STRICT)
    assert (strict.status, "breaker" in strict.error["message"]) == (503, True)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_forced_rung_is_on_the_page_and_answers(server: Client, replaced: Any, rung: str):
    replaced(lambda route: dataclasses.replace(route, forced=rung))
    forced = {labels: n for (family, labels), n in samples(server).items() if "forced" in family}
    assert forced == {(each,): float(each == rung) for each in RUNGS}
    grown = Grown(server)
    answer = ask(server, GOOD).json
    assert (answer["served_by"], answer["reasons"]) == (rung, ["operator"])
    assert ask(server, {**GOOD, "distance": 500}).status == 422
    assert grown("fallbacks_total") == {(rung, "operator"): 1}
    assert grown("output_values_total") == {}
    ready = server.ops("/health/ready")
    assert (ready.status, ready.json["models"][NAME]["forced"]) == (200, rung)
    assert page_of(server)["forced"] == rung
    assert ask(server, GOOD, STRICT).status == 503


def test_a_rule_that_raises_does_not_match_and_is_counted(server: Client, replaced: Any):
    """No packed rule raises on a golden record; this one is put in behind the gate's back."""
    replaced(lambda route: dataclasses.replace(route, answering=with_raising_rule(route.bundle)))
    grown = Grown(server)
    answer = ask(server, {**GOOD, "carrier": "ZZ"}).json
    assert (answer["served_by"], answer["rule"]) == ("rules", "unknown_carrier")
    ask(server, [GOOD, {**GOOD, "carrier": 5}, {**GOOD, "carrier": "YY"}])
    assert grown("rule_errors_total") == {("long_weekend",): 2}
    assert grown("rule_answers_total") == {("unknown_carrier",): 2, ("default",): 1}


def with_raising_rule(bundle: Bundle) -> Bundle:
    first, *rest = bundle.fallback.rules
    rules = [Rule(name=first.name, when="int(r.carrier) > 1", outputs=first.outputs), *rest]
    assert bundle.fitted is not None
    ladder = Ladder(
        bundle.outputs,
        bundle.manifest.decision,
        bundle.fallback,
        bundle.fields,
        bundle.encoder.encode,
        baseline=bundle.ladder.baseline,
        rules=Rules(
            rules,
            bundle.fallback.default,
            bundle.fields,
            bundle.fitted.vocabularies,
            bundle.outputs,
        ),
    )
    return dataclasses.replace(bundle, ladder=ladder)


def test_missed_deadlines_and_late_answers_are_counted_apart(server: Client, replaced: Any):
    """A model that has become slow is late once; then lower rungs answer in time."""
    replaced(with_session(lambda real: Session(real, seconds=0.03)))
    grown = Grown(server)
    responses = [ask(server, GOOD, "Keelmark-Deadline-Ms: 10") for _ in range(12)]
    answered = [response.json for response in responses if response.status == 200]
    fell = sum("deadline" in answer.get("reasons", ()) for answer in answered)
    turned_away = sum(response.status == 504 for response in responses)
    late = grown("late_requests_total").get((), 0)
    assert fell > 0
    assert len(answered) + turned_away == len(responses)
    assert grown("deadline_missed_total") == {(): fell + turned_away}
    assert grown("fallbacks_total") == {("baseline", "deadline"): fell}
    assert late >= len(answered) - fell > 0


def test_a_strict_caller_who_cannot_wait_gets_504(server: Client, replaced: Any):
    """Predicted to take longer than it may, it is not begun."""
    replaced(lambda route: dataclasses.replace(route, cost=curve({1: 5.0})))
    deadline = "Keelmark-Deadline-Ms: 500"
    assert ask(server, GOOD, deadline).json["reasons"] == ["deadline"]
    response = ask(server, GOOD, deadline, STRICT)
    assert (response.status, response.error["code"]) == (504, "strict")


def test_a_run_that_is_given_up_is_on_the_page_until_it_ends(server: Client, replaced: Any):
    """Predicted to take 20 ms, so that the thread makes it; 1.5 s in fact, and 500 ms allowed."""
    slow = with_session(lambda real: Session(real, seconds=1.5))
    replaced(lambda route: dataclasses.replace(slow(route), cost=curve({1: 0.02})))
    grown = Grown(server)
    answer = ask(server, GOOD, "Keelmark-Deadline-Ms: 500").json
    assert (answer["served_by"], answer["reasons"]) == ("baseline", ["deadline"])
    assert grown("abandoned_runs_active") == {(): 1}
    deadline = time.monotonic() + 10
    while grown("abandoned_runs_active") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert grown("abandoned_runs_active") == {}
    assert grown("abandoned_runs_total") == {(): 1}
    assert grown("deadline_missed_total") == {(): 1}
    assert grown("predictions_total") == {("baseline",): 1}
    assert grown("output_values_total") == {}  # what came too late was given to nobody


def page_of(server: Client) -> dict[str, Any]:
    return server.send(b"GET /models/trips HTTP/1.1\r\nHost: test\r\n\r\n").json


def test_the_page_of_a_model_tells_its_ladder(server: Client):
    page = page_of(server)
    assert [(check["name"], check["policy"]) for check in page["checks"]] == [
        ("far_from_home", "reject"),
        ("workday_or_near", "baseline"),
    ]
    assert "90" in page["checks"][0]["holds"]
    assert [rule["name"] for rule in page["rules"]] == [
        "long_weekend",
        "unknown_carrier",
        "too_late",
        "default",
    ]
    assert page["rules"][1]["when"] == "flag.carrier == 'unknown'"
    assert page["rules"][1]["outputs"] == {"probability": 0.5}
    assert page["rules"][-1] == {"name": "default", "when": None, "outputs": {"probability": 0.25}}
    assert page["baseline"]["fields"] == ["distance", "carrier"]
    assert page["baseline"]["accepts"]["carrier"] == ["missing", "unknown"]
    assert page["baseline"]["estimator"] == "LGBMClassifier"
    assert (page["breaker"], page["forced"], page["max_repaired"]) == ("closed", None, None)
    policies = {field["name"]: field["policies"] for field in page["fields"]}
    assert policies["carrier"] == {"missing": "accept", "invalid": "baseline", "unknown": "rules"}
