"""A baseline in a bundle: it reads the model's row and gives the model's outputs, or is refused."""

import shutil
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
import pytest
from msgspec import structs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from features import boolean, category, number
from features.feature_set import FeatureSet
from features.fitted import Fitted
from models.baseline_packing import compile_baseline
from models.bundle import Bundle
from models.convert import OnnxModel, convert
from models.errors import DefinitionChanged, NativeMismatch, PackingError
from models.manifest import OutputSpec
from models.store import Store
from tests.packed import (
    DRIVERS,
    FEATURES,
    SIMPLE_FEATURES,
    booster,
    full_bundle,
    packed,
    simple,
    simple_features,
    trained,
    trips,
)

PROBABILITY = OutputSpec(
    name="probability",
    kind="probability",
    dtype="float32",
    classes=(False, True),
    positive=True,
    low=0.0,
    high=1.0,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(full_bundle(tmp_path_factory.mktemp("store")))


def compiled(model: Any, outputs: Any = (PROBABILITY,), **given: Any) -> Any:
    features = given.get("features", trained()[0])
    fitted = given.get("fitted", simple_features()[0])
    return compile_baseline(features, (fitted, model), given.get("accepts"), outputs)


def logistic(target: str = "late") -> LogisticRegression:
    return LogisticRegression(tol=0.1).fit(simple_features()[1], trips()[target])


def encoded() -> NDArray[np.float64]:
    return trained()[0].encode_table(trips()).rows


# what a bundle has of it


def test_a_baseline_answers_in_the_bundle_as_in_its_library(bundle: Bundle):
    assert bundle.baseline is not None
    fitted, model = simple()
    (probability,) = bundle.baseline.run(encoded()).values
    native: Any = model.booster_.predict(simple_features()[1])
    assert np.abs(probability - native).max() < 1e-6
    assert fitted.identity != trained()[0].identity


def test_the_manifest_says_what_it_is(bundle: Bundle):
    info = bundle.manifest.baseline
    assert info is not None
    assert info.fields == ("distance", "carrier"), "in the order of the row"
    assert info.features.label == "trips-simple@1"
    assert info.accepts == {"distance": ("missing",), "carrier": ("missing", "unknown")}
    assert (info.model.framework, info.model.estimator) == ("lightgbm", "LGBMClassifier")
    check = info.model.native_check
    assert check is not None
    assert check.rows == 150
    assert check.edge_rows > 30
    assert set(info.metrics) == {"log_loss", "brier", "auc"}
    assert info.batch_exact


def test_its_graph_takes_the_whole_row_and_gives_outputs_only(bundle: Bundle):
    graph = onnx.load(bundle.folder / "baseline.onnx").graph
    assert [value.name for value in graph.input] == ["row"]
    width = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assert width == len(bundle.fields)
    assert [value.name for value in graph.output] == ["probability"]


def test_values_of_sensitive_fields_are_in_no_file(bundle: Bundle):
    for path in bundle.folder.iterdir():
        if path.name != "features.json":
            content = path.read_bytes()
            assert not any(driver.encode() in content for driver in DRIVERS), path.name


# outputs that are brought to the model's


def test_a_logistic_regression_beside_trees():
    baseline = compiled(logistic())
    (probability,) = baseline.run(encoded()).values
    native = logistic().predict_proba(simple_features()[1])[:, 1]
    assert np.abs(probability - native).max() < 1e-5
    assert baseline.accepts == {
        "distance": ("missing", "invalid", "out_of_bounds"),
        "carrier": ("missing", "invalid", "unknown"),
    }, "every trouble of nullable fields"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_field_that_may_not_be_null_is_accepted_only_when_it_is_good():
    fitted = fitted_over(
        is_weekend=boolean("is_weekend", nullable=False), distance=FEATURES["log_distance"]
    )
    x = fitted.transform(trips(), quiet=True)
    baseline = compiled(LogisticRegression().fit(x, trips()["late"]), fitted=fitted)
    assert baseline.accepts == {
        "distance": ("missing", "invalid", "out_of_bounds"),
        "is_weekend": (),
    }


def test_an_output_of_another_name_is_renamed():
    risk = OutputSpec(name="risk", kind="probability", dtype="float32", classes=(0, 1), positive=1)
    baseline = compiled(logistic(), (risk,))
    assert baseline.session.outputs == ("risk", "features")
    native = baseline.converted.native(simple_features()[1][:5])
    assert list(native) == ["risk"]


def test_a_float_of_another_width_is_cast():
    wide = OutputSpec(name="value", kind="value", dtype="float64")
    model = lgb.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1)
    model.fit(simple_features()[1], trips()["minutes"])
    (value,) = compiled(model, (wide,)).run(encoded()).values
    assert value.dtype == np.float64
    assert np.unique(value).size > 2


