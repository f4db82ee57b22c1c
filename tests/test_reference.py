"""The reference: what training looked like, from real features over a made-up table."""

from typing import Any

import msgspec
import numpy as np
import pytest

from features import boolean, category, number, timestamp
from features.encoding import Encoded
from features.feature_set import FeatureSet
from features.fitted import Fitted
from models.background import background
from models.bins import CodeBins, NumberBins
from models.errors import PackingError
from models.manifest import OutputSpec, read, write
from models.measures import Measures
from models.reference import Reference, build_reference
from models.shapes import WINDOW_SECONDS, Shape

DAY = 86_400.0
START = 1_357_000_000.0
PROBABILITY = OutputSpec(name="probability", kind="probability", dtype="float32")

FEATURES = FeatureSet(
    "trips",
    version=1,
    features={
        "distance": number("distance", low=0, high=100).impute("median"),
        "driver": category("driver", sensitive="hash").frequency(),
        "carrier": category("carrier").one_hot(),
        "is_weekend": boolean("is_weekend").passthrough(),
        "hour": timestamp("leaves", tz="America/New_York").hour(),
    },
)


def table(n: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    distance = random.gamma(2, 10, n).clip(0, 100)
    distance[random.random(n) < 0.1] = np.nan
    return {
        "distance": distance,
        "driver": random.choice(["Ada", "Grace", "Joan"], n, p=[0.2, 0.5, 0.3]).tolist(),
        "carrier": random.choice(["#1", "UA", "B6"], n).tolist(),
        "is_weekend": (random.random(n) < 0.3).tolist(),
        "leaves": [iso(START + second) for second in random.uniform(0, 30 * DAY, n)],
    }


def iso(second: float) -> str:
    return str(np.datetime64(int(second), "s")) + "Z"


def fit(n: int, seed: int = 0) -> tuple[Fitted, Encoded]:
    rows = table(n, seed)
    fitted = FEATURES.fit(rows, quiet=True)
    return fitted, fitted.encode_table(rows)


def reference_of(n: int, **settings: Any) -> tuple[Fitted, Encoded, Reference]:
    fitted, encoded = fit(n)
    scores = np.random.default_rng(1).random(n, np.float32)
    made = build_reference(fitted, encoded, [scores], [PROBABILITY], **settings)
    return fitted, encoded, made


def times_of(n: int, days: float = 30) -> np.ndarray:
    return START + np.random.default_rng(2).uniform(0, days * DAY, n)


def shape_of(reference: Reference, name: str) -> Shape:
    return next(shape for shape in reference.shapes if shape.name == name)


def edges_of(reference: Reference, name: str) -> tuple[float, ...]:
    bins = shape_of(reference, name).bins
    assert isinstance(bins, NumberBins)
    return bins.edges


# shapes


def test_live_rows_equal_to_the_training_rows_make_the_same_counts():
    times = times_of(3000)
    fitted, encoded, reference = reference_of(3000, times=times, time_field="asked_at")
    measures = Measures.from_reference(
        fitted.fields, fitted.vocabularies, fitted.zones, [PROBABILITY], reference
    )
    scores = np.random.default_rng(1).random(3000, np.float32)
    outputs = measures.output_columns([scores])
    everywhere = np.ones(3000, np.bool_)
    counted = measures.count(encoded.rows, encoded.flags, outputs, everywhere, times)
    assert counted.bins.tolist() == [c for shape in reference.shapes for c in shape.counts]
    rates = [
        rate.rate * 3000
        for field, troubles in reference.troubles.items()
        for trouble, rate in troubles.items()
        if (field, trouble) not in {("driver", "unknown"), ("carrier", "unknown")}
    ]
    expected = [
        int(counted.quality[f, t])
        for f, field in enumerate(fitted.fields)
        for t in range(4)
        if not (field.kind == "category" and t == 3)
    ]
    assert rates == pytest.approx(expected)


def test_the_order_of_the_training_rows_does_not_matter():
    fitted, encoded, reference = reference_of(500, times=times_of(500), time_field="asked_at")
    order = np.random.default_rng(3).permutation(500)
    shuffled = build_reference(
        fitted,
        Encoded(encoded.rows[order], encoded.flags[order]),
        [np.random.default_rng(1).random(500, np.float32)[order]],
        [PROBABILITY],
        times=times_of(500)[order],
        time_field="asked_at",
    )
    assert shuffled == reference


def test_everything_that_is_measured_has_a_shape():
    _, _, reference = reference_of(300, times=times_of(300), time_field="asked_at")
    assert {shape.name: len(shape.counts) for shape in reference.shapes} == {
        "distance": 10,
        "driver": 5,
        "carrier": 5,
        "is_weekend": 2,
        "leaves.lead": 10,
        "leaves.hour": 24,
        "leaves.weekday": 7,
        "probability": 10,
    }


def test_mean_and_sd_are_of_the_values_in_the_shape():
    _, encoded, reference = reference_of(400)
    values = encoded.rows[:, 0][encoded.flags[:, 0] == 0]
    distance = shape_of(reference, "distance")
    assert sum(distance.counts) == len(values) < 400
    assert (distance.mean, distance.sd) == (
        pytest.approx(values.mean()),
        pytest.approx(values.std()),
    )
    assert shape_of(reference, "carrier").mean is None


def test_a_field_that_never_varies_has_no_spread():
    fitted, encoded = fit(300)
    encoded.rows[:, 0], encoded.flags[:, 0] = 0.1, 0
    reference = build_reference(fitted, encoded, [np.zeros(300)], [PROBABILITY])
    assert (shape_of(reference, "distance").mean, shape_of(reference, "distance").sd) == (0.1, 0.0)


def test_a_field_without_any_value_is_counted_in_one_bin():
    fitted, encoded = fit(300)
    encoded.rows[:, 0], encoded.flags[:, 0] = np.nan, 1
    reference = build_reference(fitted, encoded, [np.zeros(300)], [PROBABILITY])
    assert shape_of(reference, "distance").counts == (0,)
    assert shape_of(reference, "distance").mean is None


def test_outputs_are_of_the_rows_that_the_model_answers():
    answered = np.arange(400) % 4 != 0
    _, _, reference = reference_of(400, is_model=answered)
    assert sum(shape_of(reference, "probability").counts) == 300
    assert sum(shape_of(reference, "is_weekend").counts) == 400


def test_sensitive_values_are_named_by_codes_and_kept_out_of_the_background():
    fitted, encoded, reference = reference_of(300)
    bins = shape_of(reference, "driver").bins
    assert bins.labels == ("0", "1", "2", "#other", "#unknown")
    raw = write(reference).decode()
    assert not [name for name in ("Ada", "Grace", "Joan") if name in raw]
    at = [field.name for field in fitted.fields].index("driver")
    assert reference.background is not None
    shown = {row[at] for row in (reference.background.medoid, *reference.background.rows)}
    assert shown == {0.0}, "the most frequent code stands for all"
    assert encoded.rows[:, at].max() > 0


def test_texts_that_begin_with_our_sign_are_escaped():
    _, _, reference = reference_of(300)
    assert set(shape_of(reference, "carrier").bins.labels) >= {"##1", "UA", "B6"}


def test_a_field_named_like_the_part_of_another_is_refused():
    features = FeatureSet(
        "clash",
        version=1,
        features={"a": number("t.hour").passthrough(), "b": timestamp("t").hour()},
    )
    rows = {"t.hour": [1.0, 2.0], "t": [iso(START), iso(START)]}
    fitted = features.fit(rows, quiet=True)
    with pytest.raises(PackingError, match=r"rename one"):
        build_reference(fitted, fitted.encode_table(rows), [np.zeros(2)], [PROBABILITY])


def test_the_file_comes_back_to_the_bit():
    _, _, reference = reference_of(2000, times=times_of(2000), time_field="asked_at")
    raw = write(reference)
    assert raw.startswith(b'{\n "format": 1')
    again = read(Reference, raw, what="reference.json")
    assert again == reference
    assert write(again) == raw


def test_classes_are_counted_by_their_index():
    fitted, encoded = fit(300)
    spec = OutputSpec(name="cause", kind="label", dtype="int64", classes=(7, 9))
    labels = np.where(np.arange(300) % 3 == 0, 7, 9)
    reference = build_reference(fitted, encoded, [labels], [spec])
    assert shape_of(reference, "cause").bins == CodeBins(labels=("9", "7"), bin_of_code=(1, 0, -1))
    assert shape_of(reference, "cause").counts == (200, 100)


# noise


def test_without_a_time_column_nothing_is_known_of_noise_and_leads():
    _, _, reference = reference_of(3000)
    assert reference.time is None
    assert all(shape.part != "lead" for shape in reference.shapes)
    assert all(noise is None for shape in reference.shapes for noise in shape.windows.values())
    assert all(
        noise is None
        for rates in reference.troubles.values()
        for rate in rates.values()
        for noise in rate.windows.values()
    )


def test_fewer_than_eight_windows_of_a_length_say_nothing():
    times = times_of(5000, days=7.9)
    _, _, reference = reference_of(5000, times=times, time_field="asked_at")
    windows = shape_of(reference, "distance").windows
    assert list(windows) == list(WINDOW_SECONDS)
    assert [length for length, noise in windows.items() if noise is None] == ["24h", "7d"]
    assert [
        length
        for length, noise in reference.troubles["distance"]["missing"].windows.items()
        if noise is None
    ] == ["24h", "7d"]


def test_few_rows_are_counted_and_said_to_be_few():
    _, _, reference = reference_of(199)
    assert reference.few_rows
    assert sum(shape_of(reference, "is_weekend").counts) == 199
    assert not reference_of(200)[2].few_rows


def test_rows_without_a_time_are_counted_but_in_no_window():
    times = times_of(3000)
    times[::3] = np.nan
    _, _, reference = reference_of(3000, times=times, time_field="asked_at")
    assert sum(shape_of(reference, "is_weekend").counts) == 3000
    assert sum(shape_of(reference, "leaves.lead").counts) == 2000
    noise = shape_of(reference, "is_weekend").windows["24h"]
    assert noise is not None
    assert noise.usual.windows in (29, 30)


# background


def test_the_background_is_a_central_row_and_fifteen_others():
    fitted, encoded = fit(400)
    made = background(fitted.fields, encoded.rows, seed=0)
    assert made is not None
    assert len(made.rows) == 15
    median = np.nanmedian(encoded.rows[:, 0])
    assert made.medoid[0] == pytest.approx(median, rel=0.5)
    assert made == background(fitted.fields, encoded.rows, seed=0)
    assert None in {row[0] for row in made.rows}, "a missing number is null in JSON"
    assert msgspec.json.decode(msgspec.json.encode(made), type=type(made)) == made


def test_a_background_may_be_left_out():
    assert reference_of(300, with_background=False)[2].background is None
    fitted, encoded = fit(300)
    assert background(fitted.fields, encoded.rows[:0], seed=0) is None
