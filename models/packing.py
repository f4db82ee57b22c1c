"""`pack`: from a trained model to a published bundle, with every promise checked on the way.

In order: convert, encode, compare with the training library, decide who answers what, make golden
rows, measure the training distributions, write, pass the gate, publish. Nothing is in the store
before the last step, so a bundle that is there has passed all of them.
"""

import importlib.metadata
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from features import runtime
from features.encode_record import RecordEncoder
from features.encoding import Encoded
from features.feature_set import CHUNK_ROWS, Fitted
from features.fields import Field
from features.runtime import Session
from models.card import card_text
from models.convert import Converted, convert
from models.convert.graph import IR_VERSION, OPSET
from models.edges import edge_cases
from models.errors import PackingError
from models.evaluation import (
    importances,
    rounded,
    target_codes,
    usual_answers,
)
from models.evaluation import (
    metrics as held_out_metrics,
)
from models.examples import records_of
from models.gate import GateReport, run_gate
from models.golden import SEED, golden_of, sample_size
from models.integrity import file_entry
from models.ladder import Ladder
from models.manifest import (
    CARD,
    FALLBACK,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    Decision,
    Fallback,
    FeaturesIdentity,
    Golden,
    Holdout,
    Label,
    Manifest,
    ModelOrigin,
    NativeCheck,
    Objectives,
    OutputSpec,
    Threshold,
    Tolerance,
    Training,
    write,
)
from models.native_check import check_native
from models.outputs import ModelOutputs, ValidRange
from models.policies import FieldPolicies, resolve
from models.progress import Steps
from models.reference import Reference, build_reference
from models.store import Store
from models.training_rows import Rows, fingerprint, held_out, part, read_rows, time_range

