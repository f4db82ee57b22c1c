"""Packing: models of several libraries become bundles that answer alike, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import lightgbm as lgb
import msgspec
import numpy as np
import onnx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from features import FeatureSet, number
from features.runtime import Session
from models import schemas
from models.bundle import Bundle
from models.convert import OnnxModel, convert
from models.convert.lightgbm import with_float32_thresholds
from models.declared import read_decision
from models.errors import ConversionFailed, NativeMismatch, PackingError, VersionTaken
from models.manifest import MANIFEST, Label, Objectives, OutputSpec
from models.policies import repair
from models.store import Store
from models.training_rows import read_rows
from tests.packed import DRIVERS, FEATURES, booster, features, packed, trained, trips

PLAIN = np.nan_to_num
"""Most estimators of scikit-learn refuse nulls; theirs are 0."""


UNTHRESHOLDED: dict[str, Any] = {"decision": None, "default": None}
NO_NULLS: dict[str, Any] = {
    "policies": {"distance": {"missing": "rules"}, "leaves": {"missing": "rules"}}
}
"""Without them most of scikit-learn would answer not-a-number for one training row in twenty."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(folder: Path) -> Bundle:
    return Bundle.open(folder)


def fitted_on_plain(model: Any, target: str) -> Any:
    """The estimator on features without nulls, and the features that have none."""
    _, x = trained()
    return model.fit(PLAIN(x), trips()[target])


def answers(bundle: Bundle) -> tuple[list[Any], NDArray[np.float32]]:
    assert bundle.fitted is not None
    outputs = bundle.run(bundle.fitted.encode_table(trips()).rows)
    assert outputs.features is not None
    return outputs.values, outputs.features  # noqa: PD011  (no pandas here)


# models of each library


def test_a_lightgbm_classifier_answers_as_it_did(store: Path):
    bundle = opened(packed(store))
    (probability,), x = answers(bundle)
    assert np.abs(probability - native(x)).max() < 1e-6
    spec = bundle.outputs[0]
    assert (spec.kind, spec.classes, spec.positive) == ("probability", (False, True), True)
    assert (spec.low, spec.high, spec.tolerance.absolute) == (0, 1, 1e-6)
    check = bundle.manifest.model.native_check
    assert check is not None
    assert (bundle.manifest.model.framework, check.rows) == ("lightgbm", 150)
    assert check.edge_rows > 30
    assert check.largest_difference["probability"] < 1e-6
    assert bundle.manifest.label == Label(type="boolean", compare="positive")


def test_a_bare_booster_has_classes_0_and_1(store: Path):
    bundle = opened(packed(store, model=booster().booster_))
    assert bundle.outputs[0].classes == (0, 1)
    assert bundle.manifest.training.metrics["auc"] > 0.7


def test_a_lightgbm_classifier_of_several_classes(store: Path):
    _, x = trained()
    model = lgb.LGBMClassifier(n_estimators=10, num_leaves=7, n_jobs=1, verbose=-1)
    model.fit(x, trips()["kind"])
    folder = packed(store, model=model, target="kind", decision="classes", default="middle")
    bundle = opened(folder)
    (label, probabilities), x = answers(bundle)
    assert label.tolist() == model.classes_[probabilities.argmax(axis=1)].tolist()
    assert np.abs(probabilities - model.booster_.predict(x)).max() < 1e-6
    assert [spec.kind for spec in bundle.outputs] == ["label", "class_probabilities"]
    assert bundle.ladder.decisions.names == ("long", "middle", "short")
    assert bundle.manifest.label == Label(type="string", compare="equal")
    assert set(bundle.manifest.training.metrics) == {"accuracy", "log_loss"}


