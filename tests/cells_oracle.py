"""Who answers a record of `tests.cells`, with what, and what is counted: said anew, slowly.

Written from what is promised to callers (docs/http-api.md), not from the ladder: one row at a time,
from the troubles that it was made with.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np

from tests import cells
from tests.cells import BAD_OF, GOOD_OF, OWN_VALUE, Cells

MODEL, BASELINE, RULES, NOBODY = range(4)
OUTCOMES: Final = ("model", "baseline", "rules", "rejected")

GOOD_ECHO: Final = dict(zip(GOOD_OF, (5, 5, 5, 1, 0, 0, 4, 0), strict=True))
OWN_ECHO: Final = dict(zip(OWN_VALUE, (3, 3, 3, 0, 1, 1, 9, 11), strict=True))
"""What columns show of `GOOD_OF` and `OWN_VALUE`."""


class Change(NamedTuple):
    """What is wrong with a record: values of some of its fields, and the trouble that each has."""

    name: str
    values: Mapping[str, Any]
    troubles: Mapping[str, str] = {}


def cell_changes(of: Cells, *, all_values: bool = False) -> list[Change]:
    """Every cell with every trouble; with one value for each, or with all."""
    return [
        Change(f"{kind}_{policy} {trouble} {value!r:.20}", {name: value}, {name: trouble})
        for (kind, policy), ((bad, trouble), values) in product(of, BAD_OF.items())
        if bad == kind
        for name in [f"{kind}_{policy}"]
        for value in (values if all_values else values[:1])
    ]


def trigger_changes(*, has_baseline: bool) -> list[Change]:
    """Whatever of a record sends it down, or goes wrong, that is no cell; but `X_RAISES`."""
    checks = [Change(name, {name: 1}) for name in ("t_baseline", "t_rules", "t_reject")]
    outputs = [("nan", cells.X_NAN), ("infinite", cells.X_INFINITE), ("large", cells.X_TOO_LARGE)]
    below = [("nan", cells.B_NAN), ("infinite", cells.B_INFINITE), ("raises", cells.B_RAISES)]
    extra: dict[str, str] = dict.fromkeys(cells.EXTRA, "bad")
    return [
        *(checks if has_baseline else checks[1:]),
        *(Change(f"x {name}", {"x": value}) for name, value in outputs),
        *(Change(f"b {name}", {"b": value}) for name, value in below),
        Change("a rule raises", {"x": cells.RULE_RAISES}),
        Change("a rule matches", {"x": cells.RULE_RAISES + 1}),
        Change("x missing", {"x": None}, {"x": "missing"}),
        Change("x out of bounds", {"x": 9e9}, {"x": "out_of_bounds"}),
        Change("b missing", {"b": None}, {"b": "missing"}),
        Change("b out of bounds", {"b": 9e9}, {"b": "out_of_bounds"}),
        Change("two repairs", extra, dict.fromkeys(extra, "invalid")),
    ]


RAISES: Final = Change("the model raises", {"x": cells.X_RAISES})


@dataclass
class Said:
    """Everything that is to come of a record.

    Attributes:
        outcome: place in `OUTCOMES`.
        bad: fields and checks of the 422.
        is_ours: a strict caller is told that the record is not to blame.
        counted: labels by metric.
    """

    outcome: int
    reasons: list[str]
    repaired: dict[str, str]
    bad: set[str]
    rule: str | None = None
    score: float | None = None
    seen: list[float] | None = None
    decision: str | None = None
    is_ours: bool = False
    counted: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])


@dataclass(frozen=True)
class Oracle:
    """What one bundle of `tests.cells` says."""

    cells: Cells
    max_repaired: int | None
    has_baseline: bool

    @property
    def good(self) -> dict[str, Any]:
        return cells.good(self.cells)

    def record(self, changes: Sequence[Change]) -> dict[str, Any]:
        made = self.good
        for change in changes:
            made |= change.values
        return made

    def says(
        self, changes: Sequence[Change], *, why: str | None = None, forced: int | None = None
    ) -> Said:
        """What is said of a good record with `changes`, sent alone.

        Args:
            changes: of different fields.
            why: the reason for which the model is not asked of whole requests.
            forced: the rung that an operator wants.
        """
        values = self.record(changes)
        named = {name: word for change in changes for name, word in change.troubles.items()}
        troubles = {name: named[name] for name in values if name in named}  # in the row's order
        policies = {name: self.policy(name, word) for name, word in troubles.items()}
        repaired = {name: troubles[name] for name in troubles if policies[name] == "repair"}
        falls = [
            (_RUNG[policies[name]], f"{name}:{word}", word)
            for name, word in troubles.items()
            if policies[name] in _RUNG
        ]
        is_rejected = any(rung == NOBODY for rung, _, _ in falls)
        bad = {name for name in troubles if policies[name] != "accept"}
        counted = [("field_quality", name, word) for name, word in troubles.items()]
        below = BASELINE if self.has_baseline else RULES
        x = _null_if(values["x"], "x" in troubles)

        runs = why is None and forced is None and not is_rejected
        raises = runs and x == cells.X_RAISES
        failed: list[str] = []
        if runs and not raises:
            failed = [name for name in values if name[:2] == "t_" and values[name] >= 1]
            failed = [name.replace("t_", "check_") for name in failed]
            falls += [(_RUNG[name[6:]], f"check:{name}", "check") for name in failed]
            counted += [("checks_failed", name) for name in failed]
            bad |= {name for name in failed if name == "check_reject"}
            is_rejected = "check_reject" in failed
        if self.max_repaired is not None and len(repaired) > self.max_repaired:
            falls.append((below, "too_many_repaired", "too_many_repaired"))
        if forced is not None and not is_rejected:
            falls.append((max(forced, below), "operator", "operator"))
        if not falls and why is not None:
            falls.append((below, why, why))
        elif not falls and raises:
            falls.append((below, "model_error", "model_error"))
        elif not falls and (trouble := _invalid(x)):
            falls.append((below, "output_invalid", "output_invalid"))
            counted.append(("output_invalid", "score", trouble))

        rung, text, reason = max(falls, key=lambda fall: fall[0], default=(MODEL, "", ""))
        said = Said(rung, [text for _, text, _ in falls], repaired, bad, counted=counted)
        said.is_ours = said.reasons[:1] in _OURS and not repaired
        if rung == BASELINE and (why_not := self._baseline_not(values, troubles)):
            said.outcome = RULES
            said.reasons += [one for one in why_not if one not in said.reasons]
        self._value(said, values, troubles, text)
        self._count(said, reason)
        return said

    def policy(self, name: str, trouble: str) -> str:
        policy = name.partition("_")[2]
        if name in cells.EXTRA or policy == "value":
            return "repair"
        if policy == "needed":
            return "baseline" if self.has_baseline else "rules"
        if policy in ("accept", "repair", *_RUNG) and name[:2] != "t_":
            return policy
        return "accept" if trouble in ("missing", "unknown") else "repair"

    def _baseline_not(self, values: Mapping[str, Any], troubles: Mapping[str, str]) -> list[str]:
        read = cells.read_by_baseline()
        refused = [
            f"{name}:{word}"
            for name, word in troubles.items()
            if name in read and word != "missing" and not name.endswith("_value")
        ]
        if refused:
            return refused
        wrong = {cells.B_RAISES: "model_error"} | dict.fromkeys(
            (cells.B_NAN, cells.B_INFINITE), "output_invalid"
        )
        return [wrong[values["b"]]] if values["b"] in wrong else []

    def _value(
        self, said: Said, values: Mapping[str, Any], troubles: Mapping[str, str], reason: str
    ) -> None:
        if said.outcome == RULES:
            said.rule, raised = _rule(values, troubles, reason)
            said.counted += [("rule_errors", name) for name in raised]
            said.counted.append(("rule_answers", said.rule))
            scores = {name: score for name, _, score, _ in cells.RULES}
            said.score = scores.get(said.rule, cells.DEFAULT_SCORE)
            said.seen = [0.0] * len(values)
        elif said.outcome != NOBODY:
            name = "b" if said.outcome == BASELINE else "x"
            said.score = float(np.float32(0 if name in troubles else values[name]))
            said.seen = [
                said.score
                if said.outcome == BASELINE and field not in cells.read_by_baseline()
                else _echo(field, values[field], troubles.get(field))
                for field in values
            ]
        if said.score is not None:
            steps = (word for edge, word in cells.STEPS if edge is None or said.score < edge)
            said.decision = next(steps)

    def _count(self, said: Said, reason: str) -> None:
        outcome = OUTCOMES[said.outcome]
        said.counted.append(("predictions", outcome))
        if said.outcome in (BASELINE, RULES):
            said.counted.append(("fallbacks", outcome, reason))
        if said.outcome == MODEL:
            said.counted += [("field_repaired", *pair) for pair in said.repaired.items()]
            said.counted.append(("output_values",))
        if said.decision is not None:
            said.counted.append(("decisions", said.decision))
        if reason == "deadline":
            said.counted.append(("deadline_missed",))


def strict(said: Said) -> tuple[int, set[str]]:
    """The status for a strict caller, and what its error names."""
    if said.outcome == MODEL and not said.repaired:
        return 200, set()
    if said.outcome == NOBODY:
        return 422, said.bad
    if said.is_ours:
        return (504 if "deadline" in said.reasons else 503), set()
    pairs = [reason.split(":") for reason in said.reasons if ":" in reason]
    named = {name if subject == "check" else subject for subject, name in pairs}
    return 422, {*said.repaired, *named}


NOT_GIVEN: Final = (
    "predictions",
    "fallbacks",
    "field_repaired",
    "output_values",
    "decisions",
    "rule_answers",
)
"""What is not counted of an answer that a strict caller does not take."""


def strict_counts(said: Said) -> list[tuple[str, ...]]:
    status, _ = strict(said)
    if status == 200:
        return said.counted
    rest = [labels for labels in said.counted if labels[0] not in NOT_GIVEN]
    return [*rest, ("predictions", "rejected" if status == 422 else "failed")]


def total(said: Sequence[Said]) -> Counter[tuple[str, ...]]:
    """How much each series is to grow."""
    return Counter(labels for one in said for labels in one.counted)


_RUNG: Final = {"baseline": BASELINE, "rules": RULES, "reject": NOBODY}
_OURS: Final = [
    [word]
    for word in ("output_invalid", "model_error", "deadline", "overload", "breaker", "operator")
]
"""What comes first where nothing of the record does."""


def _null_if(value: Any, is_bad: bool) -> Any:
    return None if is_bad else value


def _invalid(x: Any) -> str | None:
    if x in (cells.X_NAN, cells.X_INFINITE):
        return "not_finite"
    return "out_of_range" if x is not None and x > cells.LARGEST else None


def _echo(name: str, value: Any, trouble: str | None) -> float:
    """The column of a field, as the model or the baseline sees it."""
    kind, _, policy = name.partition("_")
    if kind not in GOOD_OF:  # x, b, t_baseline, …
        if trouble is None:
            return float(np.float32(value))
        return -1.0 if name in cells.EXTRA else 0.0
    if trouble is None:
        return GOOD_ECHO[kind]
    if policy == "value":
        return OWN_ECHO[kind]
    if trouble == "out_of_bounds" and kind != "num":
        return float(np.float32(value if kind == "keep" else min(max(value, 0), 10)))
    return -2.0 if kind in ("word", "code") and trouble != "unknown" else -1.0


def _rule(
    values: Mapping[str, Any], troubles: Mapping[str, str], reason: str
) -> tuple[str, list[str]]:
    """The rule that answers, and those before it that raise."""
    x = _null_if(values["x"], "x" in troubles)
    is_clipped = troubles.get("clip_rules") == "out_of_bounds" and values["clip_rules"] > 10
    is_kept = troubles.get("keep_rules") == "out_of_bounds" and values["keep_rules"] == 12
    is_unknown = troubles.get("word_rules") == "unknown"
    holds = {
        "raises": x == cells.RULE_RAISES + 1,
        "late": reason == "deadline" and x is not None and x > -10,
        "green": is_unknown and values["word_rules"].strip() == "green",
        "big": is_clipped and not {"num_reject", "num_rules"} & set(troubles),
        "lost": reason == "at_rules:missing",
        "kept": is_kept,
        "default": True,
    }
    return next(filter(holds.get, holds)), ["raises"] if x == cells.RULE_RAISES else []
