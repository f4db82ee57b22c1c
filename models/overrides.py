"""What an operator may change about who answers: of a model that serves, for a time, tried first.

An override is data: policies of fields, values that repair puts in, other rules, a rung that is
forced. It belongs to one version, and ends with it or when it expires. It passes the same checks as
what `pack` takes, and is shown on the golden rows before it is put to use. Answers that are not the
model's because of it say `operator` among their reasons.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, structs

from features.fields import FLAG_NAMES, Field
from models.bundle import Bundle
from models.errors import OverrideRefused
from models.ladder import Answers, Ladder
from models.manifest import Fallback, GoldenRow, Policy, PolicyName, Rule, Strict, Trouble
from models.planning import Forced, Overridden, Plan, lowest
from models.policies import troubles_of
from models.rules import Rules
from models.vocabulary import OUTCOMES, OVERRIDE_PARTS

USUAL_SECONDS: Final = 24 * 3_600
LONGEST_SECONDS: Final = 7 * 24 * 3_600
EXAMPLES: Final = 5
"""Golden rows that a dry run names."""

Value = int | float | str | bool


class Changes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an override changes.

    Attributes:
        policies: per field and trouble who answers from now on.
        values: per field what takes the place of a bad value, wherever the field is repaired.
        rules: in place of the bundle's; its default stays the last. None leaves them, an empty list
            leaves the default alone.
        rung: the highest that may answer; None for the model.
    """

    policies: dict[str, dict[Trouble, PolicyName]] = {}
    values: dict[str, Value] = {}
    rules: tuple[Rule, ...] | None = None
    rung: Literal["baseline", "rules"] | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of `vocabulary.OVERRIDE_PARTS` that are changed; no rules at all are a change."""
        return tuple(part for part in OVERRIDE_PARTS if getattr(self, part) not in (None, {}))


NO_CHANGES: Final = Changes()


class Override(Strict, frozen=True, kw_only=True):
    """An override that stands.

    Attributes:
        version: of the bundle that it was said of; it ends with it.
        by, at, reason: who, when (ISO 8601, UTC), why.
        expires: epoch seconds.
    """

    version: str
    changes: Changes
    by: str
    at: str
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    expires: float

    def holds(self, version: str, now: float) -> bool:
        """Whether it is in force for this version at `now` (epoch seconds)."""
        return self.version == version and now < self.expires


def expiry(now: float, seconds: float | None = None) -> float:
    """When an override of so many seconds ends; of a day, where nobody says.

    Raises:
        OverrideRefused: not above 0, or more than a week: what lasts longer belongs in a bundle.
    """
    lasts = USUAL_SECONDS if seconds is None else seconds
    if not 0 < lasts <= LONGEST_SECONDS:
        raise OverrideRefused(
            f"an override of {lasts:g} seconds; expected more than 0 and at most "
            f"{LONGEST_SECONDS:,} (7 days). What is to stay belongs in the next version: pack it"
        )
    return now + lasts


def applied(fallback: Fallback, changes: Changes) -> Fallback:
    """The fallback as it is with the changes; what they do not name stays. Checks nothing."""
    policies = {
        name: {
            trouble: _policy(policy, changes.policies.get(name, {}).get(trouble), name, changes)
            for trouble, policy in own.items()
        }
        for name, own in fallback.policies.items()
    }
    rules = fallback.rules if changes.rules is None else changes.rules
    return structs.replace(fallback, policies=policies, rules=rules)


def _policy(packed: Policy, said: PolicyName | None, field: str, changes: Changes) -> Policy:
    policy = packed if said in (None, packed.policy) else Policy(policy=said)
    if policy.policy == "repair" and field in changes.values:
        return Policy(policy="repair", value=changes.values[field])
    return policy


def overridden(bundle: Bundle, changes: Changes, *, is_tried: bool = False) -> Bundle:
    """The bundle with the changes: it shares everything else, and is open as long as the other is.

    A forced rung is the route's to apply, as it is without an override.

    Args:
        bundle: as it was packed.
        changes: to be made.
        is_tried: somebody has put the rules to the golden rows already, which takes a while.

    Raises:
        OverrideRefused: a field, trouble or rung that is not there, a value that is itself bad, a
            rule that cannot be used or raises for a golden row, or no change at all.
    """
    _check(bundle, changes)
    fallback = applied(bundle.fallback, changes)
    try:
        changed = replace(bundle, fallback=fallback, ladder=_ladder(bundle, fallback, changes))
    except (ValueError, TypeError, RecursionError) as error:
        raise OverrideRefused(f"{error}; nothing was changed") from error
    if changes.rules is not None and not is_tried:
        _check_rules(changed)
    return changed


def _ladder(bundle: Bundle, fallback: Fallback, changes: Changes) -> Ladder:
    assert bundle.fitted is not None
    vocabularies = bundle.fitted.vocabularies
    return Ladder(
        bundle.outputs,
        bundle.manifest.decision,
        fallback,
        bundle.fields,
        bundle.encoder.encode,
        baseline=bundle.baseline,
        rules=Rules(fallback.rules, fallback.default, bundle.fields, vocabularies, bundle.outputs),
        overridden=Overridden(
            frozenset((name, trouble) for name, own in changes.policies.items() for trouble in own),
            rules=changes.rules is not None,
        ),
    )


def _check(bundle: Bundle, changes: Changes) -> None:
    if bundle.fitted is None:
        raise OverrideRefused(
            f"{bundle.name}/{bundle.version} takes tensors: it has no fields, rules or baseline "
            "that could be changed. Roll back, or promote another version"
        )
    if changes == NO_CHANGES:
        raise OverrideRefused("nothing is changed; name a policy, a value, rules or a rung")
    fields = {field.name: field for field in bundle.fields}
    if strangers := sorted({*changes.policies, *changes.values} - fields.keys()):
        raise OverrideRefused(f"unknown fields {strangers}; the fields are {list(fields)}")
    for name, own in changes.policies.items():
        _check_policies(fields[name], own, has_baseline=bundle.baseline is not None)
    after = applied(bundle.fallback, changes)
    for name in changes.values:
        if not any(policy.policy == "repair" for policy in after.policies[name].values()):
            raise OverrideRefused(
                f"a value for field {name!r}, which is never repaired; its policies are "
                f"{ {trouble: one.policy for trouble, one in after.policies[name].items()} }. Add "
                "the policy 'repair', or leave the value out"
            )
    if changes.rung == "baseline" and bundle.baseline is None:
        raise OverrideRefused(f"{bundle.name}/{bundle.version} has no baseline; force 'rules'")


def _check_policies(field: Field, own: dict[Trouble, PolicyName], *, has_baseline: bool) -> None:
    possible = troubles_of(field)
    if strangers := [trouble for trouble in own if trouble not in possible]:
        raise OverrideRefused(
            f"field {field.name!r} cannot be {strangers}; declared as it is, it can be "
            f"{list(possible)}"
        )
    if "baseline" in own.values() and not has_baseline:
        raise OverrideRefused(
            f"field {field.name!r} is to go to the baseline, and there is none; use 'rules'"
        )


def _check_rules(bundle: Bundle) -> None:
    """Each rule has to be true or false for every golden row, as when a bundle is packed."""
    rules, golden = bundle.ladder.rules, bundle.golden.rows
    plan = _plan(bundle, golden)
    for place, row in enumerate(golden):
        raised = rules.raising(
            plan.rows[place], plan.encoded.flags[place], row.record, row.expected.reason
        )
        if raised:
            raise OverrideRefused(
                f"rule {rules.names[raised[0].rule]!r} cannot be told for golden row {row.name!r}: "
                f"{raised[0].error}. Write it so that it is true or false for every record"
            )


# the dry run


class Moved(Strict, frozen=True, kw_only=True):
    """Golden rows that one rung answered and another would."""

    before: str
    after: str
    rows: int


class Example(Strict, frozen=True, kw_only=True):
    """A golden row that is answered otherwise, by name: what it held is not shown."""

    name: str
    before: str
    after: str
    reasons: tuple[str, ...]


class Effect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an override does to the golden rows.

    Attributes:
        rows: golden rows.
        changed: those with another rung, answer or decision.
        before, after: rows by outcome.
        moved: how many go from one rung to another.
        same_rung: rows that the same rung answers otherwise.
        examples: a few of the changed ones.
        unseen: changed policies that no golden row exercises, of which nothing is shown here.
    """

    rows: int
    changed: int
    before: dict[str, int]
    after: dict[str, int]
    moved: tuple[Moved, ...]
    same_rung: int
    examples: tuple[Example, ...]
    unseen: tuple[str, ...]