@pytest.mark.parametrize("objective", ["regression", "poisson", "quantile"])
def test_a_lightgbm_regressor(store: Path, objective: str):
    _, x = trained()
    minutes = np.abs(trips()["minutes"])
    model = lgb.LGBMRegressor(n_estimators=20, n_jobs=1, verbose=-1, objective=objective)
    model.fit(x, minutes)
    folder = packed(
        store,
        model=model,
        target=minutes,
        decision=[{"below": 60, "is": "short"}, {"is": "long"}],
        default=None,
        unit="min",
        valid_range=(0, 1000),
    )
    bundle = opened(folder)
    (value,), x = answers(bundle)
    spec = bundle.outputs[0]
    assert np.abs(value - model.booster_.predict(x)).max() <= 1e-5 * value.std()
    assert (spec.kind, spec.unit, spec.low, spec.high) == ("value", "min", 0, 1000)
    rounding = 0 if objective == "poisson" else 2 * 20**0.5 * np.spacing(np.abs(value).max())
    assert spec.tolerance.absolute == pytest.approx(max(1e-5 * value.std(), rounding), rel=1e-3)
    assert (spec.tolerance.ulps == 4) == (objective != "poisson")
    assert bundle.fallback.default["value"] == pytest.approx(float(np.median(minutes)))
    assert set(bundle.manifest.training.metrics) == {"rmse", "mae", "r2"}


ESTIMATORS: list[tuple[Callable[[], Any], str, list[str]]] = [
    (LogisticRegression, "late", ["probability"]),
    (lambda: LogisticRegression(tol=0.1), "kind", ["label", "class_probabilities"]),
    (lambda: GradientBoostingClassifier(n_estimators=5), "kind", ["label", "class_probabilities"]),
    (lambda: GradientBoostingClassifier(n_estimators=10), "late", ["probability"]),
    (lambda: HistGradientBoostingRegressor(max_iter=10), "minutes", ["value"]),
    (lambda: make_pipeline(StandardScaler(), Ridge()), "minutes", ["value"]),
    (LinearSVC, "kind", ["label"]),
]


@pytest.mark.parametrize(("make", "target", "outputs"), ESTIMATORS)
def test_a_scikit_learn_estimator_answers_as_it_did(
    store: Path, make: Callable[[], Any], target: str, outputs: list[str]
):
    model = fitted_on_plain(make(), target)
    bundle = opened(packed(store, model=model, target=target, **UNTHRESHOLDED, **NO_NULLS))
    values, x = answers(bundle)
    finite = np.isfinite(x).all(axis=1)
    got = dict(zip((spec.name for spec in bundle.outputs), values, strict=True))
    assert list(got) == outputs
    for spec in bundle.outputs:
        mine = got[spec.name][finite]
        if spec.kind == "label":
            assert mine.tolist() == model.predict(x[finite]).tolist()
        elif spec.kind == "value":
            assert np.abs(mine - model.predict(x[finite])).max() < 1e-5 * mine.std()
        else:
            native = model.predict_proba(x[finite])
            native = native[:, 1] if spec.kind == "probability" else native
            assert np.abs(mine - native).max() < 2e-6
    assert bundle.manifest.model.native_check is not None
    assert bundle.manifest.model.native_check.rows > 100


def test_a_regressor_of_several_values(store: Path):
    _, x = trained()
    minutes = trips()["minutes"]
    model = Ridge().fit(PLAIN(x), np.c_[minutes, -minutes])
    bundle = opened(packed(store, model=model, target=None, **UNTHRESHOLDED, **NO_NULLS))
    (value,), _ = answers(bundle)
    assert value.shape == (len(minutes), 2)
    assert (bundle.outputs[0].kind, bundle.outputs[0].shape) == ("vector", (-1, 2))
    assert np.asarray(bundle.fallback.default["value"]).shape == (2,)
    assert bundle.manifest.training.metrics == {}


def test_a_library_that_computes_in_float32_may_differ_more(store: Path):
    model = fitted_on_plain(GaussianNB(), "late")
    bundle = opened(packed(store, model=model, **NO_NULLS))
    assert bundle.outputs[0].tolerance.absolute == 1e-5


