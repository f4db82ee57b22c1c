"""What the hand-written servers need of the shipped model: parts of it, and the records to send.

Trained again from the flights, deterministically, because a bundle keeps the fused graph only; that
it is the same model is checked before anything is timed.
"""

import json
import sys
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "models" / "shipped"
BUNDLE = SHIPPED / "flights" / "1"
SMOOTHING = 50


@dataclass(frozen=True, slots=True)
class Prepared:
    """Records to send, and a folder for what servers other than Keelmark serve.

    Attributes:
        folder: `model.onnx` from features on, `parameters.json`, `pipeline.joblib`.
        records: flights that the model answers, more than half of them with nulls.
        probabilities: what the bundle's golden rows say of each.
    """

    folder: Path
    records: list[dict[str, Any]]
    probabilities: list[float]

    @property
    def bodies(self) -> list[str]:
        """A request body for each record."""
        return [json.dumps(record) for record in self.records]

    def make_parts(self) -> None:
        """Writes what the folder does not have of the shipped bundle yet; it is trained again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark, digest = self.folder / "bundle.txt", manifest_digest()
        if not mark.exists() or mark.read_text() != digest:
            write_model(self.folder)
            write_pipeline(self.folder)
            mark.write_text(digest)


def prepared(folder: Path) -> Prepared:
    """What is sent; nothing is made yet."""
    rows = golden_rows()
    return Prepared(
        folder,
        [row["record"] for row in rows],
        [row["expected"]["model"]["probability"] for row in rows],
    )


def golden_rows() -> list[dict[str, Any]]:
    """Golden rows of real flights that the model itself answers."""
    golden = json.loads((BUNDLE / "golden.json").read_text())
    sampled = [row for row in golden["rows"] if row["name"].startswith("sample")]
    rows = [row for row in sampled if row["expected"]["rung"] == "model"]
    if not rows:
        raise RuntimeError("the shipped bundle has no sampled golden rows to send")
    return rows


def manifest_digest() -> str:
    """Of the shipped bundle."""
    return sha256((BUNDLE / "manifest.json").read_bytes()).hexdigest()


def write_model(folder: Path) -> None:
    """The fused graph without its features: what comes after them."""
    import onnx
    from onnx.utils import Extractor

    model = onnx.load(BUNDLE / "model.onnx")
    onnx.save(Extractor(model).extract_model(["features"], ["probability"]), folder / "model.onnx")


def write_pipeline(folder: Path) -> None:
    """Trains the shipped model again, and puts it behind a pipeline of scikit-learn."""
    sys.path[:0] = [str(ROOT / "examples" / "flights"), str(ROOT / "benchmarks" / "peers")]
    import joblib
    from sklearn.pipeline import Pipeline

    from keelmark.datasets import flights

    features = import_module("definition").flights
    choose = import_module("train").choose
    table: Any = flights()
    known = table[table["late"].notna()]
    month = known["sched_dep"].dt.month
    training, may = known[month <= 4], known[month == 5]
    fitted, x = features.fit_transform(training, target="late", folds=5, seed=0, quiet=True)
    model, _ = choose(x, training["late"], fitted.transform(may, quiet=True), may["late"])

    learned = parameters(training, list(fitted.feature_names))
    (folder / "parameters.json").write_text(json.dumps(learned))
    columns = import_module("pandas_features").columns(learned).fit(training)
    joblib.dump(Pipeline([("columns", columns), ("model", model)]), folder / "pipeline.joblib")


def parameters(training: Any, names: list[str]) -> dict[str, Any]:
    """What hand-written features have to know of the training table."""
    by_dest, late = training.groupby("dest")["late"], float(training["late"].mean())
    dest_late = (by_dest.sum() + SMOOTHING * late) / (by_dest.count() + SMOOTHING)
    imputed = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure", "visib"]
    medians = training[imputed].median()
    wind = training["wind_speed"].fillna(medians["wind_speed"])
    return {
        "names": names,
        "medians": medians.to_dict(),
        "wind_limits": np.quantile(wind, [0, 0.999]).tolist(),
        "dest_share": (by_dest.size() / len(training)).to_dict(),
        "dest_late": dest_late.to_dict(),
        "late": late,
        "carriers": training["carrier"].value_counts().index.tolist(),
        "origins": training["origin"].value_counts().index.tolist(),
    }
