"""`with_state`: constants in place of fitting give what fitting gave, or are refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from features import DeclarationError, FeatureSet, Fitted, category, cross, number
from features.given import _READERS
from features.nodes import Expression, walk
from features.ops import OPS
from tests.feature_cases import CASES, fitted, table

LEARNING = [name for name in CASES if fitted(name).states]


def spelled(subject: Fitted, node: Expression) -> dict[str, Any]:
    """The state of an operator as people write it."""
    state = subject.states[node.key]
    if "table" not in state:
        return dict(state)
    texts = subject.plan.context.texts(node.args[0])
    *_, unknown, missing = state["table"]
    written = {"table": dict(zip(texts, state["table"], strict=False)), "missing": missing}
    return written | ({"unknown": unknown} if node.op == "target_mean/1" else {})


def as_given(subject: Fitted) -> dict[str, dict[str, list[Any]]]:
    given: dict[str, dict[str, list[Any]]] = {}
    for name, root in subject.feature_set.features.items():
        for node in walk(root):
            if node.key in subject.states:
                operator = node.op.partition("/")[0]
                given.setdefault(name, {}).setdefault(operator, []).append(spelled(subject, node))
    return given


@pytest.mark.parametrize("name", LEARNING)
def test_what_fit_learned_can_be_given(name: str):
    """Every operator: the same state, so the same digest and the same bits."""
    subject = fitted(name)
    learned = {
        field.name: subject.vocabularies[field.name]
        for field in subject.fields
        if field.kind == "category" and field.vocabulary is None
    }
    definition = subject.feature_set
    back = definition.with_state(as_given(subject), vocabularies=learned, rows=subject.rows)
    assert back.to_json() == subject.to_json()
    rows = subject.encode_table(table())
    assert back.transform(rows).tobytes() == subject.transform(rows).tobytes()


def test_every_operator_that_learns_can_be_given():
    assert {name for name, op in OPS.items() if op.fit is not None} == set(_READERS)


x, y = number("x"), number("y")
c, d = category("c"), category("d", vocabulary=["p", "q"])


def give(
    feature: Expression, state: Any, vocabularies: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The states of a set with this one feature, by operator."""
    definition = FeatureSet("given", version=1, features={"f": feature})
    found = definition.with_state({"f": state}, vocabularies=vocabularies).states
    return {node.op: found[node.key] for node in walk(feature) if node.key in found}


def test_a_feature_with_an_operator_twice_is_given_a_list():
    feature = x.impute("mean") - y.impute("median")
    subject = FeatureSet("given", version=1, features={"f": feature})
    given = subject.with_state({"f": {"impute": [{"value": 1}, {"value": 2}]}})
    assert [given.states[side.key] for side in feature.args] == [{"value": 1.0}, {"value": 2.0}]


def test_what_two_features_share_is_given_once():
    imputed = x.impute("mean")
    subject = FeatureSet("given", version=1, features={"a": imputed, "b": imputed * 2})
    given = subject.with_state({"b": {"impute": {"value": 1}}})
    assert given.transform({"x": [None]}, quiet=True).tolist() == [[1, 2]]
    with pytest.raises(DeclarationError, match=r"feature 'b'.* other constants in another feature"):
        subject.with_state({"a": {"impute": {"value": 2}}, "b": {"impute": {"value": 1}}})


def test_texts_that_a_table_leaves_out_are_as_never_seen():
    words = {"c": ["u", "v"]}
    share = give(c.frequency(), {"frequency": {"table": {"v": 0.5}}}, words)
    assert share == {"frequency/1": {"table": [0.0, 0.5, 0.0, 0.0]}}
    mean = give(c.target_mean(), {"target_mean": {"table": {"v": 0.5}, "unknown": 0.3}}, words)
    assert mean == {"target_mean/1": {"table": [0.3, 0.5, 0.3, 0.3]}}


def test_a_cross_is_given_pairs_and_its_tables_too():
    crossed = cross(c, d, null="value")
    state = {
        "cross": {"pairs": [("v", "p"), (None, "q")]},
        "frequency": {"table": {(None, "q"): 0.25}, "missing": 0.5},
    }
    assert give(crossed.frequency(), state, {"c": ["u", "v"]}) == {
        "cross/1": {"pairs": [["v", "p"], [None, "q"]]},
        "frequency/1": {"table": [0.0, 0.25, 0.0, 0.5]},
    }