@pytest.mark.parametrize("target", ["late", "kind"])
def test_probabilities_that_are_sums_stay_within_0_and_1(store: Path, target: str):
    """Of 30 trees in float32 they reached 1.0000004, and right answers went to the rules."""
    forest = fitted_on_plain(RandomForestClassifier(30, n_jobs=1, random_state=0), target)
    columns: dict[str, Any] = {name: FEATURES[name] for name in ("log_distance", "carrier")}
    features = FeatureSet("sums", version=1, features=columns).fit(trips(), quiet=True)
    forest.fit(features.transform(trips(), quiet=True), trips()[target])
    folder = packed(
        store, features=features, model=forest, target=target, time=None, **UNTHRESHOLDED
    )
    bundle = opened(folder)
    assert bundle.fitted is not None
    got = bundle.run(bundle.fitted.encode_table(trips()).rows).values  # noqa: PD011
    for spec, column in zip(bundle.outputs, got, strict=True):
        if spec.kind != "label":
            assert (column.min(), column.max()) == (0, 1)


def test_not_a_number_is_no_probability_after_clamping():
    _, x = trained()
    session = Session(
        convert(fitted_on_plain(LogisticRegression(), "late"), x.shape[1]).model.SerializeToString()
    )
    (answers,) = session.run(x)
    assert np.isnan(answers).tolist() == np.isnan(x).any(axis=1).tolist()


@pytest.mark.parametrize("target", ["late", "kind"])
def test_a_model_of_which_more_than_a_hundredth_is_invalid_is_refused(store: Path, target: str):
    model = fitted_on_plain(LogisticRegression(tol=0.1), target)
    with pytest.raises(PackingError) as caught:
        packed(store, model=model, target=target, **UNTHRESHOLDED)
    message = str(caught.value)
    assert "training rows that the model answers have invalid outputs" in message
    assert "nan" in message
    assert "impute" in message
    assert Store(store).versions("trips") == []


@pytest.mark.parametrize(
    ("estimator", "target"),
    [(LogisticRegression(tol=0.1), "late"), (LinearSVC(), "kind")],
    ids=["gives no number", "is refused by its library"],
)
def test_nulls_that_reach_a_model_which_takes_none_are_warned_of(
    store: Path, estimator: Any, target: str
):
    model = fitted_on_plain(estimator, target)
    rows = trips()
    rows["distance"] = PLAIN(rows["distance"])
    with pytest.warns(UserWarning, match=r"fields \['distance', 'leaves'\] may be missing") as said:
        packed(store, model=model, target=target, training=rows, **UNTHRESHOLDED)
    (message,) = (str(warning.message) for warning in said)
    for way_out in ("impute", "policies={'distance': {'missing': 'rules'}}", "nullable=False"):
        assert way_out in message


# plain ONNX


def onnx_booster() -> onnx.ModelProto:
    fitted, _ = trained()
    return convert(booster(), len(fitted.feature_names)).model


def test_a_booster_without_its_label_has_the_probabilities_of_the_whole_classifier():
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    fitted, _ = trained()
    width = len(fitted.feature_names)
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 300, (2_000, width)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    whole = convert_lightgbm(
        lgb.Booster(model_str=with_float32_thresholds(booster().booster_.model_to_string())),
        initial_types=[("features", FloatTensorType([None, width]))],
        target_opset=15,
        zipmap=False,
    )
    expected = Session(whole.SerializeToString()).run(rows)[1][:, 1]
    model = onnx_booster()
    assert np.array_equal(Session(model.SerializeToString()).run(rows)[0], expected)
    assert "TreeEnsembleClassifier" not in {node.op_type for node in model.graph.node}


def native(features: NDArray[np.float32]) -> NDArray[Any]:
    return booster().booster_.predict(features)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("how", ["bytes", "path", "proto"])