def dry_run(
    bundle: Bundle,
    changes: Changes,
    *,
    standing: Changes = NO_CHANGES,
    forced: Forced | None = None,
) -> Effect:
    """What the changes do to the golden rows, in place of what stands now.

    Args:
        bundle: as it was packed.
        changes: to be tried; none take away what stands.
        standing: of the override that is in force, which the new one would replace.
        forced: the highest rung that may answer before and after, whatever both say.

    Raises:
        OverrideRefused: they would be refused.
    """
    is_end = changes == NO_CHANGES != standing
    new = bundle if is_end else overridden(bundle, changes)
    old = bundle if standing == NO_CHANGES else overridden(bundle, standing, is_tried=True)
    before = _answers(old, lowest(forced, standing.rung))
    after = _answers(new, lowest(forced, changes.rung))
    golden = bundle.golden.rows
    changed = [row for row in range(len(golden)) if _of(before, row) != _of(after, row)]
    moves = Counter((_rung(before, row), _rung(after, row)) for row in changed)
    return Effect(
        rows=len(golden),
        changed=len(changed),
        before=_by_rung(before),
        after=_by_rung(after),
        moved=tuple(
            Moved(before=one, after=other, rows=rows)
            for (one, other), rows in moves.most_common()
            if one != other
        ),
        same_rung=sum(rows for (one, other), rows in moves.items() if one == other),
        examples=tuple(
            Example(
                name=golden[row].name,
                before=_rung(before, row),
                after=_rung(after, row),
                reasons=tuple(after.reasons.get(row, ())),
            )
            for row in changed[:EXAMPLES]
        ),
        unseen=tuple(_unseen(bundle, changes)),
    )


