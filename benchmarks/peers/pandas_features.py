"""The flights features as columns of a DataFrame, and the pipeline that makes them."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

TEXTS = ("sched_dep", "carrier", "origin", "dest")
NUMBERS = ("distance", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip")
FIELDS = [*TEXTS, *NUMBERS, "pressure", "visib"]


def frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a table with the columns of training."""
    table = pd.DataFrame(records, columns=FIELDS)
    return table.astype({name: float for name in FIELDS if name not in TEXTS})


def hour_and_weekday(table: pd.DataFrame) -> Any:
    """Local time of the first column, (n, 2)."""
    leaves = pd.to_datetime(table.iloc[:, 0], utc=True).dt.tz_convert("America/New_York")
    return np.column_stack([leaves.dt.hour, leaves.dt.weekday])


def looked_up(table: pd.DataFrame, shares: dict[str, float], late: dict[str, float]) -> Any:
    """Share and lateness of the first column's airports, (n, 2)."""
    dest, other = table.iloc[:, 0], sum(late.values()) / len(late)
    return np.column_stack([dest.map(shares).fillna(0.0), dest.map(late).fillna(other)])


def clipped(values: Any, limits: tuple[float, float]) -> Any:
    return np.clip(values, *limits)


def columns(known: dict[str, Any]) -> ColumnTransformer:
    """Every feature, in the model's order; to be fitted on the training table.

    Args:
        known: what a transformer of scikit-learn does not learn: categories, tables, limits.
    """
    log1p = FunctionTransformer(np.log1p)
    airports = {"shares": known["dest_share"], "late": known["dest_late"]}
    limits = {"limits": tuple(known["wind_limits"])}
    zero = SimpleImputer(strategy="constant", fill_value=0.0)
    categories = [known["carriers"], known["origins"]]
    wind = make_pipeline(
        SimpleImputer(strategy="median"), FunctionTransformer(clipped, kw_args=limits)
    )
    return ColumnTransformer(
        [
            ("distance", log1p, ["distance"]),
            ("time", FunctionTransformer(hour_and_weekday), ["sched_dep"]),
            (
                "texts",
                OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False),
                ["carrier", "origin"],
            ),
            ("dest", FunctionTransformer(looked_up, kw_args=airports), ["dest"]),
            ("air", SimpleImputer(strategy="median"), ["temp", "dewp", "humid", "wind_dir"]),
            ("wind", wind, ["wind_speed"]),
            ("gust", make_pipeline(zero, FunctionTransformer(np.log1p)), ["wind_gust"]),
            ("no_gust", MissingIndicator(features="all"), ["wind_gust"]),
            ("precip", make_pipeline(zero, FunctionTransformer(np.log1p)), ["precip"]),
            ("pressure", SimpleImputer(strategy="median"), ["pressure"]),
            ("no_pressure", MissingIndicator(features="all"), ["pressure"]),
            ("visib", SimpleImputer(strategy="median"), ["visib"]),
        ]
    )
