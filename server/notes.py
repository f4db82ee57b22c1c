"""What few rows have and the metrics tell: repairs, failed checks, rules, invalid outputs.

Each is a *note* of the bundle, one bit of a row in the counters' ring.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from models.bundle import Bundle
from models.ladder import MODEL, RULES, Answers
from models.policies import troubles_of
from models.vocabulary import DEFAULT_RULE, OPERATORS_RULES, OUTPUT_TROUBLES
from server.layout import Note
from server.regions import NO_NOTES

REPAIRED: Final = "repaired"
CHECK: Final = "check"
OUTPUT: Final = "output"
RULE: Final = "rule"
RULE_ERROR: Final = "rule_error"


def notes_of(bundle: Bundle) -> tuple[Note, ...]:
    """All notes that a row of the bundle can have.

    Every trouble that a field can have, not only those that are repaired as packed: a policy may be
    overridden while the bundle serves. So may its rules, whose names nobody knows before: they are
    noted together.
    """
    fallback = bundle.fallback
    rules = [rule.name for rule in fallback.rules]
    outputs = [output.name for output in bundle.outputs if output.kind != "label"]
    return (
        *((REPAIRED, field.name, word) for field in bundle.fields for word in troubles_of(field)),
        *((CHECK, check.name) for check in fallback.checks),
        *((OUTPUT, *names) for names in product(outputs, OUTPUT_TROUBLES)),
        *((RULE, name) for name in (*rules, DEFAULT_RULE, OPERATORS_RULES)),
        *((RULE_ERROR, name) for name in (*rules, OPERATORS_RULES)),
    )


class NoteWriter:
    """Finds the notes of answered rows. Immutable; every request of the bundle shares it.

    Args:
        bundle: as it was packed.
        has_operators_rules: whether other rules answer in place of its own.
    """

    __slots__ = ("_bits", "_has_operators_rules", "_outputs", "_rules")

    def __init__(self, bundle: Bundle, *, has_operators_rules: bool = False) -> None:
        self._bits = {note: 1 << place for place, note in enumerate(notes_of(bundle))}
        self._outputs = [output.name for output in bundle.outputs]
        self._rules = [rule.name for rule in bundle.fallback.rules]
        self._has_operators_rules = has_operators_rules

    def of(self, answers: Answers) -> Mapping[int, int]:
        """The bits of each row that has notes; ready for `Counter.write`.

        A repair counts where the model then answered, and a rule where its answer was given: a
        strict caller may have got an error instead. What failed counts whatever became of the row.
        """
        # A row below the model has reasons, and so has one of which a rule or a check speaks.
        if not (answers.repaired or answers.reasons):
            return NO_NOTES
        found: dict[int, int] = {}
        for row, note in self._notes(answers):
            found[row] = found.get(row, 0) | self._bits[note]
        return found

    def _notes(self, answers: Answers) -> Iterator[tuple[int, Note]]:
        for row, troubles in answers.repaired.items():
            if answers.outcome[row] == MODEL:
                yield from ((row, (REPAIRED, *repair)) for repair in troubles.items())
        for row, checks in answers.failed_checks.items():
            yield from ((row, (CHECK, name)) for name in checks)
        for row, why in answers.invalid_outputs.items():
            yield row, (OUTPUT, self._outputs[why.output], why.trouble)
        for row, rule in answers.rule.items():
            if answers.outcome[row] == RULES:
                yield row, (RULE, self._noted(rule))
        for row, rules in answers.rule_errors.items():
            if self._has_operators_rules:
                yield row, (RULE_ERROR, OPERATORS_RULES)
            else:
                yield from ((row, (RULE_ERROR, self._rules[place])) for place in rules)

    def _noted(self, rule: str) -> str:
        """The name under which a rule is noted; the default is always the bundle's."""
        is_operators = self._has_operators_rules and rule != DEFAULT_RULE
        return OPERATORS_RULES if is_operators else rule
