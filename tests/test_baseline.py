"""The simpler model below the model: which rows it takes, and what becomes of those it cannot."""

from typing import Any, cast

import numpy as np
import pytest

from features.runtime import Session
from models.ladder import BASELINE, MODEL, RULES
from models.manifest import Trouble
from models.policies import repair
from models.vocabulary import REASONS
from tests.rungs import (
    BAD,
    DEFAULT,
    GOOD,
    PLACES,
    answered,
    baseline,
    baseline_session,
    encoded,
    ladder,
    said,
)

INVALID = {"size": {"invalid": "baseline"}, "colour": {"unknown": "baseline"}}
GREEN = {**GOOD, "colour": "green"}
"""Goes to the baseline, whose own field is good."""


def rows(*sizes: float) -> Any:
    return encoded(*({**GOOD, "size": size} for size in sizes)).rows


def flags(**troubles: Trouble) -> Any:
    return encoded(
        {**GOOD, **{name: BAD[name, trouble] for name, trouble in troubles.items()}}
    ).flags[0]


def test_it_answers_with_the_outputs_of_the_model():
    assert baseline().ask(rows(0, 1, 2)) == [[0.5], [0.625], [0.75]]


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7])
def test_an_answer_that_is_not_finite_or_out_of_range_is_none(size: int):
    assert baseline().ask(rows(size)) == ["output_invalid"]
    assert baseline().ask(rows(1, size, 2)) == [[0.625], "output_invalid", [0.75]]


@pytest.mark.parametrize("batch_exact", [True, False])
def test_a_row_that_raises_leaves_the_others_their_answers(batch_exact: bool):
    simple = baseline(batch_exact=batch_exact)
    assert simple.ask(rows(8)) == ["model_error"]
    assert simple.ask(rows(1, 9, 3, 2)) == [[0.625], "model_error", "output_invalid", [0.75]]


class Counted:
    """A session that remembers how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def run(self, rows: Any) -> Any:
        self.runs.append(len(rows))
        return baseline_session().run(rows)


@pytest.mark.parametrize(("batch_exact", "runs"), [(True, [3]), (False, [1, 1, 1])])
def test_batches_are_run_row_by_row_where_they_have_other_bits(batch_exact: bool, runs: list[int]):
    session = Counted()
    simple = baseline(batch_exact=batch_exact, session=cast("Session", session))
    assert simple.ask(rows(0, 1, 2)) == [[0.5], [0.625], [0.75]]
    assert session.runs == runs


def test_it_takes_troubles_of_fields_that_it_does_not_read():
    assert baseline().answers(flags())
    assert baseline().answers(flags(colour="unknown", at="invalid"))


@pytest.mark.parametrize("trouble", ["missing", "invalid", "out_of_bounds"])
def test_it_takes_the_troubles_that_it_accepts_and_no_other(trouble: Trouble):
    assert not baseline().answers(flags(size=trouble))
    assert baseline({"size": (trouble,)}).answers(flags(size=trouble))
    others: tuple[Trouble, ...] = ("missing", "invalid", "out_of_bounds")
    simple = baseline({"size": tuple(other for other in others if other != trouble)})
    assert not simple.answers(flags(size=trouble))
    assert [place for place, _ in simple.refuses(flags(size=trouble))] == [PLACES["size"]]


# on the ladder


def test_a_row_of_the_baseline_says_why():
    rungs = ladder(INVALID, below=baseline())
    plan = rungs.plan(encoded(GOOD, GREEN))
    assert plan.rung == [MODEL, BASELINE]
    answers = rungs.judge(plan, said(0.1, 0.2))
    assert answers.outcome == [MODEL, BASELINE]
    assert answers.values[0][1] == 0.625
    assert answers.decision == ["low", "high"]
    assert answers.reasons == {1: ["colour:unknown"]}
    assert REASONS[answers.reason[1]] == "unknown"
    assert answers.rule == {}


def test_a_field_that_the_baseline_reads_and_does_not_accept_leads_to_the_rules():
    rungs = ladder(INVALID, below=baseline())
    record = {**GOOD, "size": None, "colour": "green"}
    answers = rungs.judge(rungs.plan(encoded(record), [record]), None)
    assert answers.outcome == [RULES]
    assert answers.rule == {0: "lost"}
    assert answers.reasons == {0: ["colour:unknown", "size:missing"]}
    assert REASONS[answers.reason[0]] == "unknown", "the reason that sent it down"


def test_a_reason_is_told_once():
    rungs = ladder(INVALID, below=baseline())
    answers = rungs.judge(rungs.plan(encoded({**GOOD, "size": "x"})), None)
    assert (answers.outcome, answers.reasons) == ([RULES], {0: ["size:invalid"]})


@pytest.mark.parametrize(("size", "reason"), [(3, "output_invalid"), (9, "model_error")])
def test_a_baseline_that_fails_leads_to_the_rules(size: int, reason: str):
    rungs = ladder(INVALID, below=baseline())
    answers = rungs.judge(rungs.plan(encoded({**GREEN, "size": size})), None)
    assert answers.outcome == [RULES]
    assert answers.reasons == {0: ["colour:unknown", reason]}
    assert REASONS[answers.reason[0]] == "unknown"
    assert answers.values == [[0.125 if size < 5 else DEFAULT]]


@pytest.mark.parametrize("failed", ["model_error", "output_invalid"])
def test_a_baseline_that_fails_as_the_model_did_says_so_once(failed: str):
    rungs = ladder(below=baseline())
    size = {"model_error": 9, "output_invalid": 3}[failed]
    plan = rungs.plan(encoded({**GOOD, "size": size}))
    outputs = said(np.nan) if failed == "output_invalid" else None
    answers = rungs.judge(plan, outputs)
    assert (answers.outcome, answers.reasons) == ([RULES], {0: [failed]})


def test_a_value_that_a_policy_puts_in_is_good_for_the_baseline_too():
    own = {"size": {"missing": repair(2.0)}, "colour": {"unknown": "baseline"}}
    record = {**GREEN, "size": None}
    rungs = ladder(own, below=baseline())
    answers = rungs.judge(rungs.plan(encoded(record)), None)
    assert (answers.outcome, answers.values) == ([BASELINE], [[0.75]])
    assert answers.repaired == {0: {"size": "missing"}}


def test_what_every_rung_says_of_every_row():
    rungs = ladder({"size": {"out_of_bounds": "reject"}}, below=baseline())
    records = [GOOD, {**GOOD, "size": None}, {**GOOD, "size": 11.0}, {**GOOD, "size": 7.0}]
    below = rungs.below(rungs.plan(encoded(*records), records), "operator")
    assert below.baseline == [[0.625], None, None, None]
    assert below.rules == [[0.125], [0.875], [0.875], [DEFAULT]]
    assert below.rule == ["small", "lost", "lost", "default"]
    assert below.rule_errors == ()


def test_without_a_baseline_it_says_nothing():
    rungs = ladder()
    assert rungs.below(rungs.plan(encoded(GOOD, GOOD)), "operator").baseline == [None, None]


def test_a_row_has_the_same_answer_alone_and_in_a_batch():
    rungs = ladder(INVALID, below=baseline())
    records = [{**GREEN, "size": size} for size in (0, 9, 3, None, "x", 2, 11)]
    together = rungs.judge(rungs.plan(encoded(*records), records), None)
    for row, record in enumerate(records):
        alone = rungs.judge(rungs.plan(encoded(record), [record]), None)
        assert answered(together, row) == answered(alone, 0)
