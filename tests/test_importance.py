"""Importance of fields: what shuffling one costs."""

from typing import Any

import numpy as np
import pytest

from models.importance import change_from, permutation_importance, prediction_loss


def test_importance_is_the_share_of_the_loss_that_a_field_prevents():
    random = np.random.default_rng(0)
    rows = random.normal(size=(2000, 3))
    target = 2 * rows[:, 0] + rows[:, 1]

    def loss(some: np.ndarray) -> float:
        return prediction_loss("value", 2 * some[:, 0] + some[:, 1], target)

    shares = permutation_importance(["a", "b", "c"], rows, loss, seed=0)
    assert shares == {
        "a": pytest.approx(0.8, abs=0.05),
        "b": pytest.approx(0.2, abs=0.05),
        "c": 0.0,
    }
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == permutation_importance(["a", "b", "c"], rows, loss, seed=0)


def test_importance_without_a_target_is_the_change_of_the_answers():
    rows = np.random.default_rng(0).normal(size=(500, 2))
    loss = change_from(rows[:, 1], lambda some: some[:, 1])
    assert permutation_importance(["a", "b"], rows, loss, seed=0) == {"a": 0.0, "b": 1.0}


def test_a_model_that_uses_nothing_has_no_importances():
    rows = np.ones((10, 2))
    assert permutation_importance(["a", "b"], rows, lambda _: 1.0, seed=0) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(
    ("kind", "answers", "targets", "expected"),
    [
        ("probability", [0.5, 0.5], [0.0, 1.0], np.log(2)),
        ("probability", [0.0], [1.0], -np.log(1e-15)),
        ("class_probabilities", [[0.25, 0.75]], [1], -np.log(0.75)),
        ("label", ["a", "b"], ["a", "a"], 0.5),
        ("value", [1.0, 3.0], [1.0, 1.0], 2.0),
    ],
)
def test_losses(kind: str, answers: list[Any], targets: list[Any], expected: float):
    assert prediction_loss(kind, answers, targets) == pytest.approx(expected)
