"""A table of bike rentals by the hour, made up: the shape and the troubles of the real ones.

Two years of a station network in Washington. The weather has nulls, a day on which the humidity
sensor fails, one on which the felt temperature freezes, and a storm now and then; the second year
has more riders than the first.
"""

from datetime import date, timedelta

import numpy as np
import pandas as pd

ZONE = "America/New_York"
FROZEN_DAY = date(2012, 8, 17)
"""The felt temperature stays what it was at midnight."""
DRY_DAY = date(2011, 3, 10)
"""The humidity reads 0."""
HOLIDAYS = ((1, 1), (1, 17), (2, 21), (5, 30), (7, 4), (9, 5), (11, 11), (11, 24), (12, 25))
SPOILT = {"clear": 1.0, "mist": 0.9, "rain": 0.5, "storm": 0.15}
"""Share of the riders whom a weather leaves."""
COMMUTE = np.array(
    [3, 1, 1, 0, 1, 4, 15, 40, 60, 30, 16, 18, 24, 23, 21, 25, 40, 68, 60, 42, 30, 22, 16, 9]
)
LEISURE = np.array(
    [14, 11, 8, 4, 2, 2, 3, 6, 14, 24, 36, 46, 52, 54, 53, 52, 50, 46, 38, 30, 23, 19, 15, 11]
)
"""Rentals by hour of a day of work and of another, in a year without growth."""


def rentals(seed: int = 0) -> pd.DataFrame:
    """17,544 hours in order. Columns: `hour` (instant), weather, `holiday` (bool), `rentals`."""
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2011-01-01", "2012-12-31 23:00", freq="h", tz=ZONE)
    days = pd.Series(hours.date)
    table = pd.DataFrame({"hour": hours, **_weather(rng, hours)})
    table["holiday"] = [(day.month, day.day) in HOLIDAYS for day in hours.date]
    table["rentals"] = rng.poisson(_expected(table, hours))
    return _with_troubles(rng, table, days)


def _weather(rng: np.random.Generator, hours: pd.DatetimeIndex) -> dict[str, np.ndarray]:
    of_year = hours.day_of_year.to_numpy() / 365.25 * 2 * np.pi
    of_day = hours.hour.to_numpy() / 24 * 2 * np.pi
    fronts = _smooth(rng, len(hours), 72)
    temp = 13 - 12 * np.cos(of_year) - 3.5 * np.cos(of_day - 0.8) + 4.5 * fronts
    damp = _smooth(rng, len(hours), 30)
    humidity = np.clip(62 + 15 * damp - 0.5 * (temp - 13), 15, 100)
    wind = np.abs(12 + 7 * _smooth(rng, len(hours), 12))
    kinds = np.select([damp > 2.6, damp > 1.4, damp > 0.4], [3, 2, 1], 0)
    return {
        "temp": temp.round(1),
        "feels_like": (temp + 0.03 * (humidity - 50) - 0.12 * wind).round(1),
        "humidity": humidity.round(0),
        "wind": wind.round(1),
        "weather": np.array(list(SPOILT))[kinds],
    }


def _smooth(rng: np.random.Generator, length: int, hours: int) -> np.ndarray:
    """Noise that lasts so many hours; mean 0, standard deviation 1."""
    noise = np.convolve(rng.normal(size=length + hours), np.ones(hours), "valid")[:length]
    return (noise - noise.mean()) / noise.std()


def _expected(table: pd.DataFrame, hours: pd.DatetimeIndex) -> np.ndarray:
    is_free = (hours.day_of_week >= 5) | table["holiday"].to_numpy()
    riders = np.where(is_free, LEISURE[hours.hour], COMMUTE[hours.hour]) * 6.0
    felt = table["feels_like"].to_numpy()
    comfort = np.exp(-(((felt - 24) / 17) ** 2))
    weather = np.array([SPOILT[kind] for kind in table["weather"]])
    growth = np.where(hours.year == 2011, 1.0, 1.6)
    return riders * comfort * weather * growth + 0.5


def _with_troubles(rng: np.random.Generator, table: pd.DataFrame, days: pd.Series) -> pd.DataFrame:
    frozen, dry = days == FROZEN_DAY, days == DRY_DAY
    table.loc[frozen, "feels_like"] = 5.0
    table.loc[dry, "humidity"] = 0.0
    table.loc[rng.random(len(table)) < 0.03, "wind"] = np.nan
    outage = days.isin([date(2012, 10, 29) + timedelta(days=n) for n in range(2)])
    table.loc[outage, ["temp", "feels_like", "humidity", "wind"]] = np.nan
    table.loc[outage, "weather"] = None
    return table
