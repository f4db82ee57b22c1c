"""What changed in who answers, beyond the policies of fields, and in what the owner promises."""

import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from models.contract_change import Change, ContractPart
from models.contract_fields import WHO, loses
from models.manifest import BaselineInfo, Check, Fallback, Objectives
from models.vocabulary import POLICIES

LESS_IS_MORE: Final = ("latency_seconds", "degraded_ratio")
"""Objectives of which a smaller number is the stronger promise."""


def _one(
    kind: str,
    part: ContractPart,
    of: str,
    sentence: str,
    before: Any = None,
    after: Any = None,
    *,
    breaking: bool = False,
) -> Change:
    return Change(
        kind=kind,
        part=part,
        of=of,
        breaking=breaking,
        before=before,
        after=after,
        sentence=sentence,
    )


def check_changes(old: Fallback, new: Fallback) -> Iterator[Change]:
    """Checks across fields."""
    before, after = ({check.name: check for check in side.checks} for side in (old, new))
    for name, check in after.items():
        if name in before:
            yield from _changed_check(before[name], check)
        else:
            yield _one(
                "check_added",
                "check",
                name,
                f"check {name!r} is new ({check.text}): where it does not hold, "
                f"{WHO[check.policy]}",
                None,
                check.text,
                breaking=True,
            )
    for name, check in before.items():
        if name not in after:
            sentence = f"check {name!r} ({check.text}) is gone"
            yield _one("check_removed", "check", name, sentence, check.text)


def _changed_check(before: Check, after: Check) -> Iterator[Change]:
    name = after.name
    if before.expression != after.expression:
        yield _one(
            "check_condition",
            "check",
            name,
            f"check {name!r} asked {before.text} and asks {after.text}: rows that passed it may "
            "not pass now",
            before.text,
            after.text,
            breaking=True,
        )
    if before.policy != after.policy:
        is_severer = POLICIES.index(after.policy) > POLICIES.index(before.policy)
        yield _one(
            "policy_severer" if is_severer else "policy_milder",
            "check",
            name,
            f"where check {name!r} does not hold, {WHO[before.policy]} before, "
            f"{WHO[after.policy]} now",
            before.policy,
            after.policy,
            breaking=loses(before.policy, after.policy),
        )


def repair_changes(old: Fallback, new: Fallback, *, added: int) -> Iterator[Change]:
    """How much may be repaired.

    Args:
        old, new: of both bundles.
        added: fields of the new one that old callers do not send and that are repaired in each of
            their rows: they use up what may be repaired.
    """
    was, now = _limit(old), _limit(new)
    left = now - added
    if left >= was and was == now:
        return
    breaking = left < was
    follows = "rows with more are no longer the model's" if breaking else "no row loses the model"
    own = f", of which new fields that callers do not send take {added}" if added else ""
    yield _one(
        "max_repaired",
        "ladder",
        "max_repaired",
        f"a row could have {_count(was)} repaired fields and may have {_count(now)}{own}: "
        f"{follows}",
        old.max_repaired,
        new.max_repaired,
        breaking=breaking,
    )


def _limit(fallback: Fallback) -> float:
    return math.inf if fallback.max_repaired is None else fallback.max_repaired


def _count(limit: float) -> str:
    return "any number of" if math.isinf(limit) else f"{limit:g}"


def rung_changes(
    old: Fallback, new: Fallback, baselines: tuple[BaselineInfo | None, BaselineInfo | None]
) -> Iterator[Change]:
    """Rules, default and baseline: answers that were not the model's before either."""
    if old.rules != new.rules:
        yield _one(
            "rules",
            "ladder",
            "rules",
            f"the rules are others: {_names(old)} before, {_names(new)} now",
            msgspec.to_builtins(old.rules),
            msgspec.to_builtins(new.rules),
        )
    if old.default != new.default:
        sentence = f"the default was {old.default} and is {new.default}"
        yield _one("default", "ladder", "default", sentence, old.default, new.default)
    before, after = baselines
    if _origin(before) != _origin(after):
        yield _one(
            "baseline",
            "ladder",
            "baseline",
            f"below the model was {_origin(before)} and is {_origin(after)}",
            _origin(before),
            _origin(after),
        )


def _names(fallback: Fallback) -> str:
    return ", ".join(repr(rule.name) for rule in fallback.rules) or "none"


def _origin(baseline: BaselineInfo | None) -> str:
    if baseline is None:
        return "no baseline"
    model = baseline.model
    return f"a {model.framework} {model.estimator} with {baseline.features.identity}"


def objective_changes(old: Objectives, new: Objectives) -> Iterator[Change]:
    """What the owner promises; a weaker promise changes no answer's shape."""
    for name in Objectives.__struct_fields__:
        was, now = getattr(old, name), getattr(new, name)
        if was == now:
            continue
        sign = 1 if name in LESS_IS_MORE else -1
        worst = math.inf * sign
        is_weaker = (worst if now is None else now) * sign > (worst if was is None else was) * sign
        yield _one(
            "objective_weaker" if is_weaker else "objective_stronger",
            "owner",
            name,
            f"the objective {name} was {_promise(was)} and is {_promise(now)}: "
            f"{'less' if is_weaker else 'more'} is promised",
            was,
            now,
        )


def _promise(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
