"""A bundle's answers to records and tables, as the server would give them, for commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.encoding import Encoded
from models.bundle import Bundle
from models.ladder import Answers, Plan
from models.vocabulary import OUTCOMES
from server.refusals import RowError, errors_of
from server.work import run_rows


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to n rows; `errors` has those that nobody answers."""

    bundle: Bundle
    answers: Answers
    errors: Mapping[int, RowError]

    def __len__(self) -> int:
        return len(self.answers.outcome)

    @property
    def refused(self) -> int:
        """Rows without an answer."""
        return len(self.errors)

    def columns(self) -> dict[str, list[Any]]:
        """A column for each thing an answer says; texts of several things are joined by `; `."""
        rows, answers = range(len(self)), self.answers
        columns: dict[str, list[Any]] = {"prediction": answers.values[0]}
        if len(self.bundle.outputs) > 1:
            names = [output.name for output in self.bundle.outputs]
            columns |= dict(zip(names, answers.values, strict=True))
        if self.bundle.ladder.decisions.names:
            columns["decision"] = answers.decision
        repaired = [answers.repaired.get(row, {}) for row in rows]
        return columns | {
            "served_by": [None if row in self.errors else self._rung(row) for row in rows],
            "rule": [answers.rule.get(row) for row in rows],
            "reasons": ["; ".join(answers.reasons.get(row, [])) for row in rows],
            "repaired": ["; ".join(f"{f}:{t}" for f, t in fields.items()) for fields in repaired],
            "error": [e.message if (e := self.errors.get(row)) else None for row in rows],
        }

    def as_dicts(self) -> list[dict[str, Any]]:
        """What an answer over HTTP says of each row, without the shared keys."""
        return [self._as_dict(row) for row in range(len(self))]

    def _as_dict(self, row: int) -> dict[str, Any]:
        answers = self.answers
        if error := self.errors.get(row):
            fields = error.fields
            return {"error": {"code": error.code, "message": error.message, "fields": fields}}
        said: dict[str, Any] = {"prediction": answers.values[0][row]}
        if answers.decision[row] is not None:
            said["decision"] = answers.decision[row]
        if len(self.bundle.outputs) > 1:
            names = [output.name for output in self.bundle.outputs]
            said["outputs"] = {
                name: column[row] for name, column in zip(names, answers.values, strict=True)
            }
        said["served_by"] = self._rung(row)
        if row in answers.rule:
            said["rule"] = answers.rule[row]
        if row in answers.repaired:
            said["repaired"] = answers.repaired[row]
        if row in answers.reasons:
            said["reasons"] = answers.reasons[row]
        return said

    def _rung(self, row: int) -> str:
        return OUTCOMES[self.answers.outcome[row]]


def answer_records(bundle: Bundle, records: Sequence[dict[str, Any]]) -> Answered:
    """Answers to decoded JSON objects."""
    encoded = bundle.encoder.encode(records)
    return _answered(bundle, records, encoded, bundle.ladder.plan(encoded))


def answer_table(bundle: Bundle, table: Any) -> Answered:
    """Answers to a table with the columns of the bundle's fields.

    Raises:
        TableError: a column is missing or of a type that its field cannot be read from.
    """
    assert bundle.fitted is not None, "tensor bundles have no table"
    encoded = bundle.fitted.encode_table(table)
    records: list[dict[str, Any]] = [{}] * len(encoded.rows)
    return _answered(bundle, records, encoded, bundle.ladder.plan_table(encoded))


def _answered(
    bundle: Bundle, records: Sequence[dict[str, Any]], encoded: Encoded, plan: Plan
) -> Answered:
    outputs = run_rows(bundle, plan.rows) if plan.asks_model else None
    answers = bundle.ladder.judge(plan, outputs)
    return Answered(bundle, answers, errors_of(bundle, records, {}, answers, 0, is_strict=False))
