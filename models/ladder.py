"""Who answers a row: the model, the baseline, the rules, or nobody.

Per row, never per batch: what one row is answered does not depend on the others. Before the model
is asked, the policies of the fields decide (`models/planning.py`); after it, in this order: checks,
too many repairs, whether its answer may be given. The lowest rung that any of these asks for
answers, and the row is counted under the first reason that asks for it; all reasons are reported. A
request without troubles costs about 1 µs; only rows that fall are looked at one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.fields import FLAG_NAMES, Field
from models.baseline import Baseline
from models.manifest import Decision, Fallback, OutputSpec
from models.outputs import NO_DECISION, Decisions, Invalid, ModelOutputs, Validity
from models.planning import (
    BASELINE,
    MODEL,
    NONE,
    NOT_OVERRIDDEN,
    REJECTED,
    RULES,
    Encode,
    Fall,
    Overridden,
    Plan,
    Planner,
    Trouble,
    deciding,
    fall,
)
from models.rules import Rules
from models.vocabulary import OUTCOMES, REASONS

NO_REASON: Final = 255
CHECK: Final = REASONS.index("check")
NO_RECORD: Final[Mapping[str, Any]] = {}


@dataclass(slots=True)
class Answers:
    """What is answered, per row; lists are as long as the request.

    Attributes:
        outcome: position in `vocabulary.OUTCOMES`.
        values: one list per output; None where nobody answered.
        decision: its name, or None where none is declared or nobody answered.
        decision_code: position in `Ladder.decisions.names`; 255 for none.
        reason: position in `vocabulary.REASONS` that the row is counted under; 255 for none.
        repaired: row to field to trouble; sparse, as all below.
        reasons: row to why it was not answered by the model, as answers have it.
        bad: rejected row to its troubles that are more than accepted; none when a check rejects
            a row whose fields are good.
        failed_checks: row to the names of the checks that do not hold for it.
        bad_checks: row to those of them that reject it.
        rule: row to the rule that answered it.
        rule_errors: row to the places in `Ladder.rules.names` of rules that raised.
        invalid_outputs: row to the first output that could not be given and why, of rows that the
            model was to answer.
    """

    outcome: list[int]
    values: list[list[Any]]
    decision: list[str | None]
    decision_code: list[int]
    reason: list[int]
    repaired: Mapping[int, dict[str, str]] = NONE
    reasons: Mapping[int, list[str]] = NONE
    bad: Mapping[int, list[Trouble]] = NONE
    failed_checks: Mapping[int, tuple[str, ...]] = NONE
    bad_checks: Mapping[int, list[str]] = NONE
    rule: Mapping[int, str] = NONE
    rule_errors: Mapping[int, tuple[int, ...]] = NONE
    invalid_outputs: Mapping[int, Invalid] = NONE


@dataclass(frozen=True, slots=True)
class RuleError:
    """A rule that gave no yes or no for a row."""

    row: int
    rule: str
    error: str


@dataclass(frozen=True, slots=True)
class Below:
    """What each rung below the model says of every row, asked or not.

    Attributes:
        baseline: per row a value for each output; None where it does not answer.
        rules: per row a value for each output.
        rule: per row the rule that answers.
        rule_errors: of all rules, also those that a row does not reach.
    """

    baseline: list[list[Any] | None]
    rules: list[list[Any]]
    rule: list[str]
    rule_errors: tuple[RuleError, ...]


class Ladder(Planner):
    """The ladder of one bundle, ready to use. Immutable; any thread may call it.

    `plan` comes before the model is asked, `judge` after.

    Args:
        outputs: of the bundle.
        decision: of the primary output.
        fallback: policies, checks and the default.
        fields: in the row's order.
        encode: encodes the values that policies put in.
        baseline: None without one.
        rules: made from `fallback`; None when it has only the default.
        overridden: what of `fallback` an operator has changed.

    Raises:
        ValueError: a policy or check that cannot be applied, or a default that is no valid answer.
    """

    __slots__ = ("_checks", "_rules_by_operator", "_validity", "baseline", "decisions", "rules")

    def __init__(
        self,
        outputs: Sequence[OutputSpec],
        decision: Decision,
        fallback: Fallback,
        fields: Sequence[Field],
        encode: Encode,
        *,
        baseline: Baseline | None = None,
        rules: Rules | None = None,
        overridden: Overridden = NOT_OVERRIDDEN,
    ) -> None:
        super().__init__(
            fallback, fields, encode, has_baseline=baseline is not None, overridden=overridden
        )
        self._rules_by_operator = overridden.rules
        self.baseline = baseline
        assert rules is not None or not fallback.rules, "rules are compiled by the caller"
        self.rules = rules or Rules((), fallback.default, fields, {}, outputs)
        self.decisions = Decisions(outputs[0], decision)
        self._checks = _checks(fallback, has_baseline=baseline is not None)
        self._validity = Validity(outputs)

    @property
    def default(self) -> list[Any]:
        """The constant default's value of each output."""
        return self.rules.answers[-1]

    def judge(
        self, plan: Plan, outputs: ModelOutputs | None, *, failed: str = "model_error"
    ) -> Answers:
        """The answers of a plan's rows.

        Args:
            plan: from `plan`.
            outputs: of `plan.rows`; None when the model was not asked or did not answer. Then
                nothing is known of the checks, and none is applied.
            failed: reason of the rows that were the model's, when there are no outputs.
        """
        if outputs is not None and plan.rung is None and plan.asks_model:
            values = [column.tolist() for column in outputs.values]
            checks = outputs.checks
            if self._validity.all_hold(outputs, values) and (checks is None or _all_hold(checks)):
                count = len(plan.rows)
                codes = self.decisions.codes(values[0])
                return Answers(
                    [MODEL] * count,
                    values,
                    self.decisions.named(codes),
                    codes,
                    [NO_REASON] * count,
                    plan.repaired,
                )
        return self._descend(plan, outputs if plan.asks_model else None, failed)

    def below(self, plan: Plan, reason: str) -> Below:
        """What each rung below the model says of every row.

        Args:
            plan: from `plan`.
            reason: what rules are told that it was.
        """
        rows = range(len(plan.rows))
        asked = [self.rules.first(*self._seen(plan, row, reason))[0] for row in rows]
        return Below(
            baseline=self._baseline_of_all(plan),
            rules=[self.rules.answers[place] for place in asked],
            rule=[self.rules.names[place] for place in asked],
            rule_errors=tuple(
                RuleError(row, self.rules.names[raised.rule], raised.error)
                for row in rows
                for raised in self.rules.raising(*self._seen(plan, row, reason))
            ),
        )

    def _descend(self, plan: Plan, outputs: ModelOutputs | None, failed: str) -> Answers:
        """Answers where some rows are not the model's."""
        count = len(plan.rows)
        answers = Answers(
            [MODEL] * count,
            self._model_values(outputs, count),
            [None] * count,
            [NO_DECISION] * count,
            [NO_REASON] * count,
            plan.repaired,
        )
        falls = {row: list(found) for row, found in plan.falls.items()}
        if outputs is None:
            self._lose(falls, count, failed)
        else:
            self._apply_checks(plan, outputs, falls, answers)
            self._find_invalid(outputs, falls, answers)
        self._settle(plan, falls, answers)
        self._answer_below(plan, falls, answers)
        self._decide(answers)
        return answers

    def _model_values(self, outputs: ModelOutputs | None, count: int) -> list[list[Any]]:
        if outputs is None:
            return [[None] * count for _ in self.default]
        return [column.tolist() for column in outputs.values]

    # why rows fall

    def _lose(self, falls: dict[int, list[Fall]], count: int, failed: str) -> None:
        """What was the model's falls because it did not answer."""
        for row in range(count):
            if row not in falls:
                falls[row] = [fall(self.next_rung, failed)]

    def _apply_checks(
        self, plan: Plan, outputs: ModelOutputs, falls: dict[int, list[Fall]], answers: Answers
    ) -> None:
        """Adds the checks that do not hold, for rows that no policy rejects."""
        if outputs.checks is None or _all_hold(outputs.checks):
            return
        failed: dict[int, tuple[str, ...]] = {}
        rejecting: dict[int, list[str]] = {}
        for row in np.flatnonzero(~outputs.checks.all(axis=1)).tolist():
            if plan.rung is not None and plan.rung[row] == REJECTED:
                continue
            broken = [
                check
                for check, holds in zip(self._checks, outputs.checks[row].tolist(), strict=True)
                if not holds
            ]
            failed[row] = tuple(check.name for check in broken)
            falls[row] = sorted([*falls.get(row, ()), *(check.fall for check in broken)], key=_when)
            if rejects := [check.name for check in broken if check.fall.rung == REJECTED]:
                rejecting[row] = rejects
        answers.failed_checks, answers.bad_checks = failed or NONE, rejecting or NONE

    def _find_invalid(
        self, outputs: ModelOutputs, falls: dict[int, list[Fall]], answers: Answers
    ) -> None:
        """Only rows that are still the model's: of the others it was not asked."""
        invalid = self._validity.invalid(outputs)
        lost = {row: why for row, why in invalid.items() if row not in falls}
        for row in lost:
            falls[row] = [fall(self.next_rung, "output_invalid")]
        answers.invalid_outputs = lost or NONE

    def _settle(self, plan: Plan, falls: dict[int, list[Fall]], answers: Answers) -> None:
        """Writes down who is to answer the rows that fall, and why."""
        bad: dict[int, list[Trouble]] = {}
        for row, found in falls.items():
            decided = deciding(found)
            answers.outcome[row], answers.reason[row] = decided.rung, decided.code
            if decided.rung == REJECTED:
                bad[row] = plan.serious.get(row, [])
        answers.reasons = {row: [one.text for one in found] for row, found in falls.items()}
        answers.bad = bad or NONE

    # who answers instead

    def _answer_below(
        self, plan: Plan, falls: Mapping[int, Sequence[Fall]], answers: Answers
    ) -> None:
        by_baseline = self._ask_baseline(plan, answers)
        rule: dict[int, str] = {}
        errors: dict[int, tuple[int, ...]] = {}
        for row, found in falls.items():
            if answers.outcome[row] == REJECTED:
                said = [None] * len(answers.values)
            elif row in by_baseline:
                said = by_baseline[row]
            else:
                seen = self._seen(plan, row, deciding(found).text)
                place, raised = self.rules.first(*seen)
                if raised:
                    errors[row] = tuple(one.rule for one in raised)
                said, rule[row] = self.rules.answers[place], self.rules.names[place]
                answers.outcome[row] = RULES
                if self._rules_by_operator and "operator" not in answers.reasons[row]:
                    answers.reasons[row].append("operator")
            for column, value in zip(answers.values, said, strict=True):
                column[row] = value
        answers.rule, answers.rule_errors = rule or NONE, errors or NONE

    def _ask_baseline(self, plan: Plan, answers: Answers) -> dict[int, list[Any]]:
        """What the baseline answers of the rows that are to be its; the others get a reason more.

        The reason that sent a row there stays the one that it is counted under.
        """
        asked = [row for row, code in enumerate(answers.outcome) if code == BASELINE]
        said = self._baseline_said(plan, asked) if asked else {}
        answered: dict[int, list[Any]] = {}
        for row, (answer, why_not) in said.items():
            if answer is not None:
                answered[row] = answer
            reasons = answers.reasons[row]
            reasons += (why for why in why_not if why not in reasons)
        return answered

    def _baseline_said(
        self, plan: Plan, rows: Iterable[int]
    ) -> dict[int, tuple[list[Any] | None, Sequence[str]]]:
        """Per row its answer, or None and why there is none."""
        assert self.baseline is not None
        said: dict[int, tuple[list[Any] | None, Sequence[str]]] = {}
        ready: list[int] = []
        for row in rows:
            refused = self._refused(plan, row)
            said[row] = (None, refused)
            if not refused:
                ready.append(row)
        if ready:
            for row, answer in zip(ready, self.baseline.ask(plan.rows[ready]), strict=True):
                said[row] = (None, (answer,)) if isinstance(answer, str) else (answer, ())
        return said

    def _refused(self, plan: Plan, row: int) -> list[str]:
        """The troubles that keep the baseline from answering; a policy's own value heals one."""
        assert self.baseline is not None
        return [
            f"{self._fields[place]}:{FLAG_NAMES[flag]}"
            for place, flag in self.baseline.refuses(plan.encoded.flags[row])
            if (place, flag) not in self.repair_values
        ]

    def _baseline_of_all(self, plan: Plan) -> list[list[Any] | None]:
        rows = range(len(plan.rows))
        if self.baseline is None:
            return [None for _ in rows]
        said = self._baseline_said(plan, rows)
        return [said[row][0] for row in rows]

    def _seen(
        self, plan: Plan, row: int, reason: str
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8], Mapping[str, Any], str]:
        """What the rules look at."""
        record = plan.records[row] if plan.records else NO_RECORD
        return plan.rows[row], plan.encoded.flags[row], record, reason

    def _decide(self, answers: Answers) -> None:
        """Decisions of all rows that anybody answered."""
        answered = [row for row, code in enumerate(answers.outcome) if code != REJECTED]
        primary = answers.values[0]
        codes = self.decisions.codes([primary[row] for row in answered])
        for row, code in zip(answered, codes, strict=True):
            answers.decision_code[row] = code
        answers.decision = self.decisions.named(answers.decision_code)


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    fall: Fall


def _checks(fallback: Fallback, *, has_baseline: bool) -> tuple[_Check, ...]:
    checks: list[_Check] = []
    for check in fallback.checks:
        if check.policy == "baseline" and not has_baseline:
            raise ValueError(
                f"check {check.name!r}: its policy is 'baseline', and there is no baseline model; "
                "use 'rules', or pack one"
            )
        rung = REJECTED if check.policy == "reject" else OUTCOMES.index(check.policy)
        checks.append(_Check(check.name, Fall(rung, CHECK, f"check:{check.name}")))
    return tuple(checks)


def _all_hold(checks: NDArray[np.bool_]) -> bool:
    # The bytes are searched: `all` costs 2 µs, as much as the ladder's other work together.
    return b"\0" not in checks.tobytes()


def _when(one: Fall) -> int:
    """Its place in the order of decisions; troubles of fields are decided at once."""
    return max(one.code, CHECK - 1)
