"""Identity: what keeps a digest, what changes it, and that nothing altered is ever read."""

import copy
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features import (
    Category,
    Expression,
    FeaturesCorrupt,
    FeatureSet,
    Field,
    Fitted,
    Number,
    Timestamp,
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
from features.digests import canonical_json
from features.nodes import walk
from features.ops import OPS
from tests import hatches
from tests.feature_cases import CASES
from tests.fit_features import feature_set, summary, table

PROGRAM = Path(__file__).with_name("fit_features.py")


@cache
def fitted() -> Fitted:
    return feature_set().fit(table(), "target", quiet=True)


def run_elsewhere(argument: str, **variables: str) -> dict[str, str]:
    """What the loose program prints in a process with these variables."""
    root = str(PROGRAM.parent.parent)
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), argument],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(ran.stdout)


# the same, wherever and however it is fitted


@pytest.mark.parametrize(
    ("order", "variables"),
    [
        ("1", {"PYTHONHASHSEED": "0", "LC_ALL": "C"}),
        ("2", {"PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"}),
        ("3", {"PYTHONHASHSEED": "4242", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
        ("4", {"PYTHONHASHSEED": "random", "LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["LC_ALL"],
)
def test_digests_are_the_same_under_other_hash_seeds_locales_and_orders(order, variables):
    assert run_elsewhere(order, **variables) == summary(fitted())


@pytest.mark.parametrize("order", range(5))
def test_the_order_of_training_rows_changes_nothing_that_is_learned(order: int):
    other = feature_set().fit(table(order), "target", quiet=True)
    assert other.to_json() == fitted().to_json()


def test_features_digest_is_that_of_both_digests():
    text = f"{fitted().spec_digest}\n{fitted().state_digest}"
    assert fitted().features_digest == hashlib.sha256(text.encode()).hexdigest()


def test_identity_is_the_label_and_twelve_digits():
    assert fitted().identity == f"parcels@3+{fitted().features_digest[:12]}"


def test_refitting_keeps_label_and_definition_and_changes_the_state():
    rows = {name: values[:200] for name, values in table().items()}
    refitted = feature_set().fit(rows, "target", quiet=True)
    assert refitted.label == fitted().label == "parcels@3"
    assert refitted.spec_digest == fitted().spec_digest
    assert refitted.state_digest != fitted().state_digest
    assert refitted.features_digest != fitted().features_digest


# canonical JSON


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        (0.1, '"0x1.999999999999ap-4"'),
        ([1, 1.0], '[1,"0x1.0000000000000p+0"]'),
        ([np.float64(2), -0.0], '["0x1.0000000000000p+1","-0x0.0p+0"]'),
        (float("nan"), '"nan"'),
        (float("-inf"), '"-inf"'),
        ("Zürich", '"Z\\u00fcrich"'),
    ],
)
def test_canonical_json_has_one_spelling(value: Any, text: str):
    assert canonical_json(value) == text.encode("ascii")


# what a definition is

_KINDS: dict[str, type[Expression]] = {
    "number": Number,
    "category": Category,
    "timestamp": Timestamp,
}
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "name": ("number", {"name": "g"}),
    "nullable": ("number", {"nullable": False}),
    "description": ("number", {"description": "other words"}),
    "unit": ("number", {"unit": "km"}),
    "low": ("number", {"low": -1.0}),
    "high": ("number", {"high": 1.0}),
    "out_of_bounds": ("number", {"out_of_bounds": "clip"}),
    "from_float32": ("number", {"from_float32": True}),
    "of": ("category", {"of": "integer"}),
    "normalize": ("category", {"normalize": ("strip",)}),
    "vocabulary": ("category", {"vocabulary": ("1", "2")}),
    "max_vocabulary": ("category", {"max_vocabulary": 9}),
    "tz": ("timestamp", {"tz": "Europe/Paris"}),
    "epoch": ("timestamp", {"epoch": "ms"}),
    "sensitive": ("number", {"sensitive": "hash"}),
    "example": ("number", {"example": 3.5}),
}
"""For each attribute of a field but its kind: a kind that has it, and another value of it."""

DOCUMENTATION = {"description", "example"}


def definition(*features: Expression) -> str:
    named = {f"f{index}": feature for index, feature in enumerate(features)}
    return FeatureSet("set", version=1, features=named).spec_digest


def of_field(kind: str, **attributes: Any) -> str:
    declared: dict[str, Any] = {"name": "f", "kind": kind, **attributes}
    leaf = _KINDS[kind]("field", field=Field(**declared))
    assert isinstance(leaf, (Number, Category, Timestamp))
    return definition(leaf.is_null())


def test_every_attribute_of_a_field_is_tried():
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(Field)} - {"kind"}


@pytest.mark.parametrize("attribute", CHANGES)
def test_only_documentation_of_a_field_keeps_the_definition(attribute: str):
    kind, change = CHANGES[attribute]
    is_kept = of_field(kind) == of_field(kind, **change)
    assert is_kept == (attribute in DOCUMENTATION)


def test_another_kind_of_field_is_another_definition():
    assert definition(number("f").is_null()) != definition(category("f").is_null())
    assert definition(number("f") * 1) != definition(boolean("f") * 1)


x, y = number("x"), number("y")
yes, no = boolean("yes"), boolean("no")
city, town = category("city"), category("town")
left, seen = timestamp("left"), timestamp("seen")

AB_CD = [("a", "b"), ("c", "d")]

DIFFERENT: list[list[Expression]] = [
    [x.impute("median"), x.impute("mean"), x.impute("mode"), x.impute(0), x.impute(1), x],
    [x.clip(0, 1), x.clip(0), x.clip(high=1), x.clip(0, 2), x.clip(quantiles=(0, 1))],
    [x.standardize(), x.min_max(), x.robust_scale(), x.log(), x.log1p(), x.exp(), x.sqrt()],
    [x.abs(), x.round(), x.floor(), x.power(2), x.power(3), x.cyclic(7), x.cyclic(24)],
    [x.bucketize(bins=4), x.bucketize(bins=5), x.bucketize([1]), x.bucketize([1, 2])],
    [x.one_hot([1, 2]), x.one_hot([2, 1]), x.one_hot([1]), x.is_null(), y.is_null()],
    [x + y, y + x, x - y, y - x, x * y, x / y, y / x, x + 1, 1 + x, x + 2, minimum(x, y)],
    [maximum(x, y), safe_div(x, y, default=0), safe_div(x, y, default=1), where(x > y, x, y)],
    [x < y, x <= y, x > y, x == y, x != y, yes & no, yes | no, ~yes, where(yes, x, y)],
    [city.one_hot(), city.one_hot(unknown=True), city.one_hot(missing=True), city.ordinal()],
    [city.frequency(), city.target_mean(), city.target_mean(1), city.lookup({"a": 1})],
    [city.lookup({"a": 2}), city.lookup({"b": 1}), city.lookup({"a": 1}, default=0)],
    [cross(city, town).ordinal(), cross(town, city).ordinal(), cross(city, town).frequency()],
    [cross(city, town, max_pairs=2).ordinal(), cross(city, town, null="value").ordinal()],
    [cross(city, town, pairs=pairs).ordinal() for pairs in ([("a", "b")], [("b", "a")])],
    [cross(city, town, pairs=pairs).ordinal() for pairs in (AB_CD, [*reversed(AB_CD)])],
    [cross(city, town).lookup({("a", "b"): 1}), cross(city, town).lookup({("a", "b"): 2})],
    [left.minute(), left.hour(), left.weekday(), left.day(), left.month(), left.year()],
    [onnx_op(hatches.softsign(), [x]), onnx_op(hatches.softsign(), [y])],
    [onnx_op(hatches.turned(), [x, y], width=2), onnx_op(hatches.tree(), [x])],
    [elapsed(left, seen), elapsed(seen, left), elapsed(left, seen, unit="h"), left < seen],
]


def test_another_expression_is_another_definition():
    expressions = [expression for line in DIFFERENT for expression in line]
    assert len({definition(expression) for expression in expressions}) == len(expressions)


DIGESTS: dict[str, tuple[str, str]] = {
    "impute/1": ("impute a constant", "024a97ca93aaa929"),
    "is_null/1": ("is_null of a number", "f2a12412a8743dc6"),
    "clip/1": ("clip below", "ee5e821ee7e78ef9"),
    "standardize/1": ("standardize", "f3f36692d5cf0a1d"),
    "min_max/1": ("min_max", "749973ffab2c7c8b"),
    "robust_scale/1": ("robust_scale", "8b58e8e5536f584e"),
    "log/1": ("log", "5515d5954a8a0263"),
    "log1p/1": ("log1p", "bb25f1d446b0c33a"),
    "exp/1": ("exp", "18b89856226693f1"),
    "sqrt/1": ("sqrt", "f05197748e26be66"),
    "abs/1": ("abs", "230315c8726300ee"),
    "round/1": ("round", "82a9f6d4cd855aa2"),
    "floor/1": ("floor", "a1c1012b1d866c55"),
    "power/1": ("power", "cc2817dfb7a063e5"),
    "settle/1": ("floor of a logarithm", "1fe423b800c64ceb"),
    "bucketize/1": ("bucketize at edges", "d00f852f262dc5eb"),
    "one_hot_values/1": ("one_hot of a number", "1cf574d6752286f7"),
    "cyclic/1": ("cyclic", "bbffe5d7efb32c94"),
    "add/1": ("add", "8408143a6eacf442"),
    "subtract/1": ("subtract", "3d590fed3d7d9880"),
    "multiply/1": ("a tiny exp, magnified", "e95519a3b6755839"),
    "divide/1": ("divide", "f680664ff14547ce"),
    "safe_div/1": ("safe_div", "f474dd614b3f58cb"),
    "minimum/1": ("minimum", "19a193d6575bec9d"),
    "maximum/1": ("maximum", "70786d7fe53da9aa"),
    "less/1": ("less", "9cb03d8406246b8c"),
    "less_equal/1": ("less_equal", "13213ddf7f8766a4"),
    "equal/1": ("equal", "881d6cde28f03e20"),
    "and/1": ("and", "4a2b4342dbbccb3d"),
    "or/1": ("or", "b9eee8225fb9402f"),
    "not/1": ("not equal", "23a9c08792af09ce"),
    "where/1": ("where", "337031927cafb967"),
    "one_hot/1": ("one_hot", "9cd7de25056e86f4"),
    "ordinal/1": ("ordinal", "6755b639e7c0f571"),
    "frequency/1": ("frequency", "7d10161720a5b0b2"),
    "target_mean/1": ("target_mean", "6852612a76d81fb7"),
    "lookup/1": ("lookup", "144ee9c6e966ed2e"),
    "cross/1": ("one_hot of a cross", "9b6c12fe44e0cf64"),
    "minute/1": ("minute", "fb8eb9315d0f1bf8"),
    "hour/1": ("hour", "838bbc3dbfabaa96"),
    "weekday/1": ("weekday", "d10ead71d343f68c"),
    "day/1": ("day", "567f4d397a6a2793"),
    "month/1": ("month", "ed68074316dff9bf"),
    "year/1": ("year", "d1436d85ef3e296d"),
    "elapsed/1": ("elapsed", "6f2e3023540b2294"),
}
"""A case that has the operator, and the first digits of its `spec_digest`, for ever."""


SOFTSIGN = (
    "CAo6ewoOCgF4EgRzaXplIgNBYnMKEwoEc2l6ZQoCYzASAm4wIgNBZGQKDwoBeAoCbjASAXkiA0RpdhIFaGF0Y2gqEBALQg"
    "JjMEoIAAAAAAAA8D9aFAoBeBIPCg0ICxIJCgMSAW4KAggBYhQKAXkSDwoNCAsSCQoDEgFuCgIIAUIECgAQFQ=="
)
TURNED = (
    "CAo6fgoPCgFiEgVtaW51cyIDTmVnCiIKBW1pbnVzCgFhEgF5IgZDb25jYXQqCwoEYXhpcxgBoAECEgVoYXRjaFoUCgFhEg"
    "8KDQgLEgkKAxIBbgoCCAFaFAoBYhIPCg0ICxIJCgMSAW4KAggBYhQKAXkSDwoNCAsSCQoDEgFuCgIIAkIECgAQFQ=="
)
"""Graphs as bytes: onnx may write the same graph in other ways, and the bytes are what counts."""


def of_bytes() -> dict[str, tuple[Expression, str]]:
    """The operators that take a graph, with the digests of `DIGESTS`' kind."""
    return {
        "onnx/1": (onnx_op(b64decode(SOFTSIGN), [x]), "ad186642fd9d454e"),
        "onnx_columns/1": (onnx_op(b64decode(TURNED), [x, y], width=2), "3d9af48a3cfb43ca"),
    }


def test_every_operator_has_a_digest_to_keep():
    assert DIGESTS.keys() | of_bytes().keys() == OPS.keys()


@pytest.mark.parametrize("operator", ["onnx/1", "onnx_columns/1"])
def test_a_definition_with_a_graph_of_the_owners_keeps_its_digest(operator: str):
    expression, digest = of_bytes()[operator]
    assert expression.op == operator
    subject = FeatureSet("case", version=1, features={"f": expression})
    assert subject.spec_digest.startswith(digest)


@pytest.mark.parametrize("operator", DIGESTS)
def test_a_definition_keeps_its_digest(operator: str):
    """Another digest would part every bundle in a store from its definition."""
    case, digest = DIGESTS[operator]
    assert operator in {node.op for node in walk(CASES[case])}
    subject = FeatureSet("case", version=1, features={"f": CASES[case]})
    assert subject.spec_digest.startswith(digest)


def test_names_and_order_of_features_are_part_of_the_definition():
    one, other = x.abs(), x.floor()  # of one field, whose place says nothing of theirs
    sets: list[dict[str, Expression]] = [
        {"a": one, "b": other},
        {"b": other, "a": one},
        {"a": other, "b": one},
        {"a": one, "c": other},
        {"a": one},
    ]
    found = {FeatureSet("set", version=1, features=features).spec_digest for features in sets}
    assert len(found) == len(sets)


def test_the_version_of_the_encoder_is_part_of_the_definition(monkeypatch: pytest.MonkeyPatch):
    before = definition(x)
    monkeypatch.setattr("features.spec.ENCODER_VERSION", 2)
    assert definition(x) != before


def test_the_label_is_no_part_of_the_definition():
    one, two = (FeatureSet(name, version=2, features={"a": x}) for name in ("one", "two"))
    assert one.spec_digest == two.spec_digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: x * 2, lambda: x * 2.0),
        (lambda: number("x", low=0, high=9), lambda: number("x", low=0.0, high=9.0)),
        (x.passthrough, lambda: x),
        (lambda: x > 1, lambda: 1 < x),  # noqa: SIM300
        (
            lambda: city.lookup({"a": 1, "b": 2}),
            lambda: city.lookup({"b": 2, "a": 1}),
        ),
        (
            lambda: cross(city, town, null="value").lookup({("a", "b"): 1, (None, "b"): 2}),
            lambda: cross(city, town, null="value").lookup({(None, "b"): 2, ("a", "b"): 1}),
        ),
        (
            lambda: cross(city, town).ordinal(),
            lambda: cross(city, town, max_pairs=1000, null="missing").ordinal(),
        ),
        (
            lambda: category("g", of="integer", vocabulary=[1, 2]).ordinal(),
            lambda: category("g", of="integer", vocabulary=["1", "2"]).ordinal(),
        ),
    ],
    ids=[
        *("2 and 2.0", "bounds", "passthrough", "sides", "order of a table"),
        *("order of a table of pairs", "defaults of a cross", "texts of integers"),
    ],
)
def test_one_meaning_written_in_two_ways_is_one_definition(
    one: Callable[[], Expression], other: Callable[[], Expression]
):
    assert definition(one()) == definition(other())


