"""Every field kind × trouble × policy, every trigger and every two of them, through a socket.

What is answered and what is counted is compared with an oracle (`tests.cells_oracle`), row by row.
"""

import contextlib
import dataclasses
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

import pytest

from server.breaker import Breaker
from server.cost import ReadCost, curve
from server.pace import Pace
from server.routes import Route
from tests.cells import CELLS, FEW_CELLS, pack_cells
from tests.cells_oracle import (
    BASELINE,
    MODEL,
    NOBODY,
    OUTCOMES,
    RAISES,
    RULES,
    Change,
    Oracle,
    Said,
    cell_changes,
    strict,
    strict_counts,
    total,
    trigger_changes,
)
from tests.in_thread import Client, Response, post, server_over

ORACLES: Final = {
    "cells": Oracle(CELLS, max_repaired=1, has_baseline=True),
    "plain": Oracle(FEW_CELLS, max_repaired=None, has_baseline=False),
}
BOTH: Final = pytest.mark.parametrize("name", ORACLES)
PATIENT: Final = "Keelmark-Deadline-Ms: 60000"
STRICT: Final = "Keelmark-Strict: 1"
LIST_ROWS: Final = 500
PIPELINED: Final = 40
SAMPLE: Final = re.compile(r"^keelmark_(\w+)_total\{(.*)\} (\S+)$", re.MULTILINE)

Changes = Sequence[Change]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    store = tmp_path_factory.mktemp("store")
    for name, oracle in ORACLES.items():
        pack_cells(
            store,
            name,
            cells=oracle.cells,
            max_repaired=oracle.max_repaired,
            has_baseline=oracle.has_baseline,
        )
    with server_over(store, tmp_path_factory.mktemp("state"), queue_requests=1) as client:
        yield client


def single_changes(name: str, *, all_values: bool = False) -> list[Change]:
    oracle = ORACLES[name]
    cells = cell_changes(oracle.cells, all_values=all_values)
    return [*cells, *trigger_changes(has_baseline=oracle.has_baseline)]


def ones(name: str, *, all_values: bool = False) -> list[Changes]:
    """A record with nothing wrong, and each change."""
    return [(), *((change,) for change in single_changes(name, all_values=all_values))]


def pairs(name: str) -> list[Changes]:
    """Every two changes that are not of the same field."""
    both = combinations(single_changes(name), 2)
    return [(a, b) for a, b in both if not a.values.keys() & b.values.keys()]


# asking


def in_lists(server: Client, name: str, cases: Sequence[Changes], *headers: str) -> list[Any]:
    """The items of all records, sent in lists."""
    items: list[Any] = []
    for part in parts(cases, LIST_ROWS):
        records = [ORACLES[name].record(changes) for changes in part]
        response = server.predict(records, PATIENT, *headers, model=name)
        assert response.json.keys() == {
            "model",
            "version",
            "request_id",
            "prediction_id",
            "predictions",
        }
        assert len(response.json["predictions"]) == len(part)
        items += response.json["predictions"]
    return items


def alone(server: Client, name: str, cases: Sequence[Changes], *headers: str) -> list[Response]:
    """The answers to all records, each in a request of its own, some of which share a run."""
    answers: list[Response] = []
    with server.connect() as connection:
        for part in parts(cases, PIPELINED):
            bodies = (json.dumps(ORACLES[name].record(changes)).encode() for changes in part)
            asked = [post(f"/predict/{name}", body, PATIENT, *headers) for body in bodies]
            connection.send(b"".join(asked))
            answers += [connection.receive() for _ in part]
    return answers


