"""What rounding may do to an answer is allowed, and no more than that."""

import dataclasses
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from sklearn.linear_model import GammaRegressor, PoissonRegressor, Ridge, TweedieRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.bundle import Bundle
from models.convert import convert
from models.errors import NativeMismatch
from models.manifest import OutputSpec, Threshold, Tolerance
from models.outputs import Decisions, allowed
from models.tolerances import EXACT, ULPS, tolerance_of
from tests.packed import packed, trained, trips
from tests.test_pack import moved_by_one_ulp

PLAIN: dict[str, Any] = {"decision": None, "default": None}
TREES = 60


def counts(rows: int = 1_500, seed: int = 0) -> np.ndarray[Any, Any]:
    """A target whose largest values are many of its standard deviations."""
    table = trips(rows, seed)
    score = np.nan_to_num(table["distance"]) / 20 + np.asarray(table["is_weekend"])
    return np.random.default_rng(seed).poisson(100 * np.exp(score)) + 1.0


def exponential(objective: str) -> lgb.LGBMRegressor:
    _, x = trained()
    model = lgb.LGBMRegressor(n_estimators=TREES, n_jobs=1, verbose=-1, objective=objective)
    return model.fit(x, counts())


@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie"])
def test_an_exponential_is_allowed_the_rounding_of_its_exponent(tmp_path: Path, objective: str):
    folder = packed(tmp_path, model=exponential(objective), target=counts(), **PLAIN)
    bundle = Bundle.open(folder)
    assert bundle.fitted is not None
    values = bundle.run(bundle.fitted.encode_table(trips()).rows).values[0]
    spec = bundle.outputs[0]
    assert spec.tolerance.absolute == pytest.approx(1e-5 * values.std(), rel=1e-3)
    scores = np.log(values.astype(np.float64))
    ulp = np.spacing(np.float32(np.abs(scores).max()))
    relative = max(1e-5 * scores.std(), 2 * TREES**0.5 * ulp)
    assert spec.tolerance.ulps == ULPS + np.ceil(relative * 2**24)
    large = values[values > 3 * values.std()]
    assert len(large)
    shares = allowed(spec, large) / large
    assert (shares >= relative).all()
    assert (shares < 3 * relative).all()
    assert relative < 2e-5


def test_a_leaf_flipped_below_an_exponential_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held = trips(200, seed=5)

    def convert_slightly_wrong(model: Any, width: int) -> Any:
        converted = convert(model, width)
        proto, threshold = moved_by_one_ulp(converted.model)
        held["distance"][17] = threshold
        return dataclasses.replace(converted, model=proto)

    given: dict[str, Any] = {"target": counts(), "holdout": (held, counts(200, seed=5)), **PLAIN}
    monkeypatch.setattr("models.packing.convert", convert_slightly_wrong)
    with pytest.raises(NativeMismatch, match=r"1 of 200 held-out rows.*\n.*held-out row 17"):
        packed(tmp_path, model=exponential("poisson"), **given)


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (PoissonRegressor(), 3),
        (GammaRegressor(), 3),
        (TweedieRegressor(power=1.5), 3),
        (TweedieRegressor(power=0, link="log"), 3),
        (TweedieRegressor(power=0), 0),
        (TweedieRegressor(power=1.5, link="identity"), 0),
        (Ridge(), 0),
        (make_pipeline(StandardScaler(), PoissonRegressor()), 3),
    ],
    ids=str,
)
def test_linear_models_with_a_logarithmic_link_are_exponentials(model: Any, terms: int):
    x = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    assert convert(model.fit(x, 1 + x.sum(axis=1)), 2).exponential_terms == terms


def test_other_objectives_of_boosters_are_sums():
    _, x = trained()
    for objective in ("regression", "huber", "quantile"):
        model = lgb.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1, objective=objective)
        converted = convert(model.fit(x, counts()), x.shape[1])
        assert (converted.exponential_terms, converted.added_terms) == (0, 2)


def test_a_sum_of_many_trees_is_allowed_the_rounding_of_its_additions():
    spec = OutputSpec(name="value", kind="value", dtype="float32")
    leaves = np.random.default_rng(0).normal(0, 1.5 / 6_000**0.5, (500, 6_000)).astype(np.float32)
    exact = leaves.astype(np.float64).sum(axis=1)
    rounded = leaves.cumsum(axis=1, dtype=np.float32)[:, -1]

    def tolerance(trees: int) -> float:
        terms = {"added_terms": trees, "exponential_terms": 0}
        return tolerance_of(spec, rounded, float32=False, **terms).absolute

    assert tolerance(0) == tolerance(50) == 1e-5 * rounded.astype(np.float64).std()
    assert tolerance(6_000) == 2 * 6_000**0.5 * float(np.spacing(np.abs(rounded).max()))
    assert np.abs(rounded - exact).max() < tolerance(6_000) < 1e-4 * rounded.std()


@pytest.mark.parametrize("kind", ["probability", "class_probabilities"])
def test_a_logistic_of_many_trees_is_allowed_their_rounding_where_it_is_steep(kind: Any):
    spec = OutputSpec(name="p", kind=kind, dtype="float32")
    leaves = np.random.default_rng(0).normal(0, 1.5 / 6_000**0.5, (500, 6_000)).astype(np.float32)
    exact = 1 / (1 + np.exp(-leaves.astype(np.float64).sum(axis=1)))
    scores = leaves.cumsum(axis=1, dtype=np.float32)[:, -1]
    rounded = (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)

    def tolerance(trees: int, answers: Any = rounded) -> float:
        terms = {"added_terms": trees, "exponential_terms": 0}
        return tolerance_of(spec, answers, float32=False, **terms).absolute

    assert tolerance(0) == tolerance(300) == EXACT
    assert EXACT < np.abs(rounded - exact).max() < tolerance(6_000) < 5 * EXACT
    assert tolerance(6_000, np.asarray([0.0, 1.0, 1e-9, 0.999999], np.float32)) == EXACT


def test_a_decision_is_near_a_threshold_by_the_tolerance_of_its_value():
    spec = OutputSpec(
        name="value", kind="value", dtype="float32", tolerance=Tolerance(absolute=1e-3, ulps=100)
    )
    steps = (
        Threshold(name="few", below=1.0),
        Threshold(name="many", below=1e6),
        Threshold(name="all"),
    )
    decisions = Decisions(spec, steps)
    values = np.asarray([1.0009, 1.0011, 1e6 - 6.2, 1e6 - 6.3])
    assert decisions.near_edge(spec, values).tolist() == [True, False, True, False]
