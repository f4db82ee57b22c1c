"""The baseline of a bundle in the making: a simpler model, made to answer in the model's place.

It reads the same encoded row and gives the same outputs, with features of its own inside, and is
compared with its own library as the model is. It knows nothing of checks.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, compose, helper

from features.fields import Field
from features.fitted import Fitted
from features.fusing import fuse
from features.ops.base import Context, Plan
from features.ops.hatch import foreign_operators
from features.runtime import Session
from features.spec import DOCUMENTATION
from models.agreement import features_identity
from models.baseline import Baseline
from models.batches import TREE_SECONDS, probe, probe_model
from models.cases import Cases
from models.convert import Converted, convert
from models.convert.graph import ELEMENT_TYPES, Native, nodes_of, renamed, with_outputs
from models.declared import declared_outputs
from models.draft import Draft, run_all
from models.errors import PackingError
from models.evaluation import metrics, rounded, target_codes
from models.golden import SEED
from models.manifest import BaselineInfo, Decision, ModelOrigin, OutputSpec, Trouble
from models.native_check import check_native
from models.outputs import Decisions, ModelOutputs
from models.policies import troubles_of
from models.tolerances import computes_in_float32
from models.training_rows import Rows

PREFIX: Final = "baseline_"
FLOATS: Final = ("float32", "float64")

Accepts = Mapping[str, Sequence[str]]
"""Per field, the troubles with which the baseline answers all the same."""


@dataclass(frozen=True, slots=True)
class CompiledBaseline:
    """A baseline that answers, and the graph that a bundle keeps of it.

    Attributes:
        fitted: its own features.
        source: its model as converted.
        converted: the same with the names and types of the outputs that it is to give.
        graph: the bytes of `baseline.onnx`.
        session: of the same with its features as a last output, which comparing it needs.
        accepts: per field that it reads, in the order of the row.
    """

    fitted: Fitted
    source: Converted
    converted: Converted
    graph: bytes
    session: Session
    accepts: dict[str, tuple[Trouble, ...]]

    @property
    def fields(self) -> tuple[str, ...]:
        """Those that it reads, in the order of the row."""
        return tuple(self.accepts)

    def run(self, rows: NDArray[np.float64]) -> ModelOutputs:
        """Outputs and own features for encoded rows float64 (n, F) of the bundle."""
        *values, features = self.session.run(rows)
        return ModelOutputs(values, features)


@dataclass(frozen=True, slots=True)
class PackedBaseline:
    """A baseline that passed, as the bundle keeps it and as its ladder asks it."""

    info: BaselineInfo
    graph: bytes
    opened: Baseline
    versions: dict[str, str]


def pack_baseline(
    compiled: CompiledBaseline,
    draft: Draft,
    decision: Decision,
    held: Rows,
    cases: Cases,
    real: NDArray[np.float64],
    advance: Callable[[int], None],
) -> PackedBaseline:
    """Compares a baseline with its library, measures it, and opens it.

    Args:
        compiled: from `compile_baseline`.
        draft: of the model, with its outputs as declared.
        decision: of the primary output.
        held: held-out rows.
        cases: whose edge cases are compared too.
        real: encoded rows for comparing rows alone and in batches, float64 (n, F).
        advance: called with the number of rows compared.

    Raises:
        NativeMismatch: it does not answer as its library does.
    """
    converted, edges = compiled.converted, [record for _, record in cases.edges]
    edge_rows = draft.encoder.encode(edges).rows
    answers = run_all(compiled.run, held.encoded.rows)
    native = check_native(
        converted,
        _with_own_tolerance(compiled, draft.outputs, answers, held),
        Decisions(draft.outputs[0], decision),
        compiled.run,
        rows=held.encoded.rows,
        edges=edge_rows,
        names=[f"{name} (baseline)" for name, _ in cases.edges],
        advance=advance,
    )
    operators = {node.op_type for node in nodes_of(converted.model.graph)}
    operators |= foreign_operators(compiled.fitted.feature_set.features.values())
    info = BaselineInfo(
        features=features_identity(compiled.fitted),
        fields=compiled.fields,
        accepts=compiled.accepts,
        batch_exact=probe(compiled.run, edge_rows, seconds=TREE_SECONDS).exact
        and probe_model(compiled.run, real, operators, seed=SEED),
        model=ModelOrigin(
            framework=converted.framework, estimator=converted.estimator, native_check=native
        ),
        metrics=_metrics(draft.outputs, answers, held),
    )
    opened = Baseline(Session(compiled.graph), info, draft.fields, draft.outputs)
    return PackedBaseline(info, compiled.graph, opened, converted.versions)


def _with_own_tolerance(
    compiled: CompiledBaseline, outputs: Sequence[OutputSpec], answers: ModelOutputs, held: Rows
) -> tuple[OutputSpec, ...]:
    """By the rule that the model's follows: a baseline may come from a library of float32."""
    features = compiled.run(held.encoded.rows[:8]).features
    assert features is not None
    return declared_outputs(
        outputs,
        answers,
        float32=computes_in_float32(compiled.converted.native, features),
        added_terms=compiled.converted.added_terms,
        exponential_terms=compiled.converted.exponential_terms,
        valid_range=None,
        unit=None,
    )


