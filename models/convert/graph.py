"""What every converted model goes through: one opset, the outputs we want, nothing we do not run.

A bundle's graph is opset 21, IR 10, of the domains "" and ai.onnx.ml, without loops, random
operators, functions or external data: what the oldest onnxruntime we support runs, and what is the
same each time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from models.errors import ConversionFailed
from models.manifest import ClassName, Dtype, OutputSpec

OPSET: Final = 21
IR_VERSION: Final = 10
PREFIX: Final = "model_"
DOMAINS: Final = ("", "ai.onnx.ml")
REFUSED: Final = {
    "Loop": "a loop can run for ever",
    "Scan": "a scan runs once per row",
    "Bernoulli": "its answers are random",
    "Multinomial": "its answers are random",
    "RandomNormal": "its answers are random",
    "RandomNormalLike": "its answers are random",
    "RandomUniform": "its answers are random",
    "RandomUniformLike": "its answers are random",
}
DTYPES: Final[dict[int, Dtype]] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.STRING: "string",
    TensorProto.BOOL: "bool",
}
ELEMENT_TYPES: Final = {name: code for code, name in DTYPES.items()}

Native = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""The training library's own answers: float32 features (n, K) to an array per output name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A model as a bundle takes it.

    Attributes:
        model: one float32 input [n, K]; its outputs are those of `outputs`, in that order.
        outputs: without tolerances, which `pack` adds.
        native: None when there is no model of the training library to compare with.
        versions: of the libraries that trained and converted it.
        added_terms: how many float32 numbers are added up to the answer, or to that of which it
            is the logistic or softmax; 0 where none are, or nobody knows.
        exponential_terms: how many float32 numbers are added up before the exponential of their
            sum is the answer; 0 where none is.
    """

    model: onnx.ModelProto
    outputs: tuple[OutputSpec, ...]
    native: Native | None
    framework: str
    estimator: str
    versions: dict[str, str]
    added_terms: int = 0
    exponential_terms: int = 0


def checked(model: onnx.ModelProto, *, prefixed: bool = True) -> onnx.ModelProto:
    """The model at our opset and IR version, the names of its tensors out of our way (`inner`).

    Args:
        model: changed in place where it can be.
        prefixed: False keeps the names, for a model that is not fused with anything.

    Raises:
        ConversionFailed: it uses something that a bundle must not, or cannot be brought to the
            opset.
    """
    _refuse_foreign_parts(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("", OPSET) != OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError) as error:
            raise ConversionFailed(
                f"the model uses opset {versions['']} and cannot be brought to opset {OPSET}: "
                f"{error}. Export it with opset {OPSET}."
            ) from error
    if prefixed:
        model = compose.add_prefix(model, PREFIX)
    model.ir_version = IR_VERSION
    del model.graph.value_info[:]  # shapes that a converter guessed, which onnxruntime warns about
    return model


def inner(name: str) -> str:
    """What a tensor of the original model is called in the checked one."""
    return PREFIX + name


