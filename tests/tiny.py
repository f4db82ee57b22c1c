"""A small real bundle for tests of the server: every kind of field, a policy of each sort."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from features import FeatureSet, Fitted, boolean, category, number, timestamp
from models import pack

NAME: Final = "tiny"
SECRET: Final = 7.25
"""Marks what a sensitive field held: nothing that goes out may have it."""

GOOD: Final[dict[str, Any]] = {
    "age": 60,
    "height": 1.8,
    "member": True,
    "city": "Bern",
    "seen": "2024-03-05T12:00:00Z",
    "salary": 5.5,
}

age = number("age", unit="y", low=0, high=120, nullable=False, description="in full years")
height = number("height", unit="m", low=0, high=3)
member = boolean("member")
city = category("city")
seen = timestamp("seen")
salary = number("salary", low=0, high=10, sensitive="drop")

POLICIES: Final[dict[str, Any]] = {
    "age": {"missing": "reject", "invalid": "reject", "out_of_bounds": "reject"},
    "member": {"invalid": "rules"},
}


def table(rows: int = 2_000, seed: int = 0) -> dict[str, Any]:
    """Training rows, as a dict of arrays."""
    rng = np.random.default_rng(seed)
    days = rng.integers(0, 300, rows)
    return {
        "age": rng.integers(0, 121, rows).astype(float),
        "height": rng.uniform(1.4, 2.1, rows).round(2),
        "member": (rng.random(rows) < 0.5).tolist(),
        "city": rng.choice(["Bern", "Lima", "Oslo"], rows).tolist(),
        "seen": (np.datetime64("2024-01-01T00:00:00", "s") + days * 86_400).astype(str).tolist(),
        "salary": rng.uniform(0, 10, rows).round(1),
    }


def target(rows: dict[str, Any]) -> NDArray[np.int64]:
    """Old people in Bern, mostly."""
    return ((rows["age"] > 50) & (np.asarray(rows["city"]) == "Bern")).astype(np.int64)


@cache
def trained() -> tuple[Fitted, lgb.LGBMClassifier]:
    """Features and model; the same for the whole test run."""
    rows = table()
    rows["seen"] = [text + "Z" for text in rows["seen"]]
    features = FeatureSet(
        "tiny",
        version=1,
        features={
            "age": age.standardize(),
            "height": height.impute("median"),
            "member": member,
            "city": city.one_hot(),
            "hour": seen.hour(),
            "salary": salary.impute("median"),
        },
    )
    fitted, x = features.fit_transform(rows)
    model = lgb.LGBMClassifier(n_estimators=8, num_leaves=5, verbose=-1, n_jobs=1)
    return fitted, model.fit(x, target(rows))


def pack_tiny(store: Path, version: str = "1", *, name: str = NAME, **given: Any) -> Path:
    """Publishes the bundle; gives its folder."""
    fitted, model = trained()
    rows = table()
    rows["seen"] = [text + "Z" for text in rows["seen"]]
    arguments: dict[str, Any] = {
        "policies": POLICIES,
        "default": {"probability": 0.25},
        "decision": [{"below": 0.5, "is": "no"}, {"is": "yes"}],
        "description": "Whether somebody old lives in Bern",
        "owner": "the tests",
    }
    return pack(
        store,
        name,
        version,
        features=fitted,
        model=model,
        training=rows,
        target=target(rows),
        progress=False,
        **(arguments | given),
    )
