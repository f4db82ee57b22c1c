"""The model card: what the people who take the model over need to know."""

from collections.abc import Sequence
from typing import Any

from features.encoding import describe
from features.feature_set import Fitted
from features.fields import Field
from models.manifest import Decision, Fallback, Manifest, OutputSpec, Policy
from models.outputs import class_text
from models.reference import Reference


def card_text(
    manifest: Manifest,
    fallback: Fallback,
    reference: Reference,
    features: Fitted,
    *,
    notes: str = "",
) -> str:
    """The card as Markdown. No value of a sensitive field is in it."""
    sections = [
        _head(manifest),
        _section("What it answers", _answers(manifest, fallback)),
        _section("What it takes", _fields(features.fields, fallback, reference)),
        _section("What it was made from", _training(manifest)),
        _section("How good it is", _quality(manifest)),
        _section("What its answers depend on", _importance(reference)),
        _section("How it was checked", _checks(manifest)),
        _section("What it needs", _versions(manifest)),
        _section("Notes", [notes.strip()] if notes.strip() else []),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _head(manifest: Manifest) -> str:
    people = [f"Owner: {manifest.owner}"] if manifest.owner else ["Owner: not named"]
    if manifest.contact:
        people.append(f"contact: {manifest.contact}")
    lines = [f"# {manifest.name} {manifest.version}", manifest.description, ", ".join(people) + "."]
    return "\n\n".join(line for line in lines if line)


def _answers(manifest: Manifest, fallback: Fallback) -> list[str]:
    lines = [f"- {_output(spec)}" for spec in manifest.outputs]
    if manifest.decision:
        lines.append(f"- decision: {_decision(manifest.decision, manifest.outputs[0])}")
    default = ", ".join(f"{name} {_text(value)}" for name, value in fallback.default.items())
    lines.append(f"- when the model cannot answer, the rules do: {default}")
    objectives = manifest.objectives
    if objectives.latency_seconds is not None:
        lines.append(f"- promised: 99% of answers within {objectives.latency_seconds * 1e3:g} ms")
    if objectives.availability_ratio is not None:
        lines.append(f"- promised: {_percent(objectives.availability_ratio)} of requests answered")
    if objectives.degraded_ratio is not None:
        lines.append(
            f"- promised: at most {_percent(objectives.degraded_ratio)} of answers not the model's"
        )
    return lines


def _output(spec: OutputSpec) -> str:
    what = f"`{spec.name}`: {spec.kind.replace('_', ' ')}"
    if spec.positive is not None:
        what += f" of `{class_text(spec.positive)}`"
    elif spec.classes:
        what += f", one of {', '.join(f'`{class_text(name)}`' for name in spec.classes)}"
    unit = f" {spec.unit}" if spec.unit else ""
    if spec.low is not None or spec.high is not None:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (spec.low, spec.high))
        what += f", valid from {low or 'any'} to {high or 'any'}{unit}"
    elif unit:
        what += f" in{unit}"
    return what


def _decision(decision: Decision, primary: OutputSpec) -> str:
    if decision is None or decision == "classes":
        return "the class itself"
    parts = [
        f"**{step.name}** below {step.below:g}"
        if step.below is not None
        else f"else **{step.name}**"
        for step in decision
    ]
    return f"{', '.join(parts)} of `{primary.name}`"


def _fields(fields: Sequence[Field], fallback: Fallback, reference: Reference) -> list[str]:
    lines = [
        "| field | expected | training had | when something is wrong |",
        "| --- | --- | --- | --- |",
    ]
    for field in fields:
        rates = reference.troubles.get(field.name, {})
        seen = ", ".join(f"{r.rate:.2%} {t}" for t, r in rates.items() if r.rate) or "no trouble"
        what = describe(field) + (", null" if field.nullable else "")
        what += f" ({field.sensitive}: sensitive)" if field.sensitive else ""
        policies = ", ".join(_policy(t, p) for t, p in fallback.policies[field.name].items())
        lines.append(f"| `{field.name}` | {_cell(what)} | {seen} | {_cell(policies)} |")
    described = [f"- `{field.name}`: {field.description}" for field in fields if field.description]
    return [*lines, "", *described] if described else lines


def _policy(trouble: str, policy: Policy) -> str:
    value = f" with {_text(policy.value)}" if policy.value is not None else ""
    return f"{trouble}: {policy.policy}{value}"


def _training(manifest: Manifest) -> list[str]:
    training = manifest.training
    lines = [f"- {training.rows:,} rows, fingerprint `{training.fingerprint[:19]}…`"]
    if training.first and training.last:
        lines.append(f"- from {training.first} to {training.last}, by `{training.time}`")
    if training.target:
        lines.append(f"- target: `{training.target}`")
    lines.append(f"- held out: {training.holdout.rule}, {training.holdout.rows:,} rows")
    lines.append(f"- features `{manifest.features.identity}`")
    if training.code_commit:
        lines.append(f"- code: commit `{training.code_commit}`")
    lines.append(f"- packed at {training.packed_at}")
    return lines


def _quality(manifest: Manifest) -> list[str]:
    metrics = manifest.training.metrics
    if not metrics:
        return ["No target was given, so nothing was measured."]
    return [f"- {name}: {value:.4g}" for name, value in metrics.items()]


def _importance(reference: Reference) -> list[str]:
    shares = sorted(reference.importance.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"- `{name}` {share:.1%}" for name, share in shares[:10] if share > 0]
    return (
        [*lines, "", "Shares of what shuffling a field costs, on held-out rows."] if lines else []
    )


def _checks(manifest: Manifest) -> list[str]:
    check = manifest.model.native_check
    what = f"{manifest.model.framework} {manifest.model.estimator}"
    if check is None:
        lines = [f"- {what}: no native model was given, so the conversion is not verified"]
    else:
        largest = ", ".join(f"{k} {v:.2g}" for k, v in check.largest_difference.items())
        compared = f"{check.rows:,} held-out rows and {check.edge_rows} edge cases"
        lines = [f"- {what} answers as this bundle on {compared}"]
        lines.append(f"- largest difference: {largest or 'none'}")
        if check.near_threshold:
            lines.append(f"- {check.near_threshold} of them fell on the other side of a threshold")
    exact = "the same bits" if manifest.batch_exact else "bits that may differ"
    return [*lines, f"- a row has {exact} alone and in a batch"]


def _versions(manifest: Manifest) -> list[str]:
    oldest = manifest.runtime.get("onnxruntime_oldest", "")
    packed = ", ".join(
        f"{name} {version}"
        for name, version in manifest.runtime.items()
        if not name.startswith(("onnxruntime_", "onnx_"))
    )
    return [f"onnxruntime {oldest} or later. Packed with {packed}."]


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.10g}%"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else class_text(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
