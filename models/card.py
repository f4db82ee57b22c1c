"""The model card: what the people who take the model over, or must approve it, need to know."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.encoding import describe
from features.fields import Field
from features.fitted import Fitted
from models.manifest import (
    BaselineInfo,
    Check,
    Decision,
    Fallback,
    Manifest,
    ModelOrigin,
    OutputSpec,
    Policy,
    Rule,
)
from models.outputs import Decisions, class_text
from models.reference import Reference


@dataclass(frozen=True, slots=True)
class Words:
    """What only the owner can say of a model: Markdown; empty texts where nothing was said."""

    intended_use: str = ""
    limits: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Shares:
    """How many of the training rows, 0 to 1, fail each check, and match each rule before others."""

    failed: Mapping[str, float]
    matched: Mapping[str, float]


def card_text(
    manifest: Manifest,
    fallback: Fallback,
    reference: Reference,
    features: Fitted,
    *,
    words: Words,
    shares: Shares,
) -> str:
    """The card as Markdown.

    No value of a sensitive field is in it, but for those that conditions of checks and rules name.
    """
    sections = [
        _head(manifest),
        _section("What it is for", _said(words.intended_use)),
        _section("What it is not for", _said(words.limits)),
        _section("What it answers", _answers(manifest)),
        _section("What it takes", _fields(features.fields, fallback, reference)),
        _section("Who answers when the model does not", _below(manifest, fallback, shares)),
        _section("What it was made from", _training(manifest)),
        _section("How good it is", _quality(manifest)),
        _section("How good it is by slice", _slices(manifest)),
        _section("What its answers depend on", _importance(reference)),
        _section("How it was checked", _compared(manifest)),
        _section("When something is wrong", _at_night(manifest)),
        _section("What it needs", _versions(manifest)),
        _section("Notes", [words.notes.strip()] if words.notes.strip() else []),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _said(text: str) -> list[str]:
    return [text.strip() or "Not stated."]


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _head(manifest: Manifest) -> str:
    people = [f"Owner: {manifest.owner}"] if manifest.owner else ["Owner: not named"]
    if manifest.contact:
        people.append(f"contact: {manifest.contact}")
    lines = [f"# {manifest.name} {manifest.version}", manifest.description, ", ".join(people) + "."]
    return "\n\n".join(line for line in lines if line)


def _answers(manifest: Manifest) -> list[str]:
    lines = [f"- {_output(spec)}" for spec in manifest.outputs]
    if manifest.decision:
        lines.append(f"- decision: {_decision(manifest.decision, manifest.outputs[0])}")
    objectives = manifest.objectives
    if objectives.latency_seconds is not None:
        lines.append(f"- promised: 99% of answers within {objectives.latency_seconds * 1e3:g} ms")
    if objectives.availability_ratio is not None:
        lines.append(f"- promised: {_percent(objectives.availability_ratio)} of requests answered")
    if objectives.degraded_ratio is not None:
        lines.append(
            f"- promised: at most {_percent(objectives.degraded_ratio)} of answers not the model's"
        )
    if objectives == type(objectives)():
        lines.append("- promised: nothing is stated")
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
        policies = ", ".join(_policy(field, *one) for one in fallback.policies[field.name].items())
        lines.append(f"| `{field.name}` | {_cell(what)} | {seen} | {_cell(policies)} |")
    lines.extend(_notes_on(fields))
    return lines


def _notes_on(fields: Sequence[Field]) -> list[str]:
    lines = [f"- `{field.name}`: {field.description}" for field in fields if field.description]
    sensitive = [f"`{field.name}` ({field.sensitive})" for field in fields if field.sensitive]
    if sensitive:
        lines.append(
            f"- sensitive, so in no answer, metric, page or log: {', '.join(sensitive)}; golden "
            "rows have generated values for them, but in examples of checks and rules"
        )
    else:
        lines.append("- no field is declared sensitive")
    return ["", *lines]


def _policy(field: Field, trouble: str, policy: Policy) -> str:
    value = ""
    if policy.value is not None:
        value = " with a value of its own" if field.sensitive else f" with {_text(policy.value)}"
    return f"{trouble}: {policy.policy}{value}"


def _below(manifest: Manifest, fallback: Fallback, shares: Shares) -> list[str]:
    """The rungs below the model: what sends a row there, and what it gets."""
    lines = ["A row goes to a lower rung by the policies above, or", ""]
    if fallback.max_repaired is not None:
        lines.append(f"- when more than {fallback.max_repaired} of its fields were repaired")
    lines.extend(_check(check, shares) for check in fallback.checks)
    lines.append("- when the model's answer is not valid, late, or not there at all")
    lines += ["", "There it is answered by", "", *_baseline(manifest.baseline)]
    decisions = Decisions(manifest.outputs[0], manifest.decision)
    lines.extend(_rule(rule, decisions, shares) for rule in fallback.rules)
    lines.append(f"- the default: {_constant(fallback.default, decisions)}")
    return lines


def _check(check: Check, shares: Shares) -> str:
    then = "is rejected" if check.policy == "reject" else f"goes to the {check.policy}"
    share = shares.failed.get(check.name, 0.0)
    return (
        f"- when check `{check.name}` fails, in which case it {then}. It holds where "
        f"`{_code(check.text)}`, or where a value is null; {share:.2%} of the training rows fail it"
    )


def _baseline(info: BaselineInfo | None) -> list[str]:
    if info is None:
        return []
    reads = ", ".join(f"`{name}`" for name in info.fields)
    accepted = [
        f"`{name}` {' or '.join(troubles)}" for name, troubles in info.accepts.items() if troubles
    ]
    also = f", also with {', '.join(accepted)}" if accepted else ""
    return [f"- the baseline, {_origin(info.model)}: it reads {reads}{also}"]


def _rule(rule: Rule, decisions: Decisions, shares: Shares) -> str:
    share = shares.matched.get(rule.name, 0.0)
    return (
        f"- rule `{rule.name}`: {_constant(rule.outputs, decisions)}, where `{_code(rule.when)}`; "
        f"that is {share:.2%} of the training rows"
    )


def _constant(outputs: Mapping[str, Any], decisions: Decisions) -> str:
    answer = ", ".join(
        f"{name} {_text(value)}" for name, value in outputs.items() if value is not None
    )
    (decision,) = decisions.named(decisions.codes([next(iter(outputs.values()))]))
    return answer if decision is None else f"{answer}, decision **{decision}**"


def _code(text: str) -> str:
    """On one line, so that it stays code."""
    return " ".join(text.split()).replace("`", "'")


def _origin(origin: ModelOrigin) -> str:
    return f"{origin.framework} {origin.estimator}"


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
    rows = f"On the {manifest.training.holdout.rows:,} held-out rows:"
    if manifest.baseline is None:
        lines = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
        return [rows, "", "| metric | model |", "| --- | --- |", *lines]
    simple = manifest.baseline.metrics
    lines = [
        f"| {name} | {value:.4g} | {f'{simple[name]:.4g}' if name in simple else ''} |"
        for name, value in metrics.items()
    ]
    return [rows, "", "| metric | model | baseline |", "| --- | --- | --- |", *lines]


def _slices(manifest: Manifest) -> list[str]:
    slices = manifest.training.slices
    if not slices:
        return ["No slices are stated."]
    names = [
        name
        for name in manifest.training.metrics
        if any(name in measured for parts in slices.values() for measured in parts.values())
    ]
    lines = [
        f"| slice | rows | {' | '.join(names)} |",
        f"| --- | --- |{' --- |' * len(names)}",
    ]
    for of, parts in slices.items():
        for part, measured in parts.items():
            rows = f"{measured['n']:,.0f}" if measured else "few"
            cells = [f"{measured[name]:.4g}" if name in measured else "" for name in names]
            lines.append(f"| {of}: {_cell(part)} | {rows} | {' | '.join(cells)} |")
    return [*lines, "", "Held-out rows with a target; few are less than 20."]


def _importance(reference: Reference) -> list[str]:
    shares = sorted(reference.importance.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"- `{name}` {share:.1%}" for name, share in shares[:10] if share > 0]
    return (
        [*lines, "", "Shares of what shuffling a field costs, on held-out rows."] if lines else []
    )


def _compared(manifest: Manifest) -> list[str]:
    lines = _verified(manifest.model)
    if manifest.baseline is not None:
        lines += _verified(manifest.baseline.model)
    exact = "the same bits" if manifest.batch_exact else "bits that may differ"
    return [*lines, f"- a row has {exact} alone and in a batch"]


def _verified(origin: ModelOrigin) -> list[str]:
    check = origin.native_check
    if check is None:
        return [
            f"- {_origin(origin)}: no native model was given, so its conversion is not verified"
        ]
    largest = ", ".join(f"{k} {v:.2g}" for k, v in check.largest_difference.items())
    compared = f"{check.rows:,} held-out rows and {check.edge_rows} edge cases"
    lines = [f"- {_origin(origin)} answers as this bundle on {compared}"]
    lines.append(f"- largest difference: {largest or 'none'}")
    if check.near_threshold:
        lines.append(f"- {check.near_threshold} of them fell on the other side of a threshold")
    return lines


def _at_night(manifest: Manifest) -> list[str]:
    name, version = manifest.name, manifest.version
    verify = f"`keelmark verify {name}/{version}`"
    force = f"`keelmark force-fallback {name} rules --reason TEXT` (`off` ends it)"
    lines = [
        f"- To see whether it still is what was packed and answers here as it did there: {verify}",
        f"- To answer without the model until it is understood: {force}",
    ]
    if manifest.baseline is not None:
        lines.append(
            f"- or with the simpler model: `keelmark force-fallback {name} baseline --reason TEXT`"
        )
    lines.append(
        "- To go back to the version before: "
        f"`keelmark publish {name}/VERSION --live`, and restart the server"
    )
    people = " ".join(filter(None, [manifest.owner, manifest.contact]))
    lines.append(f"- Then tell {people or 'the owner, who is not named'}")
    return lines


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
