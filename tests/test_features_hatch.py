"""`onnx_op`: what a graph must be, what it must do with every row, and how it comes into ours."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from features import DeclarationError, FeatureSet, Fitted, category, number, onnx_op
from features.errors import FeaturesCorrupt
from features.hatch import LARGEST_BYTES
from features.ops.hatch import foreign_operators
from features.runtime import Session
from tests import hatches
from tests.hatches import graph, node

x, y = number("x"), number("y")
TABLE = {"x": [1.0, -3.0, None], "y": [0.0, 2.0, 4.0]}


def fit(**features: Any) -> Fitted:
    return FeatureSet("hatched", version=1, features=features).fit(TABLE, quiet=True)


def columns(fitted: Fitted) -> list[list[float]]:
    return fitted.transform(TABLE, quiet=True).astype(float).round(4).tolist()


# what it gives


def test_a_graph_is_an_operator_like_others():
    soft = onnx_op(hatches.softsign(), [x])
    fitted = fit(soft=soft.impute(9), more=soft * 4)
    assert columns(fitted)[:2] == [[0.5, 2.0], [-0.75, -3.0]]
    assert columns(fitted)[2][0] == 9


def test_bytes_of_a_file_are_taken_as_they_are():
    given = hatches.softsign().SerializeToString()
    feature = onnx_op(given, [x])
    assert base64.b64decode(feature.params["model"]) == given
    assert feature.key == onnx_op(hatches.softsign(), [x]).key


def test_several_columns_are_numbered():
    fitted = fit(turned=onnx_op(hatches.turned(), [x, y], width=2))
    assert fitted.feature_names == ("turned_0", "turned_1")
    assert columns(fitted)[1] == [-2, -3]


def test_a_column_of_another_feature_may_not_be_named_alike():
    turned = onnx_op(hatches.turned(), [x, y], width=2)
    with pytest.raises(DeclarationError, match="turned_0 to turned_1; rename feature 'turned_1'"):
        fit(turned=turned, turned_1=x)


@pytest.mark.parametrize("width", [10_001, 10**15, 1, 0, -1, 2.0, "2", True, None])
def test_a_file_cannot_have_columns_without_end(width: Any):
    """Their names alone would fill the memory of whoever reads it."""
    file = fit(turned=onnx_op(hatches.turned(), [x, y], width=2)).to_json()
    file["spec"]["features"][0]["expression"]["width"] = width
    with pytest.raises(FeaturesCorrupt, match="width"):
        Fitted.from_json(file)


def test_what_overflows_float32_on_the_way_in_is_infinite_there():
    feature = onnx_op(hatches.tree(), [x])
    fitted = FeatureSet("hatched", version=1, features={"f": feature}).fit({"x": [1.0]}, quiet=True)
    assert fitted.transform({"x": [1e300, -1e300]}, quiet=True).tolist() == [[5], [2]]


def test_graphs_do_not_meet_each_others_names_nor_ours():
    """The same graph twice, over each other, with names that ours and the model's have too."""
    soft = onnx_op(hatches.softsign(), [x])
    fitted = fit(one=soft, two=onnx_op(hatches.softsign(), [soft]), sum=x + y)
    assert columns(fitted)[0] == [0.5, 0.3333, 1.0]
    fused = Session(fitted.fuse(model_of_names(3)).SerializeToString())
    score, features = fused.run(np.array([[1.0, 0.0]]))
    assert score.tolist() == [[3.0, -3.0, 3.0]]
    assert features.astype(float).round(4).tolist() == [[0.5, 0.3333, 1.0]]


def model_of_names(width: int) -> onnx.ModelProto:
    """Is 3, -3, 3 for 0.5, 0.33, 1: rounds away what is small, with names as in the graphs."""
    nodes = [
        node("Greater", "x c0", "h0_n0"),
        helper.make_node("Where", ["h0_n0", "three", "n0"], ["score"]),
    ]
    made = helper.make_graph(
        nodes,
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", width])],
        [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("c0", 0.4), ("three", 3), ("n0", -3))
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_model_with_a_later_version_of_ml_goes_with_a_tree_of_an_earlier_one():
    fitted = fit(tree=onnx_op(hatches.tree(), [x]), y=y)
    model = model_of_names(2)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 4))
    fused = fitted.fuse(model)
    assert {o.domain: o.version for o in fused.opset_import} == {"": 21, "ai.onnx.ml": 4}
    assert Session(fused.SerializeToString()).run(np.array([[1.0, 0.0]]))[1].tolist() == [[2, 0]]


