"""Bins: every value has one, and training decides which."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bins import (
    ATOM_SHARE,
    BOOLEAN_BINS,
    MAX_LABEL_BYTES,
    MAX_OWN_BINS,
    NOT_COUNTED,
    Bins,
    CodeBins,
    NumberBins,
    category_bins,
    class_bins,
    code_bins,
    number_bins,
    unique_labels,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
few_values = st.lists(st.integers(-9, 9).map(float), max_size=200)
many_values = st.lists(finite, max_size=200)
with_atoms = st.lists(st.one_of(st.sampled_from([0.0, -1.5, 7.25]), finite), max_size=200)


def counts_of(values: list[float], bins: NumberBins) -> list[int]:
    index = bins.index(np.array(values, np.float64))
    return np.bincount(index, minlength=len(bins.labels)).tolist()


@given(st.one_of(few_values, many_values, with_atoms))
def test_bins_ascend_and_every_training_value_is_in_one(values: list[float]):
    bins = number_bins(np.array(values))
    counts = counts_of(values, bins)
    assert sum(counts) == len(values)
    assert all(map(math.isfinite, bins.edges))
    assert len(counts) == len(bins.labels) <= 2 * MAX_OWN_BINS


@given(st.one_of(few_values, many_values, with_atoms))
def test_bin_i_is_above_edge_i_minus_1_and_up_to_edge_i(values: list[float]):
    bins = number_bins(np.array(values))
    bounds = [-math.inf, *bins.edges, math.inf]
    for value, i in zip(values, bins.index(np.array(values)), strict=True):
        assert bounds[i] < value <= bounds[i + 1]


@given(st.one_of(few_values, many_values, with_atoms), st.randoms())
def test_the_order_of_training_rows_does_not_matter(values: list[float], random):
    shuffled = random.sample(values, len(values))
    assert number_bins(np.array(shuffled)) == number_bins(np.array(values))


@given(st.one_of(few_values, many_values, with_atoms))
def test_only_the_last_open_bin_may_be_empty_in_training(values: list[float]):
    counts = counts_of(values, number_bins(np.array(values)))
    assert all(counts[:-1])


@given(st.sets(finite, max_size=MAX_OWN_BINS), st.integers(1, 5))
def test_up_to_twenty_distinct_values_have_a_bin_each(values: set[float], times: int):
    bins = number_bins(np.array([*values] * times))
    assert bins.edges == tuple(sorted(values))
    assert counts_of([*values], bins) == [1] * len(values) + [0]


@given(with_atoms)
def test_a_frequent_value_is_alone_in_its_bin(values: list[float]):
    bins = number_bins(np.array(values))
    index = bins.index(np.array(values))
    for value in set(values):
        if values.count(value) > ATOM_SHARE * len(values):
            [own] = set(index[np.array(values) == value].tolist())
            assert set(np.array(values)[index == own].tolist()) == {value}


def test_spread_numbers_have_ten_bins_of_equal_size():
    values = np.random.default_rng(0).normal(size=10_000)
    assert counts_of(values.tolist(), number_bins(values)) == [1000] * 10


def test_an_atom_takes_its_share_of_the_deciles():
    values = np.concatenate([np.zeros(6000), np.random.default_rng(0).uniform(1, 2, 4000)])
    bins = number_bins(values)
    assert bins.edges[0] == 0.0
    assert counts_of(values.tolist(), bins) == [6000, 1000, 1000, 1000, 1000]


def test_an_atom_amid_others_has_the_two_edges_around_it():
    values = np.concatenate([np.zeros(600), np.random.default_rng(0).normal(size=1000)])
    edges = number_bins(values).edges
    at = edges.index(0.0)
    assert edges[at - 1] == np.nextafter(0.0, -np.inf)


def test_a_value_is_an_atom_from_one_in_twenty_on():
    spread = np.random.default_rng(0).normal(size=900)
    for times, is_atom in ((40, False), (60, True)):
        edges = number_bins(np.concatenate([spread, np.full(times, 0.1)])).edges
        assert (np.nextafter(0.1, -np.inf) in edges) == is_atom


def test_edges_at_the_ends_of_float64_stay_finite():
    largest = np.finfo(np.float64).max
    values = np.concatenate([np.full(50, -largest), np.full(50, largest), np.arange(30.0)])
    assert all(map(math.isfinite, number_bins(values).edges))


def test_no_values_make_one_bin_for_everything():
    assert number_bins(np.empty(0)) == NumberBins(edges=())
    assert NumberBins(edges=()).labels == ("00",)


def test_negative_zero_is_zero():
    bins = number_bins(np.array([-0.0, 0.0, 1.0]))
    assert str(bins.edges) == "(0.0, 1.0)"
    assert bins.index(np.array([-0.0, 0.0])).tolist() == [0, 0]


@given(many_values)
def test_edges_survive_json_to_the_bit(values: list[float]):
    bins = number_bins(np.array(values))
    assert msgspec.json.decode(msgspec.json.encode(bins), type=Bins) == bins


def test_the_twenty_largest_categories_have_a_bin_then_other_then_unknown():
    vocabulary = [f"c{i}" for i in range(25)]
    bins = category_bins(vocabulary, np.arange(25))
    assert bins.labels == (*(f"c{i}" for i in range(24, 4, -1)), "#other", "#unknown")
    codes = np.array([24.0, 5.0, 4.0, 0.0, 25.0, 26.0])
    assert bins.index(codes).tolist() == [0, 19, 20, 20, 21, NOT_COUNTED]


def test_of_equally_frequent_categories_the_lower_codes_have_the_bins():
    bins = category_bins([f"c{i}" for i in range(30)], np.full(30, 7))
    assert bins.labels[:-2] == tuple(f"c{i}" for i in range(20))


def test_a_sensitive_category_is_named_by_its_code():
    bins = category_bins(["Ada", "Grace"], np.array([1, 5]), sensitive=True)
    assert bins.labels == ("1", "0", "#other", "#unknown")


def test_classes_have_no_bin_for_what_a_model_cannot_answer():
    bins = class_bins(["no", "yes"], np.array([9, 1]))
    assert (bins.labels, bins.bin_of_code) == (("no", "yes"), (0, 1, NOT_COUNTED))
    assert class_bins([f"c{i}" for i in range(21)], np.arange(21)).labels[-1] == "#other"


labels = st.one_of(st.text(), st.text("#aé", max_size=3), st.text("a", min_size=60, max_size=70))


@given(st.lists(labels, unique=True))
def test_labels_are_short_unique_and_never_one_of_ours(texts: list[str]):
    made = unique_labels(texts)
    assert len(set(made)) == len(texts)
    assert all(0 < len(label.encode()) <= MAX_LABEL_BYTES for label in made)
    assert not {"#other", "#unknown"} & set(made)


def test_long_texts_with_one_beginning_stay_apart():
    made = unique_labels(["é" * 40 + "1", "é" * 40 + "2"])
    assert made == ["é" * 32, "é" * 31 + "~1"]


def test_codes_outside_the_table_do_not_fall_out_of_it():
    assert BOOLEAN_BINS.index(np.array([-3.0, 0.0, 1.0, 9.0])).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("json", "what"),
    [
        ('{"kind":"number","edges":[1.0,1.0]}', "ascend"),
        ('{"kind":"codes","labels":["a"],"bin_of_code":[1]}', "without a label"),
        ('{"kind":"codes","labels":["a","a"],"bin_of_code":[]}', "same label"),
        ('{"kind":"number","edges":[1.0],"x":1}', "unknown field"),
    ],
)
def test_bins_that_make_no_sense_are_refused(json: str, what: str):
    with pytest.raises(msgspec.ValidationError, match=what):
        msgspec.json.decode(json, type=Bins)


def test_one_bin_a_code():
    assert code_bins(("a", "b")) == CodeBins(labels=("a", "b"), bin_of_code=(0, 1))
