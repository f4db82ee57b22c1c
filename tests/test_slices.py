"""Quality by slice: the metrics of a part are those of its rows, and few rows give none."""

from typing import Any

import numpy as np
import pytest

from features import boolean, category, number, timestamp
from features.feature_set import FeatureSet
from features.fitted import Fitted
from models.evaluation import metrics, rounded
from models.manifest import OutputSpec
from models.outputs import ModelOutputs
from models.reference import build_reference
from models.slices import Slices, quality_by_slice

ROWS = 400
PROBABILITY = OutputSpec(
    name="p", kind="probability", dtype="float32", classes=(0, 1), positive=1, low=0, high=1
)


def table() -> dict[str, Any]:
    random = np.random.default_rng(0)
    speed = random.uniform(0, 100, ROWS).round(1)
    speed[:30] = np.nan
    return {
        "speed": speed,
        "size": random.integers(1, 4, ROWS).astype(float),
        "pay": random.uniform(1000, 9000, ROWS).round(),
        "town": random.choice(["Bern", "Lima", "Oslo"], ROWS, p=[0.6, 0.38, 0.02]).tolist(),
        "name": random.choice(["Ada", "Bob"], ROWS).tolist(),
        "member": (random.random(ROWS) < 0.5).tolist(),
        "at": [f"2024-01-{1 + i % 28:02d}T{i % 3:02d}:00:00Z" for i in range(ROWS)],
    }


def fitted() -> Fitted:
    columns = {
        "speed": number("speed", low=0, high=90).impute("median"),
        "size": number("size"),
        "pay": number("pay", sensitive="drop").impute("mean"),
        "town": category("town").one_hot(),
        "name": category("name", sensitive="hash").frequency(),
        "member": boolean("member").passthrough(),
        "hour": timestamp("at").hour(),
    }
    return FeatureSet("parts", version=1, features=columns).fit(table(), quiet=True)


@pytest.fixture(scope="module")
def found() -> tuple[Slices, Any, Any]:
    """Slices by every field, with the answers and target behind them."""
    random, features = np.random.default_rng(1), fitted()
    encoded = features.encode_table(table())
    answers = ModelOutputs([random.random(ROWS).astype(np.float32)])
    target = (random.random(ROWS) < 0.4).astype(float)
    target[::50] = np.nan
    reference = build_reference(
        features,
        encoded,
        answers.values,
        (PROBABILITY,),
        times=None,
        time_field=None,
        is_model=np.ones(ROWS, np.bool_),
        importance={},
    )
    names = [field.name for field in features.fields]
    slices = quality_by_slice(
        names,
        features.fields,
        features.zones,
        reference.shapes,
        encoded,
        (PROBABILITY,),
        answers,
        target,
    )
    return slices, answers, target


def test_a_slice_has_the_metrics_of_its_rows(found: tuple[Slices, Any, Any]):
    slices, answers, target = found
    chosen = (np.asarray(table()["town"]) == "Bern") & np.isfinite(target)
    part = ModelOutputs([answers.values[0][chosen]])
    expected = {"n": float(chosen.sum()), **rounded(metrics((PROBABILITY,), part, target[chosen]))}
    assert slices["town"]["Bern"] == expected


def test_few_rows_give_no_numbers(found: tuple[Slices, Any, Any]):
    assert 0 < table()["town"].count("Oslo") < 20
    assert found[0]["town"]["Oslo"] == {}


def test_values_outside_every_bin_are_under_their_trouble(found: tuple[Slices, Any, Any]):
    slices, _, target = found
    assert slices["speed"]["#missing"]["n"] == np.isfinite(target[:30]).sum()
    beyond = (table()["speed"] > 90) & np.isfinite(target)
    assert slices["speed"]["#out_of_bounds"]["n"] == beyond.sum()
    assert slices["speed"].keys() & {"#invalid", "#unknown"} == set()


def test_every_row_with_a_target_is_in_one_part(found: tuple[Slices, Any, Any]):
    slices, _, target = found
    known = int(np.isfinite(target).sum())
    for name in ("speed", "member", "pay", "name", "at.hour", "at.weekday"):
        assert sum(part["n"] for part in slices[name].values()) == known, name


def test_parts_say_where_they_begin_and_end(found: tuple[Slices, Any, Any]):
    slices = found[0]
    assert list(slices["size"]) == ["up to 1", "above 1 to 2", "above 2 to 3"]
    assert list(slices["member"]) == ["false", "true"]
    assert list(slices["at.hour"]) == ["00", "01", "02"]


def test_values_of_sensitive_fields_are_in_no_name(found: tuple[Slices, Any, Any]):
    slices = found[0]
    assert list(slices["pay"]) == [f"part {place}" for place in range(1, 11)]
    assert set(slices["name"]) == {"0", "1"}


def test_only_the_named_fields_are_cut_by(found: tuple[Slices, Any, Any]):
    assert set(found[0]) == {
        "speed", "size", "pay", "town", "name", "member", "at.hour", "at.weekday",
    }  # fmt: skip
    features = fitted()
    encoded = features.encode_table(table())
    nothing = quality_by_slice(
        [], features.fields, features.zones, (), encoded, (PROBABILITY,), found[1], found[2]
    )
    assert nothing == {}
