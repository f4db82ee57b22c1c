"""`pack`: from a trained model to a published bundle, with every promise checked on the way.

In order: convert, encode, compare with the training library, decide who answers what, make golden
rows, measure the training distributions, write, pass the gate, publish. Nothing is in the store
before the last step, so a bundle that is there has passed all of them.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec import structs

from features.errors import DeclarationError
from features.fitted import Fitted
from features.runtime import Session
from models.agreement import features_identity
from models.baseline_packing import (
    Accepts,
    CompiledBaseline,
    PackedBaseline,
    compile_baseline,
    pack_baseline,
    warn_if_same,
)
from models.card import Words, card_text
from models.cases import Cases, cases_of
from models.conditions import DeclaredCheck, GivenChecks, GivenRules, read_checks, read_rules
from models.convert import Converted, convert
from models.declared import (
    check_field_names,
    declared_outputs,
    full_default,
    read_decision,
    read_label,
    read_objectives,
)
from models.draft import Draft, Settled
from models.errors import PackingError
from models.evaluation import target_codes, usual_answers
from models.gate import run_gate
from models.golden import SEED, golden_of
from models.integrity import file_entry
from models.ladder import Ladder
from models.manifest import (
    BASELINE,
    CARD,
    FALLBACK,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    Decision,
    Fallback,
    Golden,
    Holdout,
    Label,
    Manifest,
    ModelOrigin,
    Objectives,
    write,
)
from models.nulls import warn_of_nulls
from models.outputs import ModelOutputs
from models.policies import FieldPolicies, resolve
from models.progress import Steps
from models.provenance import training_facts, versions
from models.proving import (
    answered_by_model,
    batch_exact,
    by_slice,
    check_reaches,
    compare,
    evaluate,
    training_reference,
)
from models.reached import exercising
from models.reference import Reference
from models.rules import Rules
from models.store import Store
from models.tolerances import computes_in_float32
from models.training_rows import Rows, held_out, part, read_rows

FEW_ROWS: Final = 200


def pack(
    store: Store | str | PathLike[str],
    name: str,
    version: str,
    *,
    features: Fitted,
    model: Any,
    training: Any,
    target: Any = None,
    holdout: Any = None,
    time: str | None = None,
    baseline: tuple[Fitted, Any] | None = None,
    baseline_accepts: Accepts | None = None,
    policies: Mapping[str, FieldPolicies] | None = None,
    checks: GivenChecks | None = None,
    max_repaired: int | None = None,
    rules: GivenRules | None = None,
    default: Any = None,
    decision: Sequence[Mapping[str, Any]] | str | None = None,
    label: Label | Mapping[str, str] | None = None,
    valid_range: tuple[float | None, float | None] | None = None,
    unit: str | None = None,
    description: str = "",
    owner: str = "",
    contact: str = "",
    objectives: Objectives | Mapping[str, float] | None = None,
    slices: Sequence[str] = (),
    route_key: str | None = None,
    metrics: Mapping[str, float] | None = None,
    intended_use: str = "",
    limits: str = "",
    notes: str = "",
    code_commit: str | None = None,
    progress: bool = True,
) -> Path:
    """Checks a model with its features, and publishes them as one bundle.

    Args:
        store: the folder of bundles, or a `Store`.
        name: of the model, `[a-z0-9][a-z0-9_-]{0,63}`.
        version: a text; versions have no order and never change.
        features: what the model was trained on.
        model: LightGBM Booster or wrapper, scikit-learn classifier or regressor, or `OnnxModel`;
            trained on what `features.transform` returned.
        training: the training table (pandas, polars, Arrow, dict of arrays).
        target: its target, a column name or values; None leaves out metrics.
        holdout: a table that the model was not trained on, or (table, target values). Without one,
            the last tenth of the training rows by `time`, else a seeded tenth.
        time: the column that says when a row was: needed for verdicts on drift.
        baseline: a simpler model that answers where this one does not: its own fitted features,
            over some of the same fields, and the model, which gives the same outputs.
        baseline_accepts: per field that the baseline reads, the troubles with which it answers all
            the same; else every trouble of a nullable field and none of another.
        policies: per field, or per field and trouble: accept, repair, `repair(value)`, baseline,
            rules, reject.
        checks: conditions across fields, by name: an expression, or `{"holds": expression,
            "policy": …, "example": record}`. A row for which one is false goes to the baseline if
            there is one, else to the rules, or where its policy says: baseline, rules, reject. The
            example is a record that fails it, for where no training record does.
        max_repaired: more repaired fields than this send a row to the next rung; None is no limit.
        rules: `{"name": …, "when": CEL, "outputs": …}`, the first that matches answers; `outputs`
            is a value of the primary output, or a mapping by output. `"example"` is a record that
            the rule answers, for where no training record is.
        default: the answer of last resort: a value of the primary output, or a mapping by output.
            What is not named is what is usual in training.
        decision: `[{"below": 0.4, "is": "on_time"}, {"is": "late"}]`, or "classes".
        label: what feedback will send; usually follows from the output.
        valid_range: of the primary output; answers outside are not given.
        unit: of the primary output.
        description, owner, contact: for the people who take over.
        intended_use, limits, notes: for the card, in Markdown: what the model is for, what it is
            not for, and whatever else.
        objectives: `{"latency_ms": 25, "availability": 0.999, "degraded": 0.01}`.
        slices: fields by which quality is looked at.
        route_key: field whose value keeps a caller on one side of a canary.
        metrics: quality as you measured it; added to what is measured on the held-out rows.
        code_commit: of the training code; looked up in git when not given.
        progress: show steps, where stderr is a terminal.

    Returns:
        The bundle's folder.

    Raises:
        VersionTaken, DefinitionChanged: before any work.
        ConversionFailed, NativeMismatch: the model cannot be served as it was trained.
        PackingError: something declared does not fit.
        GateFailed, GoldenMismatch: the bundle does not load or replay in a process of its own.
    """
    if not isinstance(features, Fitted):  # pyright: ignore[reportUnnecessaryIsInstance]  (strangers)
        raise PackingError(
            f"features is a {type(features).__name__}, expected what fit() returns: "
            "features=feature_set.fit(training)"
        )
    store = store if isinstance(store, Store) else Store(Path(store))
    identity = features_identity(features)
    store.check_free(name, version)
    store.check_definition(identity, features.feature_set.spec)
    check_field_names(features, slices=slices, route_key=route_key)
    with Steps(shown=progress) as steps:
        with steps.step("converting the model"):
            converted = convert(model, len(features.feature_names))
            own_checks = read_checks(checks, has_baseline=baseline is not None)
            graph = _fused(features, converted, own_checks)
            draft = Draft(features, Session(graph), converted.outputs)
            compiled = _compiled(store, draft, converted, baseline, baseline_accepts)
        with steps.step("encoding the tables"):
            rows = read_rows(features, training, target, time)
            held, rule = _holdout(features, rows, holdout, target, time)
            _warn_few(rows)
        with steps.step("answering the training rows", len(rows)) as advance:
            answers = draft.run_all(rows.encoded.rows, advance)
        draft = replace(
            draft,
            outputs=declared_outputs(
                draft.outputs,
                answers,
                float32=_in_float32(converted, draft, held),
                added_terms=converted.added_terms,
                exponential_terms=converted.exponential_terms,
                valid_range=valid_range,
                unit=unit,
            ),
        )
        stated = read_decision(decision, draft.outputs[0])
        own_rules = read_rules(rules, draft.outputs)
        others = len(own_checks) + len(own_rules) + bool(own_rules)
        cases = cases_of(features, rows, others=others)
        simple = _baseline(steps, compiled, draft, stated, rows, held, cases)
        settled = _settled(
            draft,
            Fallback(
                format=1,
                policies=resolve(draft.fields, policies, has_baseline=simple is not None),
                checks=tuple(check.check for check in own_checks),
                max_repaired=max_repaired,
                rules=tuple(rule.rule for rule in own_rules),
                default=_default(draft, rows, answers, default),
            ),
            stated,
            simple,
        )
        native = compare(steps, converted, settled, held, cases)
        is_model = answered_by_model(settled, rows, answers)
        with steps.step("making golden rows"):
            chosen, shares = exercising(settled, rows, answers.checks, cases, own_checks, own_rules)
            golden = golden_of(settled, features, chosen)
            check_reaches(golden, has_baseline=simple is not None)
        with steps.step("comparing rows alone and in batches"):
            is_exact = batch_exact(draft, converted, golden, held, rows)
        with steps.step("measuring what the answers depend on"):
            found, importance = evaluate(draft, held)
        with steps.step("counting the training distributions"):
            reference = training_reference(settled, rows, answers, is_model, time, importance)
            parts = by_slice(draft, reference, held, slices)
        warn_of_nulls(settled, converted.native, compiled, cases.samples[0][1])
        manifest = Manifest(
            format=1,
            name=name,
            version=version,
            description=description,
            features=identity,
            outputs=draft.outputs,
            decision=settled.decision,
            label=read_label(label, draft.outputs),
            owner=owner,
            contact=contact,
            objectives=read_objectives(objectives),
            slices=tuple(slices),
            route_key=route_key,
            sensitive={field.name: field.sensitive for field in features.fields if field.sensitive},
            checks=tuple(check.name for check in own_checks),
            batch_exact=is_exact,
            model=ModelOrigin(
                framework=converted.framework, estimator=converted.estimator, native_check=native
            ),
            baseline=None if simple is None else simple.info,
            training=training_facts(
                rows,
                Holdout(rule=rule, rows=len(held)),
                target=target if isinstance(target, str) else None,
                time=time,
                metrics={**found, **(metrics or {})},
                slices=parts,
                code_commit=code_commit,
            ),
            runtime=versions(features, {} if simple is None else simple.versions, converted),
            files=(),
        )
        with store.aside(name, version) as folder, steps.step("replaying in another process"):
            (folder / MODEL).write_bytes(graph)
            if simple is not None:
                (folder / BASELINE).write_bytes(simple.graph)
            card = card_text(
                manifest,
                settled.fallback,
                reference,
                features,
                words=Words(intended_use, limits, notes),
                shares=shares,
            )
            manifest = _write(folder, manifest, settled, golden, reference, card)
            run_gate(folder)
            return store.publish(folder, manifest)


# rows


def _holdout(
    features: Fitted, rows: Rows, holdout: Any, target: Any, time: str | None
) -> tuple[Rows, str]:
    if not len(rows):
        raise PackingError("the training table has no rows; a bundle is made from its rows")
    if holdout is None:
        places, rule = held_out(rows, time, SEED)
        return part(rows, places), rule
    if isinstance(holdout, tuple):
        table, own_target = holdout
    else:
        table, own_target = holdout, target if isinstance(target, str) else None
    held = read_rows(features, table, own_target, None)
    if not len(held):
        raise PackingError("the holdout table has no rows; leave it out to hold out a tenth")
    return held, "a table of its own"


def _warn_few(rows: Rows) -> None:
    if len(rows) < FEW_ROWS:
        warnings.warn(
            f"only {len(rows)} training rows: distributions will be counted, but with fewer than "
            f"{FEW_ROWS} no verdict on drift is given",
            stacklevel=3,
        )


# the graphs


def _fused(features: Fitted, converted: Converted, checks: Sequence[DeclaredCheck]) -> bytes:
    expressions = [check.expression for check in checks]
    try:
        model = features.fuse(converted.model, checks=expressions)
    except DeclarationError as error:
        raise PackingError(str(error)) from error
    return model.SerializeToString(deterministic=True)


def _compiled(
    store: Store, draft: Draft, converted: Converted, given: Any, accepts: Accepts | None
) -> CompiledBaseline | None:
    if given is None:
        if accepts:
            raise PackingError("baseline_accepts is given, but no baseline; pass baseline=(…, …)")
        return None
    compiled = compile_baseline(draft.fitted, given, accepts, converted.outputs)
    fitted = compiled.fitted
    store.check_definition(features_identity(fitted), fitted.feature_set.spec)
    warn_if_same(compiled, draft.fitted, converted)
    return compiled


def _baseline(
    steps: Steps,
    compiled: CompiledBaseline | None,
    draft: Draft,
    decision: Decision,
    rows: Rows,
    held: Rows,
    cases: Cases,
) -> PackedBaseline | None:
    if compiled is None:
        return None
    count = len(held) + len(cases.edges)
    real = np.concatenate([held.encoded.rows, rows.encoded.rows])
    with steps.step("comparing the baseline with its library", count) as advance:
        return pack_baseline(compiled, draft, decision, held, cases, real, advance)


# what is declared


def _in_float32(converted: Converted, draft: Draft, held: Rows) -> bool:
    features = draft.run(held.encoded.rows[:8]).features
    assert features is not None
    return computes_in_float32(converted.native, features)


def _default(draft: Draft, rows: Rows, answers: ModelOutputs, given: Any) -> dict[str, Any]:
    target = None if rows.target is None else target_codes(draft.outputs, rows.target)
    return full_default(draft.outputs, given, usual_answers(draft.outputs, answers, target))


def _settled(
    draft: Draft, fallback: Fallback, decision: Decision, simple: PackedBaseline | None
) -> Settled:
    vocabularies = draft.fitted.vocabularies
    try:
        rules = Rules(fallback.rules, fallback.default, draft.fields, vocabularies, draft.outputs)
        ladder = Ladder(
            draft.outputs,
            decision,
            fallback,
            draft.fields,
            draft.encoder.encode,
            baseline=None if simple is None else simple.opened,
            rules=rules,
        )
    except ValueError as error:
        raise PackingError(str(error)) from error
    return Settled(draft, fallback, decision, ladder)


# the files


def _write(
    folder: Path,
    manifest: Manifest,
    settled: Settled,
    golden: Golden,
    reference: Reference,
    card: str,
) -> Manifest:
    """Writes all files, the manifest last; returns it with the digests of the others."""
    features = settled.draft.fitted
    features.save(folder / FEATURES)
    (folder / FALLBACK).write_bytes(write(settled.fallback))
    (folder / GOLDEN).write_bytes(write(golden))
    (folder / REFERENCE).write_bytes(write(reference))
    (folder / CARD).write_text(card, encoding="utf-8")
    files = tuple(file_entry(path) for path in sorted(folder.iterdir()))
    manifest = structs.replace(manifest, files=files)
    (folder / MANIFEST).write_bytes(write(manifest))
    return manifest