def test_outputs_that_the_model_has_not_are_left_out():
    label = convert(logistic("kind"), simple_features()[1].shape[1]).outputs[:1]
    assert compiled(logistic("kind"), label).session.outputs == ("label", "features")


def two_values() -> OnnxModel:
    """Outputs `p` and `q`, a sum and its opposite."""
    width = len(simple_features()[0].feature_names)
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["p"], keepdims=0),
        helper.make_node("Neg", ["p"], ["q"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "pq"],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return OnnxModel(model, outputs={"p": "value", "q": "value"})


def values(*names: str) -> tuple[OutputSpec, ...]:
    return tuple(OutputSpec(name=name, kind="value", dtype="float32") for name in names)


def test_outputs_of_one_kind_are_told_apart_by_their_names():
    high, low = compiled(two_values(), values("q", "p")).run(encoded()).values
    assert (high == -low).all()
    (other, named) = compiled(two_values(), values("p", "other")).run(encoded()).values
    assert (other == -named).all(), "one is left for the one that has no name"


@pytest.mark.parametrize("names", [("low", "high"), ("low",)])
def test_outputs_that_could_be_several_are_refused(names: tuple[str, ...]):
    with pytest.raises(PackingError, match="several could be meant; give them the model's names"):
        compiled(two_values(), values(*names))


def vector_model() -> OnnxModel:
    return OnnxModel(convert(logistic("kind"), simple_features()[1].shape[1]).model)


@pytest.mark.parametrize(
    ("model", "outputs", "words"),
    [
        (
            lambda: lgb.LGBMRegressor(n_estimators=2, verbose=-1).fit(
                simple_features()[1], trips()["minutes"]
            ),
            (PROBABILITY,),
            "its outputs are ['value (value)']",
        ),
        (
            lambda: logistic("kind"),
            (OutputSpec(name="label", kind="label", dtype="string", classes=("long", "short")),),
            "its classes are ['long', 'middle', 'short'], expected ['long', 'short']",
        ),
        (
            vector_model,
            (OutputSpec(name="label", kind="value", dtype="float32"),),
            "'label' is a label",
        ),
        (
            vector_model,
            (
                OutputSpec(
                    name="class_probabilities", kind="vector", dtype="float32", shape=(-1, 4)
                ),
            ),
            "its shape is [-1, 3], expected [-1, 4]",
        ),
        (
            vector_model,
            (OutputSpec(name="label", kind="label", dtype="int64"),),
            "its type is string, expected int64",
        ),
    ],
)
def test_outputs_that_mean_something_else_are_refused(model: Any, outputs: Any, words: str):
    with pytest.raises(PackingError) as caught:
        compiled(model(), outputs)
    assert words in str(caught.value)
    assert "answer alike" in str(caught.value)


# the same row


def fitted_over(table: dict[str, Any] | None = None, **columns: Any) -> Fitted:
    return FeatureSet("other", version=1, features=columns).fit(table or trips(), quiet=True)


def other_carriers() -> Fitted:
    table = trips()
    table["carrier"] = ["UA" if text == "AA" else text for text in table["carrier"]]
    return fitted_over(table, carrier=SIMPLE_FEATURES["carrier"])


def other_drivers() -> Fitted:
    table = trips()
    table["driver"] = [text.replace("badge 7781", "badge 2249") for text in table["driver"]]
    return fitted_over(table, driver=category("driver", sensitive="hash").frequency())


@pytest.mark.parametrize(
    ("fitted", "words"),
    [
        (
            lambda: fitted_over(minutes=number("minutes")),
            "reads field 'minutes', which the model's features do not",
        ),
        (
            lambda: fitted_over(distance=number("distance", unit="km", low=0).impute()),
            "declared otherwise than the model's: high is None, there 100",
        ),
        (other_carriers, "has 2 texts, the model's 3; only one of them has ['AA']"),
        (other_drivers, "has 2 texts, the model's 3. Fit both"),
    ],
)
def test_fields_that_mean_something_else_are_refused(fitted: Any, words: str):
    with pytest.raises(PackingError) as caught:
        compiled(logistic(), fitted=fitted())
    assert words in str(caught.value)


def test_another_definition_of_the_models_name_is_refused(store: Path):
    x, y = simple_features()[1], trips()["late"]
    namesake = FeatureSet("trips", version=1, features=SIMPLE_FEATURES).fit(trips(), quiet=True)
    with pytest.raises(PackingError, match="both called trips@1"):
        compiled(LogisticRegression().fit(x, y), fitted=namesake)
    full_bundle(store)
    renamed = FeatureSet("others", version=1, features=SIMPLE_FEATURES).fit(trips(), quiet=True)
    with pytest.raises(DefinitionChanged, match="trips@1 of trips/1 are defined otherwise"):
        packed(
            store,
            "2",
            features=renamed,
            model=LogisticRegression().fit(x, y),
            baseline=(namesake, LogisticRegression().fit(x, y)),
        )


def test_a_description_of_its_own_changes_nothing():
    described = fitted_over(
        distance=number("distance", unit="km", low=0, high=100, description="by road").impute()
    )
    x = described.transform(trips(), quiet=True)
    assert compiled(LogisticRegression().fit(x, trips()["late"]), fitted=described)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"baseline": simple_features()[0]}, "expected its fitted features and its model"),
        ({"baseline": ("features", "model")}, "expected its fitted features and its model"),
        ({"baseline_accepts": {"distance": ["missing"]}}, "but no baseline"),
        ({"policies": {"distance": "baseline"}}, "there is no baseline model"),
        (
            {"baseline": simple(), "baseline_accepts": {"leaves": ["missing"]}},
            "baseline_accepts names ['leaves']; the baseline reads ['carrier', 'distance']",
        ),
        (
            {"baseline": simple(), "baseline_accepts": {"distance": ["unknown"]}},
            "names ['unknown']; a number declared as it is can be",
        ),
    ],
)
def test_declarations_that_make_no_sense_are_refused(store: Path, settings: Any, words: str):
    with pytest.raises(PackingError) as caught:
        packed(store, **settings)
    assert words in str(caught.value)


