"""Before the model: which rung each row is for, by the policies of its fields.

Only troubled rows are looked at one by one; a request without troubles costs a comparison. What
number a bad value became was settled by the encoder, in training and serving alike; a policy may
put a value of its own in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import FLAG_NAMES, Field
from models.manifest import Fallback, Policy
from models.policies import default_policy
from models.vocabulary import OUTCOMES, POLICIES, REASONS

MODEL, BASELINE, RULES, REJECTED = (
    OUTCOMES.index(word) for word in ("model", "baseline", "rules", "rejected")
)
REPAIR: Final = POLICIES.index("repair")

Encode = Callable[[Sequence[Mapping[str, Any]]], Encoded]
Forced = Literal["baseline", "rules"]
Trouble = tuple[int, int]
"""Field index and flag code."""


def lowest(one: Forced | None, other: Forced | None) -> Forced | None:
    """Of two rungs that are forced the one that holds; None for the model."""
    return max(one, other, key=lambda rung: OUTCOMES.index(rung or "model"))


class Nothing(dict[int, Any]):
    """An empty mapping that stays empty: what every clean request has of repairs and reasons."""

    __slots__ = ()
    # So that a dataclass takes it as a default, which all may share.
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  (it is unhashable by default)

    def __setitem__(self, key: int, value: Any) -> None:
        raise TypeError("this mapping is shared by all clean requests; make a new one")


NONE: Final[Mapping[int, Any]] = Nothing()


class Fall(NamedTuple):
    """One reason for which a row is not the model's.

    Attributes:
        rung: outcome code of who answers because of it.
        code: position in `vocabulary.REASONS`, which are in the order in which rows are judged.
        text: as answers have it, `field:trouble`, `check:name` or the reason alone.
    """

    rung: int
    code: int
    text: str


def fall(rung: int, reason: str) -> Fall:
    """A fall for a reason that is no field's and no check's."""
    return Fall(rung, REASONS.index(reason), reason)


def deciding(falls: Sequence[Fall]) -> Fall:
    """The reason that a row is counted under: of the lowest rung, and of these the first."""
    return max(falls, key=_rung)  # `max` gives the first of several


def _rung(one: Fall) -> int:
    return one.rung


@dataclass(slots=True)
class Plan:
    """Who is to answer each row, before the model is asked.

    Attributes:
        rows: float64 (n, F) for every rung, with the values of `repair` policies put in. It has
            every row, also those that others answer: the graph is total, and rows keep their
            places.
        encoded: what the plan is of; its rows are as encoded, without the policies' own values.
        records: the records themselves; empty where only a table is at hand.
        asks_model: whether the graph has to run: for the model's answer, or for the checks.
        rung: outcome code per row as far as policies decide; None when every row is the model's.
        falls: row to its reasons, of rows that are not the model's.
        repaired: row to field to trouble; what lower rungs answer was repaired too.
        serious: row to its troubles that are more than accepted.
    """

    rows: NDArray[np.float64]
    encoded: Encoded
    records: Sequence[Mapping[str, Any]] = ()
    asks_model: bool = True
    rung: list[int] | None = None
    falls: Mapping[int, list[Fall]] = NONE
    repaired: Mapping[int, dict[str, str]] = NONE
    serious: Mapping[int, list[Trouble]] = NONE


class Overridden(NamedTuple):
    """What of a fallback is an operator's word and not the bundle's: answers below say so.

    Attributes:
        troubles: fields and troubles whose policy it is.
        rules: whether the rules are.
    """

    troubles: frozenset[tuple[str, str]] = frozenset()
    rules: bool = False


NOT_OVERRIDDEN: Final = Overridden()


class Planner:
    """The policies of one bundle, ready to use. Immutable; any thread may call it.

    Args:
        fallback: its policies name every field.
        fields: in the row's order.
        encode: encodes the values that policies put in.
        has_baseline: whether the rung below the model is a baseline.
        overridden: what of it an operator has changed.

    Raises:
        ValueError: a policy names a baseline that there is not, or a value that is itself bad.
    """

    __slots__ = (
        "_by_operator",
        "_fields",
        "_has_checks",
        "_max_repaired",
        "_severity",
        "_severity_table",
        "next_rung",
        "repair_values",
    )

    def __init__(
        self,
        fallback: Fallback,
        fields: Sequence[Field],
        encode: Encode,
        *,
        has_baseline: bool,
        overridden: Overridden = NOT_OVERRIDDEN,
    ) -> None:
        self._by_operator = frozenset(
            (place, flag)
            for place, field in enumerate(fields)
            for flag, trouble in enumerate(FLAG_NAMES)
            if (field.name, trouble) in overridden.troubles
        )
        self._fields = tuple(field.name for field in fields)
        self._severity = tuple(
            _severities(field, fallback.policies[field.name], has_baseline=has_baseline)
            for field in fields
        )
        self._severity_table = np.asarray(self._severity, np.uint8).reshape(-1, len(FLAG_NAMES))
        self.repair_values = repair_values(fallback, fields, encode)
        self._max_repaired = fallback.max_repaired
        self._has_checks = bool(fallback.checks)
        self.next_rung = BASELINE if has_baseline else RULES

    def plan(
        self,
        encoded: Encoded,
        records: Sequence[Mapping[str, Any]] = (),
        *,
        forced: Forced | None = None,
        why: Literal["operator", "selftest"] = "operator",
    ) -> Plan:
        """Who answers each row of encoded records.

        Args:
            encoded: from the bundle's encoder.
            records: what was encoded; the rules read texts there that no vocabulary has.
            forced: the highest rung that may answer; without a baseline it is the rules.
            why: the reason for that.
        """
        if not encoded.troubles and forced is None:
            return Plan(encoded.rows, encoded, records)
        severity = self._severity
        serious: dict[int, list[Trouble]] = {}
        for row, place, flag in encoded.troubles:
            if severity[place][flag]:
                serious.setdefault(row, []).append((place, flag))
        by = None if forced is None else fall(max(OUTCOMES.index(forced), self.next_rung), why)
        return self._planned(encoded, records, serious, by)

    def plan_table(self, encoded: Encoded) -> Plan:
        """Who answers each row of an encoded table, whose flags are dense."""
        severe = self._severity_table[np.arange(len(self._fields)), encoded.flags]
        serious: dict[int, list[Trouble]] = {}
        for row, place in np.argwhere(severe).tolist():
            serious.setdefault(row, []).append((place, int(encoded.flags[row, place])))
        return self._planned(encoded, (), serious, None)

    def _planned(
        self,
        encoded: Encoded,
        records: Sequence[Mapping[str, Any]],
        serious: dict[int, list[Trouble]],
        forced: Fall | None,
    ) -> Plan:
        if not serious and forced is None:
            return Plan(encoded.rows, encoded, records)
        repaired: dict[int, dict[str, str]] = {}
        falls: dict[int, list[Fall]] = {}
        for row, troubles in serious.items():
            repairs = [t for t in troubles if self._severity[t[0]][t[1]] == REPAIR]
            if repairs:
                repaired[row] = {self._fields[place]: FLAG_NAMES[flag] for place, flag in repairs}
            if found := self._falls(troubles, len(repairs)):
                falls[row] = found
        if forced is not None:
            self._force(forced, range(len(encoded.rows)), falls)
        rung = _rungs(len(encoded.rows), falls)
        return Plan(
            self._with_values(encoded.rows, serious),
            encoded,
            records,
            forced is None and self._asks_model(rung),
            rung,
            falls,
            repaired,
            serious,
        )

    def _falls(self, troubles: list[Trouble], repairs: int) -> list[Fall]:
        found = [
            # A policy's severity is one more than the rung it sends to; a flag, than its trouble.
            Fall(severity - 1, flag - 1, f"{self._fields[place]}:{FLAG_NAMES[flag]}")
            for place, flag in troubles
            if (severity := self._severity[place][flag]) > REPAIR
        ]
        if self._by_operator:
            found += self._said_by_operator(troubles)
        if self._max_repaired is not None and repairs > self._max_repaired:
            found.append(fall(self.next_rung, "too_many_repaired"))
        return found

    def _said_by_operator(self, troubles: list[Trouble]) -> list[Fall]:
        """One more reason for a row that falls by an operator's policy; it decides nothing."""
        rungs = [
            self._severity[place][flag] - 1
            for place, flag in troubles
            if (place, flag) in self._by_operator and self._severity[place][flag] > REPAIR
        ]
        return [fall(max(rungs), "operator")] if rungs else []

    def _force(self, forced: Fall, rows: range, falls: dict[int, list[Fall]]) -> None:
        """Sends every row that is not rejected at least as low as `forced`."""
        for row in rows:
            found = falls.setdefault(row, [])
            if not found or deciding(found).rung != REJECTED:
                found[:] = [*(one for one in found if one.code != forced.code), forced]

    def _asks_model(self, rung: list[int] | None) -> bool:
        """Whether the graph runs.

        With checks it does so for every row that is not rejected: what a check says of a row that
        a lower rung answers would else depend on whether others of its batch ask the model.
        """
        if rung is None:
            return True
        return any(code != REJECTED for code in rung) if self._has_checks else MODEL in rung

    def _with_values(
        self, rows: NDArray[np.float64], serious: dict[int, list[Trouble]]
    ) -> NDArray[np.float64]:
        """The rows with the policies' own values; the encoder's array is counted, so it stays."""
        values = self.repair_values
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


def _rungs(count: int, falls: Mapping[int, Sequence[Fall]]) -> list[int] | None:
    if not falls:
        return None
    rung = [MODEL] * count
    for row, found in falls.items():
        rung[row] = deciding(found).rung
    return rung


def _severities(
    field: Field, policies: Mapping[Any, Policy], *, has_baseline: bool
) -> tuple[int, ...]:
    """Severity by flag code; flag 0 is no trouble."""
    severities = [0]
    for trouble in FLAG_NAMES[1:]:
        policy = policies.get(trouble) or default_policy(field, trouble, has_baseline=has_baseline)
        if policy.policy == "baseline" and not has_baseline:
            raise ValueError(
                f"field {field.name!r}, {trouble}: its policy is 'baseline', and there is no "
                "baseline model; use 'rules', or pack one"
            )
        severities.append(POLICIES.index(policy.policy))
    return tuple(severities)


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