def _refuse_foreign_parts(model: onnx.ModelProto) -> None:
    domains = {node.domain or "" for node in nodes_of(model.graph)}
    domains = {"" if domain == "ai.onnx" else domain for domain in domains}
    if foreign := sorted(domains - set(DOMAINS)):
        raise ConversionFailed(
            f"the model uses operators of {foreign}; only the standard operators and ai.onnx.ml "
            "run everywhere. Export it without them."
        )
    if model.functions:
        raise ConversionFailed("the model has functions; inline them (onnx.inliner) and try again")
    for node in nodes_of(model.graph):
        if why := REFUSED.get(node.op_type):
            raise ConversionFailed(
                f"the model uses {node.op_type} ({why}); a bundle must answer in bounded time and "
                "the same each time. Export the model for inference, without it."
            )
    for tensor in _tensors_of(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ConversionFailed(
                f"weights of the model are in another file ({tensor.name!r}); load it with "
                "onnx.load(path), which reads them too, and pass the result"
            )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in nodes_of(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from attribute.g.initializer


# outputs


def output_info(spec: OutputSpec) -> onnx.ValueInfoProto:
    """How an output is declared in the graph: `n` rows, then the shape of one row's answer."""
    shape: list[int | str] = ["n", *spec.shape[1:]]
    return helper.make_tensor_value_info(spec.name, ELEMENT_TYPES[spec.dtype], shape)


def with_outputs(
    model: onnx.ModelProto, specs: Sequence[OutputSpec], nodes: Iterable[onnx.NodeProto] = ()
) -> onnx.ModelProto:
    """The model with exactly these outputs; `nodes` compute those that it did not have.

    What no output needs is left out: a label that nobody asked for would be computed for each row.
    """
    graph = model.graph
    _pass_through_ones(graph)
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.extend(output_info(spec) for spec in specs)
    _drop_unused(graph)
    return model


def _pass_through_ones(graph: onnx.GraphProto) -> None:
    """Makes `x * 1`, a converter's leftover, a node that onnxruntime removes: 0.3 µs a run."""
    ones = {t.name for t in graph.initializer if not t.dims and numpy_helper.to_array(t) == 1}
    for node in graph.node:
        if node.op_type == "Mul" and len(factors := [n for n in node.input if n not in ones]) == 1:
            node.op_type = "Identity"
            del node.input[:]
            node.input.extend(factors)


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for reader in nodes_of(inner):
                yield from reader.input
            yield from (output.name for output in inner.output)


def constant(model: onnx.ModelProto, name: str, value: NDArray[Any]) -> str:
    """Adds an initializer; returns its name."""
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def renamed(source: str, name: str) -> onnx.NodeProto:
    """Another name for `source`; onnxruntime removes the node when it opens the model."""
    return helper.make_node("Identity", [source], [name])


def column(model: onnx.ModelProto, source: str, place: int, name: str) -> onnx.NodeProto:
    """Column `place` of `source` [n, k], as [n]."""
    index = constant(model, f"{name}_place", np.asarray(place, np.int64))
    return helper.make_node("Gather", [source, index], [name], axis=1)


def clipped(model: onnx.ModelProto, source: str, name: str) -> onnx.NodeProto:
    """`source`, float32, not below 0 and not above 1: sums of shares miss 1 by their rounding.

    Not-a-number stays what it is, and its row goes to the rules.
    """
    low = constant(model, f"{name}_low", np.asarray(0, np.float32))
    high = constant(model, f"{name}_high", np.asarray(1, np.float32))
    return helper.make_node("Clip", [source, low, high], [name])


def flat(model: onnx.ModelProto, source: str, name: str) -> onnx.NodeProto:
    """`source` [n, 1] as [n]."""
    shape = constant(model, f"{name}_shape", np.asarray([-1], np.int64))
    return helper.make_node("Reshape", [source, shape], [name])


def most_probable(
    model: onnx.ModelProto, probabilities: str, classes: Sequence[ClassName], name: str
) -> list[onnx.NodeProto]:
    """The class of the largest probability; the first of equal ones."""
    listed = constant(model, f"{name}_classes", class_array(classes))
    place = f"{name}_index"
    return [
        helper.make_node("ArgMax", [probabilities], [place], axis=1, keepdims=0),
        helper.make_node("Gather", [listed, place], [name], axis=0),
    ]


# classes


def class_names(classes: Iterable[Any]) -> tuple[ClassName, ...]:
    """Classes as JSON has them. Whole floats become integers, as the converters make them."""
    return tuple(_class_name(value) for value in classes)


def _class_name(value: Any) -> ClassName:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    if isinstance(plain, (str, int)):
        return plain
    raise ConversionFailed(
        f"class {plain!r} is neither text, integer nor boolean; encode the target before training"
    )


def class_array(classes: Sequence[ClassName]) -> NDArray[Any]:
    """Classes as a label output has them: int64, or text."""
    if all(isinstance(name, int) for name in classes):
        return np.asarray(classes, np.int64)
    return np.asarray([str(name) for name in classes], object)


def label_dtype(classes: Sequence[ClassName]) -> Dtype:
    """The type of a label output."""
    return "int64" if all(isinstance(name, int) for name in classes) else "string"


def probability_spec(classes: Sequence[ClassName]) -> OutputSpec:
    """A binary classifier's output: the probability of its second class."""
    return OutputSpec(
        name="probability",
        kind="probability",
        dtype="float32",
        classes=tuple(classes),
        positive=classes[1],
        low=0.0,
        high=1.0,
    )


def label_spec(classes: Sequence[ClassName]) -> OutputSpec:
    """A classifier's label."""
    return OutputSpec(
        name="label", kind="label", dtype=label_dtype(classes), classes=tuple(classes)
    )


def class_probabilities_spec(classes: Sequence[ClassName]) -> OutputSpec:
    """A probability per class, in the order of the classes."""
    return OutputSpec(
        name="class_probabilities",
        kind="class_probabilities",
        dtype="float32",
        shape=(-1, len(classes)),
        classes=tuple(classes),
        low=0.0,
        high=1.0,
    )


def value_spec(width: int = 1) -> OutputSpec:
    """A regressor's number, or numbers."""
    if width == 1:
        return OutputSpec(name="value", kind="value", dtype="float32")
    return OutputSpec(name="value", kind="vector", dtype="float32", shape=(-1, width))


def as_text(values: NDArray[Any]) -> NDArray[Any]:
    """Native labels as the ONNX model gives them: int64, or objects of text."""
    if values.dtype.kind in "biuf":
        return values.astype(np.int64)
    return np.asarray([str(value) for value in values.tolist()], object)
