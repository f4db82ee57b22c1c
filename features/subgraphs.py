"""Other people's ONNX graphs inside ours: new names for what is in them, and one version of ML."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import onnx

from features.errors import DeclarationError

ML_DOMAIN: Final = "ai.onnx.ml"
ML_VERSION: Final = 3
"""Of the operators with trees: from 3 on their thresholds are float64, from 5 on they are gone."""

LATEST_ML: Final = 4
"""The last version of ai.onnx.ml that still has the operators with trees."""


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Version by domain."""
    return {opset.domain: opset.version for opset in model.opset_import}


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a caller gives; older models list their constants too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of graphs inside nodes too."""
    for node in graph.node:
        yield node
        for inner in inner_graphs(node):
            yield from nodes_of(inner)


def inner_graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """Branches of an If, bodies of a Loop or a Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def ml_version(models: Sequence[onnx.ModelProto]) -> int:
    """The version of ai.onnx.ml at which the models' operators and ours mean what they say.

    Up to 4 it is the latest of the models' own, or ours where that is older: trees mean the same in
    1 and in 3. What is new in 5 is one operator, which the oldest onnxruntime of a bundle cannot
    run.

    Raises:
        DeclarationError: a model has an operator that means something else there.
    """
    latest = ML_VERSION
    for model in models:
        wanted = opsets_of(model).get(ML_DOMAIN, ML_VERSION)
        used = {node.op_type for node in nodes_of(model.graph) if node.domain == ML_DOMAIN}
        if (wanted < 2 and "LabelEncoder" in used) or "TreeEnsemble" in used:
            raise DeclarationError(
                f"the model uses {sorted(used)} of {ML_DOMAIN} {wanted}, which onnxruntime 1.20 "
                f"does not run beside the features; export it with {ML_DOMAIN} {ML_VERSION}"
            )
        latest = max(latest, wanted)
    return min(latest, LATEST_ML)


def renamed(model: onnx.ModelProto, known: Mapping[str, str], prefix: str) -> onnx.GraphProto:
    """The model's graph with tensors named as `known` says, all else in it with the prefix."""
    names = _Names(prefix, {"": "", **known})
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    _rename_all(graph, names, prefix.rstrip("_"))
    return graph


class _Names(dict[str, str]):
    def __init__(self, prefix: str, known: Mapping[str, str]) -> None:
        super().__init__(known)
        self._prefix = prefix

    def __missing__(self, name: str) -> str:
        return f"{self._prefix}{name}"


def _rename_all(graph: onnx.GraphProto, names: _Names, prefix: str) -> None:
    """Renames tensors and nodes of a graph and of the graphs inside its nodes."""
    values = (*graph.initializer, *graph.input, *graph.output)
    for value in values:
        value.name = names[value.name]
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}{index}_{node.op_type}"
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        for position, inner in enumerate(inner_graphs(node)):
            _rename_all(inner, names, f"{node.name}_{position}_")