SCALED = x.standardize()
WORDS = {"c": ["u", "v"]}
PAIRS = {"pairs": [("u", "p")]}
REFUSED: dict[str, tuple[Expression, Any, Any, str]] = {
    "nothing": (SCALED, {}, None, r"standardize\(.*\) needs 'shift', 'scale'; got None"),
    "half": (SCALED, {"standardize": {"shift": 1}}, None, "needs 'shift', 'scale'; got"),
    "too much": (
        SCALED,
        {"standardize": {"shift": 1, "scale": 1, "mean": 1}},
        None,
        "needs 'shift', 'scale'; got",
    ),
    "another operator": (SCALED, {"impute": {"value": 1}}, None, r"of which \['standardize'\]"),
    "no operators": (x.abs(), {"abs": {}}, None, "of which none learn"),
    "no mapping": (SCALED, 7, None, "expected constants by operator"),
    "a text": (x.impute(), {"impute": {"value": "1"}}, None, "value='1'; expected a finite"),
    "true": (x.impute(), {"impute": {"value": True}}, None, "value=True; expected a finite"),
    "infinite": (x.impute(), {"impute": {"value": float("inf")}}, None, "value=inf; expected"),
    "scale": (SCALED, {"standardize": {"shift": 1, "scale": 0}}, None, "scale=0.0; it must be ab"),
    "bounds": (
        x.clip(quantiles=(0, 1)),
        {"clip": {"low": 2, "high": 1}},
        None,
        "low=2.0 above high=1.0",
    ),
    "edges": (
        x.bucketize(bins=4),
        {"bucketize": {"edges": [2, 1]}},
        None,
        r"edges \[2.0, 1.0\]; expected 1 to 3, asc",
    ),
    "too many edges": (
        x.bucketize(bins=2),
        {"bucketize": {"edges": [1, 2]}},
        None,
        "expected 1 to 1, asc",
    ),
    "twice": (
        x.impute() + y.impute(),
        {"impute": {"value": 1}},
        None,
        r"has 2 of 'impute', impute\(.*give a list",
    ),
    "no vocabulary": (c.ordinal(), {}, None, r"vocabulary of 'c' is missing: vocabularies=\{'c'"),
    "a vocabulary of texts twice": (c.ordinal(), {}, {"c": ["u", "u"]}, "2 texts, 1 of them diff"),
    "a declared vocabulary": (d.ordinal(), {}, {"d": ["p"]}, "whose vocabulary is learned"),
    "another field": (x, {}, {"x": ["p"]}, "is no category whose"),
    "a stranger": (
        c.frequency(),
        {"frequency": {"table": {"w": 0.5}}},
        WORDS,
        "has 'w' in its table, which the vocabulary has not",
    ),
    "a list": (c.frequency(), {"frequency": {"table": [0.5]}}, WORDS, "is a list; map texts"),
    "shares": (
        c.frequency(),
        {"frequency": {"table": {"u": 0.7, "v": 0.7}}},
        WORDS,
        "shares that add up to 1.4",
    ),
    "no prior": (
        c.target_mean(),
        {"target_mean": {"table": {"u": 0.7}}},
        WORDS,
        "needs 'table', 'unknown', and 'missing' if need be",
    ),
    "a pair of strangers": (
        cross(c, d).ordinal(),
        {"cross": {"pairs": [("w", "p")]}},
        WORDS,
        "has 'w' in a pair, which the vocabulary has not",
    ),
    "too many pairs": (
        cross(c, d, max_pairs=1).ordinal(),
        {"cross": {"pairs": [("u", "p"), ("v", "p")]}},
        WORDS,
        "has 2 pairs; max_pairs is 1",
    ),
    "a null pair": (
        cross(c, d).ordinal(),
        {"cross": {"pairs": [(None, "p")]}},
        WORDS,
        "makes null a value",
    ),
}


@pytest.mark.parametrize("listed", [None, 5, "pq", {"p": "q"}])
@pytest.mark.parametrize(
    ("feature", "operator", "entry"),
    [
        (x.bucketize(bins=4), "bucketize", "edges"),
        (cross(c, d).ordinal(), "cross", "pairs"),
    ],
)
def test_what_is_no_list_is_refused(feature: Any, operator: str, entry: str, listed: Any):
    with pytest.raises(DeclarationError, match=f"has {entry}=.*; expected a list"):
        give(feature, {operator: {entry: listed}}, WORDS if operator == "cross" else {})


def test_numbers_and_arrays_of_numpy_are_taken():
    """As other libraries have them, and in two features that share an operator."""
    bucket, scaled = x.bucketize(bins=4), x.standardize()
    subject = FeatureSet(
        "given",
        version=1,
        features={"a": bucket, "b": bucket + 1, "s": scaled, "o": c.ordinal()},
    )
    edges = {"bucketize": {"edges": np.array([1.0, 2.5])}}
    given = {
        "a": edges,
        "b": edges,
        "s": {"standardize": {"shift": np.float32(0.5), "scale": np.int64(2)}},
    }
    words: Any = {"c": np.array(WORDS["c"])}
    plain = {
        "a": {"bucketize": {"edges": [1.0, 2.5]}},
        "s": {"standardize": {"shift": 0.5, "scale": 2.0}},
    }
    plain_words = {"c": WORDS["c"]}
    taken = subject.with_state(given, vocabularies=words)
    assert (
        taken.features_digest == subject.with_state(plain, vocabularies=plain_words).features_digest
    )


@pytest.mark.parametrize("what", REFUSED)
def test_constants_that_cannot_have_been_learned_are_refused(what: str):
    feature, state, vocabularies, words = REFUSED[what]
    with pytest.raises(DeclarationError, match=words):
        give(feature, state, vocabularies)


def test_a_feature_that_is_not_there_is_named():
    subject = FeatureSet("given", version=1, features={"f": x})
    with pytest.raises(DeclarationError, match=r"\['g'\] are no features; they are \['f'\]"):
        subject.with_state({"g": {}})
