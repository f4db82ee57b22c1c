"""A loose program that tests start elsewhere: fits features, or loads them, and prints what it has.

    python fit_features.py ORDER        fits on the training rows in the order of this seed
    python fit_features.py FILE.json    loads what another process saved

Its only output is one line of JSON with the digests and a digest of the transformed rows.
"""

import contextlib
import json
import locale
import sys
from typing import Any

import numpy as np

from features import (
    FeatureSet,
    Fitted,
    boolean,
    category,
    cross,
    elapsed,
    maximum,
    minimum,
    number,
    onnx_op,
    safe_div,
    timestamp,
    where,
)
from features.digests import sha256_hex
from tests import hatches

ROWS = 300
_SECONDS = 86_400 * 200


def feature_set() -> FeatureSet:
    """Everything that is learned, and a field of every kind."""
    size = number("size", unit="cm", low=-1e6, high=1e6)
    weight = number("weight", description="in kg", example=1.5)
    member = boolean("member")
    city = category("city", normalize=["strip", "nfc"], max_vocabulary=4)
    gate = category("gate", of="integer")
    left = timestamp("left", tz="Asia/Kolkata")
    seen = timestamp("seen")
    features = {
        "mean": size.impute("mean").standardize(),
        "median": weight.impute("median").log1p().min_max(),
        "mode": member.impute("mode"),
        "clipped": size.clip(quantiles=(0.01, 0.99)).robust_scale(),
        "bucket": weight.bucketize(bins=7).one_hot([0, 1, 2]),
        "city": city.one_hot(unknown=True, missing=True),
        "share": city.frequency(),
        "late": gate.target_mean(smoothing=3),
        "paid": gate.lookup({"7": 1.5, "8": 2}, default=0),
        "pair": cross(city, gate, max_pairs=9, null="value").target_mean(),
        "pair_paid": cross(city, gate).lookup({("Oslo", 7): 1.5}, default=0),
        "soft": onnx_op(hatches.softsign(), [size]).standardize(),
        "hour": left.hour().cyclic(),
        "age": elapsed(left, seen, unit="h"),
        "ratio": safe_div(size, weight, default=0),
        "range": maximum(size, 0) - minimum(size, 0),
        "chosen": where(weight > 1, size, weight),
    }
    return FeatureSet("parcels", version=3, features=features)


def table(order: int | None = None) -> dict[str, Any]:
    """Training rows whose sums depend on the order of adding, and whose texts often tie."""
    rng = np.random.default_rng(0)
    size = rng.normal(0, 1, ROWS) * 10.0 ** rng.integers(-9, 6, ROWS)
    size[::11] = np.nan
    weight = rng.gamma(2, 1, ROWS)
    cities = np.array(["Bern", " Oslo", "Lima", "Zu\u0308rich", "Ürümqi", "Ärla", None], object)
    left = np.datetime64("2024-01-01T00:00:00") + rng.integers(0, _SECONDS, ROWS)
    columns = {
        "size": size,
        "weight": weight,
        "member": rng.random(ROWS) < 0.5,
        "city": cities[np.arange(ROWS) % len(cities)],
        "gate": rng.integers(7, 12, ROWS),
        "left": left,
        "seen": np.array([f"{at}Z" for at in left], object),
        "target": rng.normal(0, 1, ROWS) * 10.0 ** rng.integers(-9, 6, ROWS),
    }
    chosen = np.arange(ROWS) if order is None else np.random.default_rng(order).permutation(ROWS)
    return {name: values[chosen] for name, values in columns.items()}


def summary(fitted: Fitted) -> dict[str, str]:
    features = fitted.transform(table(), quiet=True)
    features[np.isnan(features)] = np.nan  # one spelling of null
    return {
        "label": fitted.label,
        "spec": fitted.spec_digest,
        "state": fitted.state_digest,
        "features": fitted.features_digest,
        "transformed": sha256_hex(features.tobytes()),
    }


def main(argument: str) -> None:
    with contextlib.suppress(locale.Error):  # not every machine has every locale
        locale.setlocale(locale.LC_ALL, "")
    if argument.endswith(".json"):
        fitted = Fitted.load(argument)
    else:
        fitted = feature_set().fit(table(int(argument)), "target", quiet=True)
    print(json.dumps(summary(fitted)))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
