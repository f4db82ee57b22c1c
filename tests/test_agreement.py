"""Bundles whose files contradict each other are not opened: they would answer otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.errors import BundleCorrupt
from tests.packed import copied, full_bundle, packed
from tests.test_bundle_rungs import in_fallback, in_manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_bundle(tmp_path_factory.mktemp("store"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "bundle")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BundleCorrupt) as caught:
        Bundle.open(folder)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["label", "identity", "spec_digest", "state_digest"])
def test_another_identity_than_that_of_the_features(folder: Path, name: str):
    """A store tells definitions apart by what manifests say."""
    in_manifest(folder, lambda value: value["features"].update({name: "other@3"}))
    refused(folder, f"features.{name} of manifest.json is other@3, features.json has")


@pytest.mark.parametrize(
    "sensitive", [{}, {"driver": "drop"}, {"driver": "hash", "leaves": "drop"}]
)
def test_other_sensitive_fields(folder: Path, sensitive: dict[str, str]):
    in_manifest(folder, lambda value: value.update(sensitive=sensitive))
    refused(folder, "sensitive of manifest.json", "features.json has {'driver': 'hash'}")


@pytest.mark.parametrize(
    "entries", [{"slices": ["carrier", "speed"]}, {"route_key": "speed"}, {"slices": [""]}]
)
def test_slices_and_a_route_key_that_are_no_fields(folder: Path, entries: dict[str, Any]):
    in_manifest(folder, lambda value: value.update(entries))
    refused(folder, "slices or route_key of manifest.json")


@pytest.mark.parametrize(
    "decision",
    [
        "classes",
        [],
        [{"is": "late"}, {"is": "later"}],
        [{"is": "late", "below": 0.5}],
        [{"is": "late"}, {"is": "in_time", "below": 0.5}],
        [{"is": "a", "below": 0.5}, {"is": "b", "below": 0.25}, {"is": "c"}],
        [{"is": "a", "below": 0.5}, {"is": "b", "below": 0.5}, {"is": "c"}],
    ],
)
def test_a_decision_that_cannot_be_looked_up(folder: Path, decision: Any):
    in_manifest(folder, lambda value: value.update(decision=decision))
    refused(folder, "the decision of manifest.json does not fit 'probability'", "ascending")


def of_distance(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def changed(value: Any) -> None:
        change(value["policies"]["distance"])

    return changed


def test_a_policy_for_a_trouble_that_a_field_cannot_have(folder: Path):
    in_fallback(folder, of_distance(lambda given: given.update(unknown={"policy": "reject"})))
    refused(folder, "field 'distance' for ['invalid', 'missing', 'out_of_bounds', 'unknown']")


def test_a_trouble_without_a_policy(folder: Path):
    in_fallback(folder, of_distance(lambda given: given.pop("invalid")))
    refused(folder, "field 'distance' for ['missing', 'out_of_bounds']")


@pytest.mark.parametrize("policy", ["accept", "baseline", "rules", "reject"])
def test_a_value_that_repairs_nothing(folder: Path, policy: str):
    """It would be put into rows, and let the baseline answer what it does not accept."""
    given = {"policy": policy, "value": 5.0}
    in_fallback(folder, of_distance(lambda policies: policies.update(missing=given)))
    refused(folder, "a value for field 'distance', missing", "only 'repair' takes one")


def of_output(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def changed(value: Any) -> None:
        change(value["outputs"][0])

    return changed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classes": [True, True]}, "each class once"),
        ({"classes": [1, 2, 3], "positive": 3}, "two classes"),
        ({"positive": "late"}, "one of the two classes"),
        ({"low": 1.0, "high": 0.0}, "a range"),
        ({"dtype": "int64"}, "expected floats"),
        ({"kind": "label"}, "texts, integers or truth values"),
        ({"shape": [-1, 2]}, "one number a row"),
        ({"kind": "class_probabilities"}, "a list of them"),
        ({"kind": "class_probabilities", "shape": [-1, 3]}, "2 probabilities, one a class"),
        ({"kind": "value"}, "of a probability as the positive one"),
    ],
)
def test_an_output_that_is_not_what_its_kind_says(
    folder: Path, change: dict[str, Any], expected: str
):
    in_manifest(folder, of_output(lambda output: output.update(change)))
    refused(folder, "output 'probability' of manifest.json", expected)


def test_an_output_that_the_model_gives_otherwise(tmp_path: Path):
    folder = packed(tmp_path)
    in_manifest(folder, of_output(lambda output: output.update(dtype="float64")))
    refused(folder, "output 'probability' of model.onnx is tensor(float)", "says float64 [-1]")


def test_two_outputs_of_one_name(folder: Path):
    in_manifest(folder, lambda value: value["outputs"].append(value["outputs"][0]))
    refused(folder, "the outputs are ['probability', 'probability']")
