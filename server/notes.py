"""What few rows have and the metrics tell: repairs, failed checks, rules, invalid outputs.

Each is a *note* of the bundle, one bit of a row in the counters' ring.
"""

from itertools import product
from typing import Final

from models.bundle import Bundle
from models.policies import troubles_of
from models.vocabulary import DEFAULT_RULE, OUTPUT_TROUBLES
from server.layout import Note

REPAIRED: Final = "repaired"
CHECK: Final = "check"
OUTPUT: Final = "output"
RULE: Final = "rule"
RULE_ERROR: Final = "rule_error"


def notes_of(bundle: Bundle) -> tuple[Note, ...]:
    """All notes that a row of the bundle can have.

    Every trouble that a field can have, not only those that are repaired as packed: a policy may be
    overridden while the bundle serves.
    """
    fallback = bundle.fallback
    rules = [rule.name for rule in fallback.rules]
    outputs = [output.name for output in bundle.outputs if output.kind != "label"]
    return (
        *((REPAIRED, field.name, word) for field in bundle.fields for word in troubles_of(field)),
        *((CHECK, check.name) for check in fallback.checks),
        *((OUTPUT, *names) for names in product(outputs, OUTPUT_TROUBLES)),
        *((RULE, name) for name in (*rules, DEFAULT_RULE)),
        *((RULE_ERROR, name) for name in rules),
    )