def test_the_model_knows_which_operators_came_with_it():
    assert foreign_operators([x.log(), y]) == set()
    assert foreign_operators([onnx_op(hatches.softsign(), [x]) + 1]) == {"Abs", "Add", "Div"}


def test_before_a_step_its_result_is_rounded_as_that_of_a_logarithm():
    """Its last bits may be the processor's affair too."""
    assert onnx_op(hatches.softsign(), [x]).floor().args[0].op == "settle/1"


def test_a_graph_keeps_its_later_version_of_ml_beside_a_model_without():
    later = hatches.tree()
    later.opset_import[1].version = 4
    fused = fit(tree=onnx_op(later, [x]), y=y).fuse(model_of_names(2))
    assert {o.domain: o.version for o in fused.opset_import} == {"": 21, "ai.onnx.ml": 4}


# identity


def test_the_bytes_are_part_of_the_definition_and_come_back():
    fitted = fit(soft=onnx_op(hatches.softsign(), [x]))
    back = Fitted.from_json(json.loads(json.dumps(fitted.to_json())))
    assert back.spec_digest == fitted.spec_digest
    assert columns(back)[:2] == columns(fitted)[:2]
    other = hatches.softsign()
    other.doc_string = "the same, computed alike"
    assert fit(soft=onnx_op(other, [x])).spec_digest != fitted.spec_digest


def test_a_graph_is_shown_by_its_digest():
    given = hatches.softsign()
    shown = repr(onnx_op(given, [x]))
    assert shown == f"onnx(number('x'), sha256={sha256(given.SerializeToString())[:12]})"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# refused for what it is


def one(op: str, **attributes: Any) -> onnx.ModelProto:
    return graph([node(op, "x", **attributes)])


def with_branches() -> onnx.ModelProto:
    branch = helper.make_graph(
        [node("Neg", "x", "z")], "b", [], [helper.make_tensor_value_info("z", 11, None)]
    )
    nodes = [node("If", "yes", then_branch=branch, else_branch=branch)]
    return graph(nodes, constants={"yes": np.array(True)})


def with_function() -> onnx.ModelProto:
    model = one("Neg")
    body = [node("Abs", "a", "b")]
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, opsets))
    return model


def with_constant_elsewhere() -> onnx.ModelProto:
    model = hatches.softsign()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "elsewhere.bin"
    return model


def with_two_outputs() -> onnx.ModelProto:
    model = graph([node("Neg", "x"), node("Abs", "x", "z")])
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, ["n", 1]))
    return model