def _metrics(outputs: Sequence[OutputSpec], answers: ModelOutputs, held: Rows) -> dict[str, float]:
    if held.target is None:
        return {}
    return rounded(metrics(outputs, answers, target_codes(outputs, held.target)))


def warn_if_same(compiled: CompiledBaseline, features: Fitted, model: Converted) -> None:
    """A baseline that is the model itself fails whenever the model does."""
    mine, theirs = compiled.source.model.graph, model.model.graph  # their names are random
    is_same = list(mine.node) == list(theirs.node)
    is_same = is_same and list(mine.initializer) == list(theirs.initializer)
    if is_same and compiled.fitted.features_digest == features.features_digest:
        warnings.warn(
            "the baseline is the model itself, with the same features: it answers nothing that the "
            "model cannot. Pass a simpler model, over fewer fields.",
            stacklevel=4,
        )


def compile_baseline(
    features: Fitted, given: Any, accepts: Accepts | None, outputs: Sequence[OutputSpec]
) -> CompiledBaseline:
    """Brings a baseline to the row and the outputs of a model.

    Args:
        features: of the model.
        given: the baseline's own fitted features and its model, as a pair.
        accepts: as `pack` got it.
        outputs: of the model.

    Raises:
        ConversionFailed: its model cannot be served.
        PackingError: it is no such pair, reads a field otherwise than the model, or gives other
            outputs.
    """
    fitted, model = _pair(given)
    _check_fields(features, fitted)
    accepted = _accepted(features, fitted, accepts)
    source = convert(model, len(fitted.feature_names))
    converted = matched(source, outputs)
    zones = {**fitted.zones, **features.zones}
    plan = Plan(features.fields, fitted.states, Context(features.vocabularies, zones))
    proto = fuse(plan, list(fitted.feature_set.features.values()), converted.model)
    whole = proto.SerializeToString(deterministic=True)
    del proto.graph.output[-1]
    graph = proto.SerializeToString(deterministic=True)
    return CompiledBaseline(fitted, source, converted, graph, Session(whole), accepted)


def _pair(given: Any) -> tuple[Fitted, Any]:
    if isinstance(given, tuple):
        parts: tuple[Any, ...] = tuple(given)
        if len(parts) == 2 and isinstance(parts[0], Fitted):
            return parts[0], parts[1]
    raise PackingError(
        f"baseline is a {type(given).__name__}, expected its fitted features and its model: "
        "baseline=(simple_features.fit(training), simple_model)"
    )


# the same row


def _check_fields(features: Fitted, fitted: Fitted) -> None:
    """The baseline reads the model's encoded row, so every value must mean the same to both."""
    if fitted.label == features.label and fitted.spec_digest != features.spec_digest:
        raise PackingError(
            f"the features of model and baseline are both called {features.label}, and are not the "
            "same; give the baseline's another name"
        )
    known = {field.name: field for field in features.fields}
    for field in fitted.fields:
        if field.name not in known:
            raise PackingError(
                f"the baseline reads field {field.name!r}, which the model's features do not; the "
                f"fields of the record are {list(known)}. Take a baseline over some of these."
            )
        if difference := _declared_otherwise(known[field.name], field):
            raise PackingError(
                f"field {field.name!r} of the baseline is declared otherwise than the model's: "
                f"{difference}. Declare a field once and use it in both feature sets."
            )
        if difference := _learned_otherwise(features, fitted, field):
            raise PackingError(
                f"field {field.name!r}: {difference}. Fit both feature sets on the same table."
            )


def _declared_otherwise(mine: Field, other: Field) -> str:
    a, b = mine.to_json(), other.to_json()
    keys = [key for key in {**a, **b} if key not in DOCUMENTATION and a.get(key) != b.get(key)]
    return ", ".join(f"{key} is {b.get(key)!r}, there {a.get(key)!r}" for key in keys)


def _learned_otherwise(features: Fitted, fitted: Fitted, field: Field) -> str:
    mine = features.vocabularies.get(field.name, ())
    other = fitted.vocabularies.get(field.name, ())
    if mine != other:
        if field.sensitive:
            only = ""
        else:
            apart = sorted(set(mine) ^ set(other))[:3]
            only = f"; only one of them has {apart}" if apart else ", in another order"
        return (
            f"the vocabulary of the baseline has {len(other)} texts, the model's {len(mine)}{only}"
        )
    if field.tz is not None and fitted.zones[field.tz] != features.zones[field.tz]:
        return f"the time zone {field.tz} of the baseline has other transitions than the model's"
    return ""