def test_an_onnx_model_with_its_native_prediction(store: Path, tmp_path: Path, how: str):
    proto = onnx_booster()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    given = {"bytes": proto.SerializeToString(), "path": path, "proto": proto}[how]
    model = OnnxModel(given, native=native, outputs={"probability": "probability"})
    bundle = opened(packed(store, model=model))
    assert bundle.manifest.model.native_check is not None
    assert bundle.outputs[0].kind == "probability"
    assert bundle.outputs[0].tolerance.absolute == 1e-6


def test_an_onnx_model_without_a_native_one_says_that_nothing_was_verified(store: Path):
    folder = packed(store, model=OnnxModel(onnx_booster()), decision=None)
    bundle = opened(folder)
    assert bundle.manifest.model.native_check is None
    assert bundle.outputs[0].kind == "value", "a number, as far as anybody can tell"
    assert "not verified" in (folder / "card.md").read_text()


def test_an_onnx_output_may_be_declared_whole(store: Path):
    spec = OutputSpec(
        name="risk", kind="probability", dtype="float32", classes=("no", "yes"), positive="yes",
        low=0.0, high=1.0,
    )  # fmt: skip
    model = OnnxModel(onnx_booster(), outputs={"probability": spec})
    late = np.asarray(["no", "yes"])[trips()["late"].astype(int)]
    bundle = opened(packed(store, model=model, target=late.tolist()))
    assert bundle.outputs[0].name == "risk"
    assert bundle.manifest.training.metrics["auc"] > 0.7


def moved_by_one_ulp(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, float]:
    """The model with the first threshold on `distance` one float32 lower, and the old threshold."""
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    node = next(node for node in moved.graph.node if node.op_type == "TreeEnsembleRegressor")
    named = {attribute.name: attribute for attribute in node.attribute}
    place = next(
        place
        for place, (feature, mode) in enumerate(
            zip(named["nodes_featureids"].ints, named["nodes_modes"].strings, strict=True)
        )
        if feature == 0 and mode != b"LEAF"
    )
    old = np.float32(named["nodes_values"].floats[place])
    named["nodes_values"].floats[place] = float(np.nextafter(old, np.float32(-np.inf)))
    return moved, float(old)


def test_a_threshold_moved_by_one_ulp_across_a_held_out_row_is_refused(store: Path):
    proto, threshold = moved_by_one_ulp(onnx_booster())
    held = trips(200, seed=5)
    held["distance"][17] = threshold
    outputs: Any = {"probability": "probability"}
    with pytest.raises(NativeMismatch) as caught:
        packed(store, model=OnnxModel(proto, native=native, outputs=outputs), holdout=held)
    message = str(caught.value)
    assert "1 of 200 held-out rows" in message
    assert "held-out row 17: probability is 0." in message
    assert "natively 0." in message
    assert "Train on what `fitted.transform(table)` returns" in message
    assert Store(store).versions("trips") == []
    packed(store, model=OnnxModel(onnx_booster(), native=native, outputs=outputs), holdout=held)


def test_thresholds_are_rounded_down():
    text = "tree\ntree_sizes=1 2\nTree=0\nthreshold=0.1 1 -0.1 1e300 2.5\nend of trees\n"
    lines = with_float32_thresholds(text).split("\n")
    assert not any(line.startswith("tree_sizes") for line in lines)
    line = next(line for line in lines if line.startswith("threshold="))
    values = [float(value) for value in line.removeprefix("threshold=").split()]
    assert values[1:2] + values[4:] == [1, 2.5]
    for value, exact in zip(values, (0.1, 1, -0.1, 1e300, 2.5), strict=True):
        assert value <= exact
        assert float(np.float32(value)) == value
    ups = np.nextafter(np.asarray(values[:3], np.float32), np.float32(np.inf))
    assert (ups.astype(np.float64) > [0.1, 1, -0.1]).all(), "and no further than needed"


# models that are refused


