"""A feature set inside scikit-learn: it behaves as a transformer should, and nothing leaks."""

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from features import DeclarationError, FeatureSet, FitError, TableError, category, number, timestamp
from keelmark import FeatureTransformer
from models import Bundle, pack

ROWS = 400


@cache
def table() -> pd.DataFrame:
    """A number that tells something, and a category of so many texts that most are alone."""
    rng = np.random.default_rng(0)
    size = rng.normal(0, 2, ROWS)
    size[::17] = np.nan
    return pd.DataFrame(
        {
            "size": size,
            "street": [f"street {place}" for place in rng.integers(0, 300, ROWS)],
            "city": rng.choice(["Bern", "Oslo", "Lima"], ROWS),
            "at": np.datetime64("2024-01-01", "s") + rng.integers(0, 10**7, ROWS),
            "other": rng.normal(0, 1, ROWS),
        }
    )


@cache
def target() -> NDArray[np.float64]:
    rng = np.random.default_rng(1)
    return np.nan_to_num(table()["size"].to_numpy()) + rng.normal(0, 2, ROWS)


def late() -> NDArray[np.int64]:
    return (target() > 0).astype(np.int64)


def definition(smoothing: float = 1.0) -> FeatureSet:
    return FeatureSet(
        "rows",
        version=1,
        features={
            "size": number("size").impute("mean").standardize(),
            "street": category("street").target_mean(smoothing=smoothing),
            "city": category("city").one_hot(),
            "hour": timestamp("at", tz="UTC").hour().cyclic(),
        },
    )


def without_target() -> FeatureSet:
    features = dict(definition().features)
    del features["street"]
    return FeatureSet("plain", version=1, features=features)


def transformer(**given: Any) -> FeatureTransformer:
    return FeatureTransformer(definition(), **given)


def pipeline(**given: Any) -> Any:
    return Pipeline([("features", transformer(**given)), ("model", Ridge())])


# what a feature set gives


@pytest.mark.parametrize(("folds", "seed"), [(5, 0), (3, 7)])
def test_columns_are_those_of_the_feature_set(folds: int, seed: int):
    fitted, x = definition().fit_transform(table(), target(), folds=folds, seed=seed, quiet=True)
    made = transformer(folds=folds, seed=seed)
    assert made.fit_transform(table(), target()).tobytes() == x.tobytes()
    assert made.fitted_.to_json() == fitted.to_json()
    wanted = fitted.transform(table(), quiet=True)
    assert made.transform(table()).tobytes() == wanted.tobytes()
    assert wanted.tobytes() != x.tobytes()
    assert tuple(made.get_feature_names_out()) == fitted.feature_names


def test_fit_learns_what_fit_transform_learns():
    made = transformer()
    assert made.fit(table(), target()) is made
    made_at_once = transformer()
    made_at_once.fit_transform(table(), target())
    assert made.fitted_.features_digest == made_at_once.fitted_.features_digest


@pytest.mark.parametrize(
    "make",
    [
        lambda frame: frame,
        pl.from_pandas,
        lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
        lambda frame: {name: frame[name].to_numpy() for name in frame},
    ],
    ids=["pandas", "polars", "arrow", "dict"],
)
def test_every_make_of_table_gives_the_same(make: Callable[[pd.DataFrame], Any]):
    wanted = transformer().fit_transform(table(), target())
    made = transformer()
    assert made.fit_transform(make(table()), target()).tobytes() == wanted.tobytes()
    given = make(table())
    assert made.transform(given).tobytes() == made.transform(table()).tobytes()


@pytest.mark.parametrize("make", [np.asarray, pd.Series, pl.Series, list], ids=lambda m: m.__name__)
def test_every_make_of_target_gives_the_same(make: Callable[[Any], Any]):
    made = transformer().fit(table(), make(target()))
    assert made.fitted_.identity == transformer().fit(table(), target()).fitted_.identity


def test_a_target_of_names_does_not_matter_where_none_is_averaged():
    names = np.where(late() == 1, "late", "in time")
    made = Pipeline(
        [("features", FeatureTransformer(without_target())), ("m", LogisticRegression())]
    )
    assert set(made.fit(table(), names).predict(table())) == {"late", "in time"}
    with pytest.raises(FitError, match=r"the target is .*string; convert it to numbers"):
        transformer().fit(table(), names)


