"""Calendars and zones: every day from 1900 to 2100 against Python's own datetime."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from features import DeclarationError, Encoded, FeatureSet, Fitted, elapsed, timestamp
from features.zones import Zone, freeze, tzdata_version
from tests.oracle import EPOCH, local_time, zone_of

Seconds: TypeAlias = NDArray[np.float64]
ZONES = (
    "UTC",
    "America/New_York",
    "Europe/London",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Pacific/Apia",  # skipped 30 December 2011
)
PARTS = ("minute", "hour", "weekday", "day", "month", "year")
DAY = 86_400
DAYS: Seconds = np.arange(-25_567.0, 47_847.0) * DAY
"""Midnight UTC of each day from 1900 to 2100."""

zones = pytest.mark.parametrize("zone", ZONES)
changing_zones = pytest.mark.parametrize("zone", ZONES[1:])


@cache
def calendar(zone: str) -> Fitted:
    at = timestamp("at", tz=zone)
    features = {part: getattr(at, part)() for part in PARTS}
    table = {"at": [datetime(2000, 1, 1, tzinfo=UTC)]}
    return FeatureSet("calendar", version=1, features=features).fit(table, quiet=True)


def parts_of(zone: str, seconds: Seconds) -> NDArray[np.float32]:
    """What the graph says: float32 (n, 6)."""
    flags = np.zeros((len(seconds), 1), np.uint8)
    return calendar(zone).transform(Encoded(seconds[:, None], flags))


def expected_parts(zone: str, seconds: Seconds) -> NDArray[np.float32]:
    """What Python says."""
    times = (local_time(second, zone) for second in seconds.tolist())
    found = [(t.minute, t.hour, t.weekday(), t.day, t.month, t.year) for t in times]
    return np.array(found, np.float32).reshape(-1, len(PARTS))


def offset_of(second: float, zone: str) -> float:
    offset = local_time(second, zone).utcoffset()
    assert offset is not None
    return offset.total_seconds()


def assert_agree(zone: str, seconds: Seconds):
    found, expected = parts_of(zone, seconds), expected_parts(zone, seconds)
    wrong = np.flatnonzero((found != expected).any(axis=1))[:3]
    assert not len(wrong), [(local_time(float(seconds[i]), zone), found[i]) for i in wrong]


def test_there_is_a_calendar_of_every_day():
    first, last = (EPOCH + timedelta(seconds=int(DAYS[end])) for end in (0, -1))
    assert (first.isoformat()[:10], last.isoformat()[:10]) == ("1900-01-01", "2100-12-31")


@zones
def test_every_day_is_pythons_day(zone: str):
    """At another second of each, 86,399 of them over the two centuries."""
    second = (np.arange(len(DAYS)) * 7_919.0) % DAY
    assert_agree(zone, DAYS + second)


@zones
def test_a_moment_before_midnight_is_the_day_before(zone: str):
    """Midnight where the zone is; the float64 before it; and a tenth of a microsecond before."""
    some = DAYS[:: 97 if zone == "UTC" else 13]
    offsets = np.array([offset_of(second, zone) for second in some.tolist()])
    midnight = some - offsets
    assert_agree(zone, midnight)
    assert_agree(zone, np.nextafter(midnight, -np.inf))
    assert_agree(zone, midnight - 1e-7)


@changing_zones
def test_every_transition_happens_at_its_second(zone: str):
    transitions = np.array(freeze(zone).transitions, np.float64)
    for second in (-1, -0.001, 0, 0.5):
        assert_agree(zone, transitions + second)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_the_first_and_the_last_year_are_years_like_others(zone: str):
    """Where Python's datetime ends, local time may be in the year 0 or 10000; it still has days."""
    edges = np.array([-62_135_596_800.0, -62_135_510_400.0, 253_402_300_799.0, 253_402_300_800.0])
    found = parts_of(zone, edges)
    for column, (low, high) in enumerate([(0, 59), (0, 23), (0, 6), (1, 31), (1, 12), (0, 10_000)]):
        assert ((found[:, column] >= low) & (found[:, column] <= high)).all()
    offset = freeze(zone).offsets[0]
    first = "0000-12-31" if offset < 0 else "0001-01-01"
    assert found[0, 3:].tolist() == [int(first[8:]), int(first[5:7]), int(first[:4])]
    assert found[0, 2] == (6 if offset < 0 else 0)  # 0001-01-01 was a Monday


def test_zones_do_not_get_in_each_others_way():
    """Two timestamps of three zones in one graph."""
    fields = {zone: timestamp(zone.replace("/", "."), tz=zone) for zone in ZONES[1:4]}
    features = {
        f"{zone.replace('/', '.')} {part}": getattr(at, part)()
        for zone, at in fields.items()
        for part in ("hour", "month", "weekday", "year")
    }
    table = {zone.replace("/", "."): [datetime(2000, 1, 1, tzinfo=UTC)] for zone in fields}
    fitted = FeatureSet("zones", version=1, features=features).fit(table, quiet=True)
    seconds = DAYS[::500] + 3_601.0
    rows = np.stack([seconds + shift * DAY for shift in range(3)], axis=1)
    found = fitted._session.run(rows)[0]
    for index, zone in enumerate(fields):
        expected = expected_parts(zone, rows[:, index])[:, [1, 4, 2, 5]]
        assert np.array_equal(found[:, 4 * index : 4 * index + 4], expected)