def large() -> onnx.ModelProto:
    constants = {"c": np.zeros(LARGEST_BYTES // 8)}
    return graph([node("ReduceMax", "c", "m", keepdims=0), node("Add", "x m")], constants=constants)


def giving_integers() -> onnx.ModelProto:
    model = graph([node("Cast", "x", to=TensorProto.INT64)])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def encoding_labels() -> onnx.ModelProto:
    """As ai.onnx.ml 1 did, which means something else from 2 on."""
    nodes = [
        node("Cast", "x", "code", to=TensorProto.INT64),
        node("LabelEncoder", "code", "text", domain="ai.onnx.ml", classes_strings=["1", "2"]),
        node("Cast", "text", to=TensorProto.DOUBLE),
    ]
    return graph(nodes, opsets={"": 21, "ai.onnx.ml": 1})


def in_domain(domain: str) -> onnx.ModelProto:
    return graph([node("Neg", "x")], opsets={"": 21, domain: 1})


IS_REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no graph": (lambda: "model.onnx", "the graph is a str; give an onnx.ModelProto or the bytes"),
    "broken": (lambda: b"\x00\x01", "no valid ONNX graph"),
    "invalid": (lambda: graph([node("Neg", "nowhere")]), "no valid ONNX graph"),
    "large": (large, r"has 1,0\d\d,\d{3} bytes, at most 1,048,576"),
    "opset": (lambda: graph([node("Neg", "x")], opsets={"": 20}), "expected 21 of the standard"),
    "domain": (lambda: in_domain("com.microsoft"), "com.microsoft.*expected 21 of the standard"),
    "functions": (with_function, "has functions; onnx.inliner"),
    "branches": (with_branches, "has If, with a graph inside it"),
    "random": (lambda: one("RandomNormalLike"), "has RandomNormalLike, which gives another"),
    "dropout": (lambda: one("Dropout"), "has Dropout, which gives another"),
    "external": (with_constant_elsewhere, "in another file|no valid ONNX"),
    "no input": (
        lambda: graph([node("Neg", "c")], inputs=[], constants={"c": np.zeros((1, 1))}),
        r"inputs are none; for 1 expressions",
    ),
    "two inputs": (hatches.turned, r"'a' DOUBLE \[n, 1\], 'b' DOUBLE \[n, 1\]; for 1 exp"),
    "wide": (lambda: graph([node("Neg", "x")], inputs=[("x", 2)], width=2), r"\[n, 2\]; for 1"),
    "one row": (lambda: graph([node("Neg", "x")], rows=1), r"\[1, 1\]; for 1 expressions"),
    "outputs": (with_two_outputs, "has 2 outputs; expected one"),
    "integers": (giving_integers, r"'y' INT64 \[n, 1\] is neither float64 nor float32"),
    "labels of ml 1": (encoding_labels, "LabelEncoder.*of ai.onnx.ml 1, .* export it with"),
    "a tree of ml 5": (
        lambda: graph(
            [node("TreeEnsemble", "x", domain="ai.onnx.ml")], opsets={"": 21, "ai.onnx.ml": 5}
        ),
        "TreeEnsemble|no valid ONNX",
    ),
}


@pytest.mark.parametrize("what", IS_REFUSED)
def test_a_graph_that_is_none_of_the_kind_is_refused(what: str):
    given, words = IS_REFUSED[what]
    with pytest.raises(DeclarationError, match=words):
        onnx_op(given(), [x])


def test_an_input_given_on_as_it_is_is_refused():
    model = graph([node("Neg", "x", "unused")])
    model.graph.output[0].name = "x"
    with pytest.raises(DeclarationError, match="no node computes the output 'x'; end with Ident"):
        onnx_op(model, [x])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "one expression at least"),
        ([3.0], "constants belong into the graph"),
        ([category("c")], "is a category; make a number of it first"),
        ([x.cyclic(7)], "is several columns"),
    ],
    ids=["none", "a constant", "a category", "columns"],
)
def test_what_is_no_number_is_no_input(inputs: Any, words: str):
    with pytest.raises(DeclarationError, match=words):
        onnx_op(hatches.softsign(), inputs)


# refused for what it does


def gathering() -> onnx.ModelProto:
    """Looks up a table without a guard."""
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "table i")]
    return graph(nodes, constants={"table": np.arange(20.0)})


def meeting_its_neighbours() -> onnx.ModelProto:
    """Takes off the mean of the batch."""
    nodes = [node("ReduceMean", "x axes", "m", keepdims=1), node("Sub", "x m")]
    return graph(nodes, constants={"axes": np.array([0])})


def logarithm(dtype: int) -> onnx.ModelProto:
    """Of the magnitude: onnxruntime has two routines for float32, one for several rows at once."""
    return graph([node("Abs", "x", "size"), node("Log", "size")], dtype=dtype)


def dropping_nulls() -> onnx.ModelProto:
    """As many rows as there are numbers."""
    nodes = [
        node("IsNaN", "x", "n"),
        node("Not", "n", "known"),
        node("Squeeze", "known axes", "flat"),
        node("Compress", "x flat", axis=0),
    ]
    return graph(nodes, constants={"axes": np.array([1])}, width=1, rows="n")


def without_kernel() -> onnx.ModelProto:
    return one("Asin")


DOES_WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], int, str]] = {
    "raises": (gathering, 1, r"raises on row \[.*\].*guard with IsNaN"),
    "neighbours": (meeting_its_neighbours, 1, r"row \[.*\] gives another result in a batch of 238"),
    "shape": (dropping_nulls, 1, r"of 1 rows the graph makes \[0, 1\], expected \[1, 1\]"),
    "last bits": (
        lambda: logarithm(TensorProto.FLOAT),
        1,
        r"row \[.*\] gives another result in a batch of \d+ than alone.* in float64",
    ),
    "no kernel": (without_kernel, 1, "onnxruntime cannot run the graph"),
    "width": (lambda: graph([node("Concat", "x x", axis=1)], width=2), 1, r"width= says how many"),
}


@pytest.mark.parametrize("what", DOES_WRONG)
def test_a_graph_that_does_not_do_as_an_operator_must_is_refused(what: str):
    given, count, words = DOES_WRONG[what]
    inputs = [number(f"x{index}") for index in range(count)]
    with pytest.raises(DeclarationError, match=words):
        onnx_op(given(), inputs)


def test_the_same_in_float64_is_fine():
    assert onnx_op(logarithm(TensorProto.DOUBLE), [x]).op == "onnx/1"
