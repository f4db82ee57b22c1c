"""What changed in what callers send: fields, and what is done about what is wrong with them.

A change of a field alone breaks nobody: what it does to a caller's record is a trouble, and the
field's policy for this trouble says whether the model still answers. So the verdicts here are about
policies, but where a value that was good would silently mean something else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from features.fields import Field, declaration
from models.contract_change import Change, listed, without
from models.manifest import Fallback, Policy, TensorInput
from models.vocabulary import POLICIES

OF_THE_MODEL: Final = ("accept", "repair")
"""Policies with which the model answers."""
WHO: Final = {
    "accept": "the model answers",
    "repair": "the model answers, with the value repaired",
    "baseline": "the baseline answers",
    "rules": "the rules answer",
    "reject": "the record is rejected with 422",
}
ENCODING: Final = ("out_of_bounds", "normalize", "from_float32")
"""Arguments that say what a value becomes, and not which values there are."""


@dataclass(frozen=True, slots=True)
class Side:
    """One bundle's fields: in row order, the vocabulary of each category, and the policies."""

    fields: Mapping[str, Field]
    vocabularies: Mapping[str, Sequence[str]]
    fallback: Fallback

    def policy(self, field: str, trouble: str) -> Policy | None:
        """None where the field cannot have this trouble."""
        return self.fallback.policies[field].get(trouble)  # pyright: ignore[reportArgumentType]  (a text, checked when it was read)

    def keeps(self, field: str, trouble: str) -> bool:
        """Whether the model answers rows with this trouble."""
        policy = self.policy(field, trouble)
        return policy is None or policy.policy in OF_THE_MODEL

    def then(self, field: str, trouble: str) -> str:
        """Who answers a row with this trouble, in words."""
        policy = self.policy(field, trouble)
        return WHO["accept" if policy is None else policy.policy]


def field_changes(old: Side, new: Side) -> Iterator[Change]:
    """Fields in the order of the new row, then those that are gone."""
    for name, field in new.fields.items():
        before = old.fields.get(name)
        if before is None:
            yield _added(field, new)
        elif before.kind != field.kind or before.of != field.of:
            yield _retyped(before, field)
        else:
            yield from _changed(before, field, old, new)
    for name, field in old.fields.items():
        if name not in new.fields:
            yield Change(
                kind="field_removed",
                part="field",
                of=name,
                breaking=False,
                before=field.to_json(),
                sentence=f"field {name!r} is gone: callers may go on sending it, and it is ignored",
            )


def _added(field: Field, new: Side) -> Change:
    breaking = not new.keeps(field.name, "missing")
    return Change(
        kind="field_added",
        part="field",
        of=field.name,
        breaking=breaking,
        after=field.to_json(),
        sentence=f"field {field.name!r} is new, {declaration(field)}: "
        f"{new.then(field.name, 'missing')} where callers do not send it",
    )


def _retyped(before: Field, after: Field) -> Change:
    return Change(
        kind="field_type",
        part="field",
        of=after.name,
        breaking=True,
        before=_type(before),
        after=_type(after),
        sentence=f"field {after.name!r} was a {_type(before)} and is a {_type(after)}: what "
        "callers send is invalid, or means something else",
    )


def _type(field: Field) -> str:
    return "category of integers" if field.of == "integer" else field.kind


def _changed(before: Field, after: Field, old: Side, new: Side) -> Iterator[Change]:
    yield from _unit(before, after)
    yield from _bounds(before, after, new)
    yield from _times(before, after)
    yield from _vocabulary(before, after, old, new)
    yield from _encoding(before, after, new)
    yield from _sensitive(before, after)
    yield from _nullable(before, after, old, new)
    # What a field newly can be in trouble with was said above, where it began.
    said = {"missing"} if before.nullable != after.nullable else set[str]()
    for trouble in old.fallback.policies[before.name]:
        if trouble not in said:
            yield from _policy(after.name, trouble, old, new)


