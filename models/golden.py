"""Golden rows: records with everything that is expected of them, made when a bundle is packed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.encode_record import RecordEncoder
from features.encoding import Encoded
from features.feature_set import Fitted
from features.fields import FLAG_NAMES, Field
from models.ladder import Answers, Ladder, Plan
from models.manifest import Expected, Fallback, Golden, GoldenRow, OutputSpec, RungName
from models.outputs import ModelOutputs
from models.vocabulary import OUTCOMES

SEED: Final = 20_260
SAMPLE_ROWS: Final = 64
"""Sample rows at least, as far as there are."""
ALL_ROWS: Final = 256
"""Sample rows fill up to here."""


class Answering(Protocol):
    """What golden rows are put to: a bundle, or one in the making."""

    @property
    def encoder(self) -> RecordEncoder: ...
    @property
    def ladder(self) -> Ladder: ...
    @property
    def fields(self) -> tuple[Field, ...]: ...
    @property
    def outputs(self) -> tuple[OutputSpec, ...]: ...
    def run(self, rows: NDArray[np.float64], /) -> ModelOutputs: ...


class Packed(Protocol):
    """The files of a bundle that say what its golden rows should exercise."""

    @property
    def golden(self) -> Golden: ...
    @property
    def fallback(self) -> Fallback: ...
    @property
    def fields(self) -> tuple[Field, ...]: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """One record's way through."""

    encoded: Encoded
    plan: Plan
    outputs: ModelOutputs
    answers: Answers


# making


def sample_size(edges: int) -> int:
    """How many sample rows go with so many edge cases."""
    return max(SAMPLE_ROWS, ALL_ROWS - edges)


def golden_of(
    answering: Answering, fitted: Fitted, cases: Sequence[tuple[str, dict[str, Any]]]
) -> Golden:
    """Golden rows of named records, with what `answering` says of each alone."""
    return Golden(
        format=1,
        features_digest=fitted.features_digest,
        seed=SEED,
        rows=tuple(_golden_row(answering, name, record) for name, record in cases),
    )


def _golden_row(answering: Answering, name: str, record: dict[str, Any]) -> GoldenRow:
    answered = answer(answering, [record])
    features = answered.outputs.features
    assert features is not None
    return GoldenRow(
        name=name,
        record=record,
        row=answered.encoded.rows.astype("<f8").tobytes().hex(),
        flags=tuple(answered.encoded.flags[0].tolist()),
        features=features.astype("<f4").tobytes().hex(),
        expected=_expected(answering, answered),
    )


def _expected(answering: Answering, answered: Answered) -> Expected:
    answers = answered.answers
    return Expected(
        rung=rung_name(answers.outcome[0]),
        reasons=tuple(answers.reasons.get(0, ())),
        repaired=dict(answers.repaired.get(0, {})),
        bad=bad_fields(answering.fields, answers),
        decision=answers.decision[0],
        model={
            spec.name: plain(column[0].tolist() if column.ndim > 1 else column.tolist()[0])
            for spec, column in zip(answering.outputs, answered.outputs.values, strict=True)
        },
        rules={
            spec.name: value
            for spec, value in zip(answering.outputs, answering.ladder.default, strict=True)
        },
    )


def answer(answering: Answering, records: Sequence[Mapping[str, Any]]) -> Answered:
    """Encodes, plans, runs and judges; the model is asked about every row, whoever answers it."""
    encoded = answering.encoder.encode(records)
    plan = answering.ladder.plan(encoded)
    outputs = answering.run(plan.rows)
    return Answered(encoded, plan, outputs, answering.ladder.judge(plan, outputs))


def plain(value: Any) -> Any:
    """A model's answer as JSON has it; not-a-number and infinities as words."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def rung_name(outcome: int) -> RungName:
    names: tuple[RungName, ...] = ("model", "baseline", "rules", "rejected")
    assert names == OUTCOMES[:4]
    return names[outcome]


def bad_fields(fields: Sequence[Field], answers: Answers) -> dict[str, str]:
    return {fields[place].name: FLAG_NAMES[flag] for place, flag in answers.bad.get(0, ())}


# coverage


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many golden rows exercise each thing that can happen to a row."""

    rungs: dict[str, int]
    policies: dict[str, int]
    """`field: trouble (policy)`."""
    rules: dict[str, int]
    checks: dict[str, int]

    @property
    def missing(self) -> list[str]:
        """What no golden row exercises."""
        parts = {"rung": self.rungs, "policy": self.policies, "rule": self.rules}
        parts["check"] = self.checks
        return [
            f"{what} {name}"
            for what, counts in parts.items()
            for name, n in counts.items()
            if not n
        ]


def coverage(bundle: "Packed") -> Coverage:
    """Counts what the golden rows of a bundle exercise; `keelmark verify` fails where that is 0."""
    rows, policies = bundle.golden.rows, bundle.fallback.policies
    rungs = {
        "model": sum(row.expected.rung == "model" for row in rows),
        "rules": sum(row.expected.rules is not None for row in rows),
    }
    if any(p.policy == "reject" for of in policies.values() for p in of.values()):
        rungs["rejected"] = sum(row.expected.rung == "rejected" for row in rows)
    return Coverage(
        rungs=rungs,
        policies={
            f"{field.name}: {trouble} ({policy.policy})": sum(
                row.flags[place] == FLAG_NAMES.index(trouble) for row in rows
            )
            for place, field in enumerate(bundle.fields)
            for trouble, policy in policies[field.name].items()
        },
        rules={"default": rungs["rules"]},
        checks={},
    )