def lightgbm_of(**settings: Any) -> lgb.LGBMClassifier:
    _, x = trained()
    model = lgb.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1, **settings)
    return model.fit(x, trips()["late"])


def loop_model() -> OnnxModel:
    proto = onnx_booster()
    proto.graph.node.append(onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1]))
    return OnnxModel(proto)


def narrow(model: Any) -> Any:
    return model.fit(np.zeros((9, 2), np.float32), [0, 1, 2] * 3)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: "a text", "cannot be packed"),
        (lgb.LGBMClassifier, "not fitted"),
        (lambda: RandomForestClassifier(2), "call fit() first"),
        (lambda: make_pipeline(StandardScaler(), Ridge()), "call fit() first"),
        (lambda: narrow(RandomForestClassifier(2)), "trained on 2 columns"),
        (lambda: narrow(lgb.LGBMClassifier(verbose=-1)), "trained on 2 columns"),
        (lambda: lightgbm_of(objective="cross_entropy"), "cannot convert"),
        (lambda: fitted_on_plain(KNeighborsClassifier(), "late"), "Scan"),
        (lambda: fitted_on_plain(KMeans(2), "late"), "neither a classifier nor"),
        (loop_model, "random"),
        (lambda: OnnxModel(b"nothing"), "not a valid ONNX model"),
        (lambda: OnnxModel("/nowhere/m.onnx"), "not a valid ONNX model"),
        (lambda: OnnxModel(trained()[0].model()), "expected one input, float32"),
        (lambda: OnnxModel(onnx_booster(), outputs={"score": "value"}), "no outputs ['score']"),
    ],
)
def test_models_that_cannot_be_served_are_refused(
    store: Path, model: Callable[[], Any], words: str
):
    with pytest.raises(ConversionFailed) as caught:
        packed(store, model=model())
    assert words in str(caught.value)


def test_a_conversion_that_loses_an_option_is_refused(store: Path):
    """onnxmltools does not know `sigmoid`; the comparison does."""
    with pytest.raises(NativeMismatch, match=r"150 of 150 held-out rows"):
        packed(store, model=lightgbm_of(sigmoid=3.0))


def test_nulls_that_the_conversion_treats_otherwise_are_named_as_the_cause(store: Path):
    """scikit-learn sends a null unseen in training to the larger child; skl2onnx does not."""
    forest = fitted_on_plain(RandomForestClassifier(10, random_state=0), "kind")
    with pytest.raises(NativeMismatch, match="All of them have null features"):
        packed(store, model=forest, target="kind", decision=None, default=None)


def unbounded(model: Any) -> dict[str, Any]:
    """A model over a number without bounds, nowhere null once imputed."""
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(0, 1, 500), "b": rng.normal(0, 1, 500)}
    columns: dict[str, Any] = {n: number(n).impute("median") for n in table}
    fitted, x = FeatureSet("open", version=1, features=columns).fit_transform(table, quiet=True)
    target = (x[:, 0] * x[:, 1] > 0).astype(int)
    return {
        "features": fitted,
        "model": model.fit(x, target),
        "training": table,
        "target": target,
        "time": None,
        "policies": None,
        **UNTHRESHOLDED,
    }


def test_a_number_beyond_float32_is_named_as_the_cause(store: Path):
    forest = RandomForestClassifier(10, random_state=0)
    with pytest.raises(NativeMismatch) as caught:
        packed(store, **unbounded(forest))
    message = str(caught.value)
    assert "edge case 'a: very " in message or "edge case 'b: very " in message
    assert "declare low/high or clip(): beyond float32 a feature is null" in message
    assert "impute" not in message


def test_an_estimator_that_refuses_nulls_is_not_asked_about_numbers_beyond_float32(store: Path):
    packed(store, **unbounded(LogisticRegression()))