def test_it_is_silent_unless_told_otherwise(capsys: pytest.CaptureFixture[str]):
    small = FeatureSet("small", version=1, features={"size": number("size", low=0)})
    FeatureTransformer(small).fit(table()).transform(table())
    assert capsys.readouterr().err == ""
    FeatureTransformer(small, quiet=False).fit_transform(table())
    assert "fit: size:" in capsys.readouterr().err


# no leak


def by_hand(train: NDArray[np.int64], test: NDArray[np.int64], **fit: Any) -> float:
    rows, values = table(), target()
    fitted, x = definition().fit_transform(rows.iloc[train], values[train], quiet=True, **fit)
    model = Ridge().fit(x, values[train])
    predicted = model.predict(fitted.transform(rows.iloc[test], quiet=True))
    return r2_score(values[test], predicted)


FOLDS = KFold(4, shuffle=True, random_state=0)


def test_cross_validation_scores_what_is_fitted_by_hand_in_each_fold():
    wanted = [by_hand(train, test) for train, test in FOLDS.split(table())]
    assert cross_val_score(pipeline(), table(), target(), cv=FOLDS).tolist() == wanted


def test_a_search_over_a_definition_and_a_model_scores_the_same():
    grid = {"features__feature_set": [definition(1), definition(100)], "features__seed": [0, 5]}
    search = GridSearchCV(pipeline(), grid, cv=FOLDS, n_jobs=2).fit(table(), target())
    with_seed = zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    )
    found = {
        (given["features__feature_set"].spec_digest, given["features__seed"]): score
        for given, score in with_seed
    }
    for seed in (0, 5):
        wanted = np.mean([by_hand(*split, seed=seed) for split in FOLDS.split(table())])
        assert found[definition(1).spec_digest, seed] == wanted
    assert len(set(found.values())) == 4
    best = search.best_estimator_["features"].fitted_
    assert best.spec_digest == search.best_params_["features__feature_set"].spec_digest


def test_held_out_targets_change_no_prediction():
    """A row is predicted by what the other folds know: its own fold may say anything."""
    before: Any = cross_val_predict(pipeline(), table(), target(), cv=FOLDS)
    for _, test in FOLDS.split(table()):
        changed = target().copy()
        changed[test] = 50.0
        after: Any = cross_val_predict(pipeline(), table(), changed, cv=FOLDS)
        assert after[test].tolist() == before[test].tolist()
        others = np.setdiff1d(np.arange(ROWS), test)
        assert (after[others] != before[others]).all()


def test_a_leak_would_be_seen():
    """Noise as a target: who fits target means before splitting believes to know it."""
    noise = np.random.default_rng(3).normal(0, 1, ROWS)
    honest = cross_val_score(pipeline(), table(), noise, cv=FOLDS).mean()
    leaked = definition().fit(table(), noise, quiet=True).transform(table(), quiet=True)
    assert cross_val_score(Ridge(), leaked, noise, cv=FOLDS).mean() > 0.4
    assert honest < 0.05


def test_training_rows_do_not_see_their_own_target():
    """With `fit` and then `transform` the model would trust the street, which tells nothing."""
    noise = np.random.default_rng(3).normal(0, 1, ROWS)
    made = transformer()
    x = made.fit_transform(table(), noise)
    place = list(made.get_feature_names_out()).index("street")
    seen = made.transform(table())[:, place]
    assert np.corrcoef(seen, noise)[0, 1] > 0.6
    assert abs(np.corrcoef(x[:, place], noise)[0, 1]) < 0.2
    with_model: Any = make_pipeline(transformer(), Ridge()).fit(table(), noise)
    assert with_model[-1].coef_.tolist() == Ridge().fit(x, noise).coef_.tolist()


# the estimator contract

CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_feature_names_out_error",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_set_params",
    "check_valid_tag_types",
]
"""Those of scikit-learn that bring no table of their own: theirs are matrices without names."""


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_own_check_passes(name: str):
    if not hasattr(estimator_checks, name):
        pytest.skip(f"scikit-learn {sklearn.__version__} has no {name}")
    getattr(estimator_checks, name)("FeatureTransformer", transformer())


def test_parameters_are_kept_and_cloned():
    made = transformer(folds=3, seed=2, quiet=False)
    given = made.get_params()
    assert given.keys() == set(inspect.signature(FeatureTransformer).parameters)
    copied: Any = clone(made.fit(table(), target()))
    assert not hasattr(copied, "fitted_")
    assert (copied.folds, copied.seed, copied.quiet) == (3, 2, False)
    assert copied.feature_set.spec == made.feature_set.spec
    again: Any = clone(made.set_params(folds=4))
    assert again.folds == 4


def test_it_is_fitted_only_after_fit():
    for call in ("transform", "get_feature_names_out"):
        with pytest.raises(NotFittedError):
            getattr(transformer(), call)(table())
    made = transformer()
    assert not made.__sklearn_is_fitted__()
    assert made.fit(table(), target()).__sklearn_is_fitted__()


def test_fitting_again_forgets_what_was():
    made = transformer().fit(table(), target())
    first = made.fitted_.features_digest
    made.fit(table().iloc[:100], target()[:100])
    assert made.fitted_.features_digest != first
    assert made.fit(table(), target()).fitted_.features_digest == first


def test_transform_changes_neither_itself_nor_its_input():
    given = table().copy()
    made = transformer().fit(given, target())
    before, digest = dict(vars(made)), made.fitted_.features_digest
    made.transform(given)
    pd.testing.assert_frame_equal(given, table())
    assert (vars(made), made.fitted_.features_digest) == (before, digest)


def test_rows_one_by_one_have_the_bits_of_all():
    made = transformer().fit(table(), target())
    whole = made.transform(table())
    alone = np.concatenate([made.transform(table().iloc[[row]]) for row in range(0, ROWS, 20)])
    assert alone.tobytes() == whole[::20].tobytes()


def test_it_knows_its_fields_and_names():
    made = transformer().fit(table(), target())
    assert made.feature_names_in_.tolist() == ["size", "street", "city", "at"]
    assert made.n_features_in_ == 4
    names = made.get_feature_names_out().tolist()
    assert names == made.get_feature_names_out(table().columns).tolist()
    with pytest.raises(ValueError, match=r"lacks \['at'\], which rows@1 reads"):
        made.get_feature_names_out(["size", "street", "city"])


@pytest.mark.skipif(
    not hasattr(sklearn.utils, "get_tags"), reason="scikit-learn before 1.6 has no such tags"
)
def test_tags_say_what_it_takes():
    tags = sklearn.utils.get_tags(transformer())
    assert tags.input_tags.allow_nan
    assert tags.input_tags.string
    assert tags.input_tags.categorical
    assert tags.target_tags.required
    assert not sklearn.utils.get_tags(FeatureTransformer(without_target())).target_tags.required


@pytest.mark.parametrize("how", ["pickle", "joblib", "deepcopy"])
def test_it_comes_back_from_a_pickle_as_it_was(how: str, tmp_path: Path):
    made = transformer().fit(table(), target())
    wanted = made.transform(table()).tobytes()
    if how == "pickle":
        back = pickle.loads(pickle.dumps(made))
    elif how == "deepcopy":
        back = copy.deepcopy(made)
    else:
        joblib.dump(made, tmp_path / "made")
        back = joblib.load(tmp_path / "made")
    assert back.transform(table()).tobytes() == wanted
    assert back.fitted_.identity == made.fitted_.identity
    again: Any = clone(back)
    assert again.fit(table(), target()).fitted_.identity == made.fitted_.identity


@pytest.mark.parametrize("given", [None, 3, {"size": number("size")}])
def test_what_is_no_feature_set_is_refused_by_fit(given: Any):
    made = FeatureTransformer(given)
    with pytest.raises(DeclarationError, match="give a FeatureSet, which it fits"):
        made.fit(table())


def test_a_target_mean_without_a_target_is_refused():
    with pytest.raises(FitError, match="target"):
        transformer().fit(table())


