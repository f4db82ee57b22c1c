"""Who answers a flight when the model should not: policies, a check, and rules."""

from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from definition import dewp, humid, temp

NEW_YORK = ZoneInfo("America/New_York")
EVENING = time(17)
EVES = (date(2013, 5, 24), date(2013, 7, 3), date(2013, 8, 30), date(2013, 11, 27))
"""Before Memorial Day, Independence Day, Labor Day and Thanksgiving, when everybody leaves."""

STORM = {"temp": 80.6, "dewp": 68.0, "humid": 93.33, "precip": 0.06}
"""What Newark reported in a thunderstorm: the temperature from before, the humidity from after."""

POLICIES: dict[str, Any] = {
    "sched_dep": {"missing": "reject", "invalid": "reject"},
    "distance": {"missing": "reject", "invalid": "reject", "out_of_bounds": "reject"},
    # The whole hour is missing from the station's list, not a sensor: nothing to impute from.
    "temp": {"missing": "baseline"},
}

ACCEPTS = {"dest": ("missing", "invalid")}
"""What the baseline makes do with. Of an airport that training has not seen, the rules say more."""


def checks(example: dict[str, Any]) -> dict[str, Any]:
    """What must hold across fields; the example is a flight without troubles.

    The further air is from its dew point, the drier it is: at least 1.5 % a degree Fahrenheit.
    Where it seems not, the three are not of one moment: something is passing over the airport.
    """
    return {
        "station_agrees": {
            "holds": (temp - dewp) * 1.5 + humid <= 103,
            "policy": "rules",
            "example": {**example, **STORM},
        }
    }


def rules(example: dict[str, Any]) -> list[dict[str, Any]]:
    """What a dispatcher would say, who has neither model; the first that matches answers."""
    eve = datetime.combine(EVES[1], time(18, 30), NEW_YORK).isoformat()
    return [
        {
            "name": "storm",
            "when": 'reason == "check:station_agrees"',
            "outputs": 0.57,  # of the 79 such flights of January to April
            "example": {**example, **STORM},
        },
        {
            "name": "holiday_evening",
            "when": " || ".join(map(_evening, EVES)),
            "outputs": 0.5,
            "example": {**example, "sched_dep": eve},
        },
        {
            "name": "unknown_airport",
            "when": 'flag.dest == "unknown"',
            "outputs": 0.2,
            "example": {**example, "dest": "ACK"},
        },
    ]


def _evening(day: date) -> str:
    """From five to midnight; rules see an instant as seconds since 1970."""
    begins = datetime.combine(day, EVENING, NEW_YORK)
    ends = datetime.combine(day + timedelta(days=1), time(), NEW_YORK)
    return f"(r.sched_dep >= {begins.timestamp()} && r.sched_dep < {ends.timestamp()})"
