"""What the owner declares of a bundle, checked: outputs, decision, default, label, objectives."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import structs

from features.fitted import Fitted
from models.errors import PackingError
from models.manifest import Decision, Label, Objectives, OutputSpec, Threshold
from models.outputs import MOST_DECISIONS, ModelOutputs, check_answer
from models.tolerances import tolerance_of

OBJECTIVES: Final = {
    "latency_ms": ("latency_seconds", 1e-3),
    "availability": ("availability_ratio", 1.0),
    "degraded": ("degraded_ratio", 1.0),
}
"""Objectives as people say them, and as the manifest holds them."""


def declared_outputs(
    outputs: Sequence[OutputSpec],
    answers: ModelOutputs,
    *,
    float32: bool,
    added_terms: int,
    exponential_terms: int,
    valid_range: tuple[float | None, float | None] | None,
    unit: str | None,
) -> tuple[OutputSpec, ...]:
    """The outputs with tolerances, and the primary one with what the owner says of it.

    Args:
        outputs: as converted.
        answers: of the training rows.
        float32: the training library computes in float32, so that it cannot agree better.
        added_terms, exponential_terms: of the model, see `Converted`.
        valid_range: of the primary output, inclusive.
        unit: of the primary output.
    """
    specs = [
        structs.replace(
            spec,
            tolerance=tolerance_of(
                spec,
                column,
                float32=float32,
                added_terms=added_terms,
                exponential_terms=exponential_terms,
            ),
        )
        for spec, column in zip(outputs, answers.values, strict=True)
    ]
    if valid_range is not None:
        if specs[0].kind not in ("value", "vector"):
            raise PackingError(
                f"valid_range is for values, the primary output is a {specs[0].kind}"
            )
        specs[0] = structs.replace(specs[0], low=valid_range[0], high=valid_range[1])
    return (structs.replace(specs[0], unit=unit), *specs[1:])


def read_decision(given: Sequence[Mapping[str, Any]] | str | None, primary: OutputSpec) -> Decision:
    """The decision that the owner wrote as thresholds, or as "classes"."""
    if given is None:
        return None
    if isinstance(given, str):
        if given != "classes" or primary.kind != "label" or not primary.classes:
            raise PackingError(
                f"decision={given!r}: 'classes' is for a label with known classes, the primary "
                f"output is a {primary.kind}; name thresholds instead"
            )
        _check_decisions(len(primary.classes))
        return "classes"
    if primary.kind not in ("probability", "value"):
        raise PackingError(f"thresholds are for a number, the primary output is a {primary.kind}")
    try:
        steps = msgspec.convert(list(given), tuple[Threshold, ...])
    except msgspec.ValidationError as error:
        raise PackingError(
            f"decision: {error}; use [{{'below': 0.4, 'is': 'on_time'}}, {{'is': 'late'}}]"
        ) from error
    _check_thresholds(steps)
    _check_decisions(len(steps))
    return steps


def _check_decisions(count: int) -> None:
    if count > MOST_DECISIONS:
        raise PackingError(
            f"there are {count} decisions, at most {MOST_DECISIONS} can be told apart; leave "
            "decision out: the answers themselves have them all"
        )


def _check_thresholds(steps: Sequence[Threshold]) -> None:
    edges = [step.below for step in steps[:-1]]
    ascending = all(a is not None and b is not None and a < b for a, b in pairwise(edges))
    names = [step.name for step in steps]
    if not steps or None in edges or steps[-1].below is not None or not ascending:
        raise PackingError(
            f"decision: the thresholds are {edges}; each but the last needs a 'below', "
            "ascending, and the last has none: it takes the rest"
        )
    if len(set(names)) != len(names):
        raise PackingError(f"decision: {names} names a decision twice")


def full_default(
    outputs: Sequence[OutputSpec], given: Any, usual: Mapping[str, Any]
) -> dict[str, Any]:
    """A value for each output: the owner's, else what is usual in training."""
    if given is not None and not isinstance(given, Mapping):
        given = {outputs[0].name: given}
    own: Mapping[str, Any] = given or {}
    if strangers := sorted(set(own) - {spec.name for spec in outputs}):
        raise PackingError(
            f"default names {strangers}; the outputs are {[spec.name for spec in outputs]}"
        )
    chosen = {**usual, **own}
    for spec in outputs:
        chosen[spec.name] = plain_answer(spec, chosen[spec.name])
        try:
            check_answer(spec, chosen[spec.name])
        except ValueError as error:
            raise PackingError(f"default of {error}") from error
    return chosen


def plain_answer(spec: OutputSpec, value: Any) -> Any:
    """An answer as the owner wrote it, as the model gives it: whole labels are integers."""
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    is_whole = spec.kind == "label" and spec.dtype == "int64" and isinstance(plain, bool)
    return int(plain) if is_whole else plain


def read_label(
    given: Label | Mapping[str, str] | None, outputs: Sequence[OutputSpec]
) -> Label | None:
    """The label as given, or as it follows from the primary output; None where nothing follows."""
    if isinstance(given, Label):
        return given
    if given is not None:
        try:
            return msgspec.convert(dict(given), Label)
        except msgspec.ValidationError as error:
            raise PackingError(
                f"label {dict(given)}: {error}; use such as "
                "{'type': 'boolean', 'compare': 'positive'}"
            ) from error
    primary = outputs[0]
    if primary.kind == "value":
        return Label(type="number", compare="difference")
    sample = primary.positive if primary.kind == "probability" else (primary.classes or (None,))[0]
    if sample is None or primary.kind not in ("probability", "label"):
        return None
    kind = "string" if isinstance(sample, str) else "integer"
    if primary.kind == "probability" and sample in (True, 1):
        kind = "boolean"
    return Label(type=kind, compare="positive" if primary.kind == "probability" else "equal")


def read_objectives(given: Objectives | Mapping[str, float] | None) -> Objectives:
    """Objectives as people say them, in the manifest's units."""
    if isinstance(given, Objectives):
        return given
    if strangers := sorted(set(given or {}) - set(OBJECTIVES)):
        raise PackingError(f"objectives name {strangers}; use {list(OBJECTIVES)}")
    values = {
        OBJECTIVES[key][0]: float(value) * OBJECTIVES[key][1]
        for key, value in (given or {}).items()
    }
    try:
        return msgspec.convert(values, Objectives)
    except msgspec.ValidationError as error:
        raise PackingError(
            f"objectives {dict(given or {})}: {error}; shares are from 0 to 1"
        ) from error


def check_field_names(features: Fitted, *, slices: Sequence[str], route_key: str | None) -> None:
    """Refuses slices and a route key that are no fields."""
    known = [field.name for field in features.fields]
    wanted = [*slices, *([route_key] if route_key else [])]
    if strangers := [name for name in wanted if name not in known]:
        raise PackingError(f"slices or route_key name {strangers}; the fields are {known}")
