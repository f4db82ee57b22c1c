"""Trains the shipped flights model: will this flight arrive more than 15 minutes late?

Trained on January to April 2013, chosen on May; June to December are what it will meet. Run it with

    python examples/flights/train.py --store build/store
"""

import argparse
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
from definition import baseline
from definition import flights as features
from fallback import ACCEPTS, POLICIES, checks, rules
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from keelmark import pack
from keelmark.datasets import flights

FloatRows = NDArray[np.float32]
SIZES = (7, 15, 31)
LATE_FROM = 0.4
"""At 0.4 about half of the flights called late are: the point at which our callers act."""

INTENDED_USE = """\
To tell travellers and ground staff at Newark, Kennedy and LaGuardia, at the scheduled departure,
how likely a flight arrives more than 15 minutes late: whether to wait with what comes after it. It
is the example that comes with Keelmark."""
LIMITS = """\
Not for anything that concerns safety, and not for flights from other airports. It was trained on
one winter and spring: it has never seen a thunderstorm in July, and ranks flights of summer worse.
Cancelled and diverted flights were left out; it says nothing about them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/store"))
    parser.add_argument("--version", default="1")
    arguments = parser.parse_args()

    table: Any = flights()
    known = table[table["late"].notna()]
    month = known["sched_dep"].dt.month
    training, may = known[month <= 4], known[month == 5]

    fitted, x = features.fit_transform(training, target="late", folds=5, seed=0)
    x_may = fitted.transform(may)
    model, auc = choose(x, training["late"], x_may, may["late"])
    late = probability(model, x_may)
    simple, x_simple = baseline.fit_transform(training, target="late", folds=5, seed=0)
    simple_model = LogisticRegression(max_iter=1000).fit(x_simple, training["late"])
    example = {field.name: field.example for field in features.fields}

    folder = pack(
        arguments.store,
        "flights",
        arguments.version,
        features=fitted,
        model=model,
        training=training,
        target="late",
        holdout=may,
        time="sched_dep",
        baseline=(simple, simple_model),
        baseline_accepts=ACCEPTS,
        policies=POLICIES,
        checks=checks(example),
        rules=rules(example),
        default={"probability": float(training["late"].mean())},
        decision=[{"below": LATE_FROM, "is": "on_time"}, {"is": "late"}],
        objectives={"latency_ms": 25, "availability": 0.999, "degraded": 0.01},
        metrics={"auc_may": auc, "brier_may": float(brier_score_loss(may["late"], late))},
        slices=("origin", "carrier"),
        owner="The flights example",
        contact="see the README",
        intended_use=INTENDED_USE,
        limits=LIMITS,
    )
    print(f"{folder}: AUC on May {auc:.3f}")


def choose(x: FloatRows, y: Any, x_may: FloatRows, y_may: Any) -> tuple[lgb.LGBMClassifier, float]:
    """The number of leaves that ranks May best."""
    best: tuple[float, lgb.LGBMClassifier] | None = None
    for leaves in SIZES:
        model = lgb.LGBMClassifier(
            n_estimators=100,
            num_leaves=leaves,
            learning_rate=0.05,
            min_child_samples=200,
            n_jobs=1,
            deterministic=True,
            force_row_wise=True,
            verbose=-1,
        )
        model.fit(x, y)
        auc = float(roc_auc_score(y_may, probability(model, x_may)))
        if best is None or auc > best[0]:
            best = auc, model
    assert best is not None
    return best[1], best[0]


def probability(model: Any, x: FloatRows) -> FloatRows:
    """Of the positive class, float (n,)."""
    return model.predict_proba(x)[:, 1]


if __name__ == "__main__":
    main()