def parts(cases: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (cases[start : start + size] for start in range(0, len(cases), size))


# comparing


def assert_said(item: Any, said: Said, where: str) -> None:
    """An item of a list, or a single answer without what it shares with the others."""
    if said.outcome == NOBODY:
        assert item["error"]["code"] == "rejected_record", where
        assert names(item["error"]) == said.bad, where
        return
    expected: dict[str, Any] = {
        "prediction": said.score,
        "outputs": {"score": said.score, "seen": said.seen},
        "decision": said.decision,
        "served_by": OUTCOMES[said.outcome],
    }
    for key in ("repaired", "rule", "reasons"):
        if value := getattr(said, key):
            expected[key] = value
    assert item == expected, where


def names(error: Any) -> set[str]:
    return {bad.get("field") or bad["check"] for bad in error.get("fields", ())}


def assert_answer(response: Response, said: Said, where: str) -> None:
    """The answer to a single record."""
    body = response.json
    if said.outcome == NOBODY:
        assert response.status == 422, where
        assert {bad["row"] for bad in body["error"]["fields"]} == {0}, where
    else:
        assert response.status == 200, (where, body)
        assert response.headers["keelmark-served-by"] == OUTCOMES[said.outcome], where
        for key in ("model", "version", "request_id", "prediction_id"):
            del body[key]
    assert_said(body, said, where)


def assert_strict(error: Any, status: int | None, said: Said, where: str) -> None:
    """The error of a row whose caller is strict."""
    wanted, named = strict(said)
    assert status in (None, wanted), where
    code = "rejected_record" if said.outcome == NOBODY else "strict"
    assert (error["code"], names(error)) == (code, named), where


def what(changes: Changes) -> str:
    return " + ".join(change.name for change in changes)


class Counted:
    """What grows of the counters of a model, by name and labels."""

    FAMILIES: Final = (
        "predictions",
        "fallbacks",
        "field_quality",
        "field_repaired",
        "checks_failed",
        "output_invalid",
        "rule_answers",
        "rule_errors",
        "decisions",
        "deadline_missed",
        "output_values",
    )

    def __init__(self, server: Client, name: str) -> None:
        self._server, self._name = server, name
        self._before = self._read()

    def _read(self) -> Counter[tuple[str, ...]]:
        page = self._server.ops("/metrics").body.decode()
        found: Counter[tuple[str, ...]] = Counter()
        for family, labels, value in SAMPLE.findall(page):
            pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if family in self.FAMILIES and pairs.pop("model", None) == self._name:
                own = () if family == "output_values" else tuple(pairs.values())[1:]
                found[family, *own] += int(float(value))
        return found

    def assert_grown(self, expected: Counter[tuple[str, ...]]) -> None:
        now = self._read()
        grown = Counter({key: now[key] - self._before[key] for key in now})
        assert +grown == +expected


# with a model that is asked


@BOTH
def test_whatever_is_wrong_with_a_record_it_is_answered_and_counted_so(server: Client, name: str):
    cases = ones(name, all_values=True)
    said = [ORACLES[name].says(changes) for changes in cases]
    assert {one.outcome for one in said} == {MODEL, RULES, NOBODY} | (
        {BASELINE} if ORACLES[name].has_baseline else set()
    )
    counted = Counted(server, name)
    for changes, response, one in zip(cases, alone(server, name, cases), said, strict=True):
        assert_answer(response, one, what(changes))
    for changes, item, one in zip(cases, in_lists(server, name, cases), said, strict=True):
        assert_said(item, one, what(changes))
    counted.assert_grown(total([*said, *said]))


@BOTH
def test_whatever_two_things_are_wrong_the_lower_rung_answers(server: Client, name: str):
    cases = pairs(name)
    said = [ORACLES[name].says(changes) for changes in cases]
    counted = Counted(server, name)
    for changes, item, one in zip(cases, in_lists(server, name, cases), said, strict=True):
        assert_said(item, one, what(changes))
    counted.assert_grown(total(said))


@BOTH
def test_two_things_wrong_with_a_record_alone_are_what_they_are_in_a_list(
    server: Client, name: str
):
    cases = random.Random(1).sample(pairs(name), 600)
    said = [ORACLES[name].says(changes) for changes in cases]
    counted = Counted(server, name)
    for changes, response, one in zip(cases, alone(server, name, cases), said, strict=True):
        assert_answer(response, one, what(changes))
    counted.assert_grown(total(said))


@BOTH
def test_a_strict_caller_is_told_what_is_wrong_and_gets_no_rung_below(server: Client, name: str):
    cases = [*ones(name), *random.Random(2).sample(pairs(name), 600)]
    said = [ORACLES[name].says(changes) for changes in cases]
    counted = Counted(server, name)
    for changes, item, one in zip(cases, in_lists(server, name, cases, STRICT), said, strict=True):
        if strict(one)[0] == 200:
            assert_said(item, one, what(changes))
        else:
            assert_strict(item["error"], None, one, what(changes))
    counted.assert_grown(Counter(labels for one in said for labels in strict_counts(one)))


# with a model that raises, or is not asked


@contextlib.contextmanager
def changed(server: Client, name: str, **changes: Any) -> Generator[Route]:
    """Another route in the place of the live one, with a pace and a breaker of its own."""
    core = server.core
    live = core.routes.live[name]
    fresh = {"pace": Pace(), "breaker": Breaker(), **changes}
    route = dataclasses.replace(live, **fresh)
    server.call(setattr, core, "routes", core.routes.with_route(route))
    try:
        yield route
    finally:
        server.call(setattr, core, "routes", core.routes.with_route(live))


@BOTH
def test_where_the_model_raises_the_next_rung_answers(server: Client, name: str):
    others = [changes for changes in ones(name) if not any("x" in one.values for one in changes)]
    cases = [(RAISES, *changes) for changes in others]
    said = [ORACLES[name].says(changes) for changes in cases]
    counted = Counted(server, name)
    for part in parts(list(zip(cases, said, strict=True)), 4):  # five would open the breaker
        with changed(server, name):
            responses = alone(server, name, [changes for changes, _ in part])
        for (changes, one), response in zip(part, responses, strict=True):
            assert_answer(response, one, what(changes))
    counted.assert_grown(total(said))


@BOTH
def test_a_request_for_which_the_model_raises_costs_those_beside_it_nothing(
    server: Client, name: str
):
    others = ones(name)
    cases = [*others[:20], (RAISES,), *others[20:]]  # it comes with some of them, and shares a run
    said = [ORACLES[name].says(changes) for changes in cases]
    counted = Counted(server, name)
    with changed(server, name):
        responses = alone(server, name, cases)
    for changes, response, one in zip(cases, responses, said, strict=True):
        assert_answer(response, one, what(changes))
    counted.assert_grown(total(said))


def test_requests_of_two_models_that_come_together_are_each_their_own(server: Client):
    cases = [(name, changes) for name in ORACLES for changes in ones(name)]
    random.Random(3).shuffle(cases)
    counts = {name: Counted(server, name) for name in ORACLES}
    for part in parts(cases, PIPELINED):
        with server.connect() as connection:
            bodies = [json.dumps(ORACLES[name].record(changes)).encode() for name, changes in part]
            asked = zip(part, bodies, strict=True)
            connection.send(
                b"".join(post(f"/predict/{name}", body, PATIENT) for (name, _), body in asked)
            )
            for name, changes in part:
                assert_answer(connection.receive(), ORACLES[name].says(changes), what(changes))
    for name, counted in counts.items():
        counted.assert_grown(total([ORACLES[own].says(each) for own, each in cases if own == name]))


@BOTH
def test_a_list_for_which_the_model_raises_is_answered_by_the_rungs_below(
    server: Client, name: str
):
    cases = [(RAISES,), *ones(name)]
    said = [ORACLES[name].says(changes, why="model_error") for changes in cases]
    counted = Counted(server, name)
    with changed(server, name):
        items = in_lists(server, name, cases)
    for changes, item, one in zip(cases, items, said, strict=True):
        assert_said(item, one, what(changes))
    counted.assert_grown(total(said))


class Held:
    """A model whose runs wait to be let go."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.began, self.let_go = threading.Event(), threading.Event()

    def run(self, rows: Any) -> Any:
        self.began.set()
        assert self.let_go.wait(20)
        return self._session.run(rows)


AT_ONCE = ReadCost(byte_ns=0.0, row_ns=0.0, row_bytes=1_000.0)
QUICK, SLOW, TOO_SLOW = curve({1: 1e-9}), curve({1: 1e-3, 1_000: 1e-3}), curve({1: 1e6})


@contextlib.contextmanager
def troubled(server: Client, name: str, triggers: Sequence[str]) -> Generator[None]:
    """The server while its model is not asked, for one reason or several at once."""
    with contextlib.ExitStack() as stack:
        if "overload" in triggers:
            stack.enter_context(overloaded(server, name))
        made: dict[str, Any] = {"below": QUICK, "cost": QUICK, "reading": AT_ONCE}
        if "overload" in triggers:
            made["cost"] = SLOW
        if "deadline" in triggers:
            made["cost"] = TOO_SLOW
        if "breaker" in triggers:
            made["breaker"] = Breaker()
            for _ in range(5):
                made["breaker"].ran(is_bad=True)
        forced = [trigger.removeprefix("forced ") for trigger in triggers if "forced" in trigger]
        made["forced"] = forced[0] if forced else None
        stack.enter_context(changed(server, name, **made))
        yield


@contextlib.contextmanager
def overloaded(server: Client, name: str) -> Generator[None]:
    """The thread has as much to do as it may."""
    live = server.core.routes.live[name]
    held = Held(live.bundle.session)
    bundle = dataclasses.replace(live.bundle, session=held)
    with changed(server, name, bundle=bundle, cost=SLOW, below=QUICK):
        waiting = threading.Thread(target=lambda: alone(server, name, [()]))
        waiting.start()
        assert held.began.wait(20)
    try:
        yield
    finally:
        held.let_go.set()
        waiting.join(20)


WHOLE: Final[dict[str, dict[str, Any]]] = {
    "deadline": {"why": "deadline"},
    "overload": {"why": "overload"},
    "breaker": {"why": "breaker"},
    "forced baseline": {"forced": BASELINE},
    "forced rules": {"forced": RULES},
}
"""What keeps whole requests from the model, and how the oracle is told."""
STRONGER: Final = {
    ("deadline", "overload"): "overload",
    ("deadline", "breaker"): "breaker",
    ("overload", "breaker"): "breaker",
}
"""Of two reasons the one that is given: whatever is known first."""


@pytest.mark.parametrize("trigger", WHOLE)
@BOTH
def test_where_the_model_is_not_asked_records_fall_for_that_or_for_worse(
    server: Client, name: str, trigger: str
):
    cases = [*ones(name), (RAISES,)]
    said = [ORACLES[name].says(changes, **WHOLE[trigger]) for changes in cases]
    with troubled(server, name, [trigger]):
        counted = Counted(server, name)
        for changes, response, one in zip(cases, alone(server, name, cases), said, strict=True):
            assert_answer(response, one, what(changes))
        for changes, item, one in zip(cases, in_lists(server, name, cases), said, strict=True):
            assert_said(item, one, what(changes))
        counted.assert_grown(total([*said, *said]))


@pytest.mark.parametrize("trigger", WHOLE)
@BOTH
def test_a_strict_caller_is_told_when_we_are_the_cause(server: Client, name: str, trigger: str):
    cases = ones(name)
    said = [ORACLES[name].says(changes, **WHOLE[trigger]) for changes in cases]
    with troubled(server, name, [trigger]):
        counted = Counted(server, name)
        answers = alone(server, name, cases, STRICT)
        for changes, response, one in zip(cases, answers, said, strict=True):
            assert_strict(response.error, response.status, one, what(changes))
        counted.assert_grown(Counter(labels for one in said for labels in strict_counts(one)))


TWO: Final = [pair for pair in combinations(WHOLE, 2) if "forced" not in pair[0]]


@pytest.mark.parametrize("triggers", TWO, ids=" + ".join)
def test_of_two_reasons_not_to_ask_the_model_one_is_given(
    server: Client, triggers: tuple[str, str]
):
    name, forced = "cells", [trigger for trigger in triggers if "forced" in trigger]
    told: dict[str, Any] = WHOLE[forced[0]] if forced else {"why": STRONGER[triggers]}
    cases = ones(name)
    said = [ORACLES[name].says(changes, **told) for changes in cases]
    with troubled(server, name, triggers):
        counted = Counted(server, name)
        for changes, item, one in zip(cases, in_lists(server, name, cases), said, strict=True):
            assert_said(item, one, what(changes))
        counted.assert_grown(total(said))
