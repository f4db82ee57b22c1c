"""A small table to start from without one of one's own: deliveries, and whether they came late."""

import csv
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

TARGET: Final = "late"
TIME: Final = "ordered_at"
ROWS: Final = 4_000
SEED: Final = 0
_FIRST: Final = datetime(2024, 1, 1)  # noqa: DTZ001  (the table's clock has no offset, as many have)


def write_sample(path: Path) -> None:
    """Writes the table as CSV, with nulls as empty cells; always the same."""
    rows = sample_rows()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sample_rows() -> list[dict[str, Any]]:
    """Deliveries of half a year in the order of time; None is null."""
    rng = np.random.default_rng(SEED)
    minutes = np.sort(rng.integers(0, 180 * 24 * 60, ROWS))
    return [_row(rng, int(minute)) for minute in minutes]


def _row(rng: np.random.Generator, minute: int) -> dict[str, Any]:
    ordered = _FIRST + timedelta(minutes=minute)
    promised = ordered + timedelta(hours=int(rng.integers(4, 72)))
    distance = round(float(rng.lognormal(3, 0.8)), 1)
    courier = str(rng.choice(["north", "south", "express"], p=[0.5, 0.35, 0.15]))
    weight = None if rng.random() < 0.06 else round(float(rng.gamma(2, 3)), 2)
    is_fragile = bool(rng.random() < 0.2)
    hours = (promised - ordered).total_seconds() / 3600
    strain = distance / 20 + (weight or 6.0) / 8 + 0.8 * is_fragile - hours / 14
    strain += {"north": 0.0, "south": 0.7, "express": -1.0}[courier]
    strain += 0.9 * (ordered.weekday() >= 4)
    return {
        "ordered_at": ordered.isoformat(sep=" "),
        "promised_at": promised.isoformat(sep=" "),
        "courier": courier,
        "distance_km": distance,
        "weight_kg": weight,
        "fragile": str(is_fragile).lower(),
        TARGET: int(rng.random() < 1 / (1 + np.exp(-strain))),
    }
