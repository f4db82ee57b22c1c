"""Records that exercise what the owner declared: each check fails somewhere, each rule answers.

What no golden row exercises is not proven to work on the machine that serves, so such a record is
looked for: among the training rows, then among fields of different training rows put together, and
at last the owner's own example is taken. A check or rule without any is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from models.card import Shares
from models.cases import Cases
from models.conditions import DeclaredCheck, DeclaredRule
from models.draft import Settled, run_all
from models.errors import PackingError
from models.examples import public_record, records_of
from models.golden import SEED, UNASKED, Case, answer, rule_of
from models.planning import deciding
from models.rules import Rules
from models.training_rows import Rows

MIXED_ROWS: Final = 16_384
RULE_ROWS: Final = 10_000
"""So many training rows are shown to the rules at most, each some tens of microseconds a rule."""
TRIED_RECORDS: Final = 16
"""A row of the table may differ from its record: sensitive values are generated."""
AT_RUN_TIME: Final = (
    "model_error",
    "output_invalid",
    "deadline",
    "overload",
    "breaker",
    "operator",
)
"""Reasons that no record brings about by itself; rules may read them."""

Record = Mapping[str, Any]


def exercising(
    settled: Settled,
    rows: Rows,
    holds: NDArray[np.bool_] | None,
    cases: Cases,
    checks: Sequence[DeclaredCheck],
    rules: Sequence[DeclaredRule],
) -> tuple[list[Case], Shares]:
    """All golden cases: samples, what checks and rules need beside them, and edges.

    Args:
        settled: the model with its ladder.
        rows: of the training table.
        holds: which checks hold of the training rows, bool (n, C); None without checks.
        cases: samples and edges.
        checks: in the graph's order.
        rules: in the order in which they are asked.

    Raises:
        PackingError: a check or rule that no record exercises.
    """
    samples = [Case(name, record) for name, record in cases.samples]
    edges = [Case(name, record) for name, record in cases.edges]
    found = failing_cases(settled, rows, holds, [*samples, *edges], checks)
    matches = matches_of(settled, rows, holds) if rules else NO_MATCHES
    if rules:
        found += matching_cases(settled, rows, matches, [*samples, *found, *edges], rules)
    shares = Shares(
        failed={}
        if holds is None
        else {check.name: float((~holds[:, i]).mean()) for i, check in enumerate(checks)},
        matched={rule.name: matches.share(i) for i, rule in enumerate(rules)},
    )
    return [*samples, *found, *edges], shares


# checks


def failing_cases(
    settled: Settled,
    rows: Rows,
    holds: NDArray[np.bool_] | None,
    cases: Sequence[Case],
    checks: Sequence[DeclaredCheck],
) -> list[Case]:
    """A record for each check that it fails, where the cases so far have none but generated ones.

    Args:
        settled: the model with its checks.
        rows: of the training table.
        holds: of the training rows, bool (n, C); None without checks.
        cases: the golden rows so far.
        checks: in the graph's order.

    Raises:
        PackingError: a check that nothing fails, or that nothing passes.
    """
    if holds is None:
        return []
    known = _checks_of(settled, [case.record for case in cases])
    found: list[Case] = []
    for place, check in enumerate(checks):
        if not known[:, place].any():
            share = f"{holds[:, place].mean():.1%}"
            raise PackingError(
                f"check {check.name!r} holds for no golden row, and for {share} of the training "
                "rows; a check says what is usual. Did you mean its opposite?"
            )
        record = _failing(settled, rows, holds[:, place], place, check)
        if record is not None:
            found.append(Case(f"check {check.name}: fails", record))
        elif known[:, place].all():
            record = _failing_mixture(settled, rows, place)
            if record is None:
                raise PackingError(
                    f"check {check.name!r} ({check.check.text}) holds for every training row, for "
                    f"{MIXED_ROWS:,} mixtures of them and for all edge cases, so nothing shows "
                    "that it works. Give it a record that fails it: {'holds': ..., 'example': "
                    "{...}}"
                )
            found.append(Case(f"check {check.name}: fails", record))
    return found


def _failing(
    settled: Settled, rows: Rows, holds: NDArray[np.bool_], place: int, check: DeclaredCheck
) -> Record | None:
    """The owner's example, else a training record; the ones with the fewest troubles first."""
    if check.example is not None:
        example = public_record(check.example, settled.fields)
        if _checks_of(settled, [example])[0, place]:
            raise PackingError(
                f"check {check.name!r} ({check.check.text}) holds for its example {example}"
                f"{_replaced(check.example, example)}; give a record that fails it"
            )
        return example
    chosen = _cleanest(np.flatnonzero(~holds), rows.encoded.flags)
    return _first_failing(settled, records_of(rows.table, chosen, settled.fields), place)