OLDEST_ONNXRUNTIME: Final = "1.20"
FEW_ROWS: Final = 200
BATCH_PROBE_ROWS: Final = 256
EXACT: Final = 1e-6
FLOAT32: Final = 1e-5
"""Tolerance of probabilities, where the training library computes in float64 and in float32."""
SHARE_OF_SD: Final = 1e-5
ULPS: Final = 4
OBJECTIVES: Final = {
    "latency_ms": ("latency_seconds", 1e-3),
    "availability": ("availability_ratio", 1.0),
    "degraded": ("degraded_ratio", 1.0),
}
"""Objectives as people say them, and as the manifest holds them."""


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
    policies: Mapping[str, FieldPolicies] | None = None,
    max_repaired: int | None = None,
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
        trained on
            what `features.transform` returned.
        training: the training table (pandas, polars, Arrow, dict of arrays).
        target: its target, a column name or values; None leaves out metrics.
        holdout: a table that the model was not trained on, or (table, target values). Without one,
        the
            last tenth of the training rows by `time`, else a seeded tenth.
        time: the column that says when a row was: needed for verdicts on drift.
        policies: per field, or per field and trouble: accept, repair, `repair(value)`, rules,
        reject.
        max_repaired: more repaired fields than this send a row to the rules; None is no limit.
        default: the answer of last resort: a value of the primary output, or a mapping by output.
        What is
            not named is what is usual in training.
        decision: `[{"below": 0.4, "is": "on_time"}, {"is": "late"}]`, or "classes".
        label: what feedback will send; usually follows from the output.
        valid_range: of the primary output; answers outside go to the rules.
        unit: of the primary output.
        description, owner, contact, notes: for the people who take over; notes are Markdown in the
        card.
        objectives: `{"latency_ms": 25, "availability": 0.999, "degraded": 0.01}`.
        slices: fields by which quality will be looked at.
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
    store = store if isinstance(store, Store) else Store(Path(store))
    identity = _identity(features)
    store.check_free(name, version)
    store.check_definition(identity, features.feature_set.spec)
    _check_fields(features, slices=slices, route_key=route_key)
    with Steps(shown=progress) as steps:
        with steps.step("converting the model"):
            converted = convert(model, len(features.feature_names))
            graph = features.fuse(converted.model).SerializeToString(deterministic=True)
            draft = _Draft.of(features, converted, graph)
        with steps.step("encoding the tables"):
            rows = read_rows(features, training, target, time)
            held, rule = _holdout(features, rows, holdout, target, time)
            _warn_few(rows)
        with steps.step("answering the training rows", len(rows)) as advance:
            answers = _run_all(draft, rows.encoded.rows, advance)
        draft = draft.with_outputs(
            _declared_outputs(draft, answers, held, valid_range=valid_range, unit=unit)
        )
        settled = _settle(
            draft,
            rows,
            answers,
            policies,
            max_repaired,
            default,
            _decision(decision, draft.outputs),
        )
        cases = _cases(features, rows, settled.ladder)
        edges = draft.encoder.encode([record for _, record in cases.edges]).rows
        with steps.step("comparing with the training library", len(held) + len(edges)) as advance:
            native = check_native(
                converted,
                draft.outputs,
                settled.ladder.decisions,
                draft.run,
                rows=held.encoded.rows,
                edges=edges,
                advance=advance,
            )
        with steps.step("making golden rows"):
            golden = golden_of(settled, features, [*cases.samples, *cases.edges])
            batch_exact = _batch_exact(draft, golden, held)
        with steps.step("measuring what matters"):
            found, importance = _evaluate(draft, held)
        with steps.step("measuring the training distributions"):
            reference = _reference(settled, rows, answers, time, importance)
        manifest = Manifest(
            format=1,
            name=name,
            version=version,
            description=description,
            features=identity,
            outputs=draft.outputs,
            decision=settled.decision,
            label=_label(label, draft.outputs),
            owner=owner,
            contact=contact,
            objectives=_objectives(objectives),
            slices=tuple(slices),
            route_key=route_key,
            sensitive={field.name: field.sensitive for field in features.fields if field.sensitive},
            batch_exact=batch_exact,
            model=_origin(converted, native),
            training=_training(
                rows, held, rule, target, time, {**found, **(metrics or {})}, code_commit
            ),
            runtime=_versions(features, converted),
            files=(),
        )
        with store.aside(name, version) as folder:
            with steps.step("writing and replaying in another process"):
                (folder / MODEL).write_bytes(graph)
                manifest = _write(folder, manifest, features, settled, golden, reference, notes)
                _passed(run_gate(folder), golden)
            return store.publish(folder, manifest)


# the bundle in the making


@dataclass(frozen=True, slots=True)
class _Draft:
    """The fused model, as it answers before there is a bundle."""

    fitted: Fitted
    session: Session
    outputs: tuple[OutputSpec, ...]
    native: Any

    @classmethod
    def of(cls, fitted: Fitted, converted: Converted, graph: bytes) -> "_Draft":
        return cls(fitted, Session(graph), converted.outputs, converted.native)

    @property
    def encoder(self) -> RecordEncoder:
        return self.fitted.record_encoder

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.fitted.fields

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        arrays = self.session.run(rows)
        return ModelOutputs(arrays[: len(self.outputs)], arrays[len(self.outputs)])

    def with_outputs(self, outputs: tuple[OutputSpec, ...]) -> "_Draft":
        return _Draft(self.fitted, self.session, outputs, self.native)


@dataclass(frozen=True, slots=True)
class _Settled:
    """A draft with who answers what."""

    draft: _Draft
    fallback: Fallback
    decision: Decision
    ladder: Ladder

    @property
    def encoder(self) -> RecordEncoder:
        return self.draft.encoder

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.draft.fields

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        return self.draft.outputs

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        return self.draft.run(rows)


@dataclass(frozen=True, slots=True)
class _Cases:
    """Named records for the golden rows."""

    samples: list[tuple[str, dict[str, Any]]]
    edges: list[tuple[str, dict[str, Any]]]


def _run_all(draft: _Draft, rows: NDArray[np.float64], advance: Any) -> ModelOutputs:
    """The model's answers for many rows; their features are not kept."""
    parts: list[list[NDArray[Any]]] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        parts.append(draft.run(chunk).values)
        advance(len(chunk))
    return ModelOutputs([np.concatenate(column) for column in zip(*parts, strict=True)])


