"""Bundles of plain ONNX models over raw tensors, without fields, features or policies of ours.

They are verified, kept, swapped and watched as others are, and asked through the tensor protocol.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import structs
from onnx import TensorProto, helper

from features.digests import sha256_hex
from features.runtime import Session
from models.convert.graph import DTYPES, checked
from models.convert.onnx_model import loaded
from models.declared import read_objectives
from models.errors import ConversionFailed, PackingError
from models.gate import run_gate
from models.golden import SEED, plain
from models.integrity import file_entry
from models.manifest import (
    CARD,
    FALLBACK,
    FEATURES,
    GOLDEN,
    MANIFEST,
    MODEL,
    REFERENCE,
    Fallback,
    FeaturesIdentity,
    Golden,
    GoldenTensors,
    Holdout,
    Manifest,
    ModelOrigin,
    Objectives,
    OutputSpec,
    TensorInput,
    TensorInputs,
    Tolerance,
    Training,
    write,
)
from models.provenance import plain_versions
from models.reference import Reference
from models.store import Store
from models.times import time_now

Tensors = Mapping[str, Any]


def pack_tensors(
    store: Store | str | PathLike[str],
    name: str,
    version: str,
    *,
    model: bytes | str | PathLike[str] | onnx.ModelProto,
    examples: Sequence[Tensors],
    default: Tensors | None = None,
    tolerance: float = 1e-5,
    framework: str = "onnx",
    description: str = "",
    owner: str = "",
    contact: str = "",
    objectives: Objectives | Mapping[str, float] | None = None,
) -> Path:
    """Publishes an ONNX model over named tensors.

    Args:
        store, name, version, description, owner, contact, objectives: as in `pack`.
        model: bytes, path or loaded model.
        examples: inputs, name to array, that the golden rows are made of; at least one.
        default: the answer of last resort by output, for one row; null where there is none.
        tolerance: absolute, of numeric outputs.
        framework: what trained it.

    Raises:
        VersionTaken: the version is in the store.
        ConversionFailed: not a model that a bundle may have.
        PackingError: no examples, or examples that do not fit.
    """
    store = store if isinstance(store, Store) else Store(Path(store))
    store.check_free(name, version)
    proto = checked(loaded(model), prefixed=False)
    inputs, outputs = _inputs(proto), _outputs(proto, tolerance)
    graph = proto.SerializeToString(deterministic=True)
    if not examples:
        raise PackingError(
            "examples are empty; golden rows need at least one example of the inputs"
        )
    golden = Golden(
        format=1, features_digest="", seed=SEED, tensors=_golden(graph, inputs, outputs, examples)
    )
    manifest = Manifest(
        format=1,
        name=name,
        version=version,
        description=description,
        features=FeaturesIdentity(
            label="", identity="", spec_digest="", state_digest="", features_digest=""
        ),
        outputs=outputs,
        owner=owner,
        contact=contact,
        objectives=read_objectives(objectives),
        batch_exact=False,
        model=ModelOrigin(framework=framework, estimator=proto.graph.name or "model"),
        training=Training(
            packed_at=time_now(),
            rows=0,
            fingerprint=f"sha256:{sha256_hex(graph)}",
            holdout=Holdout(rule="none", rows=0),
        ),
        runtime=plain_versions(),
        files=(),
    )
    fallback = Fallback(
        format=1,
        policies={},
        default={spec.name: (default or {}).get(spec.name) for spec in outputs},
    )
    with store.aside(name, version) as folder:
        (folder / MODEL).write_bytes(graph)
        (folder / FEATURES).write_bytes(write(TensorInputs(kind="tensors", inputs=inputs)))
        (folder / FALLBACK).write_bytes(write(fallback))
        (folder / GOLDEN).write_bytes(write(golden))
        (folder / REFERENCE).write_bytes(write(_nothing_measured()))
        (folder / CARD).write_text(_card(manifest, inputs), encoding="utf-8")
        files = tuple(file_entry(path) for path in sorted(folder.iterdir()))
        manifest = structs.replace(manifest, files=files)
        (folder / MANIFEST).write_bytes(write(manifest))
        run_gate(folder)
        return store.publish(folder, manifest)


def _inputs(proto: onnx.ModelProto) -> tuple[TensorInput, ...]:
    initialized = {tensor.name for tensor in proto.graph.initializer}
    return tuple(
        TensorInput(name=value.name, dtype=_dtype(value), shape=_shape(value))
        for value in proto.graph.input
        if value.name not in initialized
    )


def _outputs(proto: onnx.ModelProto, tolerance: float) -> tuple[OutputSpec, ...]:
    return tuple(_output(value, tolerance) for value in proto.graph.output)


def _output(value: onnx.ValueInfoProto, tolerance: float) -> OutputSpec:
    dtype = DTYPES.get(value.type.tensor_type.elem_type)
    if dtype is None:
        raise ConversionFailed(
            f"output {value.name!r} is {_dtype(value)}; use float32, float64, int64, bool, text"
        )
    is_number = dtype in ("float32", "float64")
    return OutputSpec(
        name=value.name,
        kind="vector" if is_number else "label",
        dtype=dtype,
        shape=_shape(value),
        tolerance=Tolerance(absolute=tolerance if is_number else 0.0),
    )


def _dtype(value: onnx.ValueInfoProto) -> str:
    if not value.type.HasField("tensor_type"):
        raise ConversionFailed(f"{value.name!r} is no tensor; convert a classifier with zipmap off")
    code = value.type.tensor_type.elem_type
    if code == TensorProto.STRING:
        return "object"
    return helper.tensor_dtype_to_np_dtype(code).name


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)


def _golden(
    graph: bytes,
    inputs: Sequence[TensorInput],
    outputs: Sequence[OutputSpec],
    examples: Sequence[Tensors],
) -> tuple[GoldenTensors, ...]:
    session = Session(graph)
    rows: list[GoldenTensors] = []
    for number, example in enumerate(examples):
        try:
            given = {spec.name: np.asarray(example[spec.name], spec.dtype) for spec in inputs}
            answers = session.run_named(given)
        except Exception as error:
            # A missing input, a type, or onnxruntime about a shape.
            raise PackingError(
                f"example {number} does not fit the model's inputs "
                f"{[(spec.name, spec.dtype, list(spec.shape)) for spec in inputs]}: {error!r}"
            ) from error
        rows.append(
            GoldenTensors(
                name=f"sample {number}",
                inputs={key: value.tolist() for key, value in given.items()},
                outputs={
                    spec.name: plain(answer.tolist())
                    for spec, answer in zip(outputs, answers, strict=True)
                },
            )
        )
    return tuple(rows)


def _nothing_measured() -> Reference:
    return Reference(
        format=1, rows=0, few_rows=True, time=None, shapes=(), troubles={}, importance={}
    )


def _card(manifest: Manifest, inputs: Sequence[TensorInput]) -> str:
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description or "A model over raw tensors.",
        "",
        f"Owner: {manifest.owner or 'not named'}. {manifest.contact}",
        "",
        *(f"- takes `{spec.name}`: {spec.dtype} {list(spec.shape)}" for spec in inputs),
        *(f"- gives `{s.name}`: {s.dtype} {list(s.shape)}" for s in manifest.outputs),
    ]
    return "\n".join(lines) + "\n"
