"""Who answers a row: the model, the rules, or nobody.

Per row, never per batch. What number a bad value became was settled by the encoder, in training and
serving alike; here it is only decided who answers. A request without troubles costs about 1 µs;
only troubled rows are looked at one by one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import FLAG_NAMES, Field
from models.manifest import Decision, Fallback, OutputSpec, Policy
from models.outputs import NO_DECISION, Decisions, ModelOutputs, ValidRange
from models.policies import default_policy
from models.vocabulary import OUTCOMES, POLICIES, REASONS

MODEL, BASELINE, RULES, REJECTED = (
    OUTCOMES.index(word) for word in ("model", "baseline", "rules", "rejected")
)
ACCEPT, REPAIR, _, _, REJECT = range(len(POLICIES))
NO_REASON: Final = 255

Encode = Callable[[Sequence[Mapping[str, Any]]], Encoded]
Trouble = tuple[int, int]
"""Field index and flag code."""


class Nothing(dict[int, Any]):
    """An empty mapping that stays empty: what every clean request has of repairs and reasons."""

    __slots__ = ()
    # So that a dataclass takes it as a default, which all may share.
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  (it is unhashable by default)

    def __setitem__(self, key: int, value: Any) -> None:
        raise TypeError("this mapping is shared by all clean requests; make a new one")


NONE: Final[Mapping[int, Any]] = Nothing()


@dataclass(slots=True)
class Plan:
    """Who is to answer each row, before the model is asked.

    Attributes:
        rows: float64 (n, F) for the model, with the values of `repair` policies put in. It has
            every row, also those that others answer: the graph is total, and rows keep their
            places.
        rung: outcome code per row; None means that every row goes to the model.
        repaired: row to field to trouble.
        reasons: row to `field:trouble`, of rows that the model does not answer.
        bad: row to its troubles, of rejected rows.
        metric_reason: row to the reason code it is counted under.
    """

    rows: NDArray[np.float64]
    rung: list[int] | None = None
    repaired: Mapping[int, dict[str, str]] = NONE
    reasons: Mapping[int, list[str]] = NONE
    bad: Mapping[int, list[Trouble]] = NONE
    metric_reason: Mapping[int, int] = NONE

    @property
    def asks_model(self) -> bool:
        """Whether any row is the model's to answer."""
        return self.rung is None or MODEL in self.rung


@dataclass(slots=True)
class Answers:
    """What is answered, per row; lists are as long as the request.

    Attributes:
        outcome: position in `vocabulary.OUTCOMES`.
        values: one list per output; None where nobody answered.
        decision: its name, or None where none is declared or nobody answered.
        decision_code: position in `Ladder.decisions.names`; 255 for none.
        reason: position in `vocabulary.REASONS` that the row is counted under; 255 for none.
        repaired, reasons, bad: as in the plan; sparse, by row.
    """

    outcome: list[int]
    values: list[list[Any]]
    decision: list[str | None]
    decision_code: list[int]
    reason: list[int]
    repaired: Mapping[int, dict[str, str]] = NONE
    reasons: Mapping[int, list[str]] = NONE
    bad: Mapping[int, list[Trouble]] = NONE


