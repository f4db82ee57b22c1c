"""Bundles whose features have a cross and a graph of somebody else's: packed, gated, served."""

import json
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest

from features import FeatureSet, category, cross, number, onnx_op
from models.bundle import Bundle
from models.difference import spec_difference
from models.errors import DefinitionChanged
from models.gate import run_gate
from models.packing import pack
from tests import hatches
from tests.hatches import graph, node

weight, price = number("weight", low=0, high=100), number("price", low=0, high=100)
kind, origin = category("kind"), category("origin", vocabulary=["here", "there"])


def product() -> Any:
    """A product of matrices, which is probed with more rows than a tree."""
    nodes = [node("IsNaN", "row", "n"), node("Where", "n zero row", "known")]
    return graph(
        [*nodes, node("MatMul", "known weights")],
        inputs=[("row", 2)],
        constants={"zero": 0.0, "weights": np.array([[0.25], [0.5]])},
    )


def packed(store: Path, version: str, squeezed: Any) -> Path:
    rng = np.random.default_rng(2)
    table: dict[str, Any] = {
        "weight": rng.gamma(2, 10, 600).clip(0, 100).round(1),
        "price": rng.gamma(2, 10, 600).clip(0, 100).round(1),
        "kind": rng.choice(["box", "tube"], 600).tolist(),
        "origin": rng.choice(["here", "there"], 600).tolist(),
    }
    crossed = cross(kind, origin, null="value")
    definition = FeatureSet(
        "parcels",
        version=1,
        features={
            "weight": weight,
            "squeezed": squeezed,
            "pair": crossed.one_hot(),
            "late": crossed.target_mean(),
        },
    )
    late = (table["weight"] > 20) ^ (np.array(table["kind"]) == "box")
    fitted, x = definition.fit_transform(table, late, quiet=True)
    model = lgb.LGBMClassifier(n_estimators=10, num_leaves=5, n_jobs=1, verbose=-1).fit(x, late)
    return pack(
        store,
        "parcels",
        version,
        features=fitted,
        model=model,
        training=table,
        target=late,
        progress=False,
    )


def test_a_bundle_with_both_is_packed_replayed_and_opened(tmp_path: Path):
    folder = packed(tmp_path, "1", onnx_op(hatches.softsign(), [weight]))
    assert run_gate(folder).batch_exact
    bundle = Bundle.open(folder, batch_exact=True)
    assert bundle.batch_exact
    assert "model" in (folder / "features.json").read_text()


def test_another_graph_under_the_label_is_refused_and_told_by_its_digest(tmp_path: Path):
    packed(tmp_path, "1", onnx_op(hatches.softsign(), [weight]))
    other = graph([node("Sqrt", "x")])
    with pytest.raises(DefinitionChanged, match=r"\.model: was sha256 \w{12}, is sha256 \w{12}"):
        packed(tmp_path, "2", onnx_op(other, [weight]))


def test_long_texts_that_are_no_graphs_are_shown_whole():
    old, new = ({"fields": [{"name": "x", "unit": unit * 300}]} for unit in "ab")
    assert spec_difference(old, new) == [f"field 'x'.unit: was {'a' * 300!r}, is {'b' * 300!r}"]


def test_matrices_inside_a_graph_are_not_trusted_before_all_rows_were_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As those of a model: its own operators tell nothing of what an `onnx_op` brought along."""
    monkeypatch.setattr("models.batches.MATRIX_SECONDS", 0)
    trees = packed(tmp_path / "a", "1", onnx_op(hatches.softsign(), [weight]))
    matrices = packed(tmp_path / "b", "1", onnx_op(product(), [weight, price]))
    exact = [
        json.loads((f / "manifest.json").read_text())["batch_exact"] for f in (trees, matrices)
    ]
    assert exact == [True, False]
