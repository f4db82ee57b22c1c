"""What changed in what callers get: outputs, their order of importance, and decisions."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from models.contract_change import Change, listed, without
from models.manifest import Decision, Label, OutputSpec
from models.outputs import Decisions

EXACT: Final = (("kind", "output_kind"), ("dtype", "output_type"), ("shape", "output_shape"))
"""What makes an answer another thing for a program that reads it."""


def output_changes(old: Sequence[OutputSpec], new: Sequence[OutputSpec]) -> Iterator[Change]:
    """Outputs in their new order, then those that are gone, then which is the primary one."""
    before = {spec.name: spec for spec in old}
    after = {spec.name: spec for spec in new}
    for name, spec in after.items():
        if name in before:
            yield from _changed(before[name], spec)
        else:
            sentence = f"output {name!r} is new, a {spec.kind}: answers have it beside the others"
            yield _output("output_added", name, None, spec.kind, sentence, breaking=False)
    for name, spec in before.items():
        if name not in after:
            sentence = f"output {name!r}, a {spec.kind}, is gone: callers who read it find nothing"
            yield _output("output_removed", name, spec.kind, None, sentence, breaking=True)
    if old[0].name != new[0].name:
        sentence = (
            f"`prediction` was {old[0].name!r} and is {new[0].name!r}: callers who read it get "
            "something else"
        )
        yield _output("primary_output", new[0].name, old[0].name, new[0].name, sentence)


def _output(
    kind: str, name: str, before: Any, after: Any, sentence: str, *, breaking: bool = True
) -> Change:
    return Change(
        kind=kind,
        part="output",
        of=name,
        breaking=breaking,
        before=before,
        after=after,
        sentence=sentence,
    )


def _changed(before: OutputSpec, after: OutputSpec) -> Iterator[Change]:
    name = after.name
    for attribute, kind in EXACT:
        was, now = getattr(before, attribute), getattr(after, attribute)
        if was != now:
            sentence = f"output {name!r} had the {attribute} {_said(was)} and has {_said(now)}"
            yield _output(kind, name, _plain(was), _plain(now), sentence)
    if before.positive != after.positive:
        sentence = (
            f"output {name!r} was the probability of {before.positive!r} and is that of "
            f"{after.positive!r}: the same number means something else"
        )
        yield _output("output_positive", name, before.positive, after.positive, sentence)
    yield from _classes(before, after)
    yield from _range(before, after)
    if before.unit != after.unit:
        breaking = before.unit is not None and after.unit is not None
        sentence = (
            f"output {name!r} was in {before.unit or 'no declared unit'} and is in "
            f"{after.unit or 'no declared unit'}"
        )
        yield _output("output_unit", name, before.unit, after.unit, sentence, breaking=breaking)


def _said(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _classes(before: OutputSpec, after: OutputSpec) -> Iterator[Change]:
    was, now = before.classes or (), after.classes or ()
    gained, lost = without(now, was), without(was, now)
    if after.kind == "label":
        # A label's classes have no places; one that never comes any more breaks nobody.
        if not gained and not lost:
            return
        breaking = bool(gained)
    elif list(map(_typed, was)) == list(map(_typed, now)):
        return
    else:
        breaking = True
    yield _output(
        "output_classes",
        after.name,
        list(was),
        list(now),
        f"output {after.name!r} has other classes: {_class_words(gained, lost)}",
        breaking=breaking,
    )


def _typed(name: Any) -> tuple[type, Any]:
    return type(name), name


def _class_words(gained: Sequence[Any], lost: Sequence[Any]) -> str:
    said = [f"{listed(gained)} new"] * bool(gained) + [f"{listed(lost)} gone"] * bool(lost)
    return " and ".join(said) or "the same in another order, so that each is in another place"


def _range(before: OutputSpec, after: OutputSpec) -> Iterator[Change]:
    if (before.low, before.high) == (after.low, after.high):
        return
    is_wider = _low(after) < _low(before) or _high(after) > _high(before)
    follows = (
        "callers may get values that they were promised not to get"
        if is_wider
        else "a value outside is not given, and a lower rung answers"
    )
    yield _output(
        "range_widened" if is_wider else "range_narrowed",
        after.name,
        [before.low, before.high],
        [after.low, after.high],
        f"output {after.name!r} was from {_ends(before)} and is from {_ends(after)}: {follows}",
        breaking=is_wider,
    )


def _low(spec: OutputSpec) -> float:
    return -math.inf if spec.low is None else spec.low


def _high(spec: OutputSpec) -> float:
    return math.inf if spec.high is None else spec.high


def _ends(spec: OutputSpec) -> str:
    low, high = ("any" if end is None else f"{end:g}" for end in (spec.low, spec.high))
    return f"{low} to {high}"


def decision_changes(
    old: tuple[OutputSpec, Decision], new: tuple[OutputSpec, Decision]
) -> Iterator[Change]:
    """Of the primary outputs and their decisions."""
    was, now = Decisions(*old).names, Decisions(*new).names
    gained, lost = without(now, was), without(was, now)
    if gained or lost:
        # Who reads no decision today is not broken by one; who reads some is by another.
        breaking = bool(was) and bool(gained or not now)
        yield _output(
            "decision_names",
            "decision",
            list(was),
            list(now),
            f"decisions were {listed(was) or 'none'} and are {listed(now) or 'none'}",
            breaking=breaking,
        )
    elif old[1] != new[1]:
        yield _output(
            "decision_thresholds",
            "decision",
            _steps(old[1]),
            _steps(new[1]),
            f"decisions are made otherwise: {_shown(old[1])} before, {_shown(new[1])} now; the "
            "same probability may be another decision",
            breaking=False,
        )


def _steps(decision: Decision) -> Any:
    if decision is None or isinstance(decision, str):
        return decision
    return [{"below": step.below, "is": step.name} for step in decision]


def _shown(decision: Decision) -> str:
    if decision is None or isinstance(decision, str):
        return str(decision)
    steps = [
        f"{step.name!r} " + ("else" if step.below is None else f"below {step.below:g}")
        for step in decision
    ]
    return ", ".join(steps)


def label_changes(old: Label | None, new: Label | None) -> Iterator[Change]:
    """What feedback sends."""
    if old == new:
        return
    breaking = old is not None and (new is None or new.type != old.type)
    yield _output(
        "label",
        "label",
        None if old is None else {"type": old.type, "compare": old.compare},
        None if new is None else {"type": new.type, "compare": new.compare},
        f"feedback sent {_feedback(old)} and sends {_feedback(new)}",
        breaking=breaking,
    )


def _feedback(label: Label | None) -> str:
    return "nothing" if label is None else f"a {label.type} ({label.compare})"
