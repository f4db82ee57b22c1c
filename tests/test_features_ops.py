"""Every operator: what it means, the same bits however it is run, and no row it cannot take."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features import FeatureSet, FitError, Fitted, Number, minimum, safe_div, where
from features.compiler import compile_values
from features.nodes import walk
from features.ops import OPS
from features.runtime import Session, run_in_chunks
from tests import oracle
from tests.conftest import ROOT
from tests.feature_cases import (
    CASES,
    all_fitted,
    any_rows,
    carrier,
    fitted,
    leaves,
    positive,
    rows_of,
    table,
    target,
    x,
    y,
    yes,
)

cases = pytest.mark.parametrize("name", CASES)


def features_of(subject: Fitted, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return subject._session.run(rows)[0]


def bits(values: NDArray[np.floating]) -> NDArray[np.integer]:
    """Null is null: the sign of a NaN says nothing, and no one hears it."""
    one_null = np.where(np.isnan(values), np.nan, values).astype(values.dtype)
    return np.ascontiguousarray(one_null).view(f"i{values.itemsize}")


def assert_same_bits(a: NDArray[np.floating], b: NDArray[np.floating]):
    assert a.shape == b.shape
    assert np.array_equal(bits(a), bits(b)), (a, b)


def alone(session: Session, rows: NDArray[np.float64]) -> NDArray[np.floating]:
    return np.concatenate([session.run(rows[i : i + 1])[0] for i in range(len(rows))])


def in_chunks(session: Session, rows: NDArray[np.float64]) -> NDArray[np.floating]:
    return np.concatenate([outputs[0] for outputs in run_in_chunks(session, rows, 3)])


def test_every_operator_has_a_case_and_a_rule():
    used = {node.op for node in walk(*CASES.values())} - {"field", "constant"}
    assert used == set(OPS) == set(oracle.RULES)


@cases
@settings(max_examples=20)
@given(data=st.data())
def test_an_operator_means_what_its_rule_says(name: str, data: st.DataObject):
    """Within one float32 of numpy and the standard library, over all that encoders can send."""
    subject = fitted(name)
    rows = data.draw(rows_of(subject))
    apart = oracle.ulps(features_of(subject, rows), oracle.features(subject, rows))
    assert apart.max() <= 1, rows


@cases
@settings(max_examples=8)
@given(data=st.data())
def test_a_row_alone_has_the_bits_of_the_row_in_a_batch(name: str, data: st.DataObject):
    subject = fitted(name)
    rows = data.draw(rows_of(subject, min_size=2, max_size=7))
    batch = features_of(subject, rows)
    assert_same_bits(batch, alone(subject._session, rows))
    assert_same_bits(batch, in_chunks(subject._session, rows))


@cases
@settings(max_examples=8)
@given(data=st.data())
def test_so_it_has_before_rounding(name: str, data: st.DataObject):
    """In float64, where float32 hides a last bit from all but the unlucky; but zero has a sign."""
    rows = data.draw(rows_of(fitted(name), min_size=2, max_size=7))
    session = exact_session(name)
    batch = session.run(rows)[0] + 0.0
    assert_same_bits(batch, alone(session, rows) + 0.0)
    assert_same_bits(batch, in_chunks(session, rows) + 0.0)


SESSIONS: dict[str, Session] = {}


def exact_session(name: str) -> Session:
    """The case before it is rounded to float32."""
    if name not in SESSIONS:
        expression = x * 1 if name == "passthrough" else CASES[name]
        model = compile_values(fitted(name).plan, [expression])
        SESSIONS[name] = Session(model.SerializeToString())
    return SESSIONS[name]


@settings(max_examples=50)
@given(values=st.lists(st.floats(1e-300, 1e300), min_size=2, max_size=9))
def test_before_a_step_a_logarithm_is_rounded_to_24_bits(values: list[float]):
    """So that no bucket turns on its last bit, which is another on another processor."""
    floor = CASES["floor of a logarithm"]
    [settled] = floor.args
    [logarithm] = settled.args
    subject = fitted("floor of a logarithm")
    model = compile_values(subject.plan, [settled, logarithm])
    found = Session(model.SerializeToString()).run(np.array(values)[:, None])[0]
    [expected] = oracle.settle(settled, [found[:, 1]], subject)
    assert_same_bits(expected, found[:, 0])
    [nudged] = oracle.settle(settled, [found[:, 1] * (1 + 2.0**-52)], subject)
    assert_same_bits(expected, nudged)


@cases
@settings(max_examples=10)
@given(data=st.data())
def test_no_row_is_too_strange(name: str, data: st.DataObject):
    """Any float64: nothing is raised, nothing infinite comes out, alone or in a batch."""
    subject = fitted(name)
    rows = data.draw(any_rows(subject))
    found = features_of(subject, rows)
    assert found.shape == (len(rows), len(subject.feature_names))
    assert not np.isinf(found).any()
    assert_same_bits(found, alone(subject._session, rows))


@settings(max_examples=60)
@given(data=st.data())
def test_operators_do_not_disturb_each_other(data: st.DataObject):
    """All cases in one graph give the bits that each gives alone."""
    together = all_fitted()
    rows = data.draw(rows_of(together, max_size=3))
    found = features_of(together, rows)
    places = {field.name: index for index, field in enumerate(together.fields)}
    start = 0
    for name in CASES:
        subject = fitted(name)
        own = rows[:, [places[field.name] for field in subject.fields]]
        expected = features_of(subject, np.ascontiguousarray(own))
        width = expected.shape[1]
        assert_same_bits(expected, found[:, start : start + width])
        start += width


EXACT = (
    lambda a, b: a.impute("median"),
    lambda a, b: a.impute(0.5),
    lambda a, b: a.clip(-1, 2),
    lambda a, b: a.clip(quantiles=(0.2, 0.8)),
    lambda a, b: a.standardize(),
    lambda a, b: a.min_max(),
    lambda a, b: a.abs(),
    lambda a, b: a.floor(),
    lambda a, b: a.round(),
    lambda a, b: a.bucketize(bins=4),
    lambda a, b: a.is_null() * 1,
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: 1 - a,
    lambda a, b: a / b,
    lambda a, b: safe_div(a, b, default=0.25),
    minimum,
    lambda a, b: where(a < b, a, 1.5),
    lambda a, b: ((a <= b) & ~(b == 1)) * 2,
)
INEXACT = (
    lambda a, b: a.log1p(),
    lambda a, b: a.log(),
    lambda a, b: a.exp(),
    lambda a, b: a.power(1.7),
    lambda a, b: a.sqrt(),
)


def deeper(ways: tuple[Callable[[Number, Number], Number], ...]):
    leaf = st.sampled_from([x, y, positive, carrier.ordinal(), leaves.hour(), yes * 1])

    def apply(inner: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
        return st.builds(lambda way, a, b: way(a, b), st.sampled_from(ways), inner, inner)

    return st.lists(st.recursive(leaf, apply, max_leaves=8), min_size=1, max_size=6)


def fit_together(expressions: list[Number]) -> Fitted:
    features = {f"f{index}": expression for index, expression in enumerate(expressions)}
    try:
        return FeatureSet("some", version=1, features=features).fit(table(), target(), quiet=True)
    except FitError:
        assume(False)
        raise


@settings(max_examples=60)
@given(expressions=deeper(EXACT), data=st.data())
def test_operators_compose(expressions: list[Number], data: st.DataObject):
    """Whatever stands on what: the very bits of the rules, alone and in a batch."""
    subject = fit_together(expressions)
    rows = data.draw(rows_of(subject, min_size=2))
    found = features_of(subject, rows)
    assert oracle.ulps(found, oracle.features(subject, rows)).max() == 0
    assert_same_bits(found, alone(subject._session, rows))


@settings(max_examples=60)
@given(expressions=deeper(EXACT + INEXACT), data=st.data())
def test_logarithms_compose(expressions: list[Number], data: st.DataObject):
    """Their last bits are the runtime's affair, but a row alone has those of a batch."""
    subject = fit_together(expressions)
    rows = data.draw(rows_of(subject, min_size=2))
    found = features_of(subject, rows)
    assert_same_bits(found, alone(subject._session, rows))
    assert_same_bits(found, in_chunks(subject._session, rows))