def test_elapsed_time_needs_no_calendar():
    """The hour that the clocks skip, or show twice, has passed or not like any other."""
    leaves = timestamp("leaves", tz="America/New_York")
    arrives = timestamp("arrives", tz="Europe/London")
    hours = FeatureSet("f", version=1, features={"h": elapsed(leaves, arrives, unit="h")})
    table = {
        "leaves": ["2013-03-10T01:30", "2013-11-03T00:30", "2013-07-01T00:00"],
        "arrives": ["2013-03-10T07:30", "2013-11-03T07:30", None],
    }
    fitted = hours.fit(table, quiet=True)
    found = fitted.transform(table)[:, 0]
    assert found[:2].tolist() == [1.0, 3.0]
    assert np.isnan(found[2])


# wall-clock times: the two traps


def around(transitions: Iterator[int], offsets: list[int]) -> Iterator[datetime]:
    """Wall-clock times each quarter of an hour within three hours (a day: Apia) of each step."""
    for at in transitions:
        for offset in offsets:
            local = datetime(1970, 1, 1) + timedelta(seconds=at + offset)  # noqa: DTZ001
            for quarter in (*range(-12, 13), -96, 96):
                yield local + timedelta(minutes=15 * quarter)


@changing_zones
def test_wall_clock_times_are_read_as_python_reads_them(zone: str):
    """An ambiguous one is the earlier of the two, one in a gap has the offset before the gap.

    Python says so for fold=0 (PEP 495).
    """
    frozen = freeze(zone)
    steps = frozen.transitions[:: max(1, len(frozen.transitions) // 60)]
    for local in around(iter(steps), [min(frozen.offsets), max(frozen.offsets[1:])]):
        wall_clock = round((local - datetime(1970, 1, 1)).total_seconds())  # noqa: DTZ001
        aware = local.replace(tzinfo=zone_of(zone), fold=0)
        expected = round(aware.timestamp())
        assert frozen.to_utc(wall_clock) == expected, local
        assert frozen.local_to_utc(np.array([wall_clock]))[0] == expected


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2013-03-10T01:59:59", "2013-03-10T06:59:59"),
        ("2013-03-10T02:30", "2013-03-10T07:30:00"),  # not on any clock: as before the gap
        ("2013-03-10T03:00", "2013-03-10T07:00:00"),
        ("2013-11-03T00:59:59", "2013-11-03T04:59:59"),
        ("2013-11-03T01:30", "2013-11-03T05:30:00"),  # twice on the clocks: the earlier
        ("2013-11-03T02:00", "2013-11-03T07:00:00"),
    ],
)
def test_the_two_traps_of_new_york(text: str, utc: str):
    fitted = calendar("America/New_York")
    encoded = fitted.encode_records([{"at": text}, {"at": f"{utc}Z"}])
    assert encoded.rows[0, 0] == encoded.rows[1, 0]


# frozen zones


def offsets_at(zone: Zone, utc: NDArray[np.float64]) -> list[int]:
    """Of each UTC second, float64 (n,)."""
    after = np.searchsorted(np.asarray(zone.transitions, np.float64), utc, side="right")
    return [zone.offsets[place] for place in after]


@zones
def test_a_frozen_zone_has_the_offset_of_every_day(zone: str):
    frozen = freeze(zone)
    some = DAYS[::29] + 43_200.0
    expected = [offset_of(second, zone) for second in some.tolist()]
    assert offsets_at(frozen, some) == expected


def test_an_offset_changes_at_the_second_of_its_transition():
    frozen = freeze("America/New_York")
    steps = np.array(frozen.transitions, np.float64)
    assert offsets_at(frozen, steps) == list(frozen.offsets[1:])
    assert offsets_at(frozen, steps - 1e-3) == list(frozen.offsets[:-1])


def test_a_frozen_zone_survives_json():
    frozen = freeze("Pacific/Apia")
    assert Zone.from_json(frozen.to_json()) == frozen


def test_a_zone_with_too_few_offsets_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        Zone("Nowhere", (0, 10), (0, 3600))


@pytest.mark.parametrize("name", ["Europe/Pari", "", "../zoneinfo/UTC", "/etc/localtime", "Europe"])
def test_an_unknown_zone_is_refused_where_it_is_declared(name: str):
    with pytest.raises(DeclarationError, match=r"is not in tzdata .* such as 'Europe/Paris'"):
        timestamp("at", tz=name)


def test_the_edition_of_tzdata_is_recorded():
    assert calendar("UTC").to_json()["fitted"]["tzdata"] == tzdata_version()


@pytest.mark.trial
@pytest.mark.parametrize("zone", files("tzdata").joinpath("zones").read_text().split())
def test_every_zone_there_is(zone: str):
    frozen = freeze(zone)
    assert list(frozen.local_ends) == sorted(frozen.local_ends)
    assert min(np.diff(frozen.transitions), default=DAY) >= DAY
    assert_agree(zone, np.array(frozen.transitions, np.float64) - 1)
    assert_agree(zone, DAYS[::50] + 12_345.0)
