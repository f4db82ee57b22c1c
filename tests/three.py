"""Versions of a small model, different in encoder, features and model; answers tell all three.

Version n clips `x` at 10 n (encoder), multiplies `y` by n (features), adds 1000 n (model): for the
record {"x": 99, "y": y} it answers 10 n + 100 n y + 1000 n, and no mixture of two versions does.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from features import FeatureSet, number
from models import OnnxModel, pack
from models.store import Store

NAME: Final = "three"
ROWS: Final = 300


def record(y: int = 1) -> dict[str, Any]:
    """One whose `x` is out of bounds in every version."""
    return {"x": 99.0, "y": float(y)}


def answer_of(n: int, y: int = 1) -> float:
    """What version n answers to `record(y)`."""
    return float(n * (10 + 100 * y + 1000))


def version_of(prediction: float, y: int = 1) -> int | None:
    """The version that answered so; None for a mixture."""
    n = round(prediction / answer_of(1, y))
    return n if prediction == answer_of(n, y) else None


def pack_three(
    store: Path,
    n: int,
    *,
    version: str | None = None,
    model: onnx.ModelProto | None = None,
    **given: Any,
) -> Path:
    """Publishes version n; gives its folder.

    Args:
        store: where to.
        n: which encoder, features and model.
        version: its name; None for n.
        model: another that answers the same.
        given: more for `pack`.
    """
    x = number("x", low=0, high=10 * n, out_of_bounds="clip")
    y = number("y", low=0, high=5)
    declared = FeatureSet("three", version=n, features={"x": x * 1.0, "y": y * float(n)})
    rng = np.random.default_rng(n)
    rows = {"x": rng.integers(0, 10, ROWS).astype(float), "y": rng.integers(0, 5, ROWS) * 1.0}
    fitted, _ = declared.fit_transform(rows)
    arguments: dict[str, Any] = {"default": {"value": -1.0}, "owner": "the tests"}
    return pack(
        store,
        NAME,
        version or str(n),
        features=fitted,
        model=OnnxModel(
            small_model(n) if model is None else model,
            native=lambda f: _native(n, f),
            outputs={"value": "value"},
        ),
        training=rows,
        progress=False,
        **(arguments | given),
    )


def pack_versions(store: Path, count: int, **given: Any) -> Path:
    """Publishes versions 1 to `count`, of which the first is wished live; gives the store.

    Args:
        store: where to.
        count: of versions.
        given: more for `pack_three`.
    """
    for n in range(1, count + 1):
        pack_three(store, n, **given)
    Store(store).set_live(NAME, "1", by="the tests")
    return store


def pack_strict(store: Path) -> Path:
    """Publishes `strict`, a second version that refuses records without `y`; gives its folder."""
    return pack_three(store, 2, version="strict", policies={"y": {"missing": "reject"}})


def _native(n: int, f: NDArray[np.float32]) -> NDArray[np.float32]:
    return f[:, 0] + 100 * f[:, 1] + 1000 * n


def small_model(n: int) -> onnx.ModelProto:
    """What it has to answer, and nothing more."""
    weights = numpy_helper.from_array(np.array([[1.0], [100.0]], np.float32), "w")
    bias = numpy_helper.from_array(np.array([1000.0 * n], np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["f", "w", "b"], ["value"], name="sum")],
        "three",
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
        [weights, bias],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made)
    return made