# rows


def _holdout(
    features: Fitted, rows: Rows, holdout: Any, target: Any, time: str | None
) -> tuple[Rows, str]:
    if holdout is None:
        if not len(rows):
            raise PackingError("the training table has no rows; a bundle is made from its rows")
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


def _cases(features: Fitted, rows: Rows, ladder: Ladder) -> _Cases:
    """Sample records, the cleanest first, and edge cases made from it."""
    rng = np.random.default_rng(SEED)
    count = min(len(rows), sample_size(0))
    places = rng.choice(len(rows), count, replace=False)
    troubled = np.count_nonzero(rows.encoded.flags[places], axis=1)
    first = int(np.argmin(troubled))
    places = np.concatenate([places[first : first + 1], np.delete(places, first)])
    records = records_of(rows.table, places, features.fields)
    _check_encoders_agree(features, rows, places, records)
    edges = edge_cases(features.fields, features.vocabularies, features.zones, records[0])
    kept = records[: sample_size(len(edges))]
    samples = [(f"sample {number}", record) for number, record in enumerate(kept)]
    return _Cases(samples, edges)


def _check_encoders_agree(
    features: Fitted, rows: Rows, places: NDArray[np.int64], records: Sequence[dict[str, Any]]
) -> None:
    """Sample records must give the bits of the table's rows, or training saw something else."""
    encoded = features.record_encoder.encode(records)
    for place, field in enumerate(features.fields):
        if field.sensitive:
            continue
        table = rows.encoded.rows[places, place]
        wrong = np.flatnonzero(table.view(np.int64) != encoded.rows[:, place].view(np.int64))
        if len(wrong):
            row = int(wrong[0])
            raise PackingError(
                f"field {field.name!r} of training row {int(places[row])} is {table[row]!r} "
                "from the "
                f"table and {encoded.rows[row, place]!r} from the record "
                f"{records[row][field.name]!r}: training and serving would differ. Report this "
                "with "
                "the column's type."
            )


# what is declared


def _declared_outputs(
    draft: _Draft,
    answers: ModelOutputs,
    held: Rows,
    *,
    valid_range: tuple[float | None, float | None] | None,
    unit: str | None,
) -> tuple[OutputSpec, ...]:
    """The outputs with tolerances, and the primary one with what the owner says of it."""
    float32 = _computes_in_float32(draft, held)
    specs = [
        structs.replace(spec, tolerance=_tolerance(spec, column, float32=float32))
        for spec, column in zip(draft.outputs, answers.values, strict=True)
    ]
    if valid_range is not None:
        if specs[0].kind not in ("value", "vector"):
            raise PackingError(
                f"valid_range is for values, the primary output is a {specs[0].kind}"
            )
        specs[0] = structs.replace(specs[0], low=valid_range[0], high=valid_range[1])
    specs[0] = structs.replace(specs[0], unit=unit)
    return tuple(specs)


def _computes_in_float32(draft: _Draft, held: Rows) -> bool:
    """Whether the native model answers in float32; without one, it is assumed."""
    if draft.native is None:
        return True
    features = draft.run(held.encoded.rows[:8]).features
    assert features is not None
    finite = features[np.isfinite(features).all(axis=1)]
    answers = draft.native(finite if len(finite) else np.nan_to_num(features))
    return any(np.asarray(values).dtype == np.float32 for values in answers.values())


def _tolerance(spec: OutputSpec, column: NDArray[Any], *, float32: bool) -> Tolerance:
    if spec.kind in ("probability", "class_probabilities"):
        return Tolerance(absolute=FLOAT32 if float32 else EXACT)
    if spec.kind == "label":
        return Tolerance(absolute=0.0)
    numbers = column.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    return Tolerance(absolute=SHARE_OF_SD * float(finite.std()) if finite.size else 0.0, ulps=ULPS)