class Ladder:
    """The policies of one bundle, ready to use. Immutable; any thread may call it."""

    __slots__ = (
        "_default",
        "_fields",
        "_max_repaired",
        "_ranges",
        "_repair_values",
        "_severity",
        "_severity_table",
        "decisions",
    )

    def __init__(
        self,
        outputs: Sequence[OutputSpec],
        decision: Decision,
        fallback: Fallback,
        fields: Sequence[Field],
        encode: Encode,
    ) -> None:
        self._fields = tuple(field.name for field in fields)
        self._severity = tuple(
            _severities(field, fallback.policies[field.name]) for field in fields
        )
        self._severity_table = np.asarray(self._severity, np.uint8).reshape(-1, len(FLAG_NAMES))
        self._repair_values = repair_values(fallback, fields, encode)
        self._max_repaired = fallback.max_repaired
        self._ranges = tuple(
            (place, ValidRange(spec)) for place, spec in enumerate(outputs) if spec.kind != "label"
        )
        self.decisions = Decisions(outputs[0], decision)
        self._default = [fallback.default[spec.name] for spec in outputs]

    @property
    def default(self) -> list[Any]:
        """The constant default's value of each output."""
        return self._default

    # before the model

    def plan(self, encoded: Encoded) -> Plan:
        """Who answers each row of encoded records."""
        if not encoded.troubles:
            return Plan(encoded.rows)
        severity = self._severity
        serious: dict[int, list[Trouble]] = {}
        for row, place, flag in encoded.troubles:
            if severity[place][flag]:
                serious.setdefault(row, []).append((place, flag))
        return self._plan_troubled(encoded.rows, serious) if serious else Plan(encoded.rows)

    def plan_table(self, encoded: Encoded) -> Plan:
        """Who answers each row of an encoded table, whose flags are dense."""
        severe = self._severity_table[np.arange(len(self._fields)), encoded.flags]
        serious: dict[int, list[Trouble]] = {}
        for row, place in np.argwhere(severe).tolist():
            serious.setdefault(row, []).append((place, int(encoded.flags[row, place])))
        return self._plan_troubled(encoded.rows, serious) if serious else Plan(encoded.rows)

    def _plan_troubled(self, rows: NDArray[np.float64], serious: dict[int, list[Trouble]]) -> Plan:
        rung = [MODEL] * len(rows)
        repaired: dict[int, dict[str, str]] = {}
        reasons: dict[int, list[str]] = {}
        bad: dict[int, list[Trouble]] = {}
        metric_reason: dict[int, int] = {}
        for row, troubles in serious.items():
            worst = max(self._severity[place][flag] for place, flag in troubles)
            repairs = [t for t in troubles if self._severity[t[0]][t[1]] == REPAIR]
            if repairs:
                repaired[row] = {self._fields[place]: FLAG_NAMES[flag] for place, flag in repairs}
            if worst == REJECT:
                rung[row], bad[row] = REJECTED, troubles
            elif worst > REPAIR:
                rung[row] = RULES
            elif self._max_repaired is not None and len(repairs) > self._max_repaired:
                rung[row], reasons[row] = RULES, ["too_many_repaired"]
                metric_reason[row] = REASONS.index("too_many_repaired")
            if worst > REPAIR:
                reasons[row] = self._reasons(troubles)
                metric_reason[row] = self._deciding(troubles, worst)
        return Plan(
            self._with_values(rows, serious),
            rung if any(rung) else None,
            repaired,
            reasons,
            bad,
            metric_reason,
        )

    def _reasons(self, troubles: list[Trouble]) -> list[str]:
        return [
            f"{self._fields[place]}:{FLAG_NAMES[flag]}"
            for place, flag in troubles
            if self._severity[place][flag] > REPAIR
        ]

    def _deciding(self, troubles: list[Trouble], worst: int) -> int:
        flag = next(flag for place, flag in troubles if self._severity[place][flag] == worst)
        return flag - 1

    def _with_values(
        self, rows: NDArray[np.float64], serious: dict[int, list[Trouble]]
    ) -> NDArray[np.float64]:
        """The rows with the policies' own values; the encoder's array is counted, so it stays."""
        values = self._repair_values
        if not values:
            return rows
        put = [
            (row, trouble[0], values[trouble])
            for row, troubles in serious.items()
            for trouble in troubles
            if trouble in values
        ]
        if put:
            rows = rows.copy()
            for row, place, value in put:
                rows[row, place] = value
        return rows

    # after the model

    def judge(
        self, plan: Plan, outputs: ModelOutputs | None, *, failed: str = "model_error"
    ) -> Answers:
        """The answers of a plan's rows.

        Args:
            plan: from `plan`.
            outputs: of `plan.rows`; None when the model was not asked or did not answer.
            failed: reason of the rows that were the model's, when there are no outputs.
        """
        count = len(plan.rows)
        if outputs is None:
            values: list[list[Any]] = [[None] * count for _ in self._default]
            return self._fall(plan, values, self._unanswered(plan), failed)
        values = [column.tolist() for column in outputs.values]
        if plan.rung is None and self._all_valid(outputs, values):
            codes = self.decisions.codes(values[0])
            return Answers(
                [MODEL] * count,
                values,
                self.decisions.named(codes),
                codes,
                [NO_REASON] * count,
                plan.repaired,
            )
        return self._fall(plan, values, self._invalid(plan, outputs), "output_invalid")

    def _all_valid(self, outputs: ModelOutputs, values: list[list[Any]]) -> bool:
        for place, valid in self._ranges:
            answers = values[place]
            if len(answers) == 1 and valid.is_number:
                if not valid.low <= answers[0] <= valid.high:
                    return False
            elif not valid.all_hold(outputs.values[place], answers):
                return False
        return True

    def _unanswered(self, plan: Plan) -> Iterable[int]:
        rung = plan.rung or [MODEL] * len(plan.rows)
        return [row for row, code in enumerate(rung) if code == MODEL]

    def _invalid(self, plan: Plan, outputs: ModelOutputs) -> Iterable[int]:
        wrong = np.zeros(len(plan.rows), np.bool_)
        for place, valid in self._ranges:
            wrong |= valid.invalid_rows(outputs.values[place])
        rung = plan.rung
        return [row for row in np.flatnonzero(wrong).tolist() if rung is None or not rung[row]]

    def _fall(
        self, plan: Plan, values: list[list[Any]], fallen: Iterable[int], reason: str
    ) -> Answers:
        """Answers where some rows are not the model's; `fallen` are those it lost."""
        count = len(plan.rows)
        outcome = list(plan.rung) if plan.rung else [MODEL] * count
        reasons = dict(plan.reasons)
        codes = [NO_REASON] * count
        for row, code in plan.metric_reason.items():
            codes[row] = code
        for row in fallen:
            outcome[row], reasons[row], codes[row] = RULES, [reason], REASONS.index(reason)
        for row, code in enumerate(outcome):
            if code != MODEL:
                answer = self._default if code == RULES else [None] * len(values)
                for column, value in zip(values, answer, strict=True):
                    column[row] = value
        decisions = self._decide(outcome, values[0])
        return Answers(
            outcome,
            values,
            self.decisions.named(decisions),
            decisions,
            codes,
            plan.repaired,
            reasons,
            plan.bad,
        )

    def _decide(self, outcome: list[int], primary: list[Any]) -> list[int]:
        answered = [row for row, code in enumerate(outcome) if code <= RULES]
        codes = [NO_DECISION] * len(outcome)
        for row, code in zip(
            answered, self.decisions.codes([primary[row] for row in answered]), strict=True
        ):
            codes[row] = code
        return codes


def _severities(field: Field, policies: Mapping[Any, Policy]) -> tuple[int, ...]:
    """Severity by flag code; flag 0 is no trouble."""
    by_trouble = (
        policies.get(trouble) or default_policy(field, trouble) for trouble in FLAG_NAMES[1:]
    )
    return (ACCEPT, *(POLICIES.index(policy.policy) for policy in by_trouble))


def repair_values(
    fallback: Fallback, fields: Sequence[Field], encode: Encode
) -> dict[Trouble, float]:
    """What `repair` policies put in, as row values.

    Raises:
        ValueError: a value is itself in trouble.
    """
    values: dict[Trouble, float] = {}
    for place, declared in enumerate(fields):
        for trouble, policy in fallback.policies[declared.name].items():
            if policy.value is None:
                continue
            encoded = encode([{declared.name: policy.value}])
            if flag := int(encoded.flags[0, place]):
                raise ValueError(
                    f"field {declared.name!r}, {trouble}: {policy.value!r}, which is to repair "
                    f"it, is itself {FLAG_NAMES[flag]}; use a value that the field accepts"
                )
            values[place, FLAG_NAMES.index(trouble)] = float(encoded.rows[0, place])
    return values