def test_a_native_model_that_does_not_predict(store: Path):
    def broken(_: Any) -> Any:
        raise RuntimeError("no licence")

    with pytest.raises(ConversionFailed, match="no licence"):
        packed(store, model=OnnxModel(onnx_booster(), native=broken))


# what is declared


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"version": "../1"}, "is not a version"),
        ({"version": 7}, "it must be a text; write '7'"),
        ({"features": features()}, "is a FeatureSet, expected what fit() returns"),
        ({"label": {"type": "bool"}}, "use such as {'type': 'boolean'"),
        ({"target": [1, "a"] * 750}, "the target 'target' cannot be read"),
        ({"policies": {"speed": "reject"}}, "unknown fields ['speed']"),
        ({"policies": {"distance": {"missing": repair("far")}}}, "itself invalid"),
        ({"decision": [{"below": 0.4, "is": "a"}]}, "takes the rest"),
        ({"decision": [{"is": "a"}, {"is": "b"}]}, "needs a 'below'"),
        (
            {"decision": [{"below": 2, "is": "a"}, {"below": 1, "is": "b"}, {"is": "c"}]},
            "ascending",
        ),
        ({"decision": [{"below": 2, "is": "a"}, {"is": "a"}]}, "twice"),
        ({"decision": [{"over": 2, "is": "a"}]}, "over"),
        ({"decision": []}, "takes the rest"),
        ({"decision": "classes"}, "name thresholds instead"),
        ({"default": {"score": 0.1}}, "default names ['score']"),
        ({"default": 1.5}, "not a valid answer"),
        ({"default": "often"}, "not a number"),
        ({"default": float("nan")}, "not a valid answer"),
        ({"valid_range": (0, 1)}, "valid_range is for values"),
        ({"objectives": {"latency": 1}}, "objectives name ['latency']"),
        ({"objectives": {"availability": 99.9}}, "from 0 to 1"),
        ({"slices": ["speed"]}, "name ['speed']"),
        ({"route_key": "customer"}, "name ['customer']"),
        ({"target": "tardy"}, "the target 'tardy' cannot be read: the table has no column"),
        ({"target": [True, False]}, "the target has 2 values"),
        ({"target": "kind"}, "no value of the target is one of the model's classes"),
        ({"time": "carrier"}, "is a category"),
        ({"time": "late"}, "holds booleans"),
        ({"time": "kind"}, "cannot be read as times"),
        ({"holdout": trips(0)}, "no rows"),
    ],
)
def test_declarations_that_make_no_sense_are_refused(store: Path, declared: Any, words: str):
    with pytest.raises((PackingError, ValueError)) as caught:
        packed(store, **{"version": "1", **declared})
    assert words in str(caught.value)
    assert not list(store.rglob("manifest.json"))


@pytest.mark.parametrize("count", [254, 255])
def test_at_most_254_decisions(count: int):
    label = OutputSpec(name="label", kind="label", dtype="int64", classes=tuple(range(count)))
    value = OutputSpec(name="value", kind="value", dtype="float32")
    steps = [{"below": n, "is": f"step {n}"} for n in range(count - 1)]
    declared: list[tuple[Any, OutputSpec]] = [("classes", label), ([*steps, {"is": "x"}], value)]
    for decision, primary in declared:
        if count == 254:
            assert read_decision(decision, primary)
        else:
            with pytest.raises(PackingError, match="255 decisions, at most 254"):
                read_decision(decision, primary)


@pytest.mark.parametrize(
    "target",
    [
        pd.Series([1, None, 0], dtype="Int64"),
        pd.Series([True, None, False], dtype="boolean"),
        pa.array([1, None, 0]),
        pa.chunked_array([[1.0], [None, 0.0]]),
        pl.Series([1, None, 0]),
        np.asarray([1, np.nan, 0]),
        [1, None, 0],
    ],
)
def test_a_target_is_read_as_columns_are(target: Any):
    fitted, table = trained()[0], trips(3)
    for given, of in ((target, table), ("t", {**table, "t": target})):
        got = read_rows(fitted, of, given, None).target
        assert got is not None
        plain = [None if np.isnan(value) else value for value in np.asarray(got, float).tolist()]
        assert plain == [1, None, 0]