def _decision(
    given: Sequence[Mapping[str, Any]] | str | None, outputs: Sequence[OutputSpec]
) -> Decision:
    primary = outputs[0]
    if given is None:
        return None
    if isinstance(given, str):
        if given != "classes" or primary.kind != "label" or not primary.classes:
            raise PackingError(
                f"decision={given!r}: 'classes' is for a label with known classes, the primary "
                "output "
                f"is a {primary.kind}; name thresholds instead"
            )
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
    return steps


def _check_thresholds(steps: Sequence[Threshold]) -> None:
    edges = [step.below for step in steps[:-1]]
    ascending = all(
        a is not None and b is not None and a < b for a, b in zip(edges, edges[1:], strict=False)
    )
    names = [step.name for step in steps]
    if not steps or None in edges or steps[-1].below is not None or not ascending:
        raise PackingError(
            f"decision: the thresholds are {edges}; each but the last needs a 'below', "
            "ascending, and "
            "the last has none: it takes the rest"
        )
    if len(set(names)) != len(names):
        raise PackingError(f"decision: {names} names a decision twice")


def _settle(
    draft: _Draft,
    rows: Rows,
    answers: ModelOutputs,
    policies: Mapping[str, FieldPolicies] | None,
    max_repaired: int | None,
    default: Any,
    decision: Decision,
) -> _Settled:
    """Policies and the constant default, ready to use."""
    target = None if rows.target is None else target_codes(draft.outputs, rows.target)
    fallback = Fallback(
        format=1,
        policies=resolve(draft.fields, policies),
        max_repaired=max_repaired,
        default=_default(draft.outputs, default, usual_answers(draft.outputs, answers, target)),
    )
    try:
        ladder = Ladder(draft.outputs, decision, fallback, draft.fields, draft.encoder.encode)
    except ValueError as error:
        raise PackingError(str(error)) from error
    return _Settled(draft, fallback, decision, ladder)


