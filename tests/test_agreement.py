"""Bundles whose files contradict each other are not opened: they would answer otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.errors import BundleCorrupt
from tests.packed import copied, full_bundle
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