def _plan(bundle: Bundle, golden: Sequence[GoldenRow], rung: Forced | None = None) -> Plan:
    records = [row.record for row in golden]
    return bundle.ladder.plan(bundle.encoder.encode(records), records, forced=rung)


def _answers(bundle: Bundle, rung: Forced | None) -> Answers:
    plan = _plan(bundle, bundle.golden.rows, rung)
    return bundle.ladder.judge(plan, bundle.run(plan.rows) if plan.asks_model else None)


def _of(answers: Answers, row: int) -> tuple[Any, ...]:
    """All that a caller gets of an answer, but the reasons."""
    values = [column[row] for column in answers.values]
    return answers.outcome[row], answers.decision[row], repr(values)


def _rung(answers: Answers, row: int) -> str:
    return OUTCOMES[answers.outcome[row]]


def _by_rung(answers: Answers) -> dict[str, int]:
    counts = Counter(answers.outcome)
    return {name: counts[code] for code, name in enumerate(OUTCOMES) if counts[code]}


def _unseen(bundle: Bundle, changes: Changes) -> Iterator[str]:
    places = {field.name: place for place, field in enumerate(bundle.fields)}
    for name, own in changes.policies.items():
        for trouble in own:
            flag = FLAG_NAMES.index(trouble)
            if not any(row.flags[places[name]] == flag for row in bundle.golden.rows):
                yield f"{name}: {trouble}"
