"""Checks and rules as the owner writes them, brought to the form of `fallback.json`.

A check is a condition across fields that the model's graph computes; a rule answers where its
condition, in CEL, is true. An `example` is a record that fails the check, or that the rule matches,
for where no training record does.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from features.expressions import Boolean
from features.reading import text_of
from models.declared import plain_answer
from models.errors import PackingError
from models.manifest import CONDITION_NAME, LONGEST_TEXT, Check, CheckPolicy, OutputSpec, Rule

CHECK_KEYS: Final = ("holds", "policy", "example")
RULE_KEYS: Final = ("name", "when", "outputs", "example")

GivenChecks = Mapping[str, Boolean | Mapping[str, Any]]
"""By name: an expression, or `{"holds": …, "policy": …, "example": …}`."""
GivenRules = Sequence[Mapping[str, Any]]
"""`{"name": …, "when": …, "outputs": …, "example": …}`, in the order in which they are asked."""


@dataclass(frozen=True, slots=True)
class DeclaredCheck:
    """A check, its expression, and a record that fails it, where the owner gave one."""

    check: Check
    expression: Boolean
    example: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What answers call it."""
        return self.check.name


def read_checks(given: GivenChecks | None, *, has_baseline: bool) -> tuple[DeclaredCheck, ...]:
    """The checks, in the order in which they are computed.

    Without a policy a row that fails goes to the baseline if there is one, else to the rules.

    Raises:
        PackingError: a name, an entry or a policy that is none.
    """
    usual: CheckPolicy = "baseline" if has_baseline else "rules"
    checks = tuple(_read(name, check, usual) for name, check in (given or {}).items())
    if not has_baseline:
        _refuse_baseline(checks)
    return checks


def _read(name: str, given: Boolean | Mapping[str, Any], usual: CheckPolicy) -> DeclaredCheck:
    where = f"check {name!r}"
    if not re.fullmatch(CONDITION_NAME, name):
        raise PackingError(
            f"{where}: its name must be 1 to 64 lower-case letters, digits or _, as answers and "
            "metrics show it"
        )
    entries: Mapping[str, Any] = given if isinstance(given, Mapping) else {"holds": given}
    if strangers := sorted(set(entries) - set(CHECK_KEYS)):
        raise PackingError(f"{where} has entries {strangers}; use {list(CHECK_KEYS)}")
    expression = entries.get("holds")
    if not isinstance(expression, Boolean):
        raise PackingError(
            f"{where} is {expression!r}, which is no condition; compare expressions, as in "
            "number('low') <= number('high')"
        )
    policy = entries.get("policy") or usual
    if policy not in get_args(CheckPolicy):
        raise PackingError(
            f"{where}: {policy!r} is not a policy of checks; use {list(get_args(CheckPolicy))}"
        )
    check = Check(
        name=name, expression=expression.to_json(), text=_short(text_of(expression)), policy=policy
    )
    return DeclaredCheck(check, expression, _example(where, entries))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _example(where: str, entries: Mapping[str, Any]) -> Mapping[str, Any] | None:
    example = entries.get("example")
    if example is not None and not isinstance(example, Mapping):
        raise PackingError(
            f"{where}: its example is {example!r}, expected a record, as callers send"
        )
    return example


def _refuse_baseline(checks: Sequence[DeclaredCheck]) -> None:
    wanting = [check.name for check in checks if check.check.policy == "baseline"]
    if wanting:
        raise PackingError(
            f"checks {wanting} send rows to the baseline, but there is none; pass "
            "baseline=(features, model), or use 'rules'"
        )


@dataclass(frozen=True, slots=True)
class DeclaredRule:
    """A rule, and a record that it matches, where the owner gave one."""

    rule: Rule
    example: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What answers call it."""
        return self.rule.name


def read_rules(given: GivenRules | None, outputs: Sequence[OutputSpec]) -> tuple[DeclaredRule, ...]:
    """The rules, each with a value for every output; whether they mean something is seen later.

    `outputs` of a rule may be a bare value of the primary output. Class probabilities that it does
    not name are null.

    Raises:
        PackingError: an entry that is missing or none of a rule's, or an output without a value.
    """
    return tuple(_read_rule(place, rule, outputs) for place, rule in enumerate(given or ()))


def _read_rule(place: int, given: Mapping[str, Any], outputs: Sequence[OutputSpec]) -> DeclaredRule:
    shape = "{'name': 'closed', 'when': 'r.hour < 6.0', 'outputs': 0.1}"
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  (strangers)
        raise PackingError(f"rule {place} is {given!r}; expected such as {shape}")
    where = f"rule {given.get('name', place)!r}"
    if strangers := sorted(set(given) - set(RULE_KEYS)):
        raise PackingError(f"{where} has entries {strangers}; use {list(RULE_KEYS)}")
    if missing := [key for key in ("name", "when", "outputs") if given.get(key) is None]:
        raise PackingError(f"{where} lacks {missing}; expected such as {shape}")
    if not isinstance(given["name"], str) or not isinstance(given["when"], str):
        raise PackingError(f"{where}: name and when are texts; expected such as {shape}")
    rule = Rule(
        name=given["name"],
        when=given["when"],
        outputs=_complete(where, given["outputs"], outputs),
    )
    return DeclaredRule(rule, _example(where, given))


def _complete(where: str, given: Any, outputs: Sequence[OutputSpec]) -> dict[str, Any]:
    values: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {outputs[0].name: given}
    for spec in outputs:
        if spec.kind == "class_probabilities":
            values.setdefault(spec.name, None)
    names = [spec.name for spec in outputs]
    if missing := [name for name in names if name not in values]:
        raise PackingError(
            f"{where} has no value for {missing}; name one for each output, as in 'outputs': "
            f"{dict.fromkeys(names, '...')}"
        )
    specs = {spec.name: spec for spec in outputs}
    return {
        name: plain_answer(specs[name], value) if name in specs else value
        for name, value in values.items()
    }
