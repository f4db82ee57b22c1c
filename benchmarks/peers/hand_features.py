"""The flights features as a team writes them by hand: Python and numpy, one record at a time.

What training knew comes from a file of parameters; the model takes the finished features. Needs
numpy and onnxruntime alone, so that every server's environment can import it.
"""

import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

NEW_YORK = ZoneInfo("America/New_York")
IMPUTED = ("temp", "dewp", "humid", "wind_dir")


class Predictor:
    """Records to probabilities: features with numpy, the model with onnxruntime, one thread.

    Args:
        folder: with `parameters.json` and `model.onnx`.

    Attributes:
        names: of the features, in the model's order.
    """

    def __init__(self, folder: Path) -> None:
        known = json.loads((folder / "parameters.json").read_text())
        self._medians: dict[str, float] = known["medians"]
        self._wind_limits: list[float] = known["wind_limits"]
        self._dest_share: dict[str, float] = known["dest_share"]
        self._dest_late: dict[str, float] = known["dest_late"]
        self._late: float = known["late"]
        self._carriers = {text: place for place, text in enumerate(known["carriers"])}
        self._origins = {text: place for place, text in enumerate(known["origins"])}
        self.names: list[str] = known["names"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def features(self, record: dict[str, Any]) -> NDArray[np.float32]:
        """Features of a record, float32 (1, n_features)."""
        leaves = datetime.fromisoformat(record["sched_dep"]).astimezone(NEW_YORK)
        carriers, origins = [0.0] * len(self._carriers), [0.0] * len(self._origins)
        if record.get("carrier") in self._carriers:
            carriers[self._carriers[record["carrier"]]] = 1.0
        if record.get("origin") in self._origins:
            origins[self._origins[record["origin"]]] = 1.0
        dest, gust = record.get("dest"), record.get("wind_gust")
        values = [
            math.log1p(record["distance"]),
            leaves.hour,
            leaves.weekday(),
            *carriers,
            *origins,
            self._dest_share.get(dest, 0.0) if dest else 0.0,
            self._dest_late.get(dest, self._late) if dest else self._late,
            *(self._known(record, name) for name in IMPUTED),
            np.clip(self._known(record, "wind_speed"), *self._wind_limits),
            math.log1p(gust or 0.0),
            gust is None,
            math.log1p(record.get("precip") or 0.0),
            self._known(record, "pressure"),
            record.get("pressure") is None,
            self._known(record, "visib"),
        ]
        return np.array([values], np.float32)

    def run(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities, one a row."""
        return self._session.run(["probability"], {"features": features})[0].reshape(-1)

    def predict(self, record: dict[str, Any]) -> float:
        """How likely the flight is late."""
        return float(self.run(self.features(record))[0])

    def _known(self, record: dict[str, Any], name: str) -> float:
        value = record.get(name)
        return self._medians[name] if value is None else value
