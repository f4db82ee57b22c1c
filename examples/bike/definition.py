"""The features of the bike model and of its baseline: one definition, for training and serving."""

from keelmark import FeatureSet, boolean, category, number, timestamp, where

hour = timestamp(
    "hour",
    tz="America/New_York",
    nullable=False,
    description="that the rentals are counted in",
    example="2012-06-15T17:00:00-04:00",
)
holiday = boolean("holiday", nullable=False, example=False)
weather = category("weather", vocabulary=["clear", "mist", "rain", "storm"], example="clear")
temp = number("temp", unit="°C", low=-40, high=50, example=26.0)
feels_like = number("feels_like", unit="°C", low=-60, high=60, example=25.5)
# A humidity of 0 is a sensor that failed: nowhere is air as dry as that.
humidity = number("humidity", unit="%", low=5, high=100, example=48)
wind = number("wind", unit="km/h", low=0, high=200, example=11.0)

bike = FeatureSet(
    "bike",
    version=1,
    # A forest is converted as one that knows no null: what may not be null is imputed all the same.
    features={
        "hour": hour.hour().impute("median"),
        "weekday": hour.weekday().impute("median"),
        "holiday": holiday.impute(0),
        "weather": weather.one_hot(),
        "temp": temp.impute("median"),
        "feels_like": feels_like.impute("median"),
        "humidity": humidity.impute("median"),
        "wind": wind.impute("median"),
    },
)

is_free = (hour.weekday() >= 5) | holiday
baseline = FeatureSet(
    "bike-baseline",
    version=1,
    features={
        "hour": hour.hour().one_hot(range(24)),
        "free_hour": where(is_free, hour.hour(), 24).one_hot(range(24)),
        "month": hour.month().cyclic(),
        "temp": temp.impute("median").standardize(),
    },
)
"""What the calendar knows, and the temperature as far as there is one."""
