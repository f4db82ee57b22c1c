"""Trains the bike model: how many bikes will be rented in an hour, from calendar and weather.

Trained on 2011; 2012, with more riders, is what it will meet. Run it with

    python examples/bike/train.py --store build/store
"""

import argparse
from pathlib import Path
from typing import Any

from definition import baseline
from definition import bike as features
from fallback import CHECKS, POLICIES, RULES
from rentals import rentals
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge

from keelmark import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/store"))
    parser.add_argument("--version", default="1")
    arguments = parser.parse_args()
    print(train(arguments.store, arguments.version))


def train(store: Path, version: str) -> Path:
    """The folder of the new bundle."""
    table: Any = rentals()
    training = table[table["hour"].dt.year == 2011]
    fitted, x = features.fit_transform(training)
    # The mean of leaves is never below 0, as a boosted sum may be.
    model = RandomForestRegressor(60, max_depth=11, min_samples_leaf=5, random_state=0)
    model.fit(x, training["rentals"])
    simple, x_simple = baseline.fit_transform(training)
    simple_model = Ridge().fit(x_simple, training["rentals"])
    return pack(
        store,
        "bike",
        version,
        features=fitted,
        model=model,
        training=training,
        target="rentals",
        time="hour",
        baseline=(simple, simple_model),
        policies=POLICIES,
        checks=CHECKS,
        rules=RULES,
        default=float(training["rentals"].median()),
        valid_range=(0, 5_000),
        unit="rentals",
        objectives={"latency_ms": 25, "availability": 0.999, "degraded": 0.02},
        slices=("weather", "holiday"),
        owner="The bike example",
        contact="see the README",
        intended_use="To plan how many bikes have to stand where in the next hours.",
        limits="Trained on one year of a network that grows: in the next it is too low by a third.",
    )


if __name__ == "__main__":
    main()
