"""scikit-learn classifiers and regressors to ONNX: the estimator only, on float32 features.

The features come from our own graph. What a pipeline of skl2onnx does to dates, texts and nulls is
not what scikit-learn does (`docs/concepts.md`), and only float32 converts without surprises.
"""

import importlib.metadata
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.convert.graph import (
    OPSET,
    Converted,
    as_text,
    checked,
    class_names,
    class_probabilities_spec,
    clipped,
    column,
    flat,
    label_spec,
    probability_spec,
    renamed,
    value_spec,
    with_outputs,
)
from models.errors import ConversionFailed

ML_OPSET: Final = 3


def convert(model: Any, width: int) -> Converted:
    """A fitted classifier or regressor, or a pipeline that ends in one.

    Raises:
        ConversionFailed: not fitted, another number of columns, or nothing that skl2onnx converts.
    """
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError) as error:
        raise ConversionFailed(
            f"{error} For this {type(model).__name__} call fit() first."
        ) from error
    seen = getattr(model, "n_features_in_", width)
    if seen != width:
        raise ConversionFailed(
            f"the {type(model).__name__} was trained on {seen} columns, the features give "
            f"{width}; train it on what `fitted.transform(table)` returns"
        )
    common: dict[str, Any] = {
        "framework": "sklearn",
        "estimator": type(model).__name__,
        "versions": {
            name: importlib.metadata.version(name) for name in ("scikit-learn", "skl2onnx")
        },
    }
    if is_classifier(model):
        # Some classifiers without probabilities do not know the option, and need it not.
        options = {"zipmap": False} if hasattr(model, "predict_proba") else {}
        proto = _to_onnx(model, width, options)
        return _classifier(proto, model, common)
    if is_regressor(model):
        return _regressor(_to_onnx(model, width, {}), model, common)
    raise ConversionFailed(
        f"{type(model).__name__} is neither a classifier nor a regressor; pass OnnxModel(bytes, "
        "native=...) with your own conversion of it"
    )


def _classifier(proto: Any, model: Any, common: dict[str, Any]) -> Converted:
    classes = class_names(np.asarray(model.classes_))
    label, scores = (output.name for output in proto.graph.output)
    if not hasattr(model, "predict_proba"):
        specs = (label_spec(classes),)
        nodes = [renamed(label, "label")]

        def native(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            return {"label": as_text(model.predict(features))}

    elif len(classes) == 2:
        specs = (probability_spec(classes),)
        nodes = [
            column(proto, scores, 1, "positive_score"),
            clipped(proto, "positive_score", "probability"),
        ]

        def native(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            return {"probability": model.predict_proba(features)[:, 1]}

    else:
        specs = (label_spec(classes), class_probabilities_spec(classes))
        nodes = [renamed(label, "label"), clipped(proto, scores, "class_probabilities")]

        def native(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            return {
                "label": as_text(model.predict(features)),
                "class_probabilities": model.predict_proba(features),
            }

    return Converted(
        model=with_outputs(proto, specs, nodes), outputs=specs, native=native, **common
    )


def _regressor(proto: Any, model: Any, common: dict[str, Any]) -> Converted:
    (output,) = proto.graph.output
    answers = model.predict(np.zeros((1, model.n_features_in_), np.float32))
    width = 1 if answers.ndim == 1 else answers.shape[1]
    spec = value_spec(width)
    node = flat(proto, output.name, spec.name) if width == 1 else renamed(output.name, spec.name)

    def native(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        predicted = np.asarray(model.predict(features))
        return {spec.name: predicted.ravel() if width == 1 else predicted}

    return Converted(
        model=with_outputs(proto, (spec,), [node]),
        outputs=(spec,),
        native=native,
        exponential_terms=model.n_features_in_ + 1 if _is_exponential(model) else 0,
        **common,
    )


def _is_exponential(model: Any) -> bool:
    """Whether it is a linear model with a logarithm as its link, or a pipeline that ends in one."""
    from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor
    from sklearn.pipeline import Pipeline

    last = model[-1] if isinstance(model, Pipeline) else model
    if isinstance(last, TweedieRegressor):
        return last.link == "log" or (last.link == "auto" and last.power > 0)
    return isinstance(last, PoissonRegressor | GammaRegressor)


def _to_onnx(model: Any, width: int, options: dict[str, Any]) -> Any:
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError as error:
        raise ConversionFailed(
            f"converting scikit-learn models needs skl2onnx ({error}); "
            "install it with: pip install 'keelmark[sklearn]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own deprecations; what it made is verified
            proto: Any = convert_sklearn(
                model,
                initial_types=[("features", FloatTensorType([None, width]))],
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
                options={id(model): options} if options else None,
            )
    except Exception as error:
        # Whatever a converter of one of a hundred estimators raises: the reader needs its words.
        raise ConversionFailed(
            f"skl2onnx cannot convert {type(model).__name__}: {error}. Choose an estimator that "
            "it supports, or pass OnnxModel(bytes, native=...) with your own conversion."
        ) from error
    return checked(proto)