@pytest.fixture(scope="module")
def many_rows() -> NDArray[np.float64]:
    """Rows of the graph of all cases: plausible ones, edges, and some that no encoder sends."""
    rng = np.random.default_rng(3)
    subject = all_fitted()
    columns = []
    for field in subject.fields:
        if field.kind == "timestamp":
            column = rng.integers(-2_208_988_800, 4_133_980_799, 301) + rng.choice([0, 0.999], 301)
        elif field.kind == "category":
            column = rng.integers(0, len(subject.vocabularies[field.name]) + 2, 301).astype(float)
        elif field.kind == "boolean":
            column = rng.choice([0.0, 1.0, np.nan], 301)
        else:
            column = np.round(rng.normal(0, 30, 301), 2)
            column[:6] = [0.0, -0.0, 1e-8, 2.5, 1e12, np.nan]
            column[6::7] = 10.0 ** rng.uniform(-320, 308, len(column[6::7]))
            column[7::7] = rng.normal(0, 800, len(column[7::7]))
            if field.low is not None:
                column = np.clip(column, field.low, field.high)
        columns.append(column)
    strange = np.array([np.inf, -np.inf, np.nan, 1e300, -1e300, 5e-324])
    return np.concatenate([np.stack(columns, axis=1), np.tile(strange[:, None], len(columns))])


def test_the_oldest_runtime_gives_the_same_bits(
    many_rows: NDArray[np.float64], oldest_python: Path, tmp_path: Path
):
    """onnxruntime 1.20.1: alone, in one batch and in chunks, as the installed one."""
    subject = all_fitted()
    (tmp_path / "model.onnx").write_bytes(subject.model().SerializeToString())
    np.save(tmp_path / "rows.npy", many_rows)
    ran = subprocess.run(
        [oldest_python, ROOT / "tests/run_saved_model.py", tmp_path],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["onnxruntime"].startswith("1.20.")
    expected = features_of(subject, many_rows)
    assert_same_bits(expected, alone(subject._session, many_rows))
    for way in ("alone", "batch", "chunks"):
        found = np.load(tmp_path / f"{way}.npy")
        wrong = np.argwhere(bits(found) != bits(expected))[:3]
        assert not len(wrong), [(subject.feature_names[k], many_rows[i]) for i, k in wrong]