def test_a_matrix_without_names_is_refused():
    with pytest.raises(TableError, match="cannot read a table from ndarray; expected a pandas"):
        transformer().fit(table().to_numpy(), target())


# containers


@pytest.mark.parametrize(
    ("container", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
)
def test_output_is_the_container_that_was_set(container: Any, frame: Any):
    shuffled = table().sample(frac=1, random_state=0)
    made = transformer().set_output(transform=container)
    for columns in (made.fit_transform(shuffled, target()), made.transform(shuffled)):
        assert isinstance(columns, frame)
        assert list(columns.columns) == made.get_feature_names_out().tolist()
        if isinstance(columns, pd.DataFrame):
            assert columns.index.equals(shuffled.index)
            assert set(columns.dtypes) == {np.dtype(np.float32)}
    made.set_output(transform="default")
    assert isinstance(made.transform(shuffled), np.ndarray)


@pytest.mark.parametrize("make", [pl.from_pandas, pa.Table.from_pandas, dict])
def test_output_as_pandas_of_other_tables(make: Callable[[Any], Any]):
    made = transformer().set_output(transform="pandas")
    made.fit(table(), target())
    assert made.transform(make(table())).shape == (ROWS, 7)


def test_a_model_learns_the_names_of_its_columns():
    made = pipeline().set_output(transform="pandas").fit(table(), target())
    assert made[-1].feature_names_in_.tolist() == list(made[0].fitted_.feature_names)


def test_it_stands_beside_other_transformers():
    both = ColumnTransformer(
        [
            ("ours", transformer(), ["size", "street", "city", "at"]),
            ("theirs", StandardScaler(), ["other"]),
        ]
    )
    made = both.fit_transform(table(), target())
    wanted = transformer().fit_transform(table(), target())
    assert made[:, :7].astype(np.float32).tobytes() == wanted.tobytes()
    assert both.get_feature_names_out()[[0, 7]].tolist() == ["ours__size", "theirs__other"]
    halves = FeatureUnion(
        [("one", transformer()), ("two", FeatureTransformer(without_target()))]
    ).fit_transform(table(), target())
    assert halves.shape == (ROWS, 13)


def test_polars_and_other_processes_in_a_search():
    search = RandomizedSearchCV(
        pipeline(), {"model__alpha": [0.1, 1.0]}, n_iter=2, cv=3, n_jobs=2, random_state=0
    )
    search.fit(pl.from_pandas(table()), target())
    one = GridSearchCV(pipeline(), {"model__alpha": [0.1, 1.0]}, cv=3).fit(table(), target())
    scores = search.cv_results_["mean_test_score"]
    assert sorted(scores) == sorted(one.cv_results_["mean_test_score"])


# to a bundle


@pytest.mark.parametrize("between", [[], [("scale", StandardScaler())]], ids=["alone", "scaled"])
def test_a_pipeline_is_packed_by_its_parts(between: list[Any], tmp_path: Path):
    steps = [("features", transformer()), *between, ("model", LogisticRegression())]
    pipe: Any = Pipeline(steps).fit(table(), late())
    bundle = Bundle.open(
        pack(
            tmp_path,
            "rows",
            "1",
            features=pipe[0].fitted_,
            model=pipe[1:] if between else pipe[-1],
            training=table(),
            target=late(),
            policies={"at": {"missing": "rules"}},  # a logistic regression takes no null
            default=0.5,
            progress=False,
        )
    )
    rows = table().iloc[:30]
    encoded = pipe[0].fitted_.encode_table(rows)
    (served, *_) = bundle.run(encoded.rows).values  # noqa: PD011  (outputs, no frame)
    np.testing.assert_allclose(served, pipe.predict_proba(rows)[:, 1], atol=1e-6)
    assert bundle.manifest.features.identity == pipe[0].fitted_.identity


def test_without_scikit_learn_it_says_what_to_install():
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.base'] = None\n"
        "from keelmark import FeatureSet\n"
        "from keelmark import FeatureTransformer"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "needs scikit-learn; install it with: pip install 'keelmark[sklearn]'" in ran.stderr
