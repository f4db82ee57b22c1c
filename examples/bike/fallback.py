"""Who answers for an hour when the model should not."""

from typing import Any

from definition import feels_like, temp

# Without a temperature the station is out: what else it says is not to be relied on.
POLICIES: dict[str, Any] = {"temp": {"missing": "baseline", "invalid": "baseline"}}

CHECKS: dict[str, Any] = {
    # The felt temperature was frozen for a day, within all bounds.
    "feels_like_temp": {
        "holds": (feels_like - temp).abs() <= 12,
        "example": {
            "hour": "2012-08-17T15:00:00-04:00",
            "holiday": False,
            "weather": "clear",
            "temp": 31.0,
            "feels_like": 5.0,
            "humidity": 50,
            "wind": 8.0,
        },
    }
}

RULES: list[dict[str, Any]] = [
    {"name": "storm", "when": 'r.weather == "storm"', "outputs": 10.0},
    {"name": "holiday", "when": "r.holiday == true", "outputs": 90.0},
]
"""The default after them is the median of the training hours."""
