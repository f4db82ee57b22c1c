"""Importance of fields: how much worse a model does when one field says nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from models.bins import FloatArray

Loss = Callable[[FloatArray], float]
"""Mean loss of a model on encoded validation rows (n, F), as they are or with a column shuffled."""

SMALLEST_PROBABILITY: Final = 1e-15


def permutation_importance(
    names: Sequence[str], rows: FloatArray, loss: Loss, *, seed: int, repeats: int = 3
) -> dict[str, float]:
    """Share of the loss increase that shuffling each field causes, summing to 1.

    Breiman, "Random Forests", Machine Learning 45 (2001). Fields that say the same share their
    importance between them, which hides both. All 0 when no field makes a difference.

    Args:
        names: of the fields, in the order of the columns.
        rows: encoded validation rows, float64 (n, F).
        loss: called `1 + F * repeats` times.
        seed: of the shuffles.
    """
    random = np.random.default_rng(seed)
    usual = loss(rows)
    increases = [
        max(_shuffled_loss(rows, column, loss, random, repeats) - usual, 0.0)
        for column in range(len(names))
    ]
    total = sum(increases)
    return {
        name: increase / total if total else 0.0
        for name, increase in zip(names, increases, strict=True)
    }


def _shuffled_loss(
    rows: FloatArray, column: int, loss: Loss, random: np.random.Generator, repeats: int
) -> float:
    shuffled = rows.copy()
    losses: list[float] = []
    for _ in range(repeats):
        shuffled[:, column] = random.permutation(rows[:, column])
        losses.append(loss(shuffled))
    return sum(losses) / repeats


def change_from(answers: FloatArray, answer: Callable[[FloatArray], FloatArray]) -> Loss:
    """A loss where no target is known: mean absolute change of the answers (n,) or (n, width)."""

    def loss(rows: FloatArray) -> float:
        return float(np.abs(answer(rows) - answers).mean())

    return loss


def prediction_loss(kind: str, answers: Any, targets: Any) -> float:
    """Mean loss of answers of an output kind against targets; lower is better.

    Args:
        kind: `probability`, `class_probabilities` (log loss), `label` (share of errors), or `value`
            (squared error).
        answers: (n,), or (n, n_classes).
        targets: 0 or 1, class index, label, or number of each row, (n,).
    """
    return _LOSSES[kind](np.asarray(answers), np.asarray(targets))


def _log_loss(probabilities: Any, targets: Any) -> float:
    p = np.clip(probabilities.astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return float(-np.where(targets != 0, np.log(p), np.log1p(-p)).mean())


def _class_log_loss(probabilities: Any, targets: Any) -> float:
    p = probabilities[np.arange(len(targets)), targets.astype(np.int64)]
    return float(-np.log(np.maximum(p, SMALLEST_PROBABILITY)).mean())


def _error_share(labels: Any, targets: Any) -> float:
    return float((labels != targets).mean())


def _squared_error(values: Any, targets: Any) -> float:
    return float(((values - targets) ** 2).mean())


_LOSSES: Final[Mapping[str, Callable[[Any, Any], float]]] = {
    "probability": _log_loss,
    "class_probabilities": _class_log_loss,
    "label": _error_share,
    "value": _squared_error,
    "vector": _squared_error,
}