def _cleanest(places: NDArray[np.int64], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    troubles = np.count_nonzero(flags[places], axis=1)
    return places[np.argsort(troubles, kind="stable")[:TRIED_RECORDS]]


def _first_failing(settled: Settled, records: Sequence[Record], place: int) -> Record | None:
    if not records:
        return None
    failed = np.flatnonzero(~_checks_of(settled, records)[:, place])
    return records[int(failed[0])] if len(failed) else None


def _failing_mixture(settled: Settled, rows: Rows, place: int) -> Record | None:
    """A record of fields of different training rows that fails a check."""
    drawn = np.random.default_rng(SEED).integers(0, len(rows), (MIXED_ROWS, len(settled.fields)))
    mixed = Encoded(
        np.take_along_axis(rows.encoded.rows, drawn, axis=0),
        np.take_along_axis(rows.encoded.flags, drawn, axis=0),
    )
    holds = run_all(settled.run, settled.ladder.plan_table(mixed).rows).checks
    assert holds is not None
    chosen = _cleanest(np.flatnonzero(~holds[:, place]), mixed.flags)
    return _first_failing(settled, [_mixture(settled, rows, drawn[row]) for row in chosen], place)


def _mixture(settled: Settled, rows: Rows, sources: NDArray[np.int64]) -> Record:
    """The record that has each field from its own row of the table."""
    records = records_of(rows.table, sources, settled.fields)
    return {
        field.name: record[field.name]
        for field, record in zip(settled.fields, records, strict=True)
    }


def _checks_of(settled: Settled, records: Sequence[Record]) -> NDArray[np.bool_]:
    """What the graph says of each check; bool (n, C)."""
    plan = settled.ladder.plan(settled.encoder.encode(records), records)
    holds = settled.run(plan.rows).checks
    assert holds is not None
    return holds


# rules


@dataclass(frozen=True, slots=True)
class Matches:
    """Which rule answers each row of a sample of the training rows.

    Attributes:
        places: of the rows in the table, int64 (n,).
        rules: positions in `Rules.names`, int64 (n,).
    """

    places: NDArray[np.int64]
    rules: NDArray[np.int64]

    def share(self, rule: int) -> float:
        """Of the rows, 0 to 1, that this rule answers."""
        return float((self.rules == rule).mean()) if len(self.rules) else 0.0


NO_MATCHES: Final = Matches(np.empty(0, np.int64), np.empty(0, np.int64))


def matches_of(settled: Settled, rows: Rows, holds: NDArray[np.bool_] | None) -> Matches:
    """Shows the rules up to 10,000 training rows, each with the reason that it would come for."""
    places = np.random.default_rng(SEED).permutation(len(rows))[:RULE_ROWS]
    found = [
        settled.ladder.rules.first(row, flags, {}, reason)[0]
        for row, flags, reason in _shown(settled, rows, holds, places)
    ]
    return Matches(places, np.asarray(found, np.int64))


def _shown(
    settled: Settled, rows: Rows, holds: NDArray[np.bool_] | None, places: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.uint8], str]]:
    """Rows of the table as rules see them: row, flags and reason."""
    encoded = Encoded(rows.encoded.rows[places], rows.encoded.flags[places])
    plan = settled.ladder.plan_table(encoded)
    names = [check.name for check in settled.fallback.checks]
    for row, place in enumerate(places.tolist()):
        reason = UNASKED
        if falls := plan.falls.get(row):
            reason = deciding(falls).text
        elif holds is not None and not holds[place].all():
            reason = f"check:{names[int(np.argmin(holds[place]))]}"
        yield plan.rows[row], encoded.flags[row], reason


