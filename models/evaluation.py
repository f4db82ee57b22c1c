"""How good a model is on held-out rows, and which fields its answers depend on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.convert.graph import class_names
from models.errors import PackingError
from models.importance import change_from, permutation_importance, prediction_loss
from models.manifest import ClassName, OutputSpec
from models.outputs import ModelOutputs

IMPORTANCE_ROWS: Final = 2_000

Run = Callable[[NDArray[np.float64]], ModelOutputs]
Floats = NDArray[np.float64]


def target_codes(outputs: Sequence[OutputSpec], target: NDArray[Any]) -> Floats:
    """The target as numbers, float64 (n,): 1 for the positive class, a class index, or the value.

    Null, and a class that the model does not know, is NaN.
    """
    primary = outputs[0]
    if primary.kind in ("value", "vector"):
        return target.astype(np.float64)
    classes = primary.classes or _classes_of(outputs)
    codes = {name: float(code) for code, name in enumerate(classes)}
    if primary.kind == "probability":
        codes = {name: float(name == primary.positive) for name in classes}
    found = np.asarray([codes.get(name, np.nan) for name in _names(target)], np.float64)
    if len(found) and np.isnan(found).all():
        raise PackingError(
            f"no value of the target is one of the model's classes {list(classes)}; the first are "
            f"{_names(target)[:3]}. Pass the target that the model was trained on, or name its "
            "classes."
        )
    return found


def _names(target: NDArray[Any]) -> list[Any]:
    return [None if _is_null(value) else class_names([value])[0] for value in target.tolist()]


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _classes_of(outputs: Sequence[OutputSpec]) -> tuple[ClassName, ...]:
    return next((spec.classes for spec in outputs if spec.classes), ())


# loss


def mean_loss(outputs: Sequence[OutputSpec], got: ModelOutputs, target: Floats) -> float:
    """Log loss where there are probabilities, squared error, or the share of wrong labels.

    Over the rows with a target and a finite answer; the others are the rules' to answer.
    """
    got, target = _answered(got, target)
    if not len(target):
        return 0.0
    probabilities = _class_probabilities(outputs, got)
    if probabilities is not None:
        return prediction_loss("class_probabilities", probabilities, target)
    primary, answers = outputs[0], got.values[0]
    if primary.kind == "label":
        answers = _label_codes(primary, answers)
    return prediction_loss(primary.kind, answers, target)


def _answered(got: ModelOutputs, target: Floats) -> tuple[ModelOutputs, Floats]:
    """The rows with a target and a finite answer."""
    known = np.isfinite(target)
    for column in got.values:
        if column.dtype.kind == "f":
            known &= np.isfinite(column).reshape(len(column), -1).all(axis=1)
    return ModelOutputs([column[known] for column in got.values]), target[known]


def has_loss(outputs: Sequence[OutputSpec]) -> bool:
    """Whether a target of one column says how wrong the primary output is."""
    if outputs[0].kind == "label":
        return bool(_classes_of(outputs))
    return outputs[0].kind != "vector"


def _class_probabilities(outputs: Sequence[OutputSpec], got: ModelOutputs) -> NDArray[Any] | None:
    for spec, column in zip(outputs, got.values, strict=True):
        if spec.kind == "class_probabilities":
            return column
    return None


def _label_codes(spec: OutputSpec, labels: NDArray[Any]) -> Floats:
    codes = {name: float(code) for code, name in enumerate(spec.classes or ())}
    return np.asarray([codes.get(label, np.nan) for label in labels.tolist()])


# metrics


def metrics(outputs: Sequence[OutputSpec], got: ModelOutputs, target: Floats) -> dict[str, float]:
    """Quality on rows with a target; empty where there are none.

    `log_loss`, `auc` and `brier` of a probability, `log_loss` and `accuracy` of labels, `rmse`,
    `mae` and `r2` of a value.
    """
    if not has_loss(outputs):
        return {}
    got, target = _answered(got, target)
    if not len(target):
        return {}
    primary = outputs[0]
    loss = mean_loss(outputs, got, target)
    if primary.kind == "probability":
        answers = got.values[0].astype(np.float64)
        brier = float(((answers - target) ** 2).mean())
        return {"log_loss": loss, "brier": brier} | _auc(answers, target)
    if primary.kind == "value":
        error = got.values[0].astype(np.float64) - target
        spread = float(((target - target.mean()) ** 2).mean())
        found = {"rmse": loss**0.5, "mae": float(np.abs(error).mean())}
        return found | ({"r2": 1 - loss / spread} if spread else {})
    right = float((_label_codes(primary, got.values[0]) == target).mean())
    probabilistic = _class_probabilities(outputs, got) is not None
    return {"accuracy": right} | ({"log_loss": loss} if probabilistic else {})


def _auc(answers: Floats, target: Floats) -> dict[str, float]:
    """Area under the ROC curve by the rank sum; equal scores share their rank."""
    positive = int(target.sum())
    negative = len(target) - positive
    if not positive or not negative:
        return {}
    _, inverse, counts = np.unique(answers, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    above = ranks[target == 1].sum() - positive * (positive + 1) / 2
    return {"auc": float(above / (positive * negative))}


# what the answers depend on


def importances(
    names: Sequence[str],
    run: Run,
    outputs: Sequence[OutputSpec],
    rows: Floats,
    target: Floats | None,
    *,
    seed: int,
) -> dict[str, float]:
    """Each field's share, 0 to 1, of what permuting it costs on held-out rows.

    Of the loss where there is a target, else of the change of the answers.
    """
    if target is not None and has_loss(outputs):
        rows, target = rows[np.isfinite(target)], target[np.isfinite(target)]
    else:
        target = None
    if len(rows) > IMPORTANCE_ROWS:
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(len(rows), IMPORTANCE_ROWS, replace=False))
        rows, target = rows[chosen], None if target is None else target[chosen]
    if not len(rows):
        return dict.fromkeys(names, 0.0)
    return permutation_importance(names, rows, _loss(run, outputs, rows, target), seed=seed)


def _loss(
    run: Run, outputs: Sequence[OutputSpec], rows: Floats, target: Floats | None
) -> Callable[[Floats], float]:
    if target is not None:
        return lambda shuffled: mean_loss(outputs, run(shuffled), target)
    usual = run(rows)
    numeric = _class_probabilities(outputs, usual)
    if numeric is None and outputs[0].kind != "label":
        numeric = usual.values[0]
    if numeric is None:
        return lambda shuffled: float((run(shuffled).values[0] != usual.values[0]).mean())
    place = next(i for i, column in enumerate(usual.values) if column is numeric)
    return change_from(
        np.nan_to_num(numeric), lambda shuffled: np.nan_to_num(run(shuffled).values[place])
    )


# the constant default


def usual_answers(
    outputs: Sequence[OutputSpec], got: ModelOutputs, target: Floats | None
) -> dict[str, Any]:
    """A constant answer per output where the owner named none: right most often, or on average.

    The positive share and the most frequent class of the target if there is one, else of the
    model's own answers; the median of a value.
    """
    known = None if target is None else target[np.isfinite(target)]
    return {
        spec.name: _usual(spec, column, known if place == 0 else None)
        for place, (spec, column) in enumerate(zip(outputs, got.values, strict=True))
    }


def _usual(spec: OutputSpec, column: NDArray[Any], target: Floats | None) -> Any:
    if spec.kind == "label":
        return _most_frequent(spec, column, target)
    answers = column if target is None or not len(target) or column.ndim > 1 else target
    finite = answers[np.isfinite(answers).reshape(len(answers), -1).all(axis=1)]
    if not len(finite):
        raise PackingError(
            f"output {spec.name!r} is not finite on any training row; name a `default` yourself"
        )
    if spec.kind in ("probability", "class_probabilities"):
        return np.mean(finite, axis=0, dtype=np.float64).tolist()
    return np.median(finite.astype(np.float64), axis=0).tolist()


def _most_frequent(spec: OutputSpec, column: NDArray[Any], target: Floats | None) -> Any:
    if target is not None and len(target) and spec.classes:
        return spec.classes[int(np.bincount(target.astype(np.int64)).argmax())]
    found, counts = np.unique(column.astype(str), return_counts=True)
    text = found[counts.argmax()]
    return next(value for value in column.tolist() if str(value) == text)


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Metrics to six significant digits: more would only look exact."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}
