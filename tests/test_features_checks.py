"""Checks across fields, in the graph of the features: what they cost, and what they share."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from features import (
    Boolean,
    DeclarationError,
    FeatureSet,
    Fitted,
    Number,
    boolean,
    category,
    cross,
    number,
)
from features import timestamp as instant
from features.compiler import compile_values
from features.runtime import Session

NAMES = ("a", "b", "c", "d", "e", "f")
numbers = [number(name) for name in NAMES]
scaled = [field.impute("median").standardize() for field in numbers]
city, town = category("city"), category("town")
left, seen = instant("left"), instant("seen")
flag = boolean("flag")


@cache
def fitted() -> Fitted:
    features = {
        **dict(zip(NAMES, scaled, strict=True)),
        "pair": cross(city, town).frequency(),
        "age": seen - left,
        "flag": flag,
    }
    rng = np.random.default_rng(0)
    at = ["2024-01-01T00:00Z", "2024-01-02T00:00Z"]
    table = {
        **{name: rng.random(2) for name in NAMES},
        "city": ["u", "v"],
        "town": ["p", "q"],
        "flag": [True, False],
    }
    definition = FeatureSet("checked", version=1, features=features)
    return definition.fit({**table, "left": at, "seen": at}, quiet=True)


def passing_on(width: int) -> onnx.ModelProto:
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def fused(checks: Sequence[Boolean]) -> onnx.ModelProto:
    return fitted().fuse(passing_on(len(fitted().feature_names)), checks=checks)


def added(checks: Sequence[Boolean]) -> Counter[str]:
    """Types of the nodes that the checks add."""
    kinds = [Counter(n.op_type for n in fused(given).graph.node) for given in ([], checks)]
    kinds[1].subtract(kinds[0])
    return Counter({kind: count for kind, count in kinds[1].items() if count})


OF_ONE_KIND: dict[str, tuple[Callable[[int], Boolean], int]] = {
    "a bound": (lambda i: numbers[i] < i + 5.5, 3),
    "two fields": (lambda i: numbers[i] < numbers[i + 1], 4),
    "what a feature computes": (lambda i: scaled[i] < i + 3.5, 3),
    "no null": (lambda i: ~numbers[i].is_null(), 5),
}


@pytest.mark.parametrize("kind", OF_ONE_KIND)
def test_five_checks_of_one_kind_have_the_nodes_of_one(kind: str):
    check, most = OF_ONE_KIND[kind]
    one = added([check(0)])
    assert added([check(i) for i in range(5)]) == one
    assert one.total() <= most


def test_a_second_kind_costs_its_own_nodes_and_no_second_end():
    """The comparison, its answer as a number, and how both come together."""
    one = added([scaled[0] < 3.5])
    both = added([scaled[0] < 3.5, scaled[1] <= 3.5])
    assert (both - one).total() <= 4
    assert both["Not"] == one["Not"] == 1


def test_checks_read_what_features_have_computed():
    checks = [scaled[0] < 3, cross(city, town).frequency() > 0.1, (seen - left) >= 0]
    again = {"Where", "Sub", "Div", "IsNaN", "Floor", "Cast"}
    assert {kind: count for kind, count in added(checks).items() if kind in again} == {}


def test_checks_keep_their_order_whatever_they_are_computed_with():
    a, b, *_ = numbers
    checks = [a.is_null(), a < 1, a <= b, ~b.is_null(), b > 2, b < 3, b <= a]
    session = Session(fused(checks).SerializeToString())
    values = [(0.0, 2.5), (1.0, 1.0), (None, 4.0), (2.0, None)]
    rows = fitted().encode_records([{"a": x, "b": y} for x, y in values]).rows
    holds = [
        [
            x is None,
            x is None or x < 1,
            x is None or y is None or x <= y,
            y is not None,
            y is None or y > 2,
            y is None or y < 3,
            x is None or y is None or y <= x,
        ]
        for x, y in values
    ]
    assert session.run(rows)[2].tolist() == holds


def test_any_truth_value_over_the_fields_is_a_check():
    a, b, c, *_ = numbers
    checks = [
        (a < b) | (c > 1) & ~a.is_null(),
        cross(city, town).is_null() | (city.lookup({"u": 1}, default=0) == 1),
        left.hour() < 12,
        a == 1,
    ]
    session = Session(fused(checks).SerializeToString())
    records = [
        {"a": 1, "b": 2, "city": "u", "town": "p", "left": "2024-01-01T09:00Z"},
        {"a": 2, "b": 1, "c": 0, "city": "v", "town": "p", "left": "2024-01-01T19:00Z"},
        {"a": None, "city": None, "left": None},
    ]
    rows = fitted().encode_records(records).rows
    found = session.run(rows)[2]
    assert found.tolist() == [
        [True, True, True, True],
        [False, False, False, False],
        [True, True, True, True],
    ]
    alone = [session.run(rows[i : i + 1])[2][0].tolist() for i in range(len(rows))]
    assert alone == found.tolist()


def test_a_check_of_a_cross_that_no_feature_has_learned_is_refused():
    learned = cross(town, city).is_null()
    with pytest.raises(DeclarationError, match=r"has cross\(.*learned from training rows"):
        fused([learned])
    declared = cross(town, city, pairs=[("p", "u")]).is_null()
    assert fused([declared]).graph.output[-1].name == "checks"


# A check holds unless it is false: against the same truth values as the features compute them.


def truth_value(rng: random.Random, depth: int) -> Boolean:
    """Any of the catalogue's, over numbers that may be null, infinite, equal or zero."""
    if depth and rng.random() < 0.6:
        a, b = truth_value(rng, depth - 1), truth_value(rng, depth - 1)
        return rng.choice([lambda: a & b, lambda: a | b, lambda: ~a])()
    a, b = (compared(rng) for _ in range(2))
    c = rng.choice([0.0, -0.0, 1, 2, 2.5, 5e-324])
    return rng.choice(
        [
            *(lambda: a < b, lambda: a <= b, lambda: a > b, lambda: a >= b),
            *(lambda: a == b, lambda: a != b, lambda: a == c, lambda: a != c),
            *(lambda: a < c, lambda: a <= c, lambda: a > c, lambda: c > a, lambda: c >= a),
            *(a.is_null, city.is_null, lambda: left < seen, left.is_null),
            lambda: flag,
        ]
    )()


