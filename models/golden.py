"""Golden rows: records with everything that is expected of them, made when a bundle is packed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features.encode_record import RecordEncoder
from features.encoding import Encoded
from features.fields import FLAG_NAMES, Field
from features.fitted import Fitted
from models.errors import PackingError
from models.ladder import Answers, Below, Ladder
from models.manifest import Expected, Fallback, Golden, GoldenRow, Manifest, OutputSpec, RungName
from models.outputs import ModelOutputs
from models.planning import Plan
from models.vocabulary import DEFAULT_RULE, OUTCOMES

SEED: Final = 20_260
SAMPLE_ROWS: Final = 64
"""Sample rows at least, as far as there are."""
ALL_ROWS: Final = 256
"""Sample rows fill up to here, and generated ones leave room for some."""
LEAST_EDGES: Final = 64
"""Generated rows that there may be however many other ones."""
UNASKED: Final = "operator"
"""The reason with which the rules are shown a row that the model answers, unless its case says."""


class Case(NamedTuple):
    """A record for the golden rows.

    Attributes:
        name: what it is.
        record: as a caller sends it.
        reason: with which the rules are shown it where nothing in it sends it to them.
    """

    name: str
    record: Mapping[str, Any]
    reason: str = UNASKED


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
    @property
    def fallback(self) -> Fallback: ...
    def run(self, rows: NDArray[np.float64], /) -> ModelOutputs: ...


class Packed(Protocol):
    """The files of a bundle that say what its golden rows should exercise."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def golden(self) -> Golden: ...
    @property
    def fallback(self) -> Fallback: ...
    @property
    def fields(self) -> tuple[Field, ...]: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """The way of n records through a bundle.

    Attributes:
        outputs: of the model, whoever answers.
        answers: what a caller gets.
    """

    encoded: Encoded
    plan: Plan
    outputs: ModelOutputs
    answers: Answers


# making


def sample_size(others: int) -> int:
    """How many sample rows go with so many other ones."""
    return max(SAMPLE_ROWS, ALL_ROWS - others)


def most_edges(others: int) -> int:
    """How many generated rows may go with so many other ones that are no sample."""
    return max(LEAST_EDGES, ALL_ROWS - SAMPLE_ROWS - others)


def golden_of(answering: Answering, fitted: Fitted, cases: Sequence[Case]) -> Golden:
    """Golden rows of named records, with what `answering` says of each alone.

    Raises:
        PackingError: a rule raises for one of them.
    """
    return Golden(
        format=1,
        features_digest=fitted.features_digest,
        seed=SEED,
        rows=tuple(_golden_row(answering, case) for case in cases),
    )


def _golden_row(answering: Answering, case: Case) -> GoldenRow:
    answered = answer(answering, [case.record])
    features = answered.outputs.features
    assert features is not None
    return GoldenRow(
        name=case.name,
        record=dict(case.record),
        row=answered.encoded.rows.astype("<f8").tobytes().hex(),
        flags=tuple(answered.encoded.flags[0].tolist()),
        features=features.astype("<f4").tobytes().hex(),
        expected=_expected(answering, answered, case),
    )


def _expected(answering: Answering, answered: Answered, case: Case) -> Expected:
    answers = answered.answers
    below = answering.ladder.below(answered.plan, case.reason)
    _check_raises(answering, answered, below, case)
    return Expected(
        rung=rung_name(answers.outcome[0]),
        reasons=tuple(answers.reasons.get(0, ())),
        repaired=dict(answers.repaired.get(0, {})),
        bad=bad_fields(answering.fields, answers, 0),
        failed_checks=failed_checks(answering, answered, 0),
        reason=case.reason,
        rule=rule_of(answered, below, 0),
        decision=answers.decision[0],
        model=_named(answering, model_values(answered.outputs, 0)),
        baseline=_named(answering, below.baseline[0]),
        rules=_named(answering, rule_values(answering, rule_of(answered, below, 0))),
    )


