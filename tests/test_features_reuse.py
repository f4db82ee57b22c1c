"""Definitions taken up again: from a store, in part, field by field, and by pickle."""

import copy
import json
import pickle
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features import (
    Category,
    DeclarationError,
    Expression,
    FeaturesCorrupt,
    FeatureSet,
    FeaturesNotFound,
    Fitted,
    category,
    number,
)
from features.nodes import walk
from features.ops import OPS
from models import Store
from models.errors import DefinitionChanged
from tests.fit_features import feature_set, summary, table
from tests.packed import features, packed, trained, trips
from tests.test_features_digests import DIFFERENT


@cache
def fitted() -> Fitted:
    return feature_set().fit(table(), "target", quiet=True)


def bits(values: NDArray[np.float32]) -> bytes:
    return np.where(np.isnan(values), np.float32(np.nan), values).tobytes()


# a store


def stored(store: Path, bundle: str, given: Fitted) -> Fitted:
    """Puts features where a bundle's are; of the bundle nothing else is read."""
    folder = store / bundle
    folder.mkdir(parents=True)
    given.save(folder / "features.json")
    return given


def part(rows: int, version: int = 1, **changed: Any) -> Fitted:
    """Trips, fitted on so many rows."""
    some = {name: values[:rows] for name, values in trips().items()}
    return features(version, **changed).fit(some, "late", quiet=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """trips@1 fitted twice, in three bundles, trips@2, and what is no bundle of ours."""
    root = tmp_path_factory.mktemp("store")
    stored(root, "trips/1", trained()[0])
    stored(root, "trips/2", trained()[0])
    stored(root, "trips/3", part(700))
    stored(root, "buses/1", part(900, 2, distance=features().field("distance") / 2))
    for name in ("buses/.2.0badcafe", ".hidden/1"):
        stored(root, name, part(400))
    (root / "trips" / "live.json").write_text("{}")
    tensors = root / "tensors" / "1"
    tensors.mkdir(parents=True)
    (tensors / "features.json").write_text('{"format": 1, "kind": "tensors", "inputs": []}')
    return root


@pytest.mark.parametrize("make", [Path, str, Store])
def test_a_definition_is_loaded_by_its_label_from_a_path_or_a_store(store: Path, make: Any):
    loaded = FeatureSet.load(make(store), "trips@1")
    assert (loaded.label, loaded.spec) == ("trips@1", features().spec)


def test_a_definition_is_fitted_again_and_keeps_its_label(store: Path, tmp_path: Path):
    loaded = FeatureSet.load(store, "trips@1")
    again, _ = loaded.fit_transform(trips(seed=1), "late", quiet=True)
    assert again.spec_digest == trained()[0].spec_digest
    assert again.features_digest != trained()[0].features_digest


@pytest.mark.parametrize("bundle", ["trips/1", "trips/2"])
def test_fitted_features_are_loaded_by_bundle(store: Path, bundle: str):
    assert Fitted.load(store, bundle).to_json() == trained()[0].to_json()
    assert Fitted.load(store / bundle).features_digest == trained()[0].features_digest


@pytest.mark.parametrize("digits", [4, 12, 64])
def test_fitted_features_are_loaded_by_identity(store: Path, digits: int):
    named = f"trips@1+{trained()[0].features_digest[:digits]}"
    assert Fitted.load(Store(store), named).identity == trained()[0].identity
    assert FeatureSet.load(store, named).label == "trips@1"


def test_a_label_is_enough_for_fitted_features_where_all_learned_the_same(store: Path):
    assert Fitted.load(store, "trips@2").label == "trips@2"


def test_what_was_fitted_twice_is_not_guessed(store: Path):
    with pytest.raises(FeaturesNotFound) as refused:
        Fitted.load(store, "trips@1")
    message = str(refused.value)
    one, other = trained()[0].identity, part(700).identity
    assert "trips@1 was fitted several times" in message
    assert f"{one} (trips/1, trips/2), {other} (trips/3)" in message
    assert f"Name one of them, as in {one!r}" in message


def test_an_identity_of_too_few_digits_is_ambiguous_too(tmp_path: Path):
    by_digit: dict[str, Fitted] = {}
    for rows in range(300, 1_000):
        made = part(rows)
        other = by_digit.setdefault(made.features_digest[0], made)
        if other is not made:
            break
    else:
        pytest.fail("no two digests begin alike")
    stored(tmp_path, "trips/1", made)
    stored(tmp_path, "trips/2", other)
    first = made.features_digest[0]
    with pytest.raises(FeaturesNotFound, match="was fitted several times"):
        Fitted.load(tmp_path, f"trips@1+{first}")
    assert Fitted.load(tmp_path, made.identity).rows == made.rows


def test_one_label_for_two_definitions_is_not_guessed(tmp_path: Path):
    stored(tmp_path, "trips/1", part(300))
    stored(tmp_path, "trips/2", part(300, distance=features().field("distance") / 2))
    with pytest.raises(FeaturesNotFound, match=r"several definitions .*\(trips/1\), .*\(trips/2\)"):
        FeatureSet.load(tmp_path, "trips@1")
    assert FeatureSet.load(tmp_path, "trips/2").features["distance"].op == "divide/1"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("trips@9", r"no features trips@9 in .*It has trips@2\+\w{12} \(buses/1\), trips@1\+"),
        ("trips/9", "no features trips/9"),
        ("trips@1+0123456789ab", r"no features trips@1\+0123456789ab"),
        ("trips", "'trips' names no features; write a label, flights@1, an identity"),
        ("trips@1+", "names no features"),
        ("../trips/1", "names no features"),
        (".hidden/1", "no features .hidden/1"),
        ("tensors/1", "no features tensors/1"),
    ],
)
def test_a_name_that_nothing_has_tells_what_there_is(store: Path, named: str, message: str):
    for load in (FeatureSet.load, Fitted.load):
        with pytest.raises(FeaturesNotFound, match=message):
            load(store, named)