def _unit(before: Field, after: Field) -> Iterator[Change]:
    if before.unit == after.unit:
        return
    is_other = before.unit is not None and after.unit is not None
    follows = (
        "the numbers that callers send mean something else"
        if is_other
        else "see that callers send it in this unit"
    )
    yield Change(
        kind="field_unit",
        part="field",
        of=after.name,
        breaking=is_other,
        before=before.unit,
        after=after.unit,
        sentence=f"field {after.name!r} was in {before.unit or 'no declared unit'} and is in "
        f"{after.unit or 'no declared unit'}: {follows}",
    )


def _bounds(before: Field, after: Field, new: Side) -> Iterator[Change]:
    old_low, old_high = _ends(before)
    low, high = _ends(after)
    if (old_low, old_high) == (low, high):
        return
    is_narrower = low > old_low or high < old_high
    follows = "more values are within"
    if is_narrower:
        follows = f"{new.then(after.name, 'out_of_bounds')} where a value is now outside"
        if new.keeps(after.name, "out_of_bounds"):
            follows += f" (out_of_bounds={after.out_of_bounds!r})"
    yield Change(
        kind="bounds_narrowed" if is_narrower else "bounds_widened",
        part="field",
        of=after.name,
        breaking=is_narrower and not new.keeps(after.name, "out_of_bounds"),
        before=[before.low, before.high],
        after=[after.low, after.high],
        sentence=f"field {after.name!r} was from {_range(before)} and is from {_range(after)}: "
        f"{follows}",
    )


def _ends(field: Field) -> tuple[float, float]:
    low = float("-inf") if field.low is None else field.low
    return low, float("inf") if field.high is None else field.high


def _range(field: Field) -> str:
    low, high = (None if end is None else f"{end:g}" for end in (field.low, field.high))
    return f"{low or 'any'} to {high or 'any'}"


def _times(before: Field, after: Field) -> Iterator[Change]:
    if before.epoch != after.epoch:
        yield Change(
            kind="timestamp_unit",
            part="field",
            of=after.name,
            breaking=True,
            before=before.epoch,
            after=after.epoch,
            sentence=f"field {after.name!r} was sent as {_form(before)} and is sent as "
            f"{_form(after)}: what callers send is invalid, or another time",
        )
    if before.tz == after.tz:
        return
    # Numbers since 1970 and texts with an offset need no zone; only texts without one change.
    breaking = before.tz is not None and after.epoch is None
    follows = "instants are the same, the calendar of the features is another"
    if breaking:
        became = "another time" if after.tz else "invalid"
        follows = f"a text without an offset is {became}"
    yield Change(
        kind="timestamp_zone",
        part="field",
        of=after.name,
        breaking=breaking,
        before=before.tz,
        after=after.tz,
        sentence=f"field {after.name!r} was in the zone {before.tz or 'UTC, offsets required'} and "
        f"is in {after.tz or 'UTC, offsets required'}: {follows}",
    )


def _form(field: Field) -> str:
    return "ISO 8601 text" if field.epoch is None else f"a number of {field.epoch} since 1970"


def _vocabulary(before: Field, after: Field, old: Side, new: Side) -> Iterator[Change]:
    if after.kind != "category":
        return
    name = after.name
    was, known = old.vocabularies.get(name, ()), new.vocabularies.get(name, ())
    is_secret = bool(before.sensitive or after.sensitive)
    if lost := without(was, known):
        yield Change(
            kind="vocabulary_lost",
            part="field",
            of=name,
            breaking=not new.keeps(name, "unknown"),
            before=len(was),
            after=len(known),
            sentence=f"field {name!r} no longer knows {_texts(lost, is_secret)}: "
            f"{new.then(name, 'unknown')} where callers send one, as of any unknown text",
        )
    if gained := without(known, was):
        yield Change(
            kind="vocabulary_gained",
            part="field",
            of=name,
            breaking=False,
            before=len(was),
            after=len(known),
            sentence=f"field {name!r} now knows {_texts(gained, is_secret)}, which were unknown",
        )


def _texts(texts: Sequence[str], is_secret: bool) -> str:  # noqa: FBT001  (private, a fact)
    return f"{len(texts)} of its texts" if is_secret else listed(texts)


