"""A flight as hand-written servers validate it."""

from pydantic import BaseModel


class Flight(BaseModel):
    """The record; the time stays a text, which features parse."""

    sched_dep: str
    distance: float
    carrier: str | None = None
    origin: str | None = None
    dest: str | None = None
    temp: float | None = None
    dewp: float | None = None
    humid: float | None = None
    wind_dir: float | None = None
    wind_speed: float | None = None
    wind_gust: float | None = None
    precip: float | None = None
    pressure: float | None = None
    visib: float | None = None


class Late(BaseModel):
    """The answer."""

    probability: float
