"""Counting rows: the fold against a slow count that anybody can check."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.fields import FLAG_NAMES, Field
from features.zones import freeze
from models.bins import (
    BOOLEAN_BINS,
    HOUR_BINS,
    WEEKDAY_BINS,
    Bins,
    NumberBins,
    category_bins,
    class_bins,
)
from models.columns import Target, targets
from models.errors import BundleCorrupt
from models.manifest import OutputSpec
from models.measures import LARGEST_STANDARDIZED, Counted, Measures, count_troubles
from models.shapes import WINDOW_SECONDS, Shape
from models.vocabulary import TROUBLES

NEW_YORK = "America/New_York"
FIELDS = (
    Field(name="distance", kind="number", low=0, high=100),
    Field(name="kept", kind="number", low=0, high=100, out_of_bounds="keep"),
    Field(name="carrier", kind="category"),
    Field(name="is_weekend", kind="boolean"),
    Field(name="leaves", kind="timestamp", tz=NEW_YORK),
    Field(name="booked", kind="timestamp"),
)
VOCABULARIES = {"carrier": ("UA", "AA", "B6")}
ZONES = {"UTC": freeze("UTC"), NEW_YORK: freeze(NEW_YORK)}
OUTPUTS = (
    OutputSpec(name="probability", kind="probability", dtype="float32"),
    OutputSpec(name="delay", kind="value", dtype="float32"),
    OutputSpec(name="embedding", kind="vector", dtype="float32", shape=(-1, 8)),
    OutputSpec(name="cause", kind="label", dtype="string", classes=("weather", "crew")),
    OutputSpec(
        name="causes",
        kind="class_probabilities",
        dtype="float32",
        shape=(-1, 2),
        classes=("weather", "crew"),
    ),
)
EPOCH = 1_370_000_000.0  # 2013-05-31, in summer time

BINS: dict[tuple[str, str], Bins] = {
    ("distance", "value"): NumberBins(edges=(10.0, 20.0, 50.0)),
    ("kept", "value"): NumberBins(edges=tuple(float(i) for i in range(20))),
    ("carrier", "value"): category_bins(VOCABULARIES["carrier"], np.array([5, 9, 1])),
    ("is_weekend", "value"): BOOLEAN_BINS,
    ("leaves", "lead"): NumberBins(edges=(0.0, 3600.0)),
    ("leaves", "hour"): HOUR_BINS,
    ("leaves", "weekday"): WEEKDAY_BINS,
    ("booked", "hour"): HOUR_BINS,
    ("booked", "weekday"): WEEKDAY_BINS,
    ("probability", "value"): NumberBins(edges=(0.25, 0.5)),
    ("delay", "value"): NumberBins(edges=()),
    ("cause", "value"): class_bins(("weather", "crew"), np.array([1, 2])),
    ("causes", "value"): class_bins(("weather", "crew"), np.array([1, 2])),
}


@dataclass(frozen=True)
class SomeReference:
    shapes: list[Shape]


def shape(target: Target, bins: Bins | None = None) -> Shape:
    subject, of, part = target
    bins = bins or BINS[of, part]
    is_number = isinstance(bins, NumberBins)
    return Shape(
        subject=subject,
        of=of,
        part=part,
        bins=bins,
        counts=(0,) * len(bins.labels),
        mean=30.0 if is_number else None,
        sd=10.0 if is_number else None,
        windows=dict.fromkeys(WINDOW_SECONDS),
    )


SHAPES = [shape(target) for target in targets(FIELDS, OUTPUTS, time_field="booked")]


def measures_of(shapes: list[Shape]) -> Measures:
    return Measures.from_reference(FIELDS, VOCABULARIES, ZONES, OUTPUTS, SomeReference(shapes))


MEASURES = measures_of(SHAPES)
ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def counting(draw: st.DrawFn, max_rows: int = 12):
    """Arguments of `count`, nonsense included."""
    n = draw(st.integers(0, max_rows))
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    rows = np.column_stack(
        [
            random.choice([-5.0, 0.0, 10.0, 15.0, 50.0, 51.0, np.nan, np.inf, 1e308], n),
            random.choice([-5.0, 0.0, 0.5, 7.0, 101.0, -1e308], n),
            random.integers(0, 5, n),
            random.choice([0.0, 1.0, np.nan], n),
            EPOCH + random.integers(-40 * 86_400, 400 * 86_400, n),
            np.where(random.random(n) < 0.1, np.nan, random.integers(-(10**10), 10**11, n)),
        ]
    ).reshape(n, len(FIELDS))
    flags = random.choice(len(FLAG_NAMES), (n, len(FIELDS)), p=[0.6, 0.1, 0.1, 0.1, 0.1])
    outputs = np.column_stack(
        [
            random.choice([0.0, 0.25, 0.3, 1.0, np.nan], n),
            random.choice([-1.0, 1e9, np.inf], n),
            random.integers(0, 3, n),
            random.choice([0.0, 1.0, np.nan], n),
        ]
    ).reshape(n, 4)
    arrived = np.where(random.random(n) < 0.1, np.nan, EPOCH + random.integers(0, 9**6, n))
    return rows, flags.astype(np.uint8), outputs, random.random(n) < 0.7, arrived


# bins


def measured_values(rows, flags, outputs, is_model, arrived):
    """(measure name, value) of everything that enters a shape, one at a time."""
    for row, row_flags, answers, by_model, came in zip(
        rows.tolist(), flags.tolist(), outputs.tolist(), is_model.tolist(), arrived, strict=True
    ):
        for field, value, flag in zip(FIELDS, row, row_flags, strict=True):
            name = FLAG_NAMES[flag]
            keeps = field.out_of_bounds == "keep" and name == "out_of_bounds"
            if name in ("ok", "unknown") or keeps:
                yield from parts(field, value, came)
        if by_model:
            yield from zip(["probability", "delay", "cause", "causes"], answers, strict=True)


def parts(field: Field, value: float, came: float):
    if field.kind != "timestamp":
        yield field.name, value
    elif np.isfinite(value):
        at = datetime.fromtimestamp(value, UTC).astimezone(ZoneInfo(field.tz or "UTC"))
        yield f"{field.name}.hour", at.hour
        yield f"{field.name}.weekday", at.weekday()
        if field.name != "booked":
            yield f"{field.name}.lead", value - came


def counted_slowly(*arguments: np.ndarray) -> Counter[tuple[str, str]]:
    bins = {shape.name: shape.bins for shape in SHAPES}
    found: Counter[tuple[str, str]] = Counter()
    for name, value in measured_values(*arguments):
        if np.isfinite(value):
            index = bins[name].index(np.array([value], np.float64))[0]
            if index >= 0:
                found[name, bins[name].labels[index]] += 1
    return found


def by_label(counted: Counted) -> Counter[tuple[str, str]]:
    names = [(m.name, label) for m in MEASURES.measures for label in m.labels]
    return Counter({n: c for n, c in zip(names, counted.bins.tolist(), strict=True) if c})


@given(counting())
@settings(max_examples=300)
def test_the_fold_counts_what_a_slow_count_counts(arguments):
    assert by_label(MEASURES.count(*arguments)) == counted_slowly(*arguments)


@given(counting(), st.integers(0, 12))
def test_counts_of_parts_add_up(arguments, at: int):
    whole = MEASURES.count(*arguments)
    first = MEASURES.count(*(a[:at] for a in arguments))
    second = MEASURES.count(*(a[at:] for a in arguments))
    assert (first.bins + second.bins == whole.bins).all()
    assert (first.quality + second.quality == whole.quality).all()
    np.testing.assert_allclose(first.moments + second.moments, whole.moments, rtol=1e-9)


@given(counting())
def test_every_value_that_enters_is_in_one_bin_of_its_measure(arguments):
    counted = MEASURES.count(*arguments)
    per_measure = np.add.reduceat(counted.bins, MEASURES.offsets[:-1])
    assert (per_measure <= len(arguments[0])).all()
    assert (counted.bins >= 0).all()


def one_row(**values: float) -> np.ndarray:
    usual = {
        "distance": 30.0,
        "kept": 3.0,
        "carrier": 0.0,
        "is_weekend": 1.0,
        "leaves": EPOCH,
        "booked": EPOCH,
    }
    return np.array([[{**usual, **values}[field.name] for field in FIELDS]])


def count_one(row: np.ndarray, *, is_model: bool = True, **flags: str) -> Counted:
    coded = [[FLAG_NAMES.index(flags.get(field.name, "ok")) for field in FIELDS]]
    return MEASURES.count(
        row,
        np.array(coded, np.uint8),
        np.array([[0.3, 5.0, 0.0, 1.0]]),
        np.array([is_model]),
        np.array([EPOCH - 60.0]),
    )


def names_in(counted: Counted) -> set[str]:
    return {name for name, _ in by_label(counted)}


ALL_NAMES = {shape.name for shape in SHAPES}


def test_everything_measured_of_a_good_row():
    assert by_label(count_one(one_row())) == Counter(
        {
            ("distance", "02"): 1,
            ("kept", "03"): 1,
            ("carrier", "UA"): 1,
            ("is_weekend", "true"): 1,
            ("leaves.lead", "01"): 1,
            ("leaves.hour", "07"): 1,
            ("leaves.weekday", "fri"): 1,
            ("booked.hour", "11"): 1,
            ("booked.weekday", "fri"): 1,
            ("probability", "01"): 1,
            ("delay", "00"): 1,
            ("cause", "weather"): 1,
            ("causes", "crew"): 1,
        }
    )


@pytest.mark.parametrize("flag", ["missing", "invalid", "out_of_bounds"])
def test_a_bad_value_is_in_the_quality_counts_alone(flag: str):
    counted = count_one(one_row(distance=0.0), distance=flag)
    assert names_in(counted) == ALL_NAMES - {"distance"}
    assert counted.quality[0].tolist() == [int(flag == trouble) for trouble in TROUBLES]
    assert counted.quality[1:].sum() == 0


def test_an_unknown_category_has_a_bin_and_a_trouble():
    counted = count_one(one_row(carrier=3.0), carrier="unknown")
    assert by_label(counted)["carrier", "#unknown"] == 1
    assert counted.quality[2].tolist() == [0, 0, 0, 1]


def test_a_value_out_of_bounds_is_in_the_shape_where_the_field_keeps_it():
    counted = count_one(one_row(kept=101.0), kept="out_of_bounds")
    assert by_label(counted)["kept", "20"] == 1
    assert counted.quality[1].tolist() == [0, 0, 1, 0]


def test_the_local_hour_changes_in_the_second_of_a_transition():
    spring = datetime(2013, 3, 10, 7, tzinfo=UTC).timestamp()
    assert by_label(count_one(one_row(leaves=spring - 1)))["leaves.hour", "01"] == 1
    assert by_label(count_one(one_row(leaves=spring)))["leaves.hour", "03"] == 1


def test_a_missing_timestamp_is_missing_in_all_its_parts():
    assert names_in(count_one(one_row(leaves=np.nan), leaves="missing")) == {
        name for name in ALL_NAMES if not name.startswith("leaves")
    }


def test_an_answer_of_a_lower_rung_leaves_the_outputs_alone():
    fields = ALL_NAMES - {output.name for output in OUTPUTS}
    assert names_in(count_one(one_row(), is_model=False)) == fields


def test_no_rows_count_nothing():
    counted = MEASURES.count(*(a[:0] for a in example_arguments(5)))
    assert counted.bins.sum() == counted.quality.sum() == counted.moments.sum() == 0


def example_arguments(n: int) -> tuple[Any, ...]:
    random = np.random.default_rng(0)
    rows = np.repeat(one_row(), n, axis=0)
    rows[:, 0] = random.normal(40, 20, n)
    flags = np.zeros(rows.shape, np.uint8)
    outputs = np.column_stack([random.random(n), np.zeros(n), np.zeros(n), np.zeros(n)])
    return rows, flags, outputs, np.ones(n, np.bool_), np.full(n, EPOCH)


# moments


def test_moments_give_back_mean_and_variance():
    arguments = example_arguments(1000)
    moments = MEASURES.count(*arguments).moments[0]
    assert MEASURES.measures[MEASURES.with_moments[0]].name == "distance"
    mean = (moments[0] - moments[1]) / 1000
    square = (moments[2] + moments[3]) / 1000
    values = arguments[0][:, 0]
    assert 30 + 10 * mean == pytest.approx(values.mean())
    assert 100 * (square - mean**2) == pytest.approx(values.var())


@given(counting(), ANY_NUMBER)
def test_moments_are_counters_whatever_comes(arguments, value: float):
    arguments[0][:, :2] = value
    moments = MEASURES.count(*arguments).moments
    assert (moments >= 0).all()
    assert np.isfinite(moments).all()


def test_an_absurd_value_is_cut_at_a_million_deviations():
    moments = count_one(one_row(distance=-1e308)).moments[0]
    assert moments == pytest.approx([0, LARGEST_STANDARDIZED, 0, LARGEST_STANDARDIZED**2])


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 0.0), (None, None), (0.0, 1e-200), (0.0, 1e300)])
def test_without_a_usable_spread_there_are_no_moments(mean: float | None, sd: float | None):
    from msgspec.structs import replace

    measures = measures_of([replace(SHAPES[0], mean=mean, sd=sd), *SHAPES[1:]])
    assert not measures.measures[0].has_moments
    assert 0 not in measures.with_moments


# outputs


def test_outputs_become_one_number_each():
    columns = MEASURES.output_columns(
        [
            np.array([0.1, 0.9], np.float32),
            np.array([[3.0], [4.0]], np.float32),
            np.zeros((2, 8), np.float32),
            np.array(["crew", "ghosts"], object),
            np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
        ]
    )
    assert columns.dtype == np.float64
    expected = [[np.float32(0.1), 3, 1, 0], [np.float32(0.9), 4, 2, 1]]
    assert columns.tolist() == expected


def test_answers_of_lower_rungs_may_have_nulls():
    columns = MEASURES.output_columns(
        [[0.5, None], [None, 1.0], [None, None], ["crew", None], [None, [0.1, 0.9]]]
    )
    np.testing.assert_array_equal(columns, [[0.5, np.nan, 1, np.nan], [np.nan, 1.0, 2, 1]])


def test_a_bundle_of_vectors_measures_no_output():
    measures = Measures([], fields=(), zones={}, outputs=[OUTPUTS[2]])
    assert measures.output_columns([np.zeros((3, 8))]).shape == (3, 0)
    nothing = np.empty((3, 0))
    counted = measures.count(
        nothing, nothing.astype(np.uint8), nothing, np.ones(3, np.bool_), np.zeros(3)
    )
    assert (counted.bins.shape, counted.moments.shape, counted.quality.shape) == (
        (0,),
        (0, 4),
        (0, 4),
    )


# what does not belong to the bundle


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ([*SHAPES, shape(("field", "speed", "value"), BOOLEAN_BINS)], "outputs before fields"),
        ([shape(("field", "speed", "value"), BOOLEAN_BINS), *SHAPES], "speed"),
        ([SHAPES[0], *SHAPES], "several shapes"),
        (SHAPES[:-1], "other outputs"),
        ([shape(("field", "distance", "value"), BOOLEAN_BINS), *SHAPES[1:]], "codes"),
        ([shape(("field", "carrier", "value"), BOOLEAN_BINS), *SHAPES[-4:]], "expected 5"),
    ],
)
def test_a_reference_of_another_bundle_is_refused(shapes: list[Shape], what: str):
    with pytest.raises(BundleCorrupt, match=what):
        measures_of(shapes)


def test_leads_need_a_time_column_that_is_another_field():
    def leads(time_field: str | None) -> list[str]:
        wanted = targets(FIELDS, OUTPUTS, time_field=time_field)
        return [of for _, of, part in wanted if part == "lead"]

    assert leads(None) == []
    assert leads("leaves") == ["booked"]
    assert leads("logged_at") == ["leaves", "booked"]


def test_flags_that_are_no_trouble_are_not_counted() -> None:
    flags = np.array([[0, 1, 255], [4, 255, 5]], np.uint8)
    counted = count_troubles(flags)
    assert counted.sum() == 2
    assert counted[1].tolist() == [1, 0, 0, 0]
    assert counted[0].tolist() == [0, 0, 0, 1]
