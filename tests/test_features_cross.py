"""A cross: which pairs it learns, what null and unknown are in it, and what it refuses."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import (
    Category,
    DeclarationError,
    Expression,
    FeatureSet,
    FitError,
    Fitted,
    category,
    cross,
    number,
)

a, b = category("a"), category("b")
TABLE = {"a": ["x", "x", "y", None, "x", "y", "y"], "b": ["1", "2", "1", "1", "1", None, "2"]}


def fit(expression: Expression, table: dict[str, Any] = TABLE, target: Any = None) -> Fitted:
    features = {"f": expression}
    return FeatureSet("crossed", version=1, features=features).fit(table, target, quiet=True)


def column(fitted: Fitted, *records: tuple[str | None, str | None]) -> list[float | None]:
    """The one feature of records with these two values, null as None."""
    encoded = fitted.encode_records([{"a": one, "b": other} for one, other in records])
    found = fitted.transform(encoded, quiet=True)[:, 0].tolist()
    return [None if math.isnan(value) else value for value in found]


def pairs_of(crossed: Category, table: dict[str, Any] = TABLE) -> list[list[str | None]]:
    fitted = fit(crossed.ordinal(), table)
    return fitted.states[crossed.key]["pairs"]


# learning


def test_the_most_frequent_pair_comes_first_and_of_equals_the_one_of_the_first_codes():
    assert pairs_of(cross(a, b)) == [["x", "1"], ["x", "2"], ["y", "1"], ["y", "2"]]


def test_no_more_pairs_are_learned_than_wanted_and_the_rest_are_unknown():
    few = cross(a, b, max_pairs=2)
    assert pairs_of(few) == [["x", "1"], ["x", "2"]]
    fitted = fit(few.one_hot(unknown=True, missing=True))
    assert fitted.feature_names == ("f=x&1", "f=x&2", "f#unknown", "f#missing")
    found = fitted.transform({"a": ["x", "y"], "b": ["2", "1"]}, quiet=True)
    assert found.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_where_null_is_a_value_it_has_pairs_of_its_own():
    found = pairs_of(cross(a, b, null="value"))
    assert found[0] == ["x", "1"]
    assert ["y", None] in found
    assert [None, "1"] in found


@pytest.mark.parametrize("null", ["missing", "value"])
def test_what_is_unknown_in_training_is_in_no_pair(null: Any):
    known = category("a", vocabulary=["x"])
    table = {"a": ["x", "z", "z", "z"], "b": ["1", "1", "1", None]}
    assert pairs_of(cross(known, b, null=null), table) == [["x", "1"]]


PAIRS = st.tuples(st.sampled_from(["p", "q", "r", None]), st.sampled_from(["s", "t", "u", None]))


@settings(max_examples=40)
@given(rows=st.lists(PAIRS, min_size=1, max_size=30), limit=st.integers(1, 9), keeps=st.booleans())
def test_what_is_learned_is_a_count(rows: list[Any], limit: int, keeps: bool):
    rows = [*rows, ("p", "s")]
    crossed = cross(a, b, max_pairs=limit, null="value" if keeps else "missing")
    table = {"a": [one for one, _ in rows], "b": [other for _, other in rows]}
    counts = Counter(pair for pair in rows if pair.count(None) <= keeps)
    found = [(one, other) for one, other in pairs_of(crossed, table)]
    assert [counts[pair] for pair in found] == sorted(counts.values(), reverse=True)[:limit]
    assert len(set(found)) == len(found)


def test_declared_pairs_have_their_codes_in_order_and_learn_nothing():
    crossed = cross(a, b, pairs=[("y", "2"), ("x", "1"), ("x", "never seen")])
    fitted = fit(crossed.ordinal())
    assert not fitted.states
    assert column(fitted, ("x", "1"), ("y", "2"), ("x", "2")) == [1, 0, -1]


# null and unknown


@pytest.mark.parametrize(
    ("null", "expected"),
    [("missing", [0, -1, None, -1, None, None]), ("value", [0, -1, 3, -1, -1, None])],
)
def test_null_is_missing_unless_it_is_a_value(null: Any, expected: list[float | None]):
    records = [("x", "1"), ("z", "1"), (None, "1"), ("z", "z"), (None, "z"), (None, None)]
    table = {"a": ["x", "x", "x", "x", None, "y"], "b": ["1", "1", "1", "2", "1", "2"]}
    assert column(fit(cross(a, b, null=null).ordinal(), table), *records) == expected


def test_a_text_of_one_side_is_not_mistaken_for_another_pair():
    table = {"a": ["x&", "x", "#missing", None], "b": ["y", "&y", "y", "y"]}
    fitted = fit(cross(a, b, null="value").one_hot(), table)
    assert len(set(fitted.feature_names)) == len(fitted.feature_names) == 4


def test_features_over_one_cross_share_it():
    crossed = cross(a, b)
    features = {"one": crossed.ordinal(), "two": crossed.frequency(), "three": crossed.one_hot()}
    fitted = FeatureSet("crossed", version=1, features=features).fit(TABLE, quiet=True)
    operators = Counter(node.op_type for node in fitted.model().graph.node)
    assert operators["Max"] == 1  # the bound of the grid


# target means


def test_a_training_row_does_not_see_its_own_target():
    """Whatever the targets of its fold are, its column stays."""
    rng = np.random.default_rng(4)
    table = {"a": rng.choice(["x", "y"], 60), "b": rng.choice(["1", "2", "3"], 60)}
    target = rng.random(60)
    features = {"mean": cross(a, b).target_mean(smoothing=1)}
    means = FeatureSet("crossed", version=1, features=features)
    _, before = means.fit_transform(table, target, quiet=True)
    changed = target.copy()
    changed[17] += 100
    _, after = means.fit_transform(table, changed, quiet=True)
    assert before[17] == after[17]
    assert (before != after).any()


# refusals

declared = category("d", vocabulary=["p", "q"])
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a number": (lambda: cross(number("x"), b), r"number\('x'\) is no field with texts"),  # type: ignore[arg-type]
    "a cross": (lambda: cross(cross(a, b), declared), "is no field with texts"),
    "itself": (lambda: cross(a, category("a")), "on both sides"),
    "null": (lambda: cross(a, b, null="drop"), "use 'missing' or 'value'"),  # type: ignore[arg-type]
    "none": (lambda: cross(a, b, max_pairs=0), "use 1 to 100,000"),
    "both": (lambda: cross(a, b, pairs=[("x", "1")], max_pairs=3), "not both"),
    "no pairs": (lambda: cross(a, b, pairs=[]), "0 pairs; use 1 to"),
    "twice": (lambda: cross(a, b, pairs=[("x", "1"), ("x", "1")]), "a pair twice"),
    "no pair": (lambda: cross(a, b, pairs=["x1"]), "'x1' is no pair"),  # type: ignore[list-item]
    "three": (lambda: cross(a, b, pairs=[("x", "1", "2")]), "is no pair"),  # type: ignore[list-item]
    "a null": (lambda: cross(a, b, pairs=[("x", None)]), "makes null a value"),
    "two nulls": (lambda: cross(a, b, pairs=[(None, None)], null="value"), "no pair of the"),
    "a text": (lambda: cross(declared, b, pairs=[("r", "1")]), "its vocabulary has not"),
    "no integer": (lambda: cross(category("g", of="integer"), b, pairs=[("r", "1")]), "no integer"),
    "an empty table": (lambda: cross(a, b).lookup({}), "table is empty"),
    "a text alone": (lambda: cross(a, b).lookup({"x": 1.0}), "'x' is no pair"),
    "another pair": (
        lambda: cross(a, b, pairs=[("x", "1")]).lookup({("x", "2"): 1.0}),
        "none of the pairs that cross",
    ),
    "as a feature": (
        lambda: FeatureSet("crossed", version=1, features={"f": cross(a, b)}),
        r"is a category, which is no number yet; use one_hot\(\)",
    ),
    "compared": (lambda: cross(a, b) == "x", "categories are compared by lookup"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_cross_that_makes_no_sense_is_refused(what: str):
    declare, words = REFUSED[what]
    with pytest.raises(DeclarationError, match=words):
        declare()


def test_a_table_without_a_pair_teaches_nothing():
    with pytest.raises(FitError, match="no training row has a value in both"):
        fit(cross(a, b).ordinal(), {"a": ["x", None], "b": [None, "1"]})


@pytest.mark.parametrize("pairs", [None, [("0", "0")]])
def test_too_many_pairs_of_codes_are_refused(pairs: Any):
    texts = [str(index) for index in range(1500)]
    wide = [category(name, max_vocabulary=1500) for name in ("a", "b")]
    with pytest.raises(FitError, match=r"1,500 texts by 1,500 are too many .* max_vocabulary"):
        fit(cross(*wide, pairs=pairs).ordinal(), {"a": texts, "b": texts}).model()