def _encoding(before: Field, after: Field, new: Side) -> Iterator[Change]:
    for argument in ENCODING:
        was, now = getattr(before, argument), getattr(after, argument)
        if was == now:
            continue
        # A step that is no longer taken leaves texts as no vocabulary has them.
        breaking = argument == "normalize" and not new.keeps(after.name, "unknown")
        follows = "the same value may become another number for the model"
        if breaking:
            follows = f"{new.then(after.name, 'unknown')} where a text is unknown because of it"
        yield Change(
            kind="field_encoding",
            part="field",
            of=after.name,
            breaking=breaking,
            before=_plain(was),
            after=_plain(now),
            sentence=f"field {after.name!r} was encoded with {argument}={was!r} and is with "
            f"{now!r}: {follows}",
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _sensitive(before: Field, after: Field) -> Iterator[Change]:
    if before.sensitive == after.sensitive:
        return
    is_shown = after.sensitive is None
    follows = (
        "its values may now stand in errors and in the decision log, which callers were promised "
        "not to see"
        if is_shown
        else "its values stand in no answer, error or log"
    )
    yield Change(
        kind="field_sensitive",
        part="field",
        of=after.name,
        breaking=is_shown,
        before=before.sensitive,
        after=after.sensitive,
        sentence=f"field {after.name!r} was {_secrecy(before)} and is {_secrecy(after)}: {follows}",
    )


def _secrecy(field: Field) -> str:
    return f"sensitive ({field.sensitive})" if field.sensitive else "not sensitive"


def _nullable(before: Field, after: Field, old: Side, new: Side) -> Iterator[Change]:
    if before.nullable == after.nullable:
        return
    name = after.name
    yield Change(
        kind="field_nullable",
        part="field",
        of=name,
        breaking=old.keeps(name, "missing") and not new.keeps(name, "missing"),
        before=before.nullable,
        after=after.nullable,
        sentence=f"field {name!r} {'may now' if after.nullable else 'must no longer'} be null: "
        f"where it is, {old.then(name, 'missing')} before, {new.then(name, 'missing')} now",
    )


def _policy(name: str, trouble: str, old: Side, new: Side) -> Iterator[Change]:
    was, now = old.policy(name, trouble), new.policy(name, trouble)
    if was is None or now is None or was == now:
        return
    step = POLICIES.index(now.policy) - POLICIES.index(was.policy)
    kind = "policy_value" if not step else "policy_severer" if step > 0 else "policy_milder"
    what = trouble.replace("_", " ")
    sentence = f"where field {name!r} is {what}, {WHO[was.policy]} before, {WHO[now.policy]} now"
    if not step:
        sentence = (
            f"where field {name!r} is {what}, it is repaired with {_value(now)} and no longer with "
            f"{_value(was)}"
        )
    yield Change(
        kind=kind,
        part="policy",
        of=f"{name}: {trouble}",
        breaking=loses(was.policy, now.policy),
        before=_policy_json(was),
        after=_policy_json(now),
        sentence=sentence,
    )


def loses(was: str, now: str) -> bool:
    """Whether rows that the model answered are no longer its, or answered rows are rejected."""
    return (was in OF_THE_MODEL and now not in OF_THE_MODEL) or (
        was != "reject" and now == "reject"
    )


def _value(policy: Policy) -> str:
    return "what the encoder makes of it" if policy.value is None else repr(policy.value)


def _policy_json(policy: Policy) -> Any:
    if policy.value is None:
        return policy.policy
    return {"policy": policy.policy, "value": policy.value}


def input_changes(old: Sequence[TensorInput], new: Sequence[TensorInput]) -> Iterator[Change]:
    """Of bundles that take tensors, which have no policies: every input is needed as it is."""
    before, after = ({one.name: one for one in inputs} for inputs in (old, new))
    for name in dict.fromkeys([*after, *before]):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        yield Change(
            kind="input",
            part="input",
            of=name,
            breaking=True,
            before=was and _tensor(was),
            after=now and _tensor(now),
            sentence=f"input {name!r} was {_tensor(was)} and is {_tensor(now)}: requests made for "
            "the old one are refused",
        )


def _tensor(one: TensorInput | None) -> str:
    return "not there" if one is None else f"{one.dtype} {list(one.shape)}"