def test_one_that_accepts_no_golden_row_is_refused(store: Path):
    """Generated values of a sensitive field are unknown, which it is told not to accept."""
    column = {"driver": category("driver", sensitive="hash").frequency()}
    fitted = FeatureSet("drivers", version=1, features=column).fit(trips(), quiet=True)
    x = fitted.transform(trips(), quiet=True)
    model = lgb.LGBMClassifier(n_estimators=1, n_jobs=1, verbose=-1).fit(x, trips()["late"])
    with pytest.raises(PackingError, match="the baseline answers no golden row"):
        packed(store, baseline=(fitted, model), baseline_accepts={"driver": []})


def test_nulls_that_reach_a_baseline_which_takes_none_are_warned_of(store: Path):
    """A linear model over a feature that is null where its field is."""
    columns = {"distance": number("distance", unit="km", low=0, high=100)}
    fitted = FeatureSet("plain", version=1, features=columns).fit(trips(), quiet=True)
    rows = trips()
    known = np.isfinite(rows["distance"])
    x = fitted.transform(rows, quiet=True)
    model = LogisticRegression(tol=0.1).fit(x[known], rows["late"][known])
    training = {name: np.asarray(values)[known] for name, values in rows.items()}
    given: dict[str, Any] = {"baseline": (fitted, model), "training": training}
    with pytest.warns(
        UserWarning, match=r"\['distance'\] may be missing where the baseline"
    ) as said:
        packed(store, **given, baseline_accepts={"distance": ["missing"]})
    (message,) = (str(warning.message) for warning in said)
    assert "leave 'missing' out of baseline_accepts for 'distance'" in message
    packed(store, "2", **given, baseline_accepts={"distance": []})


