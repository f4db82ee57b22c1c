"""Models that would have onnxruntime read other files: found wherever a constant can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.errors import BundleCorrupt
from models.external_data import has_external_data
from models.manifest import BASELINE, MODEL
from tests.packed import copied
from tests.test_bundle_rungs import INFO, STORED, baseline_graph, in_manifest, listed


def elsewhere(location: str = "../other.bin") -> TensorProto:
    """One number, in another file."""
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(*constants: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], list(constants))


def in_initializers(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(elsewhere())


def in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=elsewhere()))


def in_a_list(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="t", type=AttributeProto.TENSORS).tensors.append(
        elsewhere()
    )


def in_a_branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=graph_of(elsewhere())))


def in_one_of_several_graphs(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="g", type=AttributeProto.GRAPHS).graphs.append(
        graph_of(elsewhere())
    )


def in_a_sparse_constant(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(elsewhere())


def in_sparse_attributes(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="s", type=AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.add().indices.CopyFrom(elsewhere())


def in_a_sparse_attribute(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="s", type=AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(elsewhere())


def in_a_function(model: onnx.ModelProto) -> None:
    node: NodeProto = helper.make_node("Constant", [], ["c"], value=elsewhere())
    model.functions.add(name="f").node.append(node)


def in_a_default_of_a_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").attribute_proto.add(name="a").t.CopyFrom(elsewhere())


def in_training_info(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(graph_of(elsewhere()))


Put = Callable[[onnx.ModelProto], None]


@pytest.mark.parametrize(
    "put",
    [
        in_initializers,
        in_a_constant,
        in_a_list,
        in_a_branch,
        in_one_of_several_graphs,
        in_a_sparse_constant,
        in_sparse_attributes,
        in_a_sparse_attribute,
        in_a_function,
        in_a_default_of_a_function,
        in_training_info,
    ],
)
def test_a_constant_in_another_file_is_found(put: Put, tmp_path: Path):
    model = onnx.load_from_string(baseline_graph())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert not has_external_data(path)
    put(model)
    path.write_bytes(model.SerializeToString())
    assert has_external_data(path)


def test_an_attribute_that_is_written_in_two_parts_is_found(tmp_path: Path):
    """A parser puts them together again: the place from one, the flag from the other."""
    whole = helper.make_node("Constant", [], ["c"], value=elsewhere())
    only_flag = TensorProto(data_location=TensorProto.EXTERNAL)
    flag = AttributeProto(name="value", t=only_flag, type=AttributeProto.TENSOR)
    whole.attribute[0].t.ClearField("data_location")
    attribute = whole.attribute[0].SerializeToString() + flag.SerializeToString()
    del whole.attribute[:]
    node = whole.SerializeToString() + b"\x2a" + _length(attribute) + attribute
    graph = b"\x0a" + _length(node) + node
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + _length(graph) + graph)
    (parsed,) = onnx.load(path, load_external_data=False).graph.node
    assert parsed.attribute[0].t.data_location == TensorProto.EXTERNAL
    assert has_external_data(path)


def _length(content: bytes) -> bytes:
    low, high = len(content) & 127, len(content) >> 7
    return bytes([low | 128, high]) if high else bytes([low])


def test_the_word_alone_is_no_other_file(tmp_path: Path):
    """Fields, classes and texts may be called so, and lie across two pieces of the file."""
    model = onnx.load_from_string(baseline_graph())
    model.graph.node[0].name = "location"
    model.graph.node[0].attribute.add(name="classes", strings=[b"location"])
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(["location"]), "location"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert not has_external_data(path)


def test_the_word_is_found_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = onnx.load_from_string(baseline_graph())
    in_initializers(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for size in (7, 8, 9, 64):
        monkeypatch.setattr("models.external_data.CHUNK_BYTES", size)
        assert has_external_data(path)


def _nested(inner: bytes, levels: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    for level in range(levels):
        tag = (b"\x32", b"\x2a", b"\x0a")[level % 3]
        inner = tag + _length(inner) + inner
    return b"\x3a" + _length(inner) + inner


DEEP: Final = _nested(b"\x12\x08location", 120)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x3a\x7flocation", "ends after"),
        (b"\x3blocation", "wire type"),
        (b"\xff" * 12 + b"location", "does not end"),
        (DEEP, "inside each other"),
    ],
)
def test_what_is_no_model_says_so(content: bytes, why: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        has_external_data(path)


@pytest.mark.parametrize("location", ["../other.bin", "/etc/hostname", "golden.json"])
@pytest.mark.parametrize("name", [MODEL, BASELINE])
def test_a_bundle_reads_no_file_that_its_manifest_does_not_know(
    name: str, location: str, tmp_path: Path
):
    folder = copied(STORED, tmp_path / "bundle")
    (tmp_path / "other.bin").write_bytes(np.float32(1).tobytes())
    content = (folder / MODEL).read_bytes() if name == MODEL else baseline_graph()
    model = onnx.load_from_string(content)
    model.graph.initializer.append(elsewhere(location))
    end = next(node for node in model.graph.node if "probability" in node.output)
    end.output[list(end.output).index("probability")] = "before"
    model.graph.node.append(helper.make_node("Add", ["before", "elsewhere"], ["probability"]))

    def has_baseline(manifest: Any) -> None:
        manifest["baseline"] = INFO if name == BASELINE else None

    listed(folder, name, model.SerializeToString())
    in_manifest(folder, has_baseline)
    with pytest.raises(BundleCorrupt, match="constants in other files"):
        Bundle.open(folder)