def matching_cases(
    settled: Settled,
    rows: Rows,
    matches: Matches,
    cases: Sequence[Case],
    rules: Sequence[DeclaredRule],
) -> list[Case]:
    """A record for each rule that answers it, the default too, where the cases so far have none.

    Raises:
        PackingError: a rule that answers nothing, or not its own example.
    """
    reached = {_answering(settled, case) for case in cases}
    found: list[Case] = []
    for place, name in enumerate(settled.ladder.rules.names):
        example = rules[place].example if place < len(rules) else None
        if example is not None:
            found.append(_own_example(settled, name, example))
        elif name not in reached:
            tried = chain(
                _from_table(settled, rows, matches, place), _at_run_time(settled, name, cases)
            )
            case = next((case for case in tried if _answering(settled, case) == name), None)
            if case is None:
                raise _never(settled, rows, cases, place)
            found.append(case)
    return found


def _from_table(settled: Settled, rows: Rows, matches: Matches, place: int) -> Iterator[Case]:
    chosen = _cleanest(matches.places[matches.rules == place], rows.encoded.flags)
    for record in records_of(rows.table, chosen, settled.fields):
        yield Case(_called(settled.ladder.rules.names[place]), record)


def _at_run_time(settled: Settled, name: str, cases: Sequence[Case]) -> Iterator[Case]:
    """Rules may ask for what no record brings about: the same records, as if it had happened."""
    for case in cases:
        own = answer(settled, [case.record]).answers.reasons.get(0, ())
        for reason in own:
            yield Case(_called(name), case.record, reason)
    for reason in AT_RUN_TIME:
        for case in cases[:TRIED_RECORDS]:
            yield Case(_called(name), case.record, reason)


def _called(name: str) -> str:
    return f"rule {name}: answers"


def _own_example(settled: Settled, name: str, example: Record) -> Case:
    record = public_record(example, settled.fields)
    tried = [Case(_called(name), record, reason) for reason in (UNASKED, *AT_RUN_TIME)]
    found = next((case for case in tried if _answering(settled, case) == name), None)
    if found is None:
        raise PackingError(
            f"rule {name!r} does not answer its own example {record}{_replaced(example, record)}, "
            f"{_answering(settled, tried[0])!r} does; give a record that it matches, and that no "
            "rule before it does"
        )
    return found


def _replaced(given: Record, record: Record) -> str:
    """Why an example is not what the owner gave."""
    names = [name for name, value in record.items() if given[name] != value]
    return f" (in bundles, values of {names}, which are sensitive, are generated)" if names else ""


def _never(settled: Settled, rows: Rows, cases: Sequence[Case], place: int) -> PackingError:
    """Why a rule answers nothing: the rules before it do, or it matches nothing."""
    names = settled.ladder.rules.names
    if place == len(names) - 1:
        return PackingError(
            "the rules match every record that was tried, so the default is never reached; leave "
            f"rule {names[-2]!r} out and make its answer the default"
        )
    before = _answering_instead(settled, rows, cases, place)
    if before:
        return PackingError(
            f"rule {names[place]!r} answers no record that was tried: wherever it matches, "
            f"{before} answer before it. Put it before them, leave it out, or give it an 'example' "
            "that only it matches"
        )
    return PackingError(
        f"rule {names[place]!r} matches no golden row and none of {min(len(rows), RULE_ROWS):,} "
        "training rows, so nothing shows that it works. Give it a record that it matches: "
        "{'when': ..., 'example': {...}}"
    )


def _answering_instead(
    settled: Settled, rows: Rows, cases: Sequence[Case], place: int
) -> list[str]:
    """The rules that answer what the rule at `place` alone would."""
    fitted = settled.draft.fitted
    alone = Rules(
        [settled.fallback.rules[place]],
        settled.fallback.default,
        fitted.fields,
        fitted.vocabularies,
        settled.outputs,
    )
    instead = set[str]()
    sample = np.random.default_rng(SEED).permutation(len(rows))[:RULE_ROWS]
    rules = settled.ladder.rules
    for row, flags, reason in _shown(settled, rows, None, sample):
        if alone.first(row, flags, {}, reason)[0] == 0:
            instead.add(rules.names[rules.first(row, flags, {}, reason)[0]])
    for case in cases:
        answered = answer(settled, [case.record])
        row, flags = answered.plan.rows[0], answered.encoded.flags[0]
        if alone.first(row, flags, case.record, case.reason)[0] == 0:
            instead.add(_answering(settled, case))
    return [name for name in rules.names[:place] if name in instead]


def _answering(settled: Settled, case: Case) -> str:
    """The rule that answers a record on the rules rung."""
    answered = answer(settled, [case.record])
    return rule_of(answered, settled.ladder.below(answered.plan, case.reason), 0)
