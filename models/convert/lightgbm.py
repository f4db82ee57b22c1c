"""LightGBM boosters and scikit-learn wrappers to ONNX.

LightGBM compares float64 thresholds, the ONNX tree operator float32 ones. A threshold rounded to
the nearest float32 sends some rows to another leaf (10 of 100,000, measured); rounded *down* it
compares the same for every float32 feature, because no float32 lies between both. So thresholds are
rounded in the booster's own text before it is converted: there they still are what training wrote.
"""

import importlib.metadata
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from models.convert.graph import (
    Converted,
    checked,
    class_array,
    class_names,
    class_probabilities_spec,
    clipped,
    column,
    flat,
    inner,
    label_spec,
    most_probable,
    probability_spec,
    value_spec,
    with_outputs,
)
from models.errors import ConversionFailed
from models.manifest import ClassName

CONVERTER_OPSET: Final = 15
"""The newest that the converter offers; the graph is upgraded afterwards."""

SCORES: Final = "scores"
"""[n, 2]: the probability of the second class, and a column that means nothing."""

EXPONENTIAL: Final = ("poisson", "gamma", "tweedie")
"""Objectives whose answer is e to the sum of the leaves."""

_OF_TARGETS: Final = {
    "class_nodeids": "target_nodeids",
    "class_treeids": "target_treeids",
    "class_weights": "target_weights",
}
"""What the attributes of a classifier's leaves are called in a regressor."""


def convert(model: Any, width: int) -> Converted:
    """A Booster, LGBMClassifier, LGBMRegressor or LGBMRanker trained on `width` float32 features.

    Raises:
        ConversionFailed: another number of features, or an objective that the converter cannot
            express.
    """
    import lightgbm

    booster = model if isinstance(model, lightgbm.Booster) else _fitted_booster(model)
    if booster.num_feature() != width:
        raise ConversionFailed(
            f"the model was trained on {booster.num_feature()} columns, the features give "
            f"{width}; train it on what `fitted.transform(table)` returns"
        )
    text: str = booster.model_to_string()
    objective = _header(text, "objective").split(" ")[0]
    proto = _to_onnx(lightgbm.Booster(model_str=with_float32_thresholds(text)), width, objective)
    common: dict[str, Any] = {
        "framework": "lightgbm",
        "estimator": type(model).__name__,
        "versions": _versions(),
    }
    terms = "exponential_terms" if objective in EXPONENTIAL else "added_terms"
    common[terms] = booster.num_trees()
    if objective.startswith(("binary", "multiclass")):
        classes = _classes(model, text)
        if len(classes) == 2 and objective.startswith("binary"):
            return _binary(proto, booster, classes, common)
        return _multiclass(proto, booster, classes, common)
    return _regression(proto, booster, common)


def _binary(
    proto: Any, booster: Any, classes: tuple[ClassName, ...], common: dict[str, Any]
) -> Converted:
    specs = (probability_spec(classes),)
    _score_without_label(proto)
    # Not clipped: a logistic is never below 0 and never above 1.
    nodes = [column(proto, SCORES, 0, "probability")]
    return Converted(
        model=with_outputs(proto, specs, nodes),
        outputs=specs,
        native=lambda features: {"probability": booster.predict(features)},
        **common,
    )


def _score_without_label(proto: Any) -> None:
    """Makes the classifier of two classes a regressor that gives the same logistic, bit for bit.

    It computes no label and no second probability: 2 % of a row's run. onnxruntime applies the
    logistic to more than one target alone, so there is a second target that no leaf adds to.
    """
    place, trees = next(
        (place, node)
        for place, node in enumerate(proto.graph.node)
        if node.op_type == "TreeEnsembleClassifier"
    )
    attributes = {a.name: helper.get_attribute_value(a) for a in trees.attribute}
    ids = attributes.pop("class_ids")
    attributes = {
        _OF_TARGETS.get(name, name): value
        for name, value in attributes.items()
        if not name.startswith("classlabels")
    }
    scores = helper.make_node(
        "TreeEnsembleRegressor",
        trees.input,
        [SCORES],
        name="trees",
        domain=trees.domain,
        target_ids=[0] * len(ids),
        n_targets=2,
        **attributes,
    )
    proto.graph.node.remove(trees)
    proto.graph.node.insert(place, scores)


def _multiclass(
    proto: Any, booster: Any, classes: tuple[ClassName, ...], common: dict[str, Any]
) -> Converted:
    specs = (label_spec(classes), class_probabilities_spec(classes))
    nodes = [
        clipped(proto, inner("probabilities"), "class_probabilities"),
        *most_probable(proto, "class_probabilities", classes, "label"),
    ]
    names = class_array(classes)

    def native(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        predicted = np.asarray(booster.predict(features))
        return {"label": names[predicted.argmax(axis=1)], "class_probabilities": predicted}

    return Converted(
        model=with_outputs(proto, specs, nodes), outputs=specs, native=native, **common
    )


def _regression(proto: Any, booster: Any, common: dict[str, Any]) -> Converted:
    specs = (value_spec(),)
    return Converted(
        model=with_outputs(proto, specs, [flat(proto, inner("variable"), "value")]),
        outputs=specs,
        native=lambda features: {"value": booster.predict(features)},
        **common,
    )


def with_float32_thresholds(text: str) -> str:
    """A booster's text with every threshold rounded down to float32.

    Split thresholds of categories are small indices, which float32 holds exactly. `tree_sizes`,
    byte counts for parallel reading, would no longer be true and is left out: LightGBM then reads
    in order.
    """
    lines = (line for line in text.split("\n") if not line.startswith("tree_sizes="))
    return "\n".join(_floored(line) if line.startswith("threshold=") else line for line in lines)


def _floored(line: str) -> str:
    exact = np.asarray(line.removeprefix("threshold=").split(), np.float64)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
    down = np.where(single > exact, np.nextafter(single, np.float32(-np.inf)), single)
    return "threshold=" + " ".join(repr(value) for value in down.astype(np.float64).tolist())


def _to_onnx(booster: Any, width: int, objective: str) -> Any:
    try:
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ImportError as error:
        raise ConversionFailed(
            f"converting LightGBM models needs onnxmltools ({error}); "
            "install it with: pip install 'keelmark[lightgbm]'"
        ) from error
    try:
        proto = convert_lightgbm(
            booster,
            initial_types=[("features", FloatTensorType([None, width]))],
            target_opset=CONVERTER_OPSET,
            zipmap=False,
        )
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ConversionFailed(
            f"onnxmltools cannot convert a LightGBM model with objective {objective!r}: {error}. "
            "Train with binary, multiclass, a regression objective, poisson, gamma, tweedie or "
            "quantile."
        ) from error
    return checked(proto)


def _fitted_booster(model: Any) -> Any:
    booster = getattr(model, "_Booster", None)
    if booster is None:
        raise ConversionFailed(f"the {type(model).__name__} is not fitted; call fit() first")
    return booster


def _classes(model: Any, text: str) -> tuple[ClassName, ...]:
    """Of a classifier those it was trained on; a Booster knows only their number."""
    if hasattr(model, "classes_"):
        return class_names(model.classes_)
    return tuple(range(max(2, int(_header(text, "num_class")))))


def _header(text: str, key: str) -> str:
    """An entry of the first lines of a booster's text; empty where it is missing."""
    start = f"{key}="
    lines = text.partition("\nTree=")[0].split("\n")
    return next((line.removeprefix(start) for line in lines if line.startswith(start)), "")


def _versions() -> dict[str, str]:
    names = ("lightgbm", "onnxmltools")
    return {name: importlib.metadata.version(name) for name in names}