SECONDS = np.asarray([1.7e9, 1.7e9 + 86_400, np.nan])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (SECONDS * 1e3, "these look like milliseconds; divide by 1000"),
        (SECONDS * 1e6, "these look like microseconds; divide by 1000000"),
        (-SECONDS * 10, "not within 1900 to 2200"),
    ],
)
def test_times_of_another_unit_are_refused(column: Any, words: str):
    with pytest.raises(PackingError) as caught:
        read_rows(trained()[0], {**trips(3), "at": column}, None, "at")
    assert words in str(caught.value)


def test_dates_are_times():
    days = pa.array([19_000, None, 19_001], pa.date32())
    for column in (days, days.cast(pa.date64())):
        times = read_rows(trained()[0], {**trips(3), "at": column}, None, "at").times
        assert times is not None
        assert times[[0, 2]].tolist() == [19_000 * 86_400, 19_001 * 86_400]
        assert np.isnan(times[1])
    assert read_rows(trained()[0], {**trips(3), "at": SECONDS}, None, "at").times is not None


def test_a_taken_version_is_refused_before_any_work(store: Path):
    packed(store)
    with pytest.raises(VersionTaken, match="immutable"):
        packed(store, model="not even looked at")


def test_declarations_are_in_the_manifest(store: Path):
    folder = packed(
        store,
        description="Will it be late?",
        owner="Ada",
        contact="ada@example.org",
        objectives={"latency_ms": 25, "availability": 0.999, "degraded": 0.01},
        slices=("carrier",),
        route_key="driver",
        metrics={"profit": 12.5},
        code_commit="abc123",
        notes="Ask before **retraining**.",
        policies={"distance": {"out_of_bounds": repair(50.0)}},
        max_repaired=3,
    )
    manifest = opened(folder).manifest
    assert manifest.objectives == Objectives(
        latency_seconds=0.025, availability_ratio=0.999, degraded_ratio=0.01
    )
    assert (manifest.owner, manifest.slices, manifest.route_key) == ("Ada", ("carrier",), "driver")
    assert manifest.training.metrics["profit"] == 12.5
    assert manifest.training.code_commit == "abc123"
    assert manifest.sensitive == {"driver": "hash"}
    assert manifest.features.identity.startswith("trips@1+")
    assert manifest.runtime["onnxruntime_oldest"] == "1.20"
    assert opened(folder).fallback.max_repaired == 3
    card = (folder / "card.md").read_text()
    for words in (
        "Will it be late?",
        "Ada",
        "within 25 ms",
        "promised: 99.9% of requests",
        "**retraining**",
        "repair with 50",
    ):
        assert words in card


def test_without_a_holdout_the_last_tenth_in_time_is_held_out(store: Path):
    training = opened(packed(store)).manifest.training
    assert training.holdout.rule == "last tenth of the training rows by leaves"
    assert training.holdout.rows == 150
    assert training.first == trips()["leaves"][0].replace("Z", "+00:00")
    assert training.last == trips()["leaves"][-1].replace("Z", "+00:00")


def test_without_a_time_a_seeded_tenth_is(store: Path):
    training = opened(packed(store, time=None)).manifest.training
    assert "drawn with seed" in training.holdout.rule
    assert (training.time, training.first) == (None, None)


def test_a_holdout_of_its_own(store: Path):
    held = trips(80, seed=9)
    training = opened(packed(store, holdout=held)).manifest.training
    assert (training.holdout.rule, training.holdout.rows) == ("a table of its own", 80)
    again = opened(packed(store, "2", holdout=(held, held["late"]))).manifest.training
    assert again.metrics == training.metrics
    without = packed(store, "3", target=trips()["late"], holdout=held)
    assert opened(without).manifest.training.metrics == {}


