"""The graph: few nodes, nothing exotic in it, total, and the same bits when fused with a model."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from features import (
    Boolean,
    DeclarationError,
    Expression,
    FeatureSet,
    Fitted,
    Number,
    boolean,
    category,
    cross,
    elapsed,
    maximum,
    minimum,
    number,
    onnx_op,
    safe_div,
    timestamp,
    where,
)
from features.ops import OPS
from features.runtime import Session
from tests import hatches

ROWS = 60
x, y = number("x"), number("y")
yes = boolean("yes")
city, town = category("city"), category("town")
left, seen = timestamp("left", tz="America/New_York"), timestamp("seen")

EVERY_OPERATOR: dict[str, Expression] = {
    "impute": x.impute("median"),
    "missing": city.is_null() | x.is_null(),
    "clip": x.clip(-2, 2),
    "standardize": x.standardize(),
    "min_max": x.min_max(),
    "robust": x.robust_scale(),
    "log": x.log(),
    "log1p": x.log1p(),
    "exp": x.exp(),
    "sqrt": x.sqrt(),
    "abs": x.abs(),
    "power": x.power(1.7),
    "round": x.round(),
    "floor": x.log().floor(),
    "bucket": x.bucketize(bins=4),
    "values": x.one_hot([0, 1]),
    "wave": x.cyclic(5),
    "sum": x + y,
    "difference": x - y,
    "product": x * y,
    "quotient": x / y,
    "safe": safe_div(x, y, default=0),
    "min": minimum(x, y),
    "max": maximum(x, y),
    "less": (x < y) & ~yes,
    "less_equal": x <= y,
    "equal": x == y,
    "chosen": where(x > 0, x, y),
    "city": city.one_hot(unknown=True, missing=True),
    "ordinal": city.ordinal(),
    "share": city.frequency(),
    "mean": city.target_mean(),
    "price": city.lookup({"a": 1.5}),
    "pair": cross(city, town).one_hot(unknown=True),
    "soft": onnx_op(hatches.softsign(), [x]),
    "turned": onnx_op(hatches.turned(), [x, y], width=2),
    "minute": left.minute(),
    "hour": left.hour(),
    "weekday": left.weekday(),
    "day": left.day(),
    "month": left.month(),
    "year": left.year(),
    "age": elapsed(left, seen),
}


def nodes_below(expression: Expression) -> Iterator[Expression]:
    yield expression
    for operand in expression.args:
        yield from nodes_below(operand)


@cache
def everything() -> Fitted:
    """Every operator of the catalogue in one graph."""
    rng = np.random.default_rng(1)
    at = np.datetime64("2020-01-01T00:00:00") + rng.integers(0, 10**8, ROWS)
    rows = {
        "x": rng.normal(0, 3, ROWS),
        "y": rng.integers(-1, 2, ROWS).astype(float),
        "yes": rng.random(ROWS) < 0.5,
        "city": rng.choice(["a", "b", "c"], ROWS),
        "town": rng.choice(["d", "e"], ROWS),
        "left": at,
        "seen": [f"{text}Z" for text in at],
    }
    definition = FeatureSet("everything", version=1, features=EVERY_OPERATOR)
    return definition.fit(rows, rng.random(ROWS), quiet=True)


def test_every_operator_of_the_catalogue_is_compiled_here():
    used = {node.op for root in EVERY_OPERATOR.values() for node in nodes_below(root)}
    assert OPS.keys() <= used


def canonical(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits, with one spelling of null."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def assert_same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(canonical(one), canonical(other), strict=True)


# few nodes


def compiled(width: int, feature: Callable[[int], Expression]) -> Counter[str]:
    """Types of the nodes of a set with one feature over each of `width` fields or pairs of them."""
    rng = np.random.default_rng(0)
    features = {f"f{index}": feature(index) for index in range(width)}
    definition = FeatureSet("wide", version=1, features=features)
    values = {
        "number": rng.gamma(2, 3, ROWS),
        "boolean": rng.random(ROWS) < 0.5,
        "category": rng.choice(["a", "b"], ROWS),
        "timestamp": [f"2024-01-{day:02}T00:00Z" for day in rng.integers(1, 29, ROWS)],
    }
    rows = {field.name: values[field.kind] for field in definition.fields}
    model = definition.fit(rows, rng.random(ROWS), quiet=True).model()
    return Counter(node.op_type for node in model.graph.node)


def test_a_hundred_numbers_with_four_operators_each_are_at_most_twenty_nodes():
    def feature(index: int) -> Expression:
        clipped = number(f"x{index}").impute("median").clip(quantiles=(0.01, 0.99))
        return clipped.log1p().standardize()

    assert compiled(100, feature).total() <= 20


@pytest.mark.parametrize(
    ("low", "field_low", "raises"), [(0, 0, 0), (-1, 0, 0), (1, 0, 1), (0, -1, 1), (0, None, 1)]
)
def test_a_number_that_cannot_be_below_the_lower_bound_is_not_raised_to_it(
    low: float, field_low: float | None, raises: int
):
    def feature(index: int) -> Expression:
        return number(f"x{index}", low=field_low).clip(low, 5)

    nodes = compiled(3, feature)
    assert (nodes["Max"], nodes["Min"]) == (raises, 1)


def of_number(made: Callable[[Number], Expression]) -> Callable[[int], Expression]:
    return lambda index: made(number(f"x{index}"))


def of_two(made: Callable[[Number, Number], Expression]) -> Callable[[int], Expression]:
    return lambda index: made(number(f"x{index}"), number(f"y{index}"))


ONE_NODE_EACH: dict[str, Callable[[int], Expression]] = {
    "impute": of_number(lambda a: a.impute("mean")),
    "is_null": of_number(lambda a: a.is_null()),
    "clip": of_number(lambda a: a.clip(1, 2)),
    "standardize": of_number(lambda a: a.standardize()),
    "min_max": of_number(lambda a: a.min_max()),
    "robust_scale": of_number(lambda a: a.robust_scale()),
    "log": of_number(lambda a: a.log()),
    "log1p": of_number(lambda a: a.log1p()),
    "exp": of_number(lambda a: a.exp()),
    "sqrt": of_number(lambda a: a.sqrt()),
    "abs": of_number(lambda a: a.abs()),
    "power": of_number(lambda a: a.power(1.5)),
    "round": of_number(lambda a: a.round()),
    "floor": of_number(lambda a: a.floor()),
    "settle": of_number(lambda a: a.log().floor()),
    "bucketize": of_number(lambda a: a.bucketize(bins=4)),
    "one_hot of a number": of_number(lambda a: a.one_hot([1, 2])),
    "cyclic": of_number(lambda a: a.cyclic(7)),
    "add": of_two(lambda a, b: a + b),
    "subtract": of_two(lambda a, b: a - b),
    "multiply": of_two(lambda a, b: a * b),
    "divide": of_two(lambda a, b: a / b),
    "safe_div": of_two(lambda a, b: safe_div(a, b, default=1)),
    "minimum": of_two(minimum),
    "maximum": of_two(maximum),
    "less": of_two(lambda a, b: a < b),
    "less_equal": of_two(lambda a, b: a <= b),
    "equal": of_two(lambda a, b: a == b),
    "not": lambda index: ~boolean(f"b{index}"),
    "and": lambda index: boolean(f"a{index}") & boolean(f"b{index}"),
    "or": lambda index: boolean(f"a{index}") | boolean(f"b{index}"),
    "where": lambda index: where(boolean(f"b{index}"), number(f"x{index}"), number(f"y{index}")),
    "one_hot": lambda index: category(f"c{index}").one_hot(),
    "category.is_null": lambda index: category(f"c{index}").is_null(),
    "ordinal": lambda index: category(f"c{index}").ordinal(),
    "frequency": lambda index: category(f"c{index}").frequency(),
    "target_mean": lambda index: category(f"c{index}").target_mean(),
    "lookup": lambda index: category(f"c{index}").lookup({"a": index}),
    "cross": lambda index: cross(category(f"c{index}"), category(f"d{index}")).frequency(),
    "minute": lambda index: timestamp(f"t{index}").minute(),
    "hour": lambda index: timestamp(f"t{index}").hour(),
    "weekday": lambda index: timestamp(f"t{index}").weekday(),
    "day": lambda index: timestamp(f"t{index}").day(),
    "month": lambda index: timestamp(f"t{index}").month(),
    "year": lambda index: timestamp(f"t{index}").year(),
    "elapsed": lambda index: elapsed(timestamp(f"t{index}"), timestamp(f"u{index}")),
}


@pytest.mark.parametrize("operator", ONE_NODE_EACH)
def test_an_operator_over_many_fields_has_as_many_nodes_as_one_over_two(operator: str):
    feature = ONE_NODE_EACH[operator]
    assert compiled(40, feature).total() == compiled(2, feature).total()


def test_many_one_hot_columns_are_not_gathered_one_by_one():
    nodes = compiled(40, lambda index: category(f"c{index}").one_hot())
    assert nodes["MatMul"] == 1
    assert not nodes["Gather"]


def test_columns_that_an_operator_leaves_alone_cost_no_node():
    def every_other(index: int) -> Expression:
        imputed = number(f"x{index}").impute(0)
        return imputed.clip(1, 2).standardize() if index % 2 else imputed

    every = of_number(lambda a: a.impute(0).clip(1, 2).standardize())
    assert compiled(10, every_other) == compiled(10, every)


def test_a_computation_that_two_features_share_is_done_once():
    features: dict[str, Expression] = {f"f{i}": number("x").log() + i for i in range(6)}
    fitted = FeatureSet("shared", version=1, features=features).fit({"x": [1.0]}, quiet=True)
    graph = onnx.shape_inference.infer_shapes(fitted.model()).graph
    (log,) = [node.output[0] for node in graph.node if node.op_type == "Log"]
    (shape,) = [v.type.tensor_type.shape for v in graph.value_info if v.name == log]
    assert shape.dim[1].dim_value <= 2  # two, as logarithms are computed in pairs


# a plain graph


def graphs() -> list[onnx.ModelProto]:
    return [everything().model(), everything().fuse(two_layers(), checks=[x < y])]


@pytest.mark.parametrize("which", [0, 1], ids=["features", "fused"])
def test_the_graph_is_plain(which: int):
    model = graphs()[which]
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert {o.domain: o.version for o in model.opset_import} == {"": 21, "ai.onnx.ml": 3}
    assert not model.functions
    assert not model.graph.sparse_initializer
    assert [value.name for value in model.graph.input] == ["row"]
    for node in model.graph.node:
        assert node.domain in ("", "ai.onnx.ml")
        assert not any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        assert not node.op_type.startswith(("Random", "Bernoulli", "Multinomial", "Dropout"))
    for tensor in model.graph.initializer:
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data


@pytest.mark.parametrize("which", [0, 1], ids=["features", "fused"])
def test_every_node_has_a_name_of_its_own(which: int):
    names = [node.name for node in graphs()[which].graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_input_and_output_are_as_the_format_says():
    graph = everything().model().graph
    (row,), (features,) = graph.input, graph.output
    assert (row.name, row.type.tensor_type.elem_type) == ("row", TensorProto.DOUBLE)
    assert (features.name, features.type.tensor_type.elem_type) == ("features", TensorProto.FLOAT)
    rows, width = row.type.tensor_type.shape.dim
    assert (rows.dim_param, width.dim_value) == ("n", len(everything().fields))
    rows, width = features.type.tensor_type.shape.dim
    assert (rows.dim_param, width.dim_value) == ("n", len(everything().feature_names))


def test_compiling_twice_gives_the_same_bytes():
    one, other = (everything().model().SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


# total

EXTREME = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0**53, -(2.0**53), 1e18, -1e18, 2.0**63, -(2.0**63)),
    *(np.inf, -np.inf, np.nan, 1.7976931348623157e308, -1.7976931348623157e308, 1e300),
    *(5e-324, -5e-324, 2.2e-308, -253402300800.0, 253402300800.0, -62135596800.0),
)


@cache
def session() -> Session:
    return Session(everything().model().SerializeToString())


def features_of(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return session().run(rows)[0]


def assert_total(rows: NDArray[np.float64]) -> None:
    batch = features_of(rows)
    assert batch.shape == (len(rows), len(everything().feature_names))
    assert not np.isinf(batch).any()
    for index in range(len(rows)):
        assert_same_bits(features_of(rows[index : index + 1]), batch[index : index + 1])


@pytest.mark.parametrize("value", EXTREME)
def test_no_row_of_one_value_raises_or_gives_infinity(value: float):
    assert_total(np.full((3, len(everything().fields)), value))


@pytest.mark.parametrize("code", [2.0**29, 2.0**31, -(2.0**31), 2.0**32, 2.0**53])
def test_a_code_that_no_table_has_is_the_same_alone_and_in_a_batch(code: float):
    width = len(everything().fields)
    assert_total(np.stack([np.zeros(width), np.full(width, code)]))


def test_rows_of_all_extremes_raise_nothing_alone_or_in_a_batch():
    rng = np.random.default_rng(3)
    assert_total(rng.choice(EXTREME, (500, len(everything().fields))))


@given(st.data())
def test_no_row_of_floats_raises(data: st.DataObject):
    width = len(everything().fields)
    value = st.floats(width=64) | st.sampled_from(EXTREME)
    row = st.lists(value, min_size=width, max_size=width)
    assert_total(np.array(data.draw(st.lists(row, min_size=1, max_size=5))))


def test_no_rows_give_no_features():
    assert features_of(np.empty((0, len(everything().fields)))).shape[0] == 0


# fused


def two_layers(
    width: int | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 21,
    output: str = "score",
) -> onnx.ModelProto:
    """A model [n, width] -> score [n, 2], with names that ours could collide with."""
    inputs = len(everything().feature_names) if width is None else width
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weights = np.random.default_rng(5).normal(0, 1, (inputs, 2)).astype(kind)
    nodes = [
        helper.make_node("IsNaN", ["row"], ["n0_IsNaN"]),
        helper.make_node("Where", ["n0_IsNaN", "c0", "row"], ["n1"]),
        helper.make_node("MatMul", ["n1", "c1"], ["n2"]),
        helper.make_node("Tanh", ["n2"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("row", dtype, ["n", inputs])],
        [helper.make_tensor_value_info(output, dtype, ["n", 2])],
        [
            numpy_helper.from_array(np.array(0, kind), "c0"),
            numpy_helper.from_array(weights, "c1"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def encoded_rows(count: int) -> NDArray[np.float64]:
    """Rows as the encoders give them, with nulls."""
    rng = np.random.default_rng(9)
    draw: dict[str, Callable[[], Any]] = {
        "number": lambda: rng.normal(0, 3, count),
        "boolean": lambda: rng.integers(0, 2, count),
        "category": lambda: rng.integers(0, 5, count),
        "timestamp": lambda: rng.integers(0, 2_000_000_000, count),
    }
    rows = np.stack([draw[field.kind]() for field in everything().fields], axis=1).astype(float)
    is_category = np.array([field.kind == "category" for field in everything().fields])
    rows[(rng.random(rows.shape) < 0.1) & ~is_category] = np.nan
    return rows


@pytest.mark.parametrize("batch_rows", [1, 7, 64])
def test_the_fused_graph_has_the_bits_of_two_sessions(batch_rows: int):
    fused = Session(everything().fuse(two_layers()).SerializeToString())
    model = Session(two_layers().SerializeToString())
    assert fused.outputs == ("score", "features")
    rows = encoded_rows(64)
    for start in range(0, len(rows), batch_rows):
        part = rows[start : start + batch_rows]
        score, features = fused.run(part)
        alone = features_of(part)
        assert_same_bits(features, alone)
        assert_same_bits(score, model.run(alone)[0])


def test_outputs_of_the_model_come_first_then_features_then_checks():
    fused = everything().fuse(two_layers(output="odds"), checks=[x < y, yes])
    assert [output.name for output in fused.graph.output] == ["odds", "features", "checks"]


def test_checks_hold_unless_they_are_false():
    checks = [x < y, ~x.is_null()]
    fused = Session(everything().fuse(two_layers(), checks=checks).SerializeToString())
    names = [field.name for field in everything().fields]
    rows = np.zeros((3, len(names)))
    rows[:, names.index("x")] = [1.0, -1.0, np.nan]
    assert fused.run(rows)[2].tolist() == [[False, True], [True, True], [True, False]]


def test_the_model_given_to_fuse_is_left_as_it_was():
    model = two_layers()
    before = model.SerializeToString(deterministic=True)
    everything().fuse(model)
    assert model.SerializeToString(deterministic=True) == before


def with_ml(version: int, operator: str = "Scaler", **attributes: Any) -> onnx.ModelProto:
    """A model [n, width] -> score, with an operator of ai.onnx.ml in front of its output."""
    model = two_layers(output="scores")
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", version))
    last = helper.make_node(operator, ["scores"], ["score"], domain="ai.onnx.ml", **attributes)
    model.graph.node.append(last)
    model.graph.output[0].name = "score"
    return model


@pytest.mark.parametrize(("wanted", "used"), [(1, 3), (3, 3), (4, 4), (5, 4)])
def test_ai_onnx_ml_has_a_version_that_the_model_and_the_features_can_share(wanted: int, used: int):
    fused = everything().fuse(with_ml(wanted, offset=[0.0], scale=[2.0]))
    assert {o.domain: o.version for o in fused.opset_import} == {"": 21, "ai.onnx.ml": used}
    rows = encoded_rows(3)
    plain = Session(everything().fuse(two_layers()).SerializeToString()).run(rows)[0]
    assert_same_bits(Session(fused.SerializeToString()).run(rows)[0], plain * np.float32(2))


def with_two_inputs() -> onnx.ModelProto:
    model = two_layers()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 1]))
    return model


def with_domain(domain: str) -> onnx.ModelProto:
    model = two_layers()
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def with_function() -> onnx.ModelProto:
    model = two_layers()
    body = [helper.make_node("Abs", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], body, opsets))
    return model


def a_name_of_ours() -> str:
    return everything().model().graph.node[0].output[0]


WIDTH = "[n, {width}]"
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "width": (lambda: two_layers(3), ["'row' is FLOAT", "3", "the features are float32", WIDTH]),
    "dtype": (lambda: two_layers(dtype=TensorProto.DOUBLE), ["DOUBLE", "float32", WIDTH]),
    "opset": (lambda: two_layers(opset=20), ["20", "expected opset 21"]),
    "inputs": (with_two_inputs, ["2 inputs", "expected one, float32", WIDTH]),
    "domain": (lambda: with_domain("com.microsoft"), ["com.microsoft", "expected opset 21"]),
    "trees of ai.onnx.ml 5": (
        lambda: with_ml(5, "TreeEnsemble"),
        ["'TreeEnsemble'", "ai.onnx.ml 3"],
    ),
    "old labels": (lambda: with_ml(1, "LabelEncoder"), ["'LabelEncoder'", "ai.onnx.ml 3"]),
    "functions": (with_function, ["1 functions", "expected opset 21"]),
    "output": (lambda: two_layers(output="features"), ["'features'", "rename"]),
    "inner name": (lambda: two_layers(output=a_name_of_ours()), [a_name_of_ours(), "rename"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_that_does_not_fit_is_refused_with_both_sides_named(what: str):
    model, words = REFUSED[what]
    with pytest.raises(DeclarationError) as refused:
        everything().fuse(model())
    missing = [
        word
        for word in words
        if word.format(width=len(everything().feature_names)) not in str(refused.value)
    ]
    assert not missing, str(refused.value)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (x + y, r"check add\(number\('x'\), number\('y'\)\) is no truth value; compare it"),
        (number("z") > 0, r"number\('z'\), which no feature does; the record's fields are 'x'"),
        (number("x", low=0) > 0, r"reads number\('x'\), which no feature does"),
        (x > x.impute("mode"), r"impute.*learned from training rows.*give the constant yourself"),
    ],
    ids=["a number", "an unknown field", "a field declared otherwise", "something learned"],
)
def test_a_check_that_cannot_be_one_is_refused(check: Boolean, words: str):
    with pytest.raises(DeclarationError, match=words):
        everything().fuse(two_layers(), checks=[check])