# features.json


def entries() -> dict[str, Any]:
    """features.json as another process reads it."""
    return json.loads(json.dumps(fitted().to_json(), allow_nan=False))


def test_features_json_comes_back_as_it_was():
    back = Fitted.from_json(entries())
    assert back.to_json() == fitted().to_json()
    assert summary(back) == summary(fitted())
    assert back.fields == fitted().fields
    assert back.feature_names == fitted().feature_names
    assert back.vocabularies == fitted().vocabularies
    assert back.zones == fitted().zones


def test_documentation_comes_back_too():
    weight = next(f for f in Fitted.from_json(entries()).fields if f.name == "weight")
    assert (weight.description, weight.example) == ("in kg", 1.5)


def test_another_process_loads_what_was_saved(tmp_path: Path):
    path = tmp_path / "features.json"
    fitted().save(path)
    assert run_elsewhere(str(path), PYTHONHASHSEED="7", LC_ALL="C") == summary(fitted())


NOT_HASHED = re.compile(
    r"/(name|version|fitted/(rows|tzdata)|spec/fields/\d+/(description|example))"
)
"""Labels and documentation: the sha256 in a bundle's manifest holds them, no digest of meaning."""

TOLD_WHAT_TO_DO = re.compile(
    r"^features\.json .*(use the original file|this version reads|the version that packed it)"
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every entry below a JSON value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def parent_of(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def another(value: Any) -> Any:
    """A value of the same type, where there is one."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, float):
        return float(np.nextafter(value, np.inf))
    if isinstance(value, int):
        return value + 1
    return [*value, 1] if isinstance(value, list) else value


def removed(file: Any, path: tuple[Any, ...]) -> None:
    del parent_of(file, path)[path[-1]]


def altered(file: Any, path: tuple[Any, ...]) -> None:
    parent = parent_of(file, path)
    parent[path[-1]] = another(parent[path[-1]])


def nulled(file: Any, path: tuple[Any, ...]) -> None:
    parent_of(file, path)[path[-1]] = None


def of_another_type(file: Any, path: tuple[Any, ...]) -> None:
    parent = parent_of(file, path)
    parent[path[-1]] = "text" if not isinstance(parent[path[-1]], str) else [1]


def refusal(file: Any) -> str:
    """What the refusal of the file says; empty when it is accepted."""
    try:
        Fitted.from_json(file)
    except FeaturesCorrupt as error:
        return str(error)
    return ""


PLACES = sorted(set(places(entries())), key=str)


@pytest.mark.parametrize("tamper", [removed, altered, nulled, of_another_type])
def test_no_entry_can_be_tampered_with(tamper: Callable[[Any, tuple[Any, ...]], None]):
    messages: dict[str, str] = {}
    for path in PLACES:
        file = entries()
        tamper(file, path)
        name = "/" + "/".join(map(str, path))
        if file != entries() and not NOT_HASHED.fullmatch(name):
            messages[name] = refusal(file)
    assert [name for name, text in messages.items() if not TOLD_WHAT_TO_DO.search(text)] == []


@pytest.mark.parametrize("path", ["spec/features/0/expression", "spec/fields/0", "state/operators"])
def test_nothing_can_be_added_to_what_is_read(path: str):
    file = entries()
    found: Any = file
    for key in path.split("/"):
        found = found[int(key) if key.isdigit() else key]
    found["added"] = 1
    with pytest.raises(FeaturesCorrupt, match="use the original file"):
        Fitted.from_json(file)


def test_a_vocabulary_of_another_order_is_refused():
    file = entries()
    file["state"]["vocabularies"]["city"].reverse()
    message = (
        r"features\.json says state_digest \w{12}, its content has \w{12}: it was altered; use"
    )
    with pytest.raises(FeaturesCorrupt, match=message):
        Fitted.from_json(file)


def test_a_file_of_another_format_says_which_is_read():
    file = entries() | {"format": 2}
    with pytest.raises(FeaturesCorrupt, match="format 2 and kind 'features'; this version reads"):
        Fitted.from_json(file)


@pytest.mark.parametrize("kind", ["tensors", None, 1, ["features"]])
def test_a_file_of_another_kind_is_refused(kind: Any):
    with pytest.raises(FeaturesCorrupt, match="this version reads format 1, kind 'features'"):
        Fitted.from_json(entries() | {"kind": kind})


@pytest.mark.parametrize("value", [{}, [], None, 7, "text", [entries()]])
def test_what_is_no_features_json_is_refused(value: Any):
    with pytest.raises(FeaturesCorrupt, match=r"features\.json has format"):
        Fitted.from_json(value)


def test_an_operator_of_a_later_version_is_named():
    file = entries()
    file["spec"]["features"][0]["expression"]["op"] = "standardize/2"
    with pytest.raises(FeaturesCorrupt, match="operator 'standardize/2' is not in the catalogue"):
        Fitted.from_json(file)


def test_an_encoder_of_another_version_is_named():
    file = entries()
    file["spec"]["encoder"] = 9
    with pytest.raises(FeaturesCorrupt, match="encoder version 9; this version has 1"):
        Fitted.from_json(file)


def test_expressions_that_nest_without_end_are_refused():
    file = entries()
    deep: Any = {"field": "size"}
    for _ in range(5_000):
        deep = {"op": "abs/1", "of": [deep]}
    file["spec"]["features"][0]["expression"] = deep
    with pytest.raises(FeaturesCorrupt, match="cannot be read"):
        Fitted.from_json(file)


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"format": 1', "[" * 100_000])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "features.json"
    path.write_text(text)
    with pytest.raises(FeaturesCorrupt, match=r"features\.json"):
        Fitted.load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path):
    path = tmp_path / "features.json"
    fitted().save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 997):
        path.write_bytes(whole[:length])
        with pytest.raises(FeaturesCorrupt, match=r"features\.json is no JSON"):
            Fitted.load(path)


def test_to_json_gives_a_value_of_its_own():
    """Altering what was given does not alter what comes next."""
    given = copy.deepcopy(fitted().to_json())
    given["spec"]["fields"].clear()
    assert fitted().to_json()["spec"]["fields"]