def test_importances_are_shares(store: Path):
    importance = opened(packed(store)).reference.importance
    assert sum(importance.values()) == pytest.approx(1, abs=1e-4)
    assert max(importance, key=lambda name: importance[name]) == "distance"
    without = opened(packed(store, "2", target=None)).reference.importance
    assert max(without, key=lambda name: without[name]) == "distance"


def test_the_usual_answer_is_the_default_where_none_is_named(store: Path):
    bundle = opened(packed(store, default=None))
    assert bundle.fallback.default["probability"] == pytest.approx(trips()["late"].mean())


def test_golden_rows_that_never_reach_the_model_are_refused(store: Path):
    with pytest.raises(PackingError, match=r"driver:unknown.*give them an\s+`example`"):
        packed(store, policies={"driver": {"unknown": "rules"}})


def test_few_rows_are_a_warning(store: Path):
    few = trips(150)
    with pytest.warns(UserWarning, match="only 150 training rows"):
        folder = packed(store, training=few)
    assert opened(folder).reference.few_rows


def frames() -> dict[str, Any]:
    table = trips()
    frame = pd.DataFrame(table)
    return {"pandas": frame, "polars": pl.DataFrame(table), "arrow": pa.table(table), "dict": table}


def test_all_kinds_of_tables_give_one_bundle(store: Path):
    files: dict[str, set[bytes]] = {}
    for version, table in frames().items():
        folder = packed(store, version, training=table)
        for name in ("golden.json", "reference.json", "fallback.json", "model.onnx"):
            files.setdefault(name, set()).add((folder / name).read_bytes())
        files.setdefault("rows", set()).add(opened(folder).manifest.training.fingerprint.encode())
    assert {name: len(contents) for name, contents in files.items()} == dict.fromkeys(files, 1)


# the files


def test_sensitive_values_are_in_no_file_but_the_vocabulary(store: Path):
    folder = packed(store)
    for path in folder.iterdir():
        if path.name != "features.json":
            content = path.read_bytes()
            assert not any(driver.encode() in content for driver in DRIVERS), path.name


def test_every_file_follows_its_schema(store: Path):
    folder = packed(store)
    for name in ("manifest", "features", "fallback", "golden", "reference"):
        schema = json.loads(schemas.schema_path(name).read_bytes())
        errors = jsonschema_rs.validator_for(schema).iter_errors(
            json.loads((folder / f"{name}.json").read_bytes())
        )
        assert [str(error) for error in errors] == []


@pytest.mark.parametrize("name", schemas.FILES)
def test_schemas_are_those_of_the_structs(name: str):
    assert schemas.schema_path(name).read_text() == schemas.schema_text(name), (
        "run `python -m models.schemas`"
    )


def test_no_schema_is_left_over():
    kept = {path.name for path in schemas.HERE.glob("*.json")}
    assert kept == {schemas.schema_path(name).name for name in schemas.FILES}


def test_the_manifest_lists_every_other_file(store: Path):
    folder = packed(store)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    listed = {entry["name"]: entry["size"] for entry in manifest["files"]}
    there = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST}
    assert listed == there


def test_the_model_is_what_bundles_allow(store: Path):
    model = onnx.load(packed(store) / "model.onnx")
    assert model.ir_version == 10
    assert {o.domain: o.version for o in model.opset_import}[""] == 21
    assert {o.domain for o in model.opset_import} <= {"", "ai.onnx.ml"}
    assert [value.name for value in model.graph.input] == ["row"]
    assert [value.name for value in model.graph.output] == ["probability", "features"]
    assert all(node.name for node in model.graph.node)
    onnx.checker.check_model(model, full_check=True)


def test_it_is_silent_where_nobody_watches(store: Path, capfd: pytest.CaptureFixture[str]):
    packed(store, progress=True)
    assert capfd.readouterr() == ("", "")
