"""Row policies: what each trouble of each field does to its row, as declared or by default."""

from collections.abc import Mapping, Sequence
from typing import get_args

from features.fields import Field
from models.errors import PackingError
from models.manifest import Policy, PolicyName, Trouble
from models.vocabulary import POLICIES

FieldPolicies = PolicyName | Policy | Mapping[str, PolicyName | Policy]
"""For all troubles of a field, or per trouble."""


def repair(value: float | str | bool) -> Policy:  # noqa: FBT001  (the value of a record, not a switch)
    """The model answers, with `value`, as a record would send it, in the place of the bad one."""
    return Policy(policy="repair", value=value)


def troubles_of(field: Field) -> tuple[Trouble, ...]:
    """What can be wrong with a value of this field, in the order of the vocabulary."""
    never = set[str]()
    if field.kind != "category":
        never.add("unknown")
    if field.kind != "number" or (field.low is None and field.high is None):
        never.add("out_of_bounds")
    return tuple(trouble for trouble in get_args(Trouble) if trouble not in never)


def default_policy(field: Field, trouble: str, *, has_baseline: bool = False) -> Policy:
    """What holds where the owner said nothing."""
    if not field.nullable:
        return Policy(policy="baseline" if has_baseline else "rules")
    return Policy(policy="accept" if trouble in ("missing", "unknown") else "repair")


def resolve(
    fields: Sequence[Field],
    given: Mapping[str, FieldPolicies] | None,
    *,
    has_baseline: bool = False,
) -> dict[str, dict[Trouble, Policy]]:
    """The policy of every field and every trouble it can have.

    Raises:
        PackingError: an unknown field, trouble or policy, a value where nothing is repaired, or
            the policy `baseline` where none is packed.
    """
    given = given or {}
    known = {field.name: field for field in fields}
    if strangers := sorted(set(given) - set(known)):
        raise PackingError(
            f"policies name unknown fields {strangers}; the fields are {list(known)}"
        )
    resolved: dict[str, dict[Trouble, Policy]] = {}
    for field in fields:
        own = _per_trouble(field, given.get(field.name, {}))
        if not has_baseline:
            _refuse_baseline(field, own)
        resolved[field.name] = {
            trouble: own.get(trouble) or default_policy(field, trouble, has_baseline=has_baseline)
            for trouble in troubles_of(field)
        }
    return resolved


def _per_trouble(field: Field, given: FieldPolicies) -> dict[str, Policy]:
    possible = troubles_of(field)
    if isinstance(given, (str, Policy)):
        return {trouble: _policy(field, trouble, given) for trouble in possible}
    if strangers := [trouble for trouble in given if trouble not in possible]:
        raise PackingError(
            f"policies of field {field.name!r} name {strangers}, which it cannot have; "
            f"a {field.kind} declared as it is can be {list(possible)}"
        )
    return {trouble: _policy(field, trouble, policy) for trouble, policy in given.items()}


def _policy(field: Field, trouble: str, given: PolicyName | Policy) -> Policy:
    policy = Policy(policy=given) if isinstance(given, str) else given
    where = f"policy of field {field.name!r}, {trouble}"
    if policy.policy not in POLICIES:
        raise PackingError(f"{where}: {policy.policy!r} is not a policy; use {list(POLICIES)}")
    if policy.value is not None and policy.policy != "repair":
        raise PackingError(f"{where}: only 'repair' takes a value, not {policy.policy!r}")
    return policy


def _refuse_baseline(field: Field, policies: Mapping[str, Policy]) -> None:
    for trouble, policy in policies.items():
        if policy.policy == "baseline":
            raise PackingError(
                f"policy of field {field.name!r}, {trouble}: there is no baseline model; use "
                "'rules', or pack one"
            )
