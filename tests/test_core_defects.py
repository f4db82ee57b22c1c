"""Defects of ours cost the request that has them, whatever shares a run with it."""

import json
from typing import Any

import pytest

from models.bundle import Bundle
from models.gate import run_gate
from server import core as core_module
from server.protocols.predict import Answer
from server.refusals import shown
from tests.test_core import arrive, core_with, route_of
from tests.tiny import GOOD, pack_tiny


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = pack_tiny(tmp_path_factory.mktemp("store"))
    return Bundle.open(folder, batch_exact=run_gate(folder).batch_exact)


def codes(answers: list[Answer]) -> list[int]:
    return sorted(answer.status for answer in answers)


def test_a_defect_in_a_shared_group_costs_only_its_own_request(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    real = core_module.find_errors

    def faulty(group: list[Any], answers: Any) -> Any:
        if any(asked.request.request_id == b"bad" for asked in group):
            raise RecursionError
        return real(group, answers)

    monkeypatch.setattr(core_module, "find_errors", faulty)
    core, answers = core_with(route_of(bundle)[0]), list[Answer]()
    asked = [arrive(core, GOOD, answers, request_id=i) for i in (b"a", b"bad", b"c")]
    core.settle(asked)
    assert codes(answers) == [200, 200, 500]


def test_who_had_an_answer_before_the_defect_gets_no_second_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    real = core_module.commit

    def faulty(asked: Any, *rest: Any) -> None:
        if asked.request.request_id == b"bad":
            raise ZeroDivisionError
        real(asked, *rest)

    monkeypatch.setattr(core_module, "commit", faulty)
    core, answers = core_with(route_of(bundle)[0]), list[Answer]()
    core.settle([arrive(core, GOOD, answers, request_id=i) for i in (b"a", b"bad", b"c")])
    assert codes(answers) == [200, 200, 500]


def test_who_cannot_be_counted_or_answered_keeps_nobody_from_an_answer(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(core_module, "write_rows", defect)
    monkeypatch.setattr(core_module, "commit_failed", defect)
    core, answers = core_with(route_of(bundle)[0]), list[Answer]()
    asked = [arrive(core, GOOD, answers) for _ in range(3)]
    asked[0].hand_over = defect
    core.settle(asked)
    assert codes(answers) == [500, 500]
    assert json.loads(answers[0].body)["error"]["code"] == "internal"


def test_a_value_that_has_no_text_is_shown_by_its_type():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "array"


def test_a_defect_in_placing_a_request_costs_only_that_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    real = core_module.fits_here

    def faulty(asked: Any, now_ns: int) -> bool:
        if asked.request.request_id == b"bad":
            raise ZeroDivisionError
        return real(asked, now_ns)

    monkeypatch.setattr(core_module, "fits_here", faulty)
    core, answers = core_with(route_of(bundle)[0]), list[Answer]()
    core.settle([arrive(core, GOOD, answers, request_id=i) for i in (b"a", b"bad", b"c")])
    assert codes(answers) == [200, 200, 500]
