"""`keelmark inspect`: what a bundle is, takes and answers, without running it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from features.encoding import describe
from models.bundle import Bundle
from models.vocabulary import DEFAULT_RULE
from server.cli.bundles import BundleName, StoreOption, bundle_folder
from server.cli.options import AsJson
from server.cli.show import out, say_json, table


def inspect(bundle: BundleName, *, store: StoreOption = None, as_json: AsJson = False) -> None:
    """Shows a bundle: where it came from, its fields and policies, its outputs, an example.

    Every file is compared with the manifest first; nothing is run. Ends with 1 if the bundle is not
    what its manifest says, 4 if there is none.
    """
    opened = Bundle.open(bundle_folder(bundle, store))
    if as_json:
        say_json(
            {
                "digest": opened.digest,
                "manifest": opened.manifest,
                "fields": [field.to_json() for field in opened.fields],
                "policies": opened.fallback.policies,
                "checks": opened.fallback.checks,
                "max_repaired": opened.fallback.max_repaired,
                "rules": opened.fallback.rules,
                "default": opened.fallback.default,
                "example": opened.example,
            }
        )
        return
    console = out()
    console.print(table(f"{opened.name}/{opened.version}", ("what", "it is"), facts(opened)))
    console.print(table("Fields", ("field", "expects", "nullable", "troubles"), field_rows(opened)))
    console.print(
        table(
            "When the model does not answer", ("what", "name", "where", "then"), ladder_rows(opened)
        )
    )
    console.print(table("Outputs", ("output", "kind", "range", "classes"), output_rows(opened)))
    console.print("Example", style="bold")
    console.print_json(msgspec.json.encode(opened.example).decode())


def facts(bundle: Bundle) -> list[tuple[str, Any]]:
    """Identity and origin."""
    manifest, training = bundle.manifest, bundle.manifest.training
    origin = f"{manifest.model.framework} {manifest.model.estimator}"
    times = f", {training.first} to {training.last}" if training.first else ""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in training.metrics.items())
    return [
        ("description", manifest.description),
        ("digest", bundle.digest),
        ("signature", "unsigned"),
        ("features", manifest.features.identity),
        ("model", origin),
        ("training", f"{training.rows} rows{times}"),
        ("quality", f"{metrics} on {training.holdout.rows} rows ({training.holdout.rule})"),
        ("sliced by", ", ".join(training.slices) or "nothing"),
        ("packed", f"{training.packed_at}, commit {training.code_commit or 'unknown'}"),
        ("decision", ", ".join(bundle.ladder.decisions.names) or "none"),
        ("owner", f"{manifest.owner} {manifest.contact}".strip()),
        ("golden rows", len(bundle.golden.rows)),
    ]


def field_rows(bundle: Bundle) -> list[tuple[Any, ...]]:
    """A line a field, with what is done about its troubles."""
    return [
        (
            field.name + (" (sensitive)" if field.sensitive else ""),
            describe(field),
            "yes" if field.nullable else "no",
            ", ".join(
                f"{trouble.replace('_', ' ')}: {policy.policy}"
                for trouble, policy in bundle.fallback.policies[field.name].items()
            ),
        )
        for field in bundle.fields
    ]


def ladder_rows(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """A line for each check, for the baseline, and for each rule."""
    fallback, baseline = bundle.fallback, bundle.manifest.baseline
    rows = [("check", check.name, f"not: {check.text}", check.policy) for check in fallback.checks]
    if fallback.max_repaired is not None:
        rows.append(("repairs", "", f"more than {fallback.max_repaired}", "the next rung"))
    if baseline is not None:
        origin = f"{baseline.model.framework} {baseline.model.estimator}"
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in baseline.metrics.items())
        accepts = ", ".join(
            f"{field} {'/'.join(troubles)}"
            for field, troubles in baseline.accepts.items()
            if troubles
        )
        reads = f"reads {', '.join(baseline.fields)}; accepts {accepts or 'no trouble'}"
        rows.append(("baseline", origin, reads, metrics or "its own answer"))
    rows += [("rule", rule.name, rule.when, _answer(rule.outputs)) for rule in fallback.rules]
    return [*rows, ("rule", DEFAULT_RULE, "always", _answer(fallback.default))]


def _answer(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in outputs.items() if value is not None)


def output_rows(bundle: Bundle) -> list[tuple[Any, ...]]:
    """A line an output."""
    return [
        (
            output.name,
            output.kind,
            "" if output.low is None and output.high is None else f"{output.low} to {output.high}",
            ", ".join(str(name) for name in output.classes or ()),
        )
        for output in bundle.outputs
    ]
