"""Whether rows keep their bits in a batch: found where they do not, granted where they do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from features import FeatureSet, number
from models import pack
from models.batches import ABSORBED, BLOCK_ROWS, MATRIX_ROWS, probe, probe_model
from models.bundle import Bundle
from models.gate import run_gate
from models.outputs import ModelOutputs
from models.proving import sums_of_products
from models.replay import replay
from tests.packed import copied, edited, packed, rewritten

ROWS = np.random.default_rng(0).normal(0, 1, (700, 2))


def summed(rows: NDArray[np.float64]) -> ModelOutputs:
    return ModelOutputs([rows.sum(axis=1)])


class OffIn:
    """Gives another bit to one row of 700, in batches of one size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, rows: NDArray[np.float64]) -> ModelOutputs:
        values = rows.sum(axis=1)
        if len(rows) == self.size:
            odd = rows[:, 0] == ROWS[300, 0]
            values[odd] = np.nextafter(values[odd], 9)
        return ModelOutputs([values])


@pytest.mark.parametrize("size", [64, 33, 16, 8, 7, 4, 3, 2])
def test_one_row_that_differs_in_one_size_is_found(size: int):
    assert not probe(OffIn(size), ROWS).exact
    assert probe(summed, ROWS) == (True, len(ROWS))


def test_a_slow_model_is_probed_for_a_bounded_time():
    calls = 0

    def run(rows: NDArray[np.float64]) -> ModelOutputs:
        nonlocal calls
        calls += 1
        return summed(rows)

    found = probe(run, ROWS, seconds=0)
    assert (found.exact, found.rows) == (True, 0)
    assert calls < 300


def test_a_model_of_matrices_is_not_trusted_before_all_rows_were_run(
    monkeypatch: pytest.MonkeyPatch,
):
    assert probe_model(summed, ROWS, ["LinearClassifier"], seed=0)
    monkeypatch.setattr("models.batches.MATRIX_SECONDS", 0)
    assert not probe_model(summed, ROWS, ["LinearClassifier"], seed=0)
    assert probe_model(summed, ROWS, ["TreeEnsembleRegressor"], seed=0)
    assert len(ROWS) < MATRIX_ROWS


def test_a_model_of_many_sums_needs_fewer_rows_and_is_given_their_time(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("models.batches.MATRIX_SECONDS", 0)
    many = ABSORBED * MATRIX_ROWS // BLOCK_ROWS
    assert probe_model(summed, ROWS, ["Gemm"], seed=0, sums=many)
    assert not probe_model(summed, ROWS, ["Gemm"], seed=0, sums=many // 2)
    monkeypatch.setattr("models.batches.BLOCK_SECONDS", 0)
    assert not probe_model(summed, ROWS, ["Gemm"], seed=0, sums=many)


@pytest.mark.parametrize("is_turned", [False, True])
def test_sums_of_products_are_those_of_constant_matrices(is_turned: bool):
    matrix = numpy_helper.from_array(np.zeros((7, 3) if is_turned else (3, 7), np.float32), "w")
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=int(is_turned)),
        helper.make_node("MatMul", ["y", "z"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
    ]
    assert sums_of_products(helper.make_graph(nodes, "g", [], [], [matrix])) == 7
    assert sums_of_products(helper.make_graph(nodes[1:], "g", [], [], [matrix])) == 1


class OffInSevens:
    """A bundle of whose rows one has another bit in batches of seven."""

    def __init__(self, bundle: Bundle) -> None:
        self.encoder, self.ladder, self.fields = bundle.encoder, bundle.ladder, bundle.fields
        self.outputs, self.fallback = bundle.outputs, bundle.fallback
        self._run = bundle.run

    def run(self, rows: NDArray[np.float64], /) -> ModelOutputs:
        outputs = self._run(rows)
        if len(rows) == 7:
            outputs.values[0][3] = np.nextafter(outputs.values[0][3], np.float32(9))
        return outputs


def test_the_gate_looks_at_golden_rows_in_batches_of_many_sizes(tmp_path: Path):
    bundle = Bundle.open(packed(tmp_path))
    assert bundle.fitted is not None
    names = bundle.fitted.feature_names
    assert replay(bundle, bundle.golden, names).batch_exact
    assert not replay(OffInSevens(bundle), bundle.golden, names).batch_exact


def linear(store: Path, rows: int) -> Path:
    """A logistic regression over two standardized numbers."""
    rng = np.random.default_rng(1)
    table = {name: rng.normal(50, 20, rows).clip(0, 100) for name in ("a", "b")}
    late = (table["a"] + table["b"] + rng.normal(0, 20, rows) > 100).astype(int)
    columns: dict[str, Any] = {name: number(name, low=0, high=100) for name in table}
    fitted, x = FeatureSet(
        "two",
        version=1,
        features={name: field.impute("median").standardize() for name, field in columns.items()},
    ).fit_transform(table, quiet=True)
    model = LogisticRegression().fit(x, late)
    return pack(
        store, "two", "1", features=fitted, model=model, training=table, target=late, progress=False
    )


@pytest.mark.parametrize("rows", [300, 5_000])
def test_a_logistic_regression_is_not_batch_exact(tmp_path: Path, rows: int):
    assert not Bundle.open(linear(tmp_path, rows)).manifest.batch_exact


def test_trees_are_and_both_must_have_found_it(tmp_path: Path):
    folder = packed(tmp_path / "store")
    assert run_gate(folder).batch_exact
    assert Bundle.open(folder, batch_exact=True).batch_exact
    assert not Bundle.open(folder).batch_exact
    other = copied(folder, tmp_path / "other")
    rewritten(other, "manifest.json", edited(lambda value: value.update(batch_exact=False)))
    assert run_gate(other).batch_exact
    assert not Bundle.open(other, batch_exact=True).batch_exact
    assert json.loads((other / "manifest.json").read_bytes())["batch_exact"] is False
