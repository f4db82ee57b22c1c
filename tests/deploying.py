"""Versions of a small model for deploys, good ones and bad ones, and callers that keep asking.

All answer the probability `sigmoid(a x + b y + c)`; callers' `x` and `y` are standard normal. What
a version was trained on, what it computes and how long it takes can differ.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from features import FeatureSet, number
from models import OnnxModel, pack
from tests.calling import Calling, received
from tests.in_thread import post

NAME: Final = "risk"
ROWS: Final = 4_000
WIDTH: Final = 64
WORK: Final = 20
"""Layers of work that a run does and that change no answer: a tenth of a millisecond or less."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """How a version is made.

    Attributes:
        weights: a, b and c.
        trained_at: mean of `x` where it was trained, callers' being 0.
        unit: of `x` where it was trained: callers' numbers are so many times as large.
        work: layers, see `WORK`.
        fails_above: rows whose `y` is above get no number; training had none.
    """

    weights: tuple[float, float, float] = (1.0, 0.5, 0.0)
    trained_at: float = 0.0
    unit: float = 1.0
    work: int = WORK
    fails_above: float | None = None


LIVE: Final = Made()
GOOD: Final = Made(weights=(0.97, 0.52, 0.02))
BETTER: Final = Made(weights=(0.6, 1.2, -0.2))
"""Decides otherwise in a sixth of all rows, because it knows better."""
BAD: Final = {
    "shifted": Made(trained_at=-1.2),
    "broken feature": Made(unit=12.0),
    "slower": Made(work=8 * WORK),
    "failing": Made(fails_above=2.05),
}
"""What is wrong with it; 2.05 is above all but 2 % of callers' `y`."""
REASONS: Final = {
    "shifted": {"shifted"},
    "broken feature": {"shifted"},
    "slower": {"slower", "late"},
    "failing": {"failing", "degraded"},
}
"""What a deploy may say against it."""


def pack_risk(store: Path, version: str, made: Made = LIVE, **given: Any) -> Path:
    """Publishes a version; gives its folder."""
    x, y = (number(name, low=-50, high=50) for name in ("x", "y"))
    declared = FeatureSet(
        NAME, version=1, features={"x": x.impute("median"), "y": y.impute("median")}
    )
    rng = np.random.default_rng(0)
    highest = np.inf if made.fails_above is None else made.fails_above - 0.01
    rows = {
        "x": rng.normal(made.trained_at, 1.0, ROWS).round(4) / made.unit,
        "y": np.minimum(rng.normal(0, 1, ROWS), highest).round(4),
    }
    scaled = (made.weights[0] * made.unit, *made.weights[1:])
    fitted, _ = declared.fit_transform(rows)
    arguments: dict[str, Any] = {
        "default": {"probability": 0.5},
        "decision": [{"below": 0.5, "is": "low"}, {"is": "high"}],
        "objectives": {"availability": 0.999, "degraded": 0.01},
        "owner": "the tests",
    }
    native = OnnxModel(
        model_of(scaled, made),
        native=lambda f: _native(f, scaled, made),
        outputs={"probability": "probability"},
    )
    return pack(
        *(store, NAME, version),
        features=fitted,
        model=native,
        training=rows,
        progress=False,
        **(arguments | given),
    )


def _native(f: NDArray[np.float32], weights: tuple[float, ...], made: Made) -> NDArray[np.float32]:
    a, b, c = np.array(weights, np.float32)
    found = (1 + np.tanh((a * f[:, 0] + b * f[:, 1] + c) / 2)) / 2  # the sigmoid, of anything
    if made.fails_above is not None:
        found[f[:, 1] > made.fails_above] = np.nan
    return found.astype(np.float32)


def model_of(weights: tuple[float, ...], made: Made) -> bytes:
    """The graph."""
    rng = np.random.default_rng(1)
    constants = {
        "w": np.array([[weights[0]], [weights[1]]], np.float32),
        "c": np.array([weights[2]], np.float32),
        "wide": np.zeros((2, WIDTH), np.float32),
        "turn": (rng.normal(0, 1, (WIDTH, WIDTH)) / 8).astype(np.float32),
        "narrow": np.zeros((WIDTH, 1), np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["f", "w", "c"], ["logit"], name="sum"),
        helper.make_node("MatMul", ["f", "wide"], ["h0"], name="widen"),
    ]
    for layer in range(made.work):
        nodes.append(
            helper.make_node("MatMul", [f"h{layer}", "turn"], [f"m{layer}"], name=f"m{layer}")
        )
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"h{layer + 1}"], name=f"t{layer}"))
    nodes += [
        helper.make_node("MatMul", [f"h{made.work}", "narrow"], ["nothing"], name="narrow"),
        helper.make_node("Add", ["logit", "nothing"], ["whole"], name="add"),
        helper.make_node(
            "Sigmoid", ["whole"], ["p" if made.fails_above else "probability"], name="s"
        ),
    ]
    if made.fails_above is not None:
        constants |= {
            "limit": np.array([made.fails_above], np.float32),
            "nan": np.array([[np.nan]], np.float32),
            "first": np.array([1], np.int64),
        }
        nodes += [
            helper.make_node("Gather", ["f", "first"], ["second"], axis=1, name="gather"),
            helper.make_node("Greater", ["second", "limit"], ["is_above"], name="greater"),
            helper.make_node("Where", ["is_above", "nan", "p"], ["probability"], name="where"),
        ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.checker.check_model(made_model)
    return made_model.SerializeToString()


def record(rng: np.random.Generator) -> dict[str, float]:
    """What a caller sends."""
    return {"x": round(float(rng.normal()), 4), "y": round(float(rng.normal()), 4)}


def write_rows(path: Path, count: int = 2_000) -> Path:
    """Kept rows, as callers sent them."""
    rng = np.random.default_rng(5)
    path.write_text("".join(json.dumps(record(rng)) + "\n" for _ in range(count)))
    return path


@dataclass
class Callers(Calling):
    """Callers over kept connections, at about `rate` requests a second together.

    Every tenth request is a list of three.

    Attributes:
        query: of the path, such as `?version=2`.
        records: that are asked about, in turn; none for those of `record`.
        answered: requests by the version that answered.
        failures: what was no good answer.
    """

    port: int
    rate: float = 300.0
    connections: int = 6
    query: str = ""
    model: str = NAME
    records: Sequence[dict[str, Any]] = ()
    answered: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    def _each(self) -> Iterable[Coroutine[Any, Any, None]]:
        return map(self._one, range(self.connections))

    async def _one(self, n: int) -> None:
        rng = np.random.default_rng(n)
        loop, pause = asyncio.get_running_loop(), self.connections / self.rate
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        due, asked = loop.time() + pause * rng.random(), 0
        try:
            while not self._stop:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due + pause, loop.time() - 0.1)
                asked += 1
                value: Any = self._record(rng)
                if asked % 10 == 0:
                    value = [value, self._record(rng), self._record(rng)]
                path = f"/predict/{self.model}{self.query}"
                writer.write(post(path, json.dumps(value).encode()))
                self._take(*await received(reader))
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shows it)
            self.failures.append(repr(error))
        finally:
            writer.close()

    def _record(self, rng: np.random.Generator) -> dict[str, Any]:
        return self.records[int(rng.integers(len(self.records)))] if self.records else record(rng)

    def _take(self, head: bytes, body: Any) -> None:
        if not head.startswith(b"http/1.1 200"):
            self.failures.append(f"{head!r} {body}")
            return
        self.answered[body["version"]] += 1
