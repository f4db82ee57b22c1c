"""What operators learn: numpy's statistics, whatever the order of the rows, or a refusal."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import FeatureSet, FitError, Number, category, number, timestamp
from features.progress import ProgressBar
from tests.feature_cases import CASES, fitted, table, target

x = number("x")


def learned(feature: Number, values: Any) -> Any:
    """The state of the one operator that learns, over a column x."""
    subject = FeatureSet("one", version=1, features={"f": feature}).fit({"x": values}, quiet=True)
    [state] = subject.states.values()
    return state


def state_of(case: str) -> Any:
    subject = fitted(case)
    return subject.states[subject.feature_set.features["f"].key]


def present() -> NDArray[np.float64]:
    values = table()["x"]
    return values[~np.isnan(values)]


STATISTICS: dict[str, Callable[[NDArray[np.float64]], dict[str, Any]]] = {
    "impute the median": lambda v: {"value": np.median(v)},
    "impute the mean": lambda v: {"value": np.mean(v)},
    "impute the mode": lambda v: {"value": 2.5},
    "clip to quantiles": lambda v: dict(
        zip(("low", "high"), np.quantile(v, [0.1, 0.9]), strict=True)
    ),
    "standardize": lambda v: {"shift": np.mean(v), "scale": np.std(v)},
    "min_max": lambda v: {"shift": v.min(), "scale": v.max() - v.min()},
    "robust_scale": lambda v: {
        "shift": np.median(v),
        "scale": np.quantile(v, 0.75) - np.quantile(v, 0.25),
    },
    "bucketize at deciles": lambda v: {"edges": np.unique(np.quantile(v, np.arange(1, 10) / 10))},
}


@pytest.mark.parametrize("case", STATISTICS)
def test_a_statistic_is_numpys_over_the_values_that_are_not_null(case: str):
    expected = STATISTICS[case](present())
    assert state_of(case).keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state_of(case)[name], value, rtol=1e-14)


def test_constants_are_not_learned():
    for case in ("impute a constant", "clip below", "bucketize at edges"):
        assert not fitted(case).states


def test_of_equally_frequent_values_the_mode_is_the_smallest():
    assert learned(x.impute("mode"), [3, 3, 1, 1, 2]) == {"value": 1.0}


def test_a_constant_column_is_shifted_and_not_scaled():
    for feature in (x.standardize(), x.min_max(), x.robust_scale()):
        assert learned(feature, [7.5, None, 7.5]) == {"shift": 7.5, "scale": 1.0}


def test_frequencies_are_shares_of_all_rows():
    codes = [text if text is not None else "#missing" for text in table()["carrier"]]
    subject = fitted("frequency")
    expected = [codes.count(text) / len(codes) for text in subject.vocabularies["carrier"]]
    assert state_of("frequency")["table"] == [*expected, 0.0, codes.count("#missing") / len(codes)]


@pytest.mark.parametrize(
    ("case", "column", "smoothing"),
    [("target_mean", "carrier", 20.0), ("target_mean without smoothing", "gate", 0.0)],
)
def test_target_means_are_shrunk_towards_the_mean_of_all_rows(
    case: str, column: str, smoothing: float
):
    values, y = [str(value) for value in table()[column]], target()
    prior = y.mean()

    def mean_of(text: str) -> float:
        own = y[[value == text for value in values]]
        return (own.sum() + smoothing * prior) / (len(own) + smoothing) if len(own) else prior

    known = [mean_of(text) for text in fitted(case).vocabularies[column]]
    found = state_of(case)["table"]
    np.testing.assert_allclose(found, [*known, prior, mean_of("None")], rtol=1e-13)


def test_an_operator_learns_from_what_the_one_before_it_gives():
    """Stage by stage, by the graph that serves."""
    values = [1.0, None, 10.0, 100.0, 1e9]
    feature = x.clip(high=1000).impute("median").log1p().standardize()
    subject = FeatureSet("one", version=1, features={"f": feature}).fit({"x": values}, quiet=True)
    logs = np.log1p([1.0, 55.0, 10.0, 100.0, 1000.0])
    state = subject.states[feature.key]
    np.testing.assert_allclose([state["shift"], state["scale"]], [logs.mean(), logs.std()])


# the order of rows

LEARNING: dict[str, Number] = {
    "mean": x.impute("mean"),
    "median": x.impute("median"),
    "mode": x.impute("mode"),
    "standardize": x.standardize(),
    "robust_scale": x.robust_scale(),
    "bucketize": x.bucketize(bins=5),
    "clip": x.clip(quantiles=(0.05, 0.7)),
    "after a logarithm": x.abs().log1p().standardize(),
    "after an exponential": x.clip(-5, 5).exp().standardize(),
}


@pytest.mark.parametrize("name", LEARNING)
@settings(max_examples=25)
@given(values=st.lists(st.floats(-1e9, 1e9) | st.none(), min_size=3, max_size=40), data=st.data())
def test_the_order_of_rows_changes_no_bit_of_what_is_learned(
    name: str, values: list[float | None], data: st.DataObject
):
    """Sums are rounded once, and a logarithm has one value wherever its row stands."""
    if not any(value is not None for value in values):
        values = [*values, 1.0]
    shuffled = data.draw(st.permutations(values))
    assert learned(LEARNING[name], values) == learned(LEARNING[name], shuffled)


def test_sums_do_not_lose_small_values_beside_large_ones():
    """0.1 ten thousand times, among numbers that cancel each other."""
    values = [0.1] * 10_000 + [1e15, -1e15] * 50
    expected = math.fsum(values) / len(values)
    assert learned(x.impute("mean"), values) == {"value": expected}
    city = category("c")
    means = FeatureSet("one", version=1, features={"f": city.target_mean(smoothing=0)})
    subject = means.fit({"c": ["a"] * len(values)}, values, quiet=True)
    [state] = subject.states.values()
    assert state["table"][0] == expected


# refusals


def test_values_too_large_to_add_up_are_refused():
    for feature in (x.impute("mean"), x.standardize(), x.min_max(), x.robust_scale()):
        with pytest.raises(FitError, match=r"too large for float64 .*clip\(\) them first"):
            learned(feature, [-1.7e308, -1.7e308, 1.7e308, 1.7e308, 1.7e308])


def test_the_refusal_names_the_feature_that_cannot_learn():
    features = {"fine": x.impute(0), "sad": number("y").log().standardize()}
    everything = FeatureSet("two", version=1, features=features)
    with pytest.raises(FitError, match=r"feature 'sad', standardize\(log\(.*\)\): every"):
        everything.fit({"x": [1.0, 2.0], "y": [-1.0, 0.0]}, quiet=True)


# progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def draw(stream: io.StringIO, seconds: float) -> str:
    """What a bar writes of two steps, each so long."""
    times = iter([0.0, seconds, 2 * seconds, 3 * seconds])
    with ProgressBar("fit", stream=stream, clock=lambda: next(times)) as bar:
        for done in (1, 2, 3):
            bar(done, 3)
    return stream.getvalue()


def test_a_bar_is_drawn_for_who_waits_at_a_terminal():
    assert "fit" in draw(Terminal(), seconds=1.1)


def test_no_bar_is_drawn_for_what_is_soon_done():
    assert not draw(Terminal(), seconds=0.3)


def test_no_bar_is_drawn_into_a_file():
    assert not draw(io.StringIO(), seconds=60)


def test_the_bar_is_drawn_over_a_fit(monkeypatch: pytest.MonkeyPatch):
    """And over nothing when it is to be quiet."""
    monkeypatch.setattr("features.progress.PATIENCE_SECONDS", 0.0)
    stages = FeatureSet("two", version=1, features={"f": x.clip(quantiles=(0, 1)).standardize()})
    for quiet in (False, True):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        stages.fit({"x": [1.0, 2.0]}, quiet=quiet)
        assert ("fit" in terminal.getvalue()) is not quiet


def test_every_learning_case_is_doubted_here():
    learning = {name for name in CASES if fitted(name).states}
    elsewhere = {"standardize a constant", "bucketize logarithms", "frequency"}
    elsewhere |= {name for name in learning if name.startswith(("target_mean", "onnx"))}
    elsewhere |= {name for name in learning if "cross" in name}
    assert learning - elsewhere == set(STATISTICS)


def test_a_field_without_a_valid_value_is_warned_of_even_where_it_is_quiet():
    at = timestamp("at")
    definition = FeatureSet("f", version=1, features={"x": number("x"), "hour": at.hour()})
    dates = {"x": [1.0, 2.0, 3.0], "at": ["2024-01-01", None, "2024-01-03"]}
    with pytest.warns(UserWarning, match="'at': none of its 2 values is a valid timestamp"):
        definition.fit(dates, quiet=True)
    times = {**dates, "at": ["2024-01-01", None, "2024-01-03T00:00:00Z"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        definition.fit(times, quiet=True)
        definition.fit({**dates, "at": [None, None, None]}, quiet=True)