def _named(answering: Answering, values: Sequence[Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    pairs = zip(answering.outputs, values, strict=True)
    return {spec.name: plain(value) for spec, value in pairs}


def _check_raises(answering: Answering, answered: Answered, below: Below, case: Case) -> None:
    errors = [(error.rule, error.error) for error in below.rule_errors]
    names = answering.ladder.rules.names
    for raised in answered.answers.rule_errors.values():
        errors += [(names[place], "it raises") for place in raised]
    if errors:
        rule, why = errors[0]
        raise PackingError(
            f"rule {rule!r} cannot be told for golden row {case.name!r}, {dict(case.record)}: "
            f"{why}. Write it so that it is true or false for every record."
        )


# answering


def answer(answering: Answering, records: Sequence[Mapping[str, Any]]) -> Answered:
    """Encodes, plans, runs and judges; the model is asked about every row, whoever answers it."""
    encoded = answering.encoder.encode(records)
    plan = answering.ladder.plan(encoded, records)
    outputs = answering.run(plan.rows)
    return Answered(encoded, plan, outputs, answering.ladder.judge(plan, outputs))


def model_values(outputs: ModelOutputs, row: int) -> list[Any]:
    """What the model says of a row, a value for each output."""
    return [column[row : row + 1].tolist()[0] for column in outputs.values]


def rule_of(answered: Answered, below: Below, row: int) -> str:
    """The rule that answers a row, or would if the rungs above did not."""
    return answered.answers.rule.get(row) or below.rule[row]


def rule_values(answering: Answering, name: str) -> list[Any]:
    """What a rule answers, a value for each output."""
    rules = answering.ladder.rules
    return rules.answers[rules.names.index(name)]


def failed_checks(answering: Answering, answered: Answered, row: int) -> tuple[str, ...]:
    """Names of the checks that the graph finds false for a row, whoever answers it."""
    checks = answered.outputs.checks
    if checks is None:
        return ()
    names = [check.name for check in answering.fallback.checks]
    return tuple(name for name, holds in zip(names, checks[row].tolist(), strict=True) if not holds)


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


def bad_fields(fields: Sequence[Field], answers: Answers, row: int) -> dict[str, str]:
    return {fields[place].name: FLAG_NAMES[flag] for place, flag in answers.bad.get(row, ())}


# coverage


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many golden rows exercise each thing that can happen to a row."""

    rungs: dict[str, int]
    policies: dict[str, int]
    """`field: trouble (policy)`."""
    rules: dict[str, int]
    checks: dict[str, int]
    """`name: fails (policy)` and `name: holds`."""

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
    return Coverage(
        rungs=_rungs(bundle),
        policies={
            f"{field.name}: {trouble} ({policy.policy})": sum(
                row.flags[place] == FLAG_NAMES.index(trouble) for row in rows
            )
            for place, field in enumerate(bundle.fields)
            for trouble, policy in policies[field.name].items()
        },
        rules={
            name: sum(row.expected.rules is not None and _rule(row) == name for row in rows)
            for name in (*(rule.name for rule in bundle.fallback.rules), DEFAULT_RULE)
        },
        checks=_checks(bundle),
    )


def _rungs(bundle: "Packed") -> dict[str, int]:
    """Rows for which each rung that the bundle has is compared; the model where it answers."""
    expected = [row.expected for row in bundle.golden.rows]
    rungs = {"model": sum(row.rung == "model" for row in expected)}
    if bundle.manifest.baseline is not None:
        rungs["baseline"] = sum(row.baseline is not None for row in expected)
    rungs["rules"] = sum(row.rules is not None for row in expected)
    policies = [p.policy for of in bundle.fallback.policies.values() for p in of.values()]
    if "reject" in (*policies, *(check.policy for check in bundle.fallback.checks)):
        rungs["rejected"] = sum(row.rung == "rejected" for row in expected)
    return rungs


def _rule(row: GoldenRow) -> str:
    """Golden rows of bundles without rules need not name the default."""
    return row.expected.rule or DEFAULT_RULE


def _checks(bundle: "Packed") -> dict[str, int]:
    counts: dict[str, int] = {}
    for check in bundle.fallback.checks:
        fails = sum(check.name in row.expected.failed_checks for row in bundle.golden.rows)
        counts[f"{check.name}: fails ({check.policy})"] = fails
        counts[f"{check.name}: holds"] = len(bundle.golden.rows) - fails
    return counts
