"""Versions of the flights example for deploys: a better one, and some with what goes wrong."""

import sys
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import onnx
import pandas as pd
from onnx import helper, numpy_helper

from keelmark import pack
from keelmark.datasets import WEATHER, flights
from models.convert import OnnxModel, convert
from models.store import Store

NAME: Final = "flights"
EVERY: Final = 4
FAR_MILES: Final = 2580.0
"""Only flights from Kennedy to San Francisco and to Honolulu are longer: one in forty."""
WIDTH, LAYERS = 64, 110
Table = Any

FAULTS: Final = ("wrong-zone", "balanced", "slower", "failing")
"""Hours of training in another zone than callers'; as many late flights as others in training; a
run that takes far longer; no number for flights that go far, of which training had none."""
REASONS: Final = {
    "wrong-zone": {"shifted"},
    "balanced": {"shifted"},
    "slower": {"slower"},
    "failing": {"failing", "degraded"},
}


def pack_flights(store: Path) -> None:
    """Publishes all of them; `live` is live."""
    table = flights()
    known = table[table["late"].notna() & (table["sched_dep"].dt.month <= 4)].iloc[::EVERY]
    late, others = known[known["late"] == 1], known[known["late"] == 0]
    moved = known.assign(sched_dep=known["sched_dep"] + pd.Timedelta(hours=5))
    _pack(store, "live", known, leaves=4, trees=40)
    _pack(store, "better", known)
    _pack(store, "wrong-zone", moved)
    _pack(store, "balanced", pd.concat([late, others.iloc[: len(late)]]).sort_values("sched_dep"))
    _pack(store, "slower", known, layers=LAYERS)
    _pack(store, "failing", known[known["distance"] <= FAR_MILES], fails_above=FAR_MILES)
    Store(store).set_live(NAME, "live", by="the tests")


def callers_records() -> list[dict[str, Any]]:
    """Flights of June, as callers ask about them."""
    table: Table = flights()
    rows: Table = table[table["sched_dep"].dt.month == 6].sample(4_000, random_state=0)
    fields = ["carrier", "origin", "dest", "distance", "sched_dep", *WEATHER]
    asked: Table = rows[fields]
    texts = asked.assign(sched_dep=rows["sched_dep"].map(pd.Timestamp.isoformat))
    return texts.astype(object).where(texts.notna(), None).to_dict("records")


def _pack(
    store: Path,
    version: str,
    training: Table,
    *,
    leaves: int = 15,
    trees: int = 100,
    layers: int = 0,
    fails_above: float | None = None,
) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "flights"))
    from definition import flights as features  # pyright: ignore[reportMissingImports]

    fitted, x = features.fit_transform(training, target="late", folds=5, seed=0)
    model = lgb.LGBMClassifier(
        n_estimators=trees, num_leaves=leaves, n_jobs=1, verbose=-1, deterministic=True
    ).fit(x, training["late"])
    given: Any = model
    if layers or fails_above is not None:
        far = None if fails_above is None else float(np.log1p(fails_above))
        given = _changed(model, x.shape[1], layers, far)
    pack(
        *(store, NAME, version),
        features=fitted,
        model=given,
        training=training,
        target="late",
        time="sched_dep",
        default={"probability": 0.2},
        decision=[{"below": 0.4, "is": "on_time"}, {"is": "late"}],
        objectives={"availability": 0.999, "degraded": 0.01},
        owner="the tests",
        progress=False,
    )


def _changed(model: Any, width: int, layers: int, far: float | None) -> OnnxModel:
    """The model with work that changes no answer, or without one for flights that go far."""
    converted = convert(model, width)
    proto = onnx.ModelProto()
    proto.CopyFrom(converted.model)
    graph, (output,) = proto.graph, proto.graph.output
    given, whole = graph.input[0].name, output.name
    for node in graph.node:
        node.output[:] = ["plain" if name == whole else name for name in node.output]
    turn = (np.random.default_rng(1).normal(0, 1, (WIDTH, WIDTH)) / 8).astype(np.float32)
    constants = {
        "wide": np.zeros((1, WIDTH), np.float32),
        "turn": turn,
        "narrow": np.zeros((WIDTH, 1), np.float32),
        "limit": np.array([np.inf if far is None else far], np.float32),
        "nan": np.array([[np.nan]], np.float32),
        "place": np.array([0], np.int64),
        "column": np.array([-1, 1], np.int64),
        "shape": np.array([-1, 1][: len(output.type.tensor_type.shape.dim)], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    nodes = [
        helper.make_node("Reshape", ["plain", "column"], ["answer"], name="answer"),
        helper.make_node("MatMul", ["answer", "wide"], ["h0"], name="widen"),
        helper.make_node("Gather", [given, "place"], ["first"], axis=1, name="first"),
        helper.make_node("Greater", ["first", "limit"], ["is_far"], name="far"),
    ]
    for layer in range(layers):
        nodes.append(
            helper.make_node("MatMul", [f"h{layer}", "turn"], [f"m{layer}"], name=f"m{layer}")
        )
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer + 1}"], name=f"t{layer}"))
    nodes += [
        helper.make_node("MatMul", [f"h{layers}", "narrow"], ["nothing"], name="nothing"),
        helper.make_node("Add", ["answer", "nothing"], ["worked"], name="worked"),
        helper.make_node("Where", ["is_far", "nan", "worked"], ["chosen"], name="where"),
        helper.make_node("Reshape", ["chosen", "shape"], [whole], name="shaped"),
    ]
    graph.node.extend(nodes)
    return OnnxModel(proto, outputs={converted.outputs[0].name: "probability"})
