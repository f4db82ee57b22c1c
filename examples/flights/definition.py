"""The features of the flights model: one definition, for training and for serving."""

from keelmark import FeatureSet, category, number, timestamp

carrier = category("carrier", description="two-letter airline", example="UA")
origin = category("origin", description="airport of departure", example="EWR")
dest = category("dest", description="airport of arrival", example="IAH")
leaves = timestamp(
    "sched_dep",
    tz="America/New_York",
    nullable=False,
    description="scheduled departure",
    example="2013-07-04T17:30:00-04:00",
)
distance = number(
    "distance",
    unit="mi",
    low=0,
    high=6000,
    nullable=False,
    description="between the airports",
    example=1400,
)

temp = number("temp", unit="°F", low=-60, high=140, example=84.0)
dewp = number("dewp", unit="°F", low=-80, high=100, description="dew point", example=66.0)
humid = number("humid", unit="%", low=0, high=100, description="humidity", example=55.0)
wind_dir = number("wind_dir", unit="°", low=0, high=360, example=220.0)
wind_speed = number("wind_speed", unit="mph", low=0, high=150, example=11.5)
wind_gust = number(
    "wind_gust", unit="mph", low=0, high=200, description="null when calm", example=20.7
)
precip = number("precip", unit="in", low=0, high=20, description="in the hour", example=0.0)
pressure = number("pressure", unit="hPa", low=850, high=1100, example=1013.2)
visib = number("visib", unit="mi", low=0, high=20, description="visibility", example=10.0)

flights = FeatureSet(
    "flights",
    version=1,
    features={
        "distance": distance.log1p(),
        "hour": leaves.hour(),
        "weekday": leaves.weekday(),
        "carrier": carrier.one_hot(),
        "origin": origin.one_hot(),
        "dest_share": dest.frequency(),
        "dest_late": dest.target_mean(smoothing=50),
        "temp": temp.impute("median"),
        "dewp": dewp.impute("median"),
        "humid": humid.impute("median"),
        "wind_dir": wind_dir.impute("median"),
        "wind_speed": wind_speed.impute("median").clip(quantiles=(0, 0.999)),
        "wind_gust": wind_gust.impute(0.0).log1p(),
        "no_gust": wind_gust.is_null(),
        "precip": precip.impute(0.0).log1p(),
        "pressure": pressure.impute("median"),
        "no_pressure": pressure.is_null(),
        "visib": visib.impute("median"),
    },
)

baseline = FeatureSet(
    "flights-baseline",
    version=1,
    features={
        "hour": leaves.hour().standardize(),
        "weekday": leaves.weekday().one_hot(range(7)),
        "carrier": carrier.one_hot(),
        "origin": origin.one_hot(),
        "dest_late": dest.target_mean(smoothing=50).standardize(),
    },
)
"""What is known months before: it answers when the weather is not."""