def compared(rng: random.Random) -> Number:
    x = rng.choice(numbers)
    return rng.choice([x, x, x, x / numbers[0], x * 1e300 * 1e300, -x, x.round(), left.hour()])


def test_a_check_holds_unless_it_is_false():
    rng = random.Random(8)
    values = (None, 0.0, -0.0, 1.0, 2.0, 2.5, -1.0, 5e-324)
    times = (None, "2024-01-01T01:00Z", "2024-01-01T02:00Z")
    records = [
        {
            **{name: rng.choice(values) for name in NAMES},
            "city": rng.choice((None, "u", "other")),
            "flag": rng.choice((None, True, False)),
            "left": rng.choice(times),
            "seen": rng.choice(times),
        }
        for _ in range(300)
    ]
    rows = fitted().encode_records(records).rows
    for _ in range(15):
        checks = [truth_value(rng, rng.randrange(4)) for _ in range(rng.randrange(1, 30))]
        session = Session(fused(checks).SerializeToString())
        truth = Session(compile_values(fitted().plan, checks).SerializeToString()).run(rows)[0]
        found = session.run(rows)[2]
        assert np.array_equal(found, truth != 0), checks
        alone = np.vstack([session.run(row[np.newaxis])[2] for row in rows[:20]])
        assert np.array_equal(alone, found[:20])
        assert not found.all()
        assert found.any()


def test_twenty_checks_of_four_kinds_cost_about_a_node_each():
    kinds: list[Callable[[int], Boolean]] = [
        lambda i: numbers[i] - numbers[i + 1] < i,
        lambda i: ~numbers[i].is_null() | (numbers[i + 1] > i),
        lambda i: city.lookup({"u": 1, "v": 2}, default=0) != i,
        lambda i: left.hour() >= i,
    ]
    twenty = [kind(i) for kind in kinds for i in range(5)]
    assert added(twenty).total() <= 26
    assert added(twenty) == added([kind(i) for kind in kinds for i in range(2)])
