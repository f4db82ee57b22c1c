"""Bundles that grow: in features, and in number."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from _prepared import BUNDLE
from sklearn.linear_model import LogisticRegression

from keelmark import FeatureSet, number, pack

ROWS: Final = 600
RECORDS: Final = 20
FIELDS: Final = {10: 10, 100: 100, 1000: 100}
"""Fields of a bundle by its features: records of a thousand fields are rare, such features not."""


def wide_bundle(store: Path, width: int) -> Path:
    """A bundle of so many features of number fields, and a linear model; kept once made."""
    name = f"wide{width}"
    folder = store / name / "1"
    if folder.exists():
        return folder
    table = wide_table(width)
    features = FeatureSet(
        name,
        version=1,
        features={
            f"{field}_{nth}": number(field, low=0, high=1000).impute(nth).log1p().standardize()
            for field in table
            for nth in range(width // FIELDS[width])
        },
    )
    fitted, x = features.fit_transform(table, quiet=True)
    late = table["n0"] > np.nanmedian(table["n0"])
    model = LogisticRegression(max_iter=50).fit(x, late)
    return pack(
        store,
        name,
        "1",
        features=fitted,
        model=model,
        training=table,
        target=late,
        default={"probability": 0.5},
        progress=False,
    )


def wide_table(width: int, rows: int = ROWS) -> dict[str, Any]:
    """Columns of numbers, every tenth value a null."""
    random, fields = np.random.default_rng(width), FIELDS[width]
    values = random.gamma(2, 50, (rows, fields)).clip(0, 1000).round(2)
    values[random.random(values.shape) < 0.1] = np.nan
    return {f"n{place}": values[:, place] for place in range(fields)}


def wide_records(width: int) -> list[dict[str, float | None]]:
    """Records of such a bundle, with nulls."""
    table = wide_table(width, RECORDS)
    return [
        {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(table, row, strict=True)
        }
        for row in zip(*table.values(), strict=True)
    ]


def many_models(store: Path, count: int) -> list[str]:
    """The shipped bundle so often, each under a name of its own; gives the names."""
    names = [f"flights{place:02d}" for place in range(count)]
    for name in names:
        folder = store / name / "1"
        if not folder.exists():
            unfinished = store / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(BUNDLE, unfinished)
            manifest = json.loads((unfinished / "manifest.json").read_text())
            manifest["name"] = name
            (unfinished / "manifest.json").write_text(json.dumps(manifest))
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished.rename(folder)
    return names