def test_one_that_does_not_answer_as_its_library_is_refused(store: Path):
    proto = convert(simple()[1], simple_features()[1].shape[1]).model

    def native(x: NDArray[np.float32]) -> Any:
        return np.clip(np.asarray(simple()[1].booster_.predict(x)) + 1e-3, 0, 1)

    given = OnnxModel(proto, native=native, outputs={"probability": PROBABILITY})
    with pytest.raises(NativeMismatch, match="natively"):
        packed(store, baseline=(simple_features()[0], given))
    assert Store(store).versions("trips") == []


def test_one_that_is_the_model_itself_is_warned_of(store: Path):
    with (
        pytest.warns(UserWarning, match="the baseline is the model itself") as caught,
        pytest.raises(PackingError, match="name thresholds instead"),
    ):
        packed(store, baseline=(trained()[0], booster()), decision="classes")
    assert Path(caught[0].filename).name == "packed.py", "where pack is called"


def test_a_baselines_label_names_one_definition_too(store: Path):
    """Beside other baselines, and beside the features of models."""
    x, y = simple_features()[1], trips()["late"]
    packed(store, "1", baseline=(simple_features()[0], LogisticRegression().fit(x, y)))
    other = FeatureSet("trips-simple", version=1, features={"d": SIMPLE_FEATURES["distance"]})
    fitted, columns = other.fit_transform(trips(), quiet=True)
    with pytest.raises(
        DefinitionChanged, match="trips-simple@1 of the baseline of trips/1"
    ) as caught:
        packed(store, "2", baseline=(fitted, LogisticRegression().fit(columns, y)))
    assert "\n  field 'carrier' is gone\n" in str(caught.value)
    again = {**SIMPLE_FEATURES, "carrier": category("carrier").ordinal()}
    fitted, columns = FeatureSet("trips-simple", version=1, features=again).fit_transform(
        trips(), quiet=True
    )
    with pytest.raises(DefinitionChanged, match="declared alike, so what is computed from them"):
        packed(store, "2", baseline=(fitted, LogisticRegression().fit(columns, y)))
    with pytest.raises(DefinitionChanged, match=r"spec_digest was \w{12}…, is \w{12}"):
        packed(store, "2", features=fitted, model=LogisticRegression().fit(columns, y))


def test_a_published_baselines_label_names_one_definition_too(store: Path, bundle: Bundle):
    full_bundle(store)
    home = Store(store)
    assert bundle.manifest.baseline is not None
    identity = structs.replace(bundle.manifest.baseline.features, spec_digest="0" * 64)
    changed = structs.replace(
        bundle.manifest,
        version="2",
        baseline=structs.replace(bundle.manifest.baseline, features=identity),
    )
    with home.aside("trips", "2") as folder:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
        with pytest.raises(DefinitionChanged, match="of the baseline of trips/1"):
            home.publish(folder, changed)
    assert home.versions("trips") == ["1"]
