"""A model that is ONNX already, with the training library's own prediction beside it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from models.convert.graph import (
    DTYPES,
    Converted,
    Native,
    checked,
    column,
    flat,
    inner,
    renamed,
    with_outputs,
)
from models.errors import ConversionFailed
from models.manifest import OutputKind, OutputSpec

RESERVED: Final = ("row", "features", "checks")
"""Names that the fused graph uses itself."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An ONNX model over the features, for `pack`.

    Attributes:
        model: its bytes, its path, or the loaded `onnx.ModelProto`. One float32 input [n, K].
        native: float32 features (n, K) to the original library's answers, as an array for the first
            output or as a mapping by output name. Without it nothing can be verified, and the
            manifest says so.
        outputs: what each output means, in the order they are wanted: a kind, or a whole
            `OutputSpec`; outputs left out are dropped. A `probability` may be a [n, 2] tensor: its
            second column is taken. Without `outputs` all are kept: numbers as `value` or `vector`,
            the rest as `label`.
        framework: what trained it, for the manifest.
    """

    model: bytes | str | os.PathLike[str] | onnx.ModelProto
    native: Callable[[NDArray[np.float32]], Any] | None = None
    outputs: Mapping[str, OutputKind | OutputSpec] | None = None
    framework: str = "onnx"
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


def convert(given: OnnxModel, width: int) -> Converted:
    """Brings an ONNX model to the form of a bundle.

    Raises:
        ConversionFailed: it is not a model, not over `width` float32 features, or uses what a
            bundle must not.
    """
    proto = checked(loaded(given.model))
    _check_input(proto, width)
    specs: list[OutputSpec] = []
    nodes: list[onnx.NodeProto] = []
    for name, tensor, kind in _wanted(proto, given):
        spec, node = _output(proto, name, tensor, kind)
        specs.append(spec)
        nodes.append(node)
    return Converted(
        model=with_outputs(proto, specs, nodes),
        outputs=tuple(specs),
        native=None if given.native is None else _by_name(given.native, specs),
        framework=given.framework,
        estimator=proto.graph.name or "model",
        versions=dict(given.versions),
    )


def loaded(model: bytes | str | os.PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    """The model, with external weights read in.

    Raises:
        ConversionFailed: not readable, or not an ONNX model.
    """
    try:
        if isinstance(model, onnx.ModelProto):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            return copy
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        onnx.checker.check_model(proto)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ConversionFailed(
            f"not a valid ONNX model: {error}; check it with onnx.checker.check_model"
        ) from error
    return proto


def _check_input(proto: onnx.ModelProto, width: int) -> None:
    initialized = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initialized]
    found = [f"{value.name.removeprefix('model_')} {_text(value.type)}" for value in inputs]
    expected = f"one input, float32 [n, {width}]"
    if len(inputs) != 1:
        raise ConversionFailed(
            f"the model has inputs {found}; expected {expected}. A model over raw tensors is "
            "packed with `pack_tensors`."
        )
    tensor = inputs[0].type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(sizes) != 2 or sizes[1] not in (0, width):
        raise ConversionFailed(
            f"the model's input is {found[0]}; expected {expected}, as `fitted.transform` gives"
        )
    if sizes[0]:
        raise ConversionFailed(
            f"the model takes exactly {sizes[0]} rows at a time; export it with a dynamic first "
            "axis"
        )


Wanted = tuple[str, onnx.ValueInfoProto, OutputKind | OutputSpec | None]


def _wanted(proto: onnx.ModelProto, given: OnnxModel) -> list[Wanted]:
    there = {value.name: value for value in proto.graph.output}
    names: dict[str, OutputKind | OutputSpec] = dict(given.outputs or {})
    if not names:
        return [(name.removeprefix("model_"), value, None) for name, value in there.items()]
    if strangers := [name for name in names if inner(name) not in there]:
        known = [name.removeprefix("model_") for name in there]
        raise ConversionFailed(f"the model has no outputs {strangers}; it has {known}")
    return [(name, there[inner(name)], kind) for name, kind in names.items()]


def _output(
    proto: onnx.ModelProto,
    name: str,
    value: onnx.ValueInfoProto,
    kind: OutputKind | OutputSpec | None,
) -> tuple[OutputSpec, onnx.NodeProto]:
    spec = kind if isinstance(kind, OutputSpec) else _inferred(name, value, kind)
    if spec.name in RESERVED:
        raise ConversionFailed(f"an output may not be called {spec.name!r}; rename it")
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if spec.kind == "probability" and sizes[1:] == [2]:
        return spec, column(proto, value.name, 1, spec.name)
    if len(spec.shape) == 1 and sizes[1:] == [1]:
        return spec, flat(proto, value.name, spec.name)
    return spec, renamed(value.name, spec.name)


def _inferred(name: str, value: onnx.ValueInfoProto, kind: OutputKind | None) -> OutputSpec:
    tensor = value.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type)
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if not value.type.HasField("tensor_type") or dtype is None or not 1 <= len(sizes) <= 2:
        raise ConversionFailed(
            f"output {name!r} is {_text(value.type)}; expected a tensor [n] or [n, k] of float32, "
            "float64, int64, bool or text. Convert a classifier with zipmap off."
        )
    single = len(sizes) == 1 or sizes[1] == 1
    if kind is None:
        numbers = dtype in ("float32", "float64")
        kind = ("value" if single else "vector") if numbers else "label"
    if kind == "probability" and sizes[1:] == [2]:
        single = True
    if not single and not sizes[1]:
        raise ConversionFailed(f"output {name!r} has no fixed width; export it with one")
    bounded = kind in ("probability", "class_probabilities")
    classes = range(sizes[1]) if kind == "class_probabilities" else (0, 1)
    return OutputSpec(
        name=name,
        kind=kind,
        dtype=dtype,
        shape=(-1,) if single else (-1, sizes[1]),
        classes=tuple(classes) if bounded else None,
        positive=1 if kind == "probability" else None,
        low=0.0 if bounded else None,
        high=1.0 if bounded else None,
    )


def _by_name(native: Callable[[NDArray[np.float32]], Any], specs: list[OutputSpec]) -> Native:
    def answers(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        given = native(features)
        named = given if isinstance(given, Mapping) else {specs[0].name: given}
        return {
            spec.name: _shaped(spec, np.asarray(named[spec.name]))
            for spec in specs
            if spec.name in named
        }

    return answers


def _shaped(spec: OutputSpec, native: NDArray[Any]) -> NDArray[Any]:
    """A native answer in the shape of ours: the positive column, no column of one."""
    if len(spec.shape) == 1 and native.ndim == 2:
        return native[:, 1] if spec.kind == "probability" and native.shape[1] == 2 else native[:, 0]
    return native


def _text(type_: onnx.TypeProto) -> str:
    if not type_.HasField("tensor_type"):
        return type_.WhichOneof("value") or "nothing"
    tensor = type_.tensor_type
    sizes = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} {sizes}"
