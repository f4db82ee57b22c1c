"""Whether what the files of a bundle say of fields and decisions goes together.

`pack` writes nothing else; a bundle that was put together by hand, or edited, is refused where it
would answer otherwise than it says.
"""

from collections.abc import Sequence

from msgspec import structs

from features.fields import Field
from features.fitted import Fitted
from models.errors import BundleCorrupt
from models.manifest import (
    AGAIN,
    FALLBACK,
    FEATURES,
    MANIFEST,
    Decision,
    Fallback,
    FeaturesIdentity,
    Manifest,
    OutputSpec,
)
from models.policies import troubles_of


def features_identity(features: Fitted) -> FeaturesIdentity:
    """Definition and state, as the manifest has them."""
    return FeaturesIdentity(
        label=features.label,
        identity=features.identity,
        spec_digest=features.spec_digest,
        state_digest=features.state_digest,
        features_digest=features.features_digest,
    )


def check_agreement(
    where: str, manifest: Manifest, fallback: Fallback, features: Fitted | None
) -> None:
    """Compares manifest, policies and features.

    Raises:
        BundleCorrupt: naming the entry.
    """
    _check_outputs(where, manifest.outputs, has_features=features is not None)
    _check_decision(where, manifest.outputs[0], manifest.decision)
    if features is None:
        return
    said, there = structs.asdict(manifest.features), structs.asdict(features_identity(features))
    if apart := [name for name in there if said[name] != there[name]]:
        raise _apart(where, f"features.{apart[0]}", said[apart[0]], there[apart[0]])
    sensitive = {field.name: field.sensitive for field in features.fields if field.sensitive}
    if manifest.sensitive != sensitive:
        raise _apart(where, "sensitive", manifest.sensitive, sensitive)
    known = {field.name for field in features.fields}
    used = [*manifest.slices, *([manifest.route_key] if manifest.route_key else [])]
    if strangers := sorted(set(used) - known):
        raise _apart(where, "slices or route_key", strangers, sorted(known))
    _check_policies(where, fallback, features.fields)


def _check_outputs(where: str, outputs: Sequence[OutputSpec], *, has_features: bool) -> None:
    """Whether each output is what its kind says; a tensor bundle's may be anything.

    Raises:
        BundleCorrupt: naming the output.
    """
    for spec in outputs:
        if has_features and (expected := _misfit(spec)):
            raise BundleCorrupt(
                f"{where}: output {spec.name!r} of {MANIFEST} is a {spec.kind} of {spec.dtype} "
                f"{list(spec.shape)}, classes {spec.classes}, positive {spec.positive!r}, from "
                f"{spec.low} to {spec.high}; expected {expected}; {AGAIN}"
            )


def _misfit(spec: OutputSpec) -> str | None:
    """What an output of its kind would be, where this one is not."""
    classes = spec.classes or ()
    is_float = spec.dtype in ("float32", "float64")
    is_wide = spec.kind in ("class_probabilities", "vector")
    is_probability = spec.kind == "probability"
    has_range = spec.low is not None and spec.high is not None
    wanted = {
        "each class once": len(set(classes)) == len(classes),
        "a range": not has_range or (spec.low or 0.0) <= (spec.high or 0.0),
        "floats, or for a label texts, integers or truth values": (spec.kind == "label")
        != is_float,
        "one number a row, or for class_probabilities and vectors a list of them": len(spec.shape)
        == 1 + is_wide,
        f"{len(classes)} probabilities, one a class": spec.kind != "class_probabilities"
        or not classes
        or spec.shape[1:] == (len(classes),),
        "two classes": not is_probability or len(classes) in (0, 2),
        "one of the two classes of a probability as the positive one": spec.positive is None
        or (is_probability and spec.positive in classes),
    }
    return next((words for words, holds in wanted.items() if not holds), None)


def _apart(where: str, entry: str, said: object, there: object) -> BundleCorrupt:
    return BundleCorrupt(
        f"{where}: {entry} of {MANIFEST} is {said}, {FEATURES} has {there}; {AGAIN}"
    )


def _check_decision(where: str, primary: OutputSpec, decision: Decision) -> None:
    if decision is None:
        return
    if decision == "classes":
        fits = primary.kind == "label" and bool(primary.classes)
    else:
        edges = [step.below for step in decision]
        ascending = [edge for edge in edges if edge is not None]
        fits = primary.kind in ("probability", "value")
        fits = fits and edges == [*sorted(set(ascending)), None]
    if not fits:
        raise BundleCorrupt(
            f"{where}: the decision of {MANIFEST} does not fit {primary.name!r}, a {primary.kind}; "
            "expected ascending thresholds of a number, the last one open, or the classes of a "
            f"label; {AGAIN}"
        )


def _check_policies(where: str, fallback: Fallback, fields: Sequence[Field]) -> None:
    for field in fields:
        policies = fallback.policies[field.name]
        if set(policies) != set(troubles_of(field)):
            raise BundleCorrupt(
                f"{where}: {FALLBACK} has policies of field {field.name!r} for {sorted(policies)}, "
                f"and its troubles are {sorted(troubles_of(field))}; {AGAIN}"
            )
        for trouble, policy in policies.items():
            if policy.value is not None and policy.policy != "repair":
                raise BundleCorrupt(
                    f"{where}: {FALLBACK} has a value for field {field.name!r}, {trouble}, whose "
                    f"policy is {policy.policy!r}; only 'repair' takes one; {AGAIN}"
                )
