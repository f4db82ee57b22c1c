"""How good a model is on held-out rows, and which fields its answers depend on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.convert.graph import class_names
from models.errors import PackingError
from models.manifest import ClassName, OutputSpec
from models.outputs import ModelOutputs

IMPORTANCE_ROWS: Final = 2_000
LEAST_PROBABILITY: Final = 1e-7
"""Probabilities are kept this far from 0 and 1: one sure and wrong answer is not an infinite loss."""

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


def losses(outputs: Sequence[OutputSpec], got: ModelOutputs, target: Floats) -> Floats:
    """Loss per row, float64 (n,): log loss, squared error, or 1 for a wrong label."""
    primary, answers = outputs[0], got.values[0]
    if primary.kind == "value":
        return (answers.astype(np.float64) - target) ** 2
    if primary.kind == "probability":
        p = np.clip(answers.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        return -(target * np.log(p) + (1 - target) * np.log(1 - p))
    probabilities = _class_probabilities(outputs, got)
    if probabilities is None:
        return (_label_codes(primary, answers) != target).astype(np.float64)
    picked = probabilities[np.arange(len(target)), target.astype(np.int64)]
    return -np.log(np.clip(picked.astype(np.float64), LEAST_PROBABILITY, 1))


def has_loss(outputs: Sequence[OutputSpec]) -> bool:
    """Whether a target of one column says how wrong the primary output is."""
    return outputs[0].kind != "vector" and (
        outputs[0].kind != "label" or bool(_classes_of(outputs))
    )


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
    known = np.isfinite(target)
    if not known.any() or not has_loss(outputs):
        return {}
    got = ModelOutputs([column[known] for column in got.values])
    target, primary = target[known], outputs[0]
    loss = float(losses(outputs, got, target).mean())
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


# importance


def importances(
    names: Sequence[str],
    run: Run,
    outputs: Sequence[OutputSpec],
    rows: Floats,
    target: Floats | None,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """Each field's share, 0 to 1, of what permuting it costs on validation rows.

    Of the loss where there is a target, else of the mean absolute change of the primary output.
    """
    rng = np.random.default_rng(seed)
    if target is not None and has_loss(outputs):
        rows, target = rows[np.isfinite(target)], target[np.isfinite(target)]
    else:
        target = None
    if len(rows) > IMPORTANCE_ROWS:
        chosen = np.sort(rng.choice(len(rows), IMPORTANCE_ROWS, replace=False))
        rows, target = rows[chosen], None if target is None else target[chosen]
    cost = _cost(outputs, run(rows), target)
    costs: dict[str, float] = {}
    for place, name in enumerate(names):
        permuted = rows.copy()
        permuted[:, place] = rng.permutation(permuted[:, place])
        costs[name] = max(0.0, cost(run(permuted)))
        advance(1)
    total = sum(costs.values())
    return {name: value / total if total else 0.0 for name, value in costs.items()}


def _cost(
    outputs: Sequence[OutputSpec], base: ModelOutputs, target: Floats | None
) -> Callable[[ModelOutputs], float]:
    """What other answers than `base` cost."""
    if not len(base.values[0]):
        return lambda _: 0.0
    if target is not None:
        least = losses(outputs, base, target).mean()
        return lambda got: float(losses(outputs, got, target).mean() - least)
    if base.values[0].dtype.kind in "fiu" and outputs[0].kind != "label":
        return lambda got: float(np.nanmean(np.abs(got.values[0] - base.values[0])))
    return lambda got: float((got.values[0] != base.values[0]).mean())


def usual_answers(
    outputs: Sequence[OutputSpec], got: ModelOutputs, target: Floats | None
) -> dict[str, Any]:
    """A constant answer per output where the owner named none: what is right most often, or on average.

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