def test_no_store_and_an_empty_one_are_told_apart(tmp_path: Path):
    with pytest.raises(FeaturesNotFound, match=r"no store at .*nowhere; name a folder that `pack`"):
        FeatureSet.load(tmp_path / "nowhere", "trips@1")
    with pytest.raises(FeaturesNotFound, match="It has no features"):
        FeatureSet.load(tmp_path, "trips@1")
    with pytest.raises(
        FeaturesNotFound, match=r"of a store, name what to load, as in Fitted\.load"
    ):
        Fitted.load(tmp_path)


def test_a_spoilt_file_is_refused_by_its_bundle_and_stands_in_nobodys_way(
    store: Path, tmp_path: Path
):
    root = shutil.copytree(store, tmp_path / "store")
    path = root / "trips" / "3" / "features.json"
    content = json.loads(path.read_text())
    content["spec"]["features"][0]["name"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(FeaturesCorrupt, match=r"^trips/3: features\.json says spec_digest"):
        Fitted.load(root, "trips/3")
    path.write_text("{")
    assert FeatureSet.load(root, "trips@1").label == "trips@1"
    with pytest.raises(FeaturesNotFound, match=r"trips/3: features\.json cannot be read"):
        Fitted.load(root, "trips/3")
    path.write_text('{"kind": "other"}')
    with pytest.raises(FeaturesNotFound, match=r"trips/3: features\.json has kind 'other'"):
        Fitted.load(root, "trips/3")


# some of the features


def test_selected_features_have_the_bits_they_had():
    rows = table(3)
    whole = fitted().transform(rows, quiet=True)
    names = fitted().feature_names
    chosen = ("late", "median", "city", "hour", "bucket")
    some = fitted().select(*chosen)
    assert some.feature_names == tuple(
        name
        for feature in chosen
        for name in names
        if name == feature or name.startswith((f"{feature}=", f"{feature}#", f"{feature}_"))
    )
    wanted = whole[:, [names.index(name) for name in some.feature_names]]
    assert bits(some.transform(rows, quiet=True)) == bits(wanted)


@pytest.mark.parametrize("feature", list(feature_set().features))
def test_every_feature_alone_is_what_it_was(feature: str):
    alone = fitted().select(feature)
    columns = [fitted().feature_names.index(name) for name in alone.feature_names]
    whole = fitted().transform(table(1), quiet=True)[:, columns]
    assert bits(alone.transform(table(1), quiet=True)) == bits(whole)
    assert Fitted.from_json(json.loads(json.dumps(alone.to_json()))).identity == alone.identity


def test_only_the_fields_and_the_state_of_the_selection_are_kept():
    some = fitted().select("city", "median")
    assert [field.name for field in some.fields] == ["city", "weight"]
    assert some.vocabularies.keys() == {"city"}
    assert some.zones.keys() == {"UTC"}
    assert len(some.states) == 2
    assert (some.rows, some.tzdata) == (fitted().rows, fitted().tzdata)
    del_others = {name: table()[name] for name in ("city", "weight")}
    assert some.transform(del_others, quiet=True).shape == (300, 7)


def test_a_selection_is_another_definition_and_has_another_label():
    some, other = fitted().select("late", "mean"), fitted().select("mean", "late")
    assert len({f.spec_digest for f in (some, other, fitted())}) == 3
    assert len({f.label for f in (some, other, fitted())}) == 3
    assert some.label == f"parcels-{some.spec_digest[:8]}@3"
    assert some.label == fitted().select("late", "mean").label
    named = fitted().select("late", "mean", name="small")
    assert (named.label, named.features_digest) == ("small@1", some.features_digest)
    assert fitted().select("late", version=4).label == "parcels@4"


def test_all_features_in_their_order_are_the_set_again():
    assert summary(fitted().select(*feature_set().features)) == summary(fitted())


def test_a_long_name_leaves_room_for_the_digits():
    long = FeatureSet("x" * 128, version=1, features={"a": number("a"), "b": number("b")})
    assert len(long.select("a").name) == 128


@pytest.mark.parametrize(
    ("chosen", "given", "message"),
    [
        ((), {}, r"select\(\): name one feature of parcels@3 at least"),
        (("late", "late"), {}, "each once"),
        (("late", "size"), {}, "parcels@3 has no feature 'size'; its features are mean, median"),
        (("late",), {"version": 3}, "parcels@3 names the whole set; give its selection another"),
        (("late",), {"name": "parcels", "version": 3}, "names the whole set"),
        (("late",), {"name": "9"}, "feature set name '9' is not allowed"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(chosen: Any, given: Any, message: str):
    with pytest.raises(DeclarationError, match=message):
        fitted().select(*chosen, **given)


def test_a_store_takes_a_selection_beside_the_whole(tmp_path: Path):
    packed(tmp_path, "1")
    some = trained()[0].select("distance", "carrier")
    import lightgbm as lgb

    model = lgb.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1)
    model.fit(some.transform(trips(), quiet=True), trips()["late"])
    packed(tmp_path, "2", features=some, model=model, policies={}, time=None)
    assert Fitted.load(tmp_path, "trips/2").label == some.label
    renamed = trained()[0].select("distance", "carrier", name="trips", version=2)
    packed(tmp_path, "3", features=renamed, model=model, policies={}, time=None)
    other = trained()[0].select("carrier", "distance", name="trips", version=2)
    with pytest.raises(DefinitionChanged):
        packed(tmp_path, "4", features=other, model=model, policies={}, time=None)


# a field's definition


def test_a_fields_definition_goes_into_another_set(store: Path):
    trips_ = FeatureSet.load(store, "trips@1")
    carrier = trips_.field("carrier")
    assert isinstance(carrier, Category)
    other = FeatureSet("other", version=1, features={"share": carrier.frequency()})
    assert other.fields == tuple(f for f in trips_.fields if f.name == "carrier")


def test_the_same_field_with_another_definition_is_reported():
    taken = features().field("distance")
    with pytest.raises(DeclarationError, match=r"(?s)'distance' is declared twice.*unit='km'"):
        FeatureSet("o", version=1, features={"a": taken, "b": number("distance", unit="mi")})


def test_a_field_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(
        DeclarationError, match="trips@1 has no field 'color'; its fields are distance, driver"
    ):
        features().field("color")


# pickles, for other processes at authoring time


def test_definition_and_fitted_pickle_as_their_data():
    fitted().transform(table(), quiet=True)  # a session is open
    back = pickle.loads(pickle.dumps(fitted()))
    assert summary(back) == summary(fitted())
    definition = pickle.loads(pickle.dumps(feature_set()))
    assert (definition.label, definition.spec) == (feature_set().label, feature_set().spec)
    assert b"Expression" not in pickle.dumps(feature_set())


def test_copies_are_equal_and_work():
    back = copy.deepcopy(fitted())
    assert summary(back) == summary(fitted())
    expression = copy.deepcopy(category("city").target_mean(smoothing=3))
    assert expression.key == category("city").target_mean(smoothing=3).key
    assert pickle.loads(pickle.dumps(expression)).to_json() == expression.to_json()


# entries that this format does not have


@pytest.mark.parametrize(
    "path",
    [
        "",
        "spec",
        "spec/fields/0",
        "spec/features/0",
        "spec/features/0/expression",
        "state",
        "state/vocabularies",
        "state/zones",
        "state/zones/UTC",
        "state/operators",
        "fitted",
    ],
)
def test_an_entry_of_no_format_is_refused_with_the_way_out(path: str):
    file = json.loads(json.dumps(fitted().to_json()))
    place = file
    for key in filter(None, path.split("/")):
        place = place[int(key)] if key.isdigit() else place[key]
    place["added"] = []
    with pytest.raises(FeaturesCorrupt) as refused:
        Fitted.from_json(file)
    if path not in ("spec/fields/0", "spec/features/0/expression"):  # they refuse their own
        where = path.replace("/0", "[0]").replace("/", ".")
        assert f"format 1 has not: {'.'.join(filter(None, [where, 'added']))}. " in str(
            refused.value
        )
        assert "another format number" in str(refused.value)
    assert "added" in str(refused.value)


@pytest.mark.parametrize("expressions", DIFFERENT, ids=lambda line: line[0].op)
def test_every_expression_is_read_back_with_all_that_was_chosen(expressions: list[Expression]):
    for expression in expressions:
        definition = FeatureSet("s", version=1, features={"f": expression})
        back = FeatureSet.from_spec("s", 1, json.loads(json.dumps(definition.spec)))
        assert back.spec_digest == definition.spec_digest


def test_every_operator_with_a_choice_is_among_them():
    tried = {node.op for line in DIFFERENT for node in walk(*line)}
    assert {name for name, op in OPS.items() if op.params} - tried <= {"onnx/1", "onnx_columns/1"}


def test_a_choice_that_an_operator_does_not_have_is_named():
    file = json.loads(json.dumps(fitted().to_json()))
    file["spec"]["features"][0]["expression"]["added"] = 1
    with pytest.raises(FeaturesCorrupt, match=r"operator 'standardize/1' takes no 'added'; it tak"):
        Fitted.from_json(file)


@pytest.mark.parametrize(("part", "name"), [("vocabularies", "gate"), ("zones", "Asia/Kolkata")])
def test_a_state_that_lacks_what_the_definition_wants_is_refused(part: str, name: str):
    file = json.loads(json.dumps(fitted().to_json()))
    del file["state"][part][name]
    with pytest.raises(FeaturesCorrupt, match=f"cannot be read: KeyError.'{name}'"):
        Fitted.from_json(file)