def _accepted(
    features: Fitted, fitted: Fitted, given: Accepts | None
) -> dict[str, tuple[Trouble, ...]]:
    read = {field.name for field in fitted.fields}
    given = given or {}
    if strangers := sorted(set(given) - read):
        raise PackingError(f"baseline_accepts names {strangers}; the baseline reads {sorted(read)}")
    return {
        field.name: _accepted_of(field, given.get(field.name))
        for field in features.fields
        if field.name in read
    }


def _accepted_of(field: Field, given: Sequence[str] | None) -> tuple[Trouble, ...]:
    possible = troubles_of(field)
    if given is None:
        return possible if field.nullable else ()
    wanted = (given,) if isinstance(given, str) else tuple(given)
    if strangers := [trouble for trouble in wanted if trouble not in possible]:
        raise PackingError(
            f"baseline_accepts of field {field.name!r} names {strangers}; a {field.kind} declared "
            f"as it is can be {list(possible)}"
        )
    return tuple(trouble for trouble in possible if trouble in wanted)


# the same outputs


def matched(converted: Converted, outputs: Sequence[OutputSpec]) -> Converted:
    """The model with exactly these outputs, by their names, in their order.

    An output is found by its name, else by its kind, where only one is of it; floats are brought
    to the other width.

    Raises:
        PackingError: one is missing, or means something else.
    """
    sources = [_source(converted, wanted, outputs) for wanted in outputs]
    pairs = list(zip(sources, outputs, strict=True))
    model = compose.add_prefix(converted.model, PREFIX)  # our names are free now
    nodes = [_as_wanted(source, wanted) for source, wanted in pairs]
    names = {source.name: wanted.name for source, wanted in pairs}
    return replace(
        converted,
        model=with_outputs(model, outputs, nodes),
        outputs=tuple(outputs),
        native=None if converted.native is None else _renamed(converted.native, names),
    )


def _source(converted: Converted, wanted: OutputSpec, outputs: Sequence[OutputSpec]) -> OutputSpec:
    """The output of the baseline that is to be `wanted`."""
    theirs = {spec.name: spec for spec in converted.outputs}
    names = {spec.name for spec in outputs}
    free = [spec for spec in theirs.values() if spec.name not in names and spec.kind == wanted.kind]
    nameless = [spec for spec in outputs if spec.name not in theirs and spec.kind == wanted.kind]
    found = theirs.get(wanted.name) or next(iter(free), None)
    there = f"its outputs are {[f'{spec.name} ({spec.kind})' for spec in converted.outputs]}"
    if found is None:
        reason = there
    elif wanted.name not in theirs and (len(free) > 1 or len(nameless) > 1):
        reason = f"{there}, of which several could be meant; give them the model's names"
    else:
        reason = _unlike(found, wanted)
    if found is None or reason:
        raise PackingError(
            f"the baseline cannot give the model's output {wanted.name!r}, a {wanted.kind}: "
            f"{reason}. Both must answer alike: take a regressor beside a regressor, a classifier "
            "of the same classes beside a classifier, or say with OnnxModel(outputs=...) what its "
            "outputs mean."
        )
    return found


def _unlike(found: OutputSpec, wanted: OutputSpec) -> str:
    """What of an output is not what is wanted; empty where nothing."""
    if found.kind != wanted.kind:
        return f"{found.name!r} is a {found.kind}"
    if found.shape != wanted.shape:
        return f"its shape is {list(found.shape)}, expected {list(wanted.shape)}"
    if found.classes != wanted.classes or found.positive != wanted.positive:
        return f"its classes are {_listed(found.classes)}, expected {_listed(wanted.classes)}"
    if found.dtype != wanted.dtype and {found.dtype, wanted.dtype} - set(FLOATS):
        return f"its type is {found.dtype}, expected {wanted.dtype}"
    return ""


def _as_wanted(source: OutputSpec, wanted: OutputSpec) -> NodeProto:
    name = PREFIX + source.name
    if source.dtype == wanted.dtype:
        return renamed(name, wanted.name)
    return helper.make_node("Cast", [name], [wanted.name], to=ELEMENT_TYPES[wanted.dtype])


def _renamed(native: Native, names: Mapping[str, str]) -> Native:
    def answers(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {names[name]: values for name, values in native(features).items() if name in names}

    return answers


def _listed(classes: Sequence[Any] | None) -> list[Any]:
    return list(classes or ())
