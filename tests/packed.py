"""Small real bundles: made-up trips, real features, real models trained here."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from features import boolean, category, number, timestamp
from features.feature_set import FeatureSet
from features.fitted import Fitted
from models.manifest import MANIFEST
from models.packing import pack

DAY = 86_400
START = 1_357_000_000
ROWS = 1_500
DRIVERS = ("badge 7781", "badge 2249", "badge 6035")

FEATURES = {
    "distance": number("distance", unit="km", low=0, high=100),
    "log_distance": number("distance", unit="km", low=0, high=100).impute("median").log1p(),
    "driver": category("driver", sensitive="hash").frequency(),
    "carrier": category("carrier").one_hot(),
    "is_weekend": boolean("is_weekend", nullable=False).passthrough(),
    "hour": timestamp("leaves", tz="America/New_York").hour().cyclic(),
}


def features(version: int = 1, **changed: Any) -> FeatureSet:
    return FeatureSet("trips", version=version, features={**FEATURES, **changed})


def trips(rows: int = ROWS, seed: int = 0) -> dict[str, Any]:
    """A training table in time order, with a few nulls; `late`, `minutes` and `kind` to predict."""
    random = np.random.default_rng(seed)
    distance = random.gamma(2, 10, rows).clip(0, 100).round(2)
    weekend = random.random(rows) < 0.3
    carrier = random.choice(["UA", "B6", "AA"], rows, p=[0.5, 0.3, 0.2])
    leaves = np.sort(random.uniform(0, 60 * DAY, rows)) + START
    score = distance / 20 + weekend + (carrier == "B6") + random.normal(0, 0.5, rows)
    distance[random.random(rows) < 0.05] = np.nan
    return {
        "distance": distance,
        "driver": random.choice(DRIVERS, rows).tolist(),
        "carrier": carrier.tolist(),
        "is_weekend": weekend,
        "leaves": [str(np.datetime64(int(second), "s")) + "Z" for second in leaves],
        "late": score > 2,
        "minutes": score * 30,
        "kind": np.asarray(["short", "middle", "long"])[np.digitize(score, [1.5, 3])].tolist(),
    }


@cache
def trained() -> tuple[Fitted, NDArray[np.float32]]:
    """Fitted features, and the training rows as the graph makes them."""
    return features().fit_transform(trips(), target="late", quiet=True)


@cache
def booster() -> lgb.LGBMClassifier:
    fitted, x = trained()
    model = lgb.LGBMClassifier(n_estimators=20, num_leaves=7, n_jobs=1, verbose=-1, random_state=0)
    return model.fit(x, trips()["late"], feature_name=list(fitted.feature_names))


def packed(store: Path, version: str = "1", **settings: Any) -> Path:
    """A published bundle `trips/<version>` of the boosted model."""
    declared: dict[str, Any] = {
        "features": trained()[0],
        "model": booster(),
        "training": trips(),
        "target": "late",
        "time": "leaves",
        "decision": [{"below": 0.5, "is": "in_time"}, {"is": "late"}],
        "policies": {"distance": {"out_of_bounds": "reject"}},
        "default": 0.25,
        "progress": False,
    }
    return pack(store, "trips", version, **{**declared, **settings})


SIMPLE_FEATURES = {
    "distance": number("distance", unit="km", low=0, high=100).impute("median").standardize(),
    "carrier": category("carrier").one_hot(),
}
"""What a baseline reads: fewer fields, declared as the model's are."""

CHECKS: dict[str, Any] = {
    "far_from_home": {
        "holds": number("distance", unit="km", low=0, high=100) < 90,
        "policy": "reject",
    },
    "workday_or_near": ~boolean("is_weekend", nullable=False)
    | (number("distance", unit="km", low=0, high=100) < 70),
}
RULES: list[dict[str, Any]] = [
    {"name": "long_weekend", "when": "r.is_weekend && r.distance > 60.0", "outputs": 0.75},
    {"name": "unknown_carrier", "when": "flag.carrier == 'unknown'", "outputs": 0.5},
    {"name": "too_late", "when": "reason == 'deadline'", "outputs": {"probability": 0.125}},
]


@cache
def simple_features() -> tuple[Fitted, NDArray[np.float32]]:
    """What a baseline reads, fitted, and the training rows of it."""
    features = FeatureSet("trips-simple", version=1, features=SIMPLE_FEATURES)
    return features.fit_transform(trips(), quiet=True)


@cache
def simple() -> tuple[Fitted, lgb.LGBMClassifier]:
    """A baseline: one small tree over two of the fields, quicker to pack than a matrix."""
    fitted, x = simple_features()
    model = lgb.LGBMClassifier(
        n_estimators=1, num_leaves=4, learning_rate=0.9, n_jobs=1, verbose=-1, random_state=0
    )
    return fitted, model.fit(x, trips()["late"])


def full_bundle(store: Path, version: str = "1", **settings: Any) -> Path:
    """A published bundle `trips/<version>` with everything: baseline, checks, rules, rejections.

    Without other settings it is packed once a test run and copied. `distance` out of bounds is
    rejected, as is one of 90 km and more by a check; `carrier` unknown goes to the rules, invalid
    to the baseline, which does not accept it; `is_weekend` is not nullable, so its troubles go to
    the baseline, as do weekend trips of 70 km and more by the other check.
    """
    if not settings:
        folder = store / "trips" / version
        return Path(shutil.copytree(_packed_once(version), folder))
    return _packed_full(store, version, **settings)


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="keelmark-tests-")  # gone when the tests are


@cache
def _packed_once(version: str) -> Path:
    return _packed_full(Path(_kept().name), version)


def _packed_full(store: Path, version: str, **settings: Any) -> Path:
    declared: dict[str, Any] = {
        "baseline": simple(),
        "checks": CHECKS,
        "rules": RULES,
        "policies": {
            "distance": {"out_of_bounds": "reject"},
            "carrier": {"unknown": "rules", "invalid": "baseline"},
        },
        "baseline_accepts": {"distance": ["missing"], "carrier": ["missing", "unknown"]},
        "slices": ("carrier", "is_weekend", "driver"),
        "owner": "Ada",
        "contact": "ada@example.org",
        "objectives": {"latency_ms": 25, "availability": 0.999, "degraded": 0.01},
        "intended_use": "To tell passengers that a trip may be late.",
        "limits": "Not for trips beyond 100 km.",
    }
    return packed(store, version, **{**declared, **settings})


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def copied_as(folder: Path, version: str) -> Path:
    """A copy beside a bundle, which says that it is this version."""
    copy = copied(folder, folder.parent / version)
    manifest = json.loads((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"version": version}))
    return copy


def rewritten(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Changes a file and lets the manifest say so, as somebody who knows the format would."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    relisted(folder, name)


def relisted(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for entry in manifest["files"]:
        if entry["name"] == name:
            entry["size"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edited(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    """A change of a file's JSON."""

    def apply(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return apply