def _default(outputs: Sequence[OutputSpec], given: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
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
        _check_default(spec, chosen[spec.name])
    return chosen


def _check_default(spec: OutputSpec, value: Any) -> None:
    where = f"default of output {spec.name!r}: {value!r}"
    if spec.kind == "label":
        if spec.classes and value not in spec.classes:
            raise PackingError(f"{where} is none of its classes {list(spec.classes)}")
        return
    if value is None and spec.kind == "class_probabilities":
        return
    try:
        column = np.asarray([value], np.float64)
    except (TypeError, ValueError) as error:
        raise PackingError(f"{where} is not a number") from error
    if column.shape[1:] != spec.shape[1:] or ValidRange(spec).invalid_rows(column)[0]:
        raise PackingError(
            f"{where} is not a valid answer of shape {list(spec.shape[1:])}, from {spec.low} to "
            f"{spec.high}"
        )


def _label(given: Label | Mapping[str, str] | None, outputs: Sequence[OutputSpec]) -> Label | None:
    if isinstance(given, Label):
        return given
    if given is not None:
        return msgspec.convert(dict(given), Label)
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


def _objectives(given: Objectives | Mapping[str, float] | None) -> Objectives:
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


def _check_fields(features: Fitted, *, slices: Sequence[str], route_key: str | None) -> None:
    known = [field.name for field in features.fields]
    wanted = [*slices, *([route_key] if route_key else [])]
    if strangers := [name for name in wanted if name not in known]:
        raise PackingError(f"slices or route_key name {strangers}; the fields are {known}")


# what is measured


def _batch_exact(draft: _Draft, golden: Golden, held: Rows) -> bool:
    """Whether rows have the same bits alone and in a batch: golden rows, and some held-out ones."""
    records = draft.encoder.encode([row.record for row in golden.rows]).rows
    rows = np.concatenate([records, held.encoded.rows[:BATCH_PROBE_ROWS]])
    batch = draft.run(rows)
    return all(
        draft.run(rows[place : place + 1]).same_bits(batch.part(place, place + 1))
        for place in range(len(rows))
    )


def _evaluate(draft: _Draft, held: Rows) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on the held-out rows, and the importance of each field."""
    target = None if held.target is None else target_codes(draft.outputs, held.target)
    names = [field.name for field in draft.fields]
    importance = importances(names, draft.run, draft.outputs, held.encoded.rows, target, seed=SEED)
    if target is None:
        return {}, importance
    answers = _run_all(draft, held.encoded.rows, lambda _: None)
    return rounded(held_out_metrics(draft.outputs, answers, target)), rounded(importance)


def _reference(
    settled: _Settled,
    rows: Rows,
    answers: ModelOutputs,
    time: str | None,
    importance: Mapping[str, float],
) -> Reference:
    """The training distributions, counted as serving will count: outputs only of rows the model answers."""
    return build_reference(
        settled.draft.fitted,
        rows.encoded,
        answers.values,
        settled.outputs,
        times=rows.times,
        time_field=time,
        is_model=_answered_by_model(settled, rows.encoded, answers),
        importance=importance,
    )


def _answered_by_model(
    settled: _Settled, encoded: Encoded, answers: ModelOutputs
) -> NDArray[np.bool_]:
    plan = settled.ladder.plan_table(encoded)
    judged = settled.ladder.judge(plan, answers)
    return np.asarray(judged.outcome) == 0


# the files


def _identity(features: Fitted) -> FeaturesIdentity:
    return FeaturesIdentity(
        label=features.label,
        identity=features.identity,
        spec_digest=features.spec_digest,
        state_digest=features.state_digest,
        features_digest=features.features_digest,
    )


def _origin(converted: Converted, native: NativeCheck | None) -> ModelOrigin:
    return ModelOrigin(
        framework=converted.framework, estimator=converted.estimator, native_check=native
    )


def _training(
    rows: Rows,
    held: Rows,
    rule: str,
    target: Any,
    time: str | None,
    found: Mapping[str, float],
    code_commit: str | None,
) -> Training:
    first, last = time_range(rows)
    return Training(
        packed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=len(rows),
        fingerprint=fingerprint(rows),
        holdout=Holdout(rule=rule, rows=len(held)),
        target=target if isinstance(target, str) else None,
        time=time,
        first=first,
        last=last,
        metrics={key: float(value) for key, value in found.items()},
        code_commit=code_commit or _git_commit(),
    )


def _git_commit() -> str | None:
    """The commit of the folder we are in, marked when something is not committed; None without git."""
    found: list[str] = []
    for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            answer = subprocess.run(  # noqa: S603
                ["git", *arguments],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        found.append(answer.stdout.strip())
    return found[0] + ("+changes" if found[1] else "")


def _versions(features: Fitted, converted: Converted) -> dict[str, str]:
    import onnx

    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": runtime.version,
        "onnxruntime_oldest": OLDEST_ONNXRUNTIME,
        "onnx_opset": str(OPSET),
        "onnx_ir": str(IR_VERSION),
        "tzdata": features.tzdata,
        **converted.versions,
    }
    try:
        versions["keelmark"] = importlib.metadata.version("keelmark")
    except importlib.metadata.PackageNotFoundError:
        pass  # from a source tree
    return dict(sorted(versions.items()))


def _write(
    folder: Path,
    manifest: Manifest,
    features: Fitted,
    settled: _Settled,
    golden: Golden,
    reference: Reference,
    notes: str,
) -> Manifest:
    """Writes all files, the manifest last; returns it with the digests of the others."""
    features.save(folder / FEATURES)
    (folder / FALLBACK).write_bytes(write(settled.fallback))
    (folder / GOLDEN).write_bytes(write(golden))
    (folder / REFERENCE).write_bytes(write(reference))
    card = card_text(manifest, settled.fallback, reference, features, notes=notes)
    (folder / CARD).write_text(card, encoding="utf-8")
    files = tuple(file_entry(path) for path in sorted(folder.iterdir()))
    manifest = structs.replace(manifest, files=files)
    (folder / MANIFEST).write_bytes(write(manifest))
    return manifest


def _passed(report: GateReport, golden: Golden) -> None:
    assert report.rows == len(golden.rows), "the gate replays every golden row"
