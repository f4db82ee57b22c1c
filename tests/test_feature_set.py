"""What people do with a feature set: fit it, transform tables of any make, read its messages."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from features import (
    DeclarationError,
    Expression,
    FeatureSet,
    FitError,
    Fitted,
    TableError,
    boolean,
    category,
    elapsed,
    maximum,
    number,
    safe_div,
    timestamp,
    where,
)

ROWS = 500
NAMES: tuple[str, ...] = ("size", "count", "member", "city", "code", "left", "seen", "tick")


def features() -> dict[str, Expression]:
    left, city = timestamp("left", tz="Europe/Paris"), category("city")
    return {
        "size": number("size", low=-5, high=5).impute("mean").standardize(),
        "count": maximum(number("count"), 2),
        "member": boolean("member").impute(0),
        "city": city.one_hot(unknown=True, missing=True),
        "share": city.frequency(),
        "code": category("code", of="integer").ordinal(),
        "hour": left.hour().cyclic(),
        "age": elapsed(left, timestamp("seen"), unit="h"),
        "tick": timestamp("tick", unit="ms").minute(),
    }


@cache
def columns() -> dict[str, list[Any]]:
    """Training rows as Python values, None for null."""
    rng = np.random.default_rng(0)
    left = np.datetime64("2024-03-30T00:00:00") + rng.integers(0, 86_400 * 3, ROWS)
    values: dict[str, list[Any]] = {
        "size": rng.normal(0, 3, ROWS).tolist(),
        "count": rng.integers(0, 9, ROWS).tolist(),
        "member": (rng.random(ROWS) < 0.4).tolist(),
        "city": rng.choice(["Bern", "Oslo", "Lima", "Zürich"], ROWS).tolist(),
        "code": rng.integers(-3, 4, ROWS).tolist(),
        "left": left.astype("datetime64[us]").tolist(),
        "seen": [f"{at}Z" for at in left],
        "tick": rng.integers(0, 10**12, ROWS).tolist(),
    }
    for index, name in enumerate(NAMES):
        values[name] = [
            None if (row + index) % 13 == 0 else v for row, v in enumerate(values[name])
        ]
    return values


def as_arrow() -> pa.Table:
    return pa.table(columns())


def as_pandas() -> pd.DataFrame:
    types = {"count": "Int64", "member": "boolean", "code": "Int64", "tick": "Int64"}
    return pd.DataFrame(columns()).astype(types)


def as_polars() -> pl.DataFrame:
    return pl.DataFrame(columns())


def as_categories() -> pd.DataFrame:
    return as_pandas().astype({"city": "category"})


def as_record_batch() -> pa.RecordBatch:
    return as_arrow().combine_chunks().to_batches()[0]


def as_pieces() -> pa.Table:
    table = as_arrow()
    return pa.concat_tables(
        [table.slice(0, 1), table.slice(1, 0), table.slice(1, 210), table.slice(211)]
    )


def as_arrays() -> dict[str, Any]:
    return {name: np.array(values, object) for name, values in columns().items()}


def in_another_order() -> pa.Table:
    return as_arrow().append_column("extra", pa.array(range(ROWS))).select(["extra", *NAMES[::-1]])


TABLES = {
    "arrow": as_arrow,
    "pandas": as_pandas,
    "pandas categories": as_categories,
    "polars": as_polars,
    "record batch": as_record_batch,
    "arrow in pieces": as_pieces,
    "dict of lists": columns,
    "dict of arrays": as_arrays,
    "columns in another order": in_another_order,
}


@cache
def fitted() -> Fitted:
    return FeatureSet("people", version=1, features=features()).fit(as_arrow(), quiet=True)


@cache
def expected() -> NDArray[np.float32]:
    return fitted().transform(as_arrow(), quiet=True)


def assert_same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    same = [np.where(np.isnan(x), np.float32(np.nan), x).view(np.uint32) for x in (one, other)]
    np.testing.assert_array_equal(same[0], same[1], strict=True)


# tables


@pytest.mark.parametrize("make", TABLES)
def test_every_make_of_table_gives_the_same_bits(make: str):
    table = TABLES[make]()
    assert_same_bits(fitted().transform(table, quiet=True), expected())
    again = FeatureSet("people", version=1, features=features()).fit(table, quiet=True)
    assert again.features_digest == fitted().features_digest


def test_records_give_the_bits_of_tables():
    rows: list[dict[str, Any]] = [
        dict(zip(NAMES, values, strict=True)) for values in zip(*columns().values(), strict=True)
    ]
    for row in rows:
        row["left"] = None if row["left"] is None else row["left"].isoformat()
    encoded = fitted().record_encoder.encode(rows)
    assert_same_bits(fitted().transform(encoded), expected())
    assert encoded.flags.tobytes() == fitted().encode_table(as_arrow()).flags.tobytes()


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 64, ROWS - 1, ROWS, 100_000])
def test_the_size_of_chunks_changes_no_bit(chunk_rows: int):
    encoded = fitted().encode_table(as_arrow())
    for given in (as_arrow(), encoded):
        made = fitted().transform(given, chunk_rows=chunk_rows, quiet=True)
        assert_same_bits(made, expected())


def test_the_size_of_pieces_changes_no_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("features.encode_table.BATCH_ROWS", 37)
    assert_same_bits(fitted().transform(as_arrow(), quiet=True), expected())


def test_no_rows_give_no_features():
    shape = fitted().transform(as_arrow().slice(0, 0), quiet=True).shape
    assert shape == (0, len(fitted().feature_names))


def test_features_are_named_as_they_are_ordered():
    texts = fitted().vocabularies["city"]
    assert sorted(texts) == ["Bern", "Lima", "Oslo", "Zürich"]
    assert fitted().feature_names == (
        *("size", "count", "member"),
        *(f"city={text}" for text in texts),
        *("city#unknown", "city#missing", "share", "code", "hour_sin", "hour_cos", "age", "tick"),
    )


def test_fit_transform_without_a_target_mean_is_fit_and_transform():
    definition = FeatureSet("people", version=1, features=features())
    other, made = definition.fit_transform(as_arrow(), quiet=True)
    assert other.features_digest == fitted().features_digest
    assert_same_bits(made, expected())


# what people are told


def small() -> FeatureSet:
    size = number("size", low=0, high=10)
    return FeatureSet("small", version=1, features={"size": size, "seen": timestamp("seen").hour()})


BAD: dict[str, Any] = {
    "size": [1.0, -1.0, 11.0, np.inf, None, 2.0],
    "seen": ["2024-01-01T00:00Z", "yesterday", None, "2024-13-01T00:00Z", "", "2024-01-01T00:00Z"],
}
TOLD = [
    "{}: size: 1 invalid and 2 out_of_bounds of 6 rows",
    "{}: seen: 3 invalid of 6 rows",
]


def test_fit_and_transform_tell_how_many_values_were_not_as_declared(
    capsys: pytest.CaptureFixture[str],
):
    fit = small().fit(BAD)
    assert capsys.readouterr().err.splitlines() == [line.format("fit") for line in TOLD]
    fit.transform(BAD)
    told = capsys.readouterr()
    assert told.err.splitlines() == [line.format("transform") for line in TOLD]
    assert not told.out


def test_counts_are_of_all_pieces_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("features.encode_table.BATCH_ROWS", 2)
    small().fit(BAD, quiet=True).transform(BAD)
    assert capsys.readouterr().err.splitlines() == [line.format("transform") for line in TOLD]


def test_nothing_is_told_of_good_values_or_to_whom_it_is_quiet(capsys: pytest.CaptureFixture[str]):
    good = {name: [values[0]] for name, values in BAD.items()}
    small().fit(good).transform(good)
    small().fit_transform(BAD, quiet=True)[0].transform(BAD, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_progress_counts_rows_to_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("features.encode_table.BATCH_ROWS", 200)
    calls: list[tuple[int, int]] = []
    fitted().transform(as_arrow(), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(200, ROWS), (400, ROWS), (ROWS, ROWS)]


# target means, cross-fitted

SMOOTHING = 3.0


@cache
def labelled() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    city = rng.choice(
        np.array(["a", "b", "c", "rare", None], object), ROWS, p=[0.5, 0.3, 0.15, 0.01, 0.04]
    )
    return pd.DataFrame({"city": city, "late": rng.normal(0, 1, ROWS), "x": rng.random(ROWS)})


def with_target_mean() -> FeatureSet:
    city = category("city")
    mean = city.target_mean(smoothing=SMOOTHING)
    return FeatureSet("late", version=1, features={"x": number("x"), "mean": mean})


def by_hand(known: pd.DataFrame, asked: pd.DataFrame) -> NDArray[np.float32]:
    """Smoothed means of the known rows for the asked ones."""
    prior = known.late.mean()
    groups = known.groupby(known.city.fillna("(null)")).late
    means = (groups.sum() + SMOOTHING * prior) / (groups.count() + SMOOTHING)
    return asked.city.fillna("(null)").map(means).fillna(prior).to_numpy(np.float32)


def folds_of(folds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(ROWS) % folds


@pytest.mark.parametrize(("folds", "seed"), [(2, 0), (5, 0), (5, 1), (ROWS, 3)])
def test_cross_fitting_is_what_pandas_computes_from_the_other_folds(folds: int, seed: int):
    rows = labelled()
    _, made = with_target_mean().fit_transform(rows, "late", folds=folds, seed=seed, quiet=True)
    fold = folds_of(folds, seed)
    for number_ in range(folds):
        inside = fold == number_
        wanted = by_hand(rows.loc[~inside], rows.loc[inside])
        np.testing.assert_allclose(made[inside, 1], wanted, rtol=3e-7)


def test_what_is_fitted_has_learned_from_all_rows():
    rows = labelled()
    fit, _ = with_target_mean().fit_transform(rows, "late", quiet=True)
    asked = pd.DataFrame({"city": ["a", "rare", None, "never seen"], "x": 0.0})
    np.testing.assert_allclose(fit.transform(asked)[:, 1], by_hand(rows, asked), rtol=3e-7)


@pytest.mark.parametrize("folds", [2, 5, 50])
def test_no_training_row_sees_its_own_target(folds: int):
    rows = labelled()
    _, before = with_target_mean().fit_transform(rows, "late", folds=folds, quiet=True)
    fold = folds_of(folds, 0)
    for row in range(0, ROWS, 41):
        late = rows.late.copy()
        late[row] = 1e6
        _, after = with_target_mean().fit_transform(rows, late, folds=folds, quiet=True)
        inside = fold == fold[row]
        assert_same_bits(after[inside], before[inside])
        assert (after[~inside, 1] != before[~inside, 1]).all()


def test_only_columns_of_target_means_differ_from_transform():
    rows = labelled()
    fit, made = with_target_mean().fit_transform(rows, "late", quiet=True)
    transformed = fit.transform(rows)
    assert_same_bits(made[:, 0], transformed[:, 0])
    assert (made[:, 1] != transformed[:, 1]).any()


@pytest.mark.parametrize(
    "target",
    [
        lambda late: late.to_numpy(),
        lambda late: late.tolist(),
        lambda late: pl.Series(late.to_numpy()),
        lambda late: pa.array(late.to_numpy()),
    ],
    ids=["numpy", "list", "polars", "arrow"],
)
def test_a_target_is_a_column_or_values(target: Callable[[Any], Any]):
    rows = labelled()
    named = with_target_mean().fit(rows, "late", quiet=True)
    given = with_target_mean().fit(rows, target(rows.late), quiet=True)
    assert given.features_digest == named.features_digest


def test_booleans_count_as_zero_and_one():
    rows = labelled()
    is_late = rows.late > 0
    one, other = (with_target_mean().fit(rows, t, quiet=True) for t in (is_late, is_late * 1.0))
    assert one.features_digest == other.features_digest


def test_rows_without_a_target_do_not_count():
    rows = labelled().copy()
    rows.loc[::3, "late"] = np.nan
    one = with_target_mean().fit(rows, "late", quiet=True)
    np.testing.assert_allclose(one.transform(rows)[:, 1], by_hand(rows, rows), rtol=3e-7)


# messages: the value, and what to do

x, y = number("x"), number("y")
yes = boolean("yes")
city, seen = category("city"), timestamp("seen")


def a_set(**named: Any) -> FeatureSet:
    return FeatureSet("set", version=1, features=named)


DECLARATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "field name": (lambda: number("9 lives"), r"field name '9 lives' is not allowed: start with"),
    "feature name": (lambda: a_set(**{"a,b": x}), r"feature name 'a,b' is not allowed: start with"),
    "set name": (
        lambda: FeatureSet("", version=1, features={"x": x}),
        r"feature set name '' is not allowed: start with",
    ),
    "version": (
        lambda: FeatureSet("set", version=0, features={"x": x}),
        r"'set': version=0; versions are whole numbers from 1",
    ),
    "no features": (a_set, r"'set' has no features; give one at least"),
    "no expression": (lambda: a_set(x=3), r"feature 'x' is 3; expected an expression such as"),
    "category": (lambda: a_set(c=city), r"feature 'c' is a category.* use one_hot\(\), ordinal"),
    "timestamp": (lambda: a_set(t=seen), r"feature 't' is a timestamp.* use hour\(\)"),
    "taken column": (
        lambda: a_set(a=x.cyclic(7), a_sin=y),
        r"feature 'a' has the columns a_sin to a_cos; rename feature 'a_sin'",
    ),
    "declared twice": (
        lambda: a_set(a=number("x", low=0), b=number("x", low=1)),
        r"(?s)field 'x' is declared twice, differently:.*low=0.*low=1.*declare it once",
    ),
    "two kinds": (
        lambda: a_set(a=x, b=boolean("x")),
        r"(?s)'x' is declared twice.*number.*boolean",
    ),
    "names that are none": (
        lambda: number(3),  # pyright: ignore[reportArgumentType]
        r"field name 3 is not allowed",
    ),
    "set names that are none": (
        lambda: FeatureSet(None, version=1, features={"x": x}),  # pyright: ignore[reportArgumentType]
        r"feature set name None is not allowed",
    ),
    "nullable": (
        lambda: number("x", nullable="no"),  # pyright: ignore[reportArgumentType]
        r"'x': nullable='no'; use True or False",
    ),
    "description": (
        lambda: boolean("x", description=None),  # pyright: ignore[reportArgumentType]
        r"'x': description=None; use a text",
    ),
    "bounds of text": (
        lambda: number("x", low="0"),  # pyright: ignore[reportArgumentType]
        r"'x': low='0'; use a number",
    ),
    "bounds of truth": (lambda: number("x", high=True), r"'x': high=True; use a number"),
    "unit of a number": (
        lambda: number("x", unit=3),  # pyright: ignore[reportArgumentType]
        r"'x': unit=3; use a text",
    ),
    "zone of another type": (
        lambda: timestamp("x", tz=3),  # pyright: ignore[reportArgumentType]
        r"'x': tz=3; use the name of a zone",
    ),
    "fraction of a vocabulary": (
        lambda: category("x", max_vocabulary=0.5),  # pyright: ignore[reportArgumentType]
        r"'x': max_vocabulary=0.5; use a whole number",
    ),
    "null in a vocabulary": (
        lambda: category("x", vocabulary=["a", None]),  # pyright: ignore[reportArgumentType]
        r"'x': its vocabulary names None; use texts",
    ),
    "out_of_bounds": (
        lambda: number("x", out_of_bounds="drop"),  # pyright: ignore[reportArgumentType]
        r"'x': out_of_bounds='drop'; use 'null', 'clip' or 'keep'",
    ),
    "sensitive": (
        lambda: number("x", sensitive="yes"),  # pyright: ignore[reportArgumentType]
        r"'x': sensitive='yes'; use 'drop', 'hash' or 'encrypt'",
    ),
    "of": (
        lambda: category("x", of="float"),  # pyright: ignore[reportArgumentType]
        r"'x': of='float'; use 'string' or 'integer'",
    ),
    "unit": (
        lambda: timestamp("x", unit="ns"),  # pyright: ignore[reportArgumentType]
        r"'x': unit='ns'; use 's', 'ms' or 'us'",
    ),
    "zone": (lambda: timestamp("x", tz="Mars/One"), r"'Mars/One' is not in tzdata .*; use a name"),
    "infinite bounds": (lambda: number("x", low=-np.inf), r"'x': bounds must be finite, got -inf"),
    "crossed bounds": (lambda: number("x", low=2, high=1), r"'x': low=2.0 is above high=1.0"),
    "normalize": (
        lambda: category("x", normalize=["trim"]),
        r"\['trim'\] is not known; use \['str",
    ),
    "normalize integers": (
        lambda: category("x", of="integer", normalize=["strip"]),
        r"'x': integers have no text to normalize; leave it out",
    ),
    "max_vocabulary": (lambda: category("x", max_vocabulary=0), r"max_vocabulary=0; it must be at"),
    "empty vocabulary": (
        lambda: category("x", vocabulary=[]),
        r"'x': its vocabulary is empty; name",
    ),
    "vocabulary twice": (
        lambda: category("x", vocabulary=["a", "a"]),
        r"'x'.* names a value twice",
    ),
    "vocabulary not normal": (
        lambda: category("x", vocabulary=["A"], normalize=["casefold"]),
        r"'x': no value becomes 'A', which its vocabulary names; write 'a'",
    ),
    "vocabulary of integers": (
        lambda: category("x", of="integer", vocabulary=["one"]),
        r"'x': no value becomes 'one', which its vocabulary names; it is no integer",
    ),
    "impute": (
        lambda: x.impute("max"),  # pyright: ignore[reportArgumentType]
        r"impute\('max'\): use 'median', 'mean', 'mode' or a number",
    ),
    "impute nothing": (lambda: x.impute(np.nan), r"impute\(\): expected a finite number, got nan"),
    "clip nothing": (x.clip, r"clip\(\): give low, high or quantiles"),
    "clip twice": (lambda: x.clip(0, quantiles=(0, 1)), r"clip\(\): give bounds or quantiles, not"),
    "clip crossed": (lambda: x.clip(3, 2), r"clip\(\): low=3 is above high=2"),
    "quantiles": (
        lambda: x.clip(quantiles=(0.9, 0.1)),
        r"\(0.9, 0.1\)\): expected 0 <= low < high",
    ),
    "power": (lambda: x.power(0), r"power\(0\): .*leave it out"),
    "power as operator": (lambda: x**0, r"power\(0\): .*leave it out"),
    "power of infinity": (lambda: x.power(np.inf), r"power\(\): expected a finite number, got inf"),
    "bucketize": (x.bucketize, r"bucketize\(\): give either edges or bins"),
    "bins": (lambda: x.bucketize(bins=1), r"bucketize\(bins=1\): use 2 to 1000"),
    "edges": (lambda: x.bucketize([2, 1]), r"ascending and distinct, got \[2.0, 1.0\]"),
    "one_hot": (
        lambda: x.one_hot([1, 1]),
        r"values must be distinct and at least one, got \[1.0, 1",
    ),
    "period": (
        x.cyclic,
        r"cyclic\(\): give the period of this number, such as cyclic\(24",
    ),
    "negative period": (lambda: x.cyclic(-1), r"cyclic\(period=-1.0\): it must be above 0"),
    "smoothing": (
        lambda: city.target_mean(-1),
        r"target_mean\(smoothing=-1.0\): it must not be neg",
    ),
    "empty lookup": (lambda: city.lookup({}), r"lookup\(\): the table is empty"),
    "lookup": (
        lambda: city.lookup({"a": np.nan}),
        r"lookup\(\): expected a finite number, got nan",
    ),
    "lookup not normal": (
        lambda: category("c", normalize=["strip"]).lookup({" a": 1}),
        r"'c': no value becomes ' a', which lookup\(\) names; write 'a'",
    ),
    "lookup unknown": (
        lambda: category("c", vocabulary=["a"]).lookup({"b": 1}),
        r"'c': lookup\(\) names 'b', which its vocabulary has not",
    ),
    "division by zero": (lambda: x / 0, r"number\('x'\) / 0 is null for every value; leave"),
    "a text operand": (
        lambda: x + "1",
        r"'1' cannot be an operand; use a number, or an expression",
    ),
    "a category operand": (lambda: x + city, r"category\('city'\) is a category; make a number of"),
    "columns as operand": (lambda: x + y.cyclic(7), r"several columns and cannot be an operand"),
    "a truth value constant": (lambda: x + True, r"a constant: expected a finite number, got True"),
    "two constants": (
        lambda: maximum(1, 2),
        r"1.0 and 2.0 are both constants; compute it in Python",
    ),
    "default": (
        lambda: safe_div(x, y, default=np.inf),
        r"safe_div\(\): expected a finite.* got inf",
    ),
    "condition": (
        lambda: where(x, 1, 0),  # pyright: ignore[reportArgumentType]
        r"where\(\): number\('x'\) is no truth value; compare it first, as in x > 0",
    ),
    "logic": (
        lambda: yes & x,  # pyright: ignore[reportOperatorIssue]
        r"& and \|: number\('x'\) is no truth value; compare it first",
    ),
    "elapsed": (
        lambda: elapsed(x, seen),  # pyright: ignore[reportArgumentType]
        r"elapsed\(\): number\('x'\) is no timestamp; declare its field with timestamp",
    ),
    "elapsed unit": (
        lambda: elapsed(seen, seen, unit="w"),  # pyright: ignore[reportArgumentType]
        r"elapsed\(unit='w'\): use 's', 'min', 'h' or 'd'",
    ),
}


@pytest.mark.parametrize("what", DECLARATIONS)
def test_a_declaration_that_makes_no_sense_says_what_and_what_to_do(what: str):
    declare, message = DECLARATIONS[what]
    with pytest.raises(DeclarationError, match=message):
        declare()


def one(expression: Expression) -> FeatureSet:
    return FeatureSet("set", version=1, features={"f": expression})


FITS: dict[str, tuple[Callable[[], Any], str]] = {
    "no rows": (lambda: one(x).fit({"x": []}), r"set@1: the training table has no rows; check how"),
    "no value": (
        lambda: one(x.impute()).fit({"x": [None, None]}),
        r"feature 'f', impute\(number\('x'\).*every training value is null.* give the constant",
    ),
    "no text": (
        lambda: one(city.ordinal()).fit({"city": [None]}),
        r"category 'city' has no value .*; check the column or declare category\(..., vocabulary=",
    ),
    "too large": (
        lambda: one(x.standardize()).fit({"x": [1e300, -1e300]}),
        r"feature 'f', standardize\(number\('x'\)\): .*too large.*clip\(\) them first",
    ),
    "no target": (
        lambda: one(city.target_mean()).fit({"city": ["a"]}),
        r"feature 'f', target_mean.*needs fit\(table, target\)",
    ),
    "a target without values": (
        lambda: one(city.target_mean()).fit({"city": ["a"]}, np.array([np.nan])),
        r"feature 'f', target_mean.*: the target has no value that is finite",
    ),
    "a target of texts": (
        lambda: one(city.target_mean()).fit({"city": ["a"]}, ["late"]),
        r"the target is string; convert it to numbers, or to booleans",
    ),
    "a target of another length": (
        lambda: one(city.target_mean()).fit({"city": ["a"]}, [1.0, 2.0]),
        r"the target has 2 values, the table 1 rows; give one for each row",
    ),
    "one fold": (
        lambda: one(city.target_mean()).fit_transform({"city": ["a"] * 9}, range(9), folds=1),
        r"folds=1: use 2 to the number of rows, 9",
    ),
    "too many folds": (
        lambda: one(city.target_mean()).fit_transform({"city": ["a"] * 9}, range(9), folds=10),
        r"folds=10: use 2 to the number of rows, 9",
    ),
}


@pytest.mark.parametrize("what", FITS)
def test_a_table_that_cannot_be_learned_from_says_why(what: str):
    fit, message = FITS[what]
    with pytest.raises(FitError, match=message):
        fit()


def floats32() -> NDArray[np.float32]:
    return np.array([0.1], np.float32)


TABLES_REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no table": (
        lambda: one(x).fit(7),
        r"cannot read a table from int; expected a pandas or polars",
    ),
    "lazy": (
        lambda: one(x).fit(pl.LazyFrame({"x": [1]})),
        r"LazyFrame: call its collect\(\) first",
    ),
    "missing": (
        lambda: one(x).fit({"y": [1], "z": [1]}),
        r"no column 'x'; its columns are 'y', 'z'. Add them, null where unknown, or drop",
    ),
    "twice": (
        lambda: one(x).fit(pd.DataFrame([[1, 2]], columns=["x", "x"])),
        r"more than one column 'x'; rename or drop the others",
    ),
    "mixed": (lambda: one(x).fit({"x": [1, "a"]}), r"one mixes types or has a type that Arrow"),
    "float32": (
        lambda: one(x).fit({"x": floats32()}),
        r"'x' is float, but the field is a number .*as float64, or declare .*from_float32=True",
    ),
    "texts as numbers": (
        lambda: one(x).fit({"x": ["1"]}),
        r"'x' is string, .* convert it to float64",
    ),
    "numbers as booleans": (lambda: one(yes * 1).fit({"yes": [1]}), r"'yes' is int64.*to booleans"),
    "floats as codes": (
        lambda: one(category("c", of="integer").ordinal()).fit({"c": [7.0, None]}),
        r"'c' is double.*convert it to integers \(nullable: pandas 'Int64'\)",
    ),
    "integers as texts": (
        lambda: one(city.ordinal()).fit({"city": [1]}),
        r"'city' is int64, but the field is a category \(string\); convert it to strings",
    ),
    "no zone": (
        lambda: one(seen.hour()).fit({"seen": np.array(["2024-01-01"], "datetime64[s]")}),
        r"'seen' is timestamp.*it has no zone: localize it, or declare timestamp\(..., tz=",
    ),
    "dates": (
        lambda: one(seen.hour()).fit({"seen": np.array(["2024-01-01"], "datetime64[D]")}),
        r"'seen' is date32.*convert it to timestamps or to ISO 8601 text",
    ),
    "epoch": (
        lambda: one(timestamp("t", unit="s").hour()).fit({"t": ["1"]}),
        r"'t' is string.*number of s since 1970.*convert it to integers, float64 or timestamps",
    ),
}


@pytest.mark.parametrize("what", TABLES_REFUSED)
def test_a_table_that_would_mean_something_else_is_refused(what: str):
    fit, message = TABLES_REFUSED[what]
    with pytest.raises(TableError, match=message):
        fit()


def test_transform_refuses_what_fit_refuses():
    fit = one(x).fit({"x": [1.0]})
    with pytest.raises(TableError, match="from_float32=True"):
        fit.transform({"x": floats32()})
    with pytest.raises(TableError, match="no column 'x'"):
        fit.transform({"y": [1.0]})


@pytest.mark.parametrize("given", [{"folds": "5"}, {"folds": 2.0}, {"seed": -1}, {"seed": "a"}])
def test_folds_and_seed_are_whole_numbers(given: dict[str, Any]):
    ((name, value),) = given.items()
    with pytest.raises(FitError, match=re.escape(f"{name}={value!r}; use a whole number")):
        with_target_mean().fit_transform(labelled(), "late", quiet=True, **given)


def test_a_target_has_one_dimension():
    late = labelled()[["late"]]
    with pytest.raises(FitError, match=r"the target has the shape \(500, 1\); give one value"):
        with_target_mean().fit(labelled(), late, quiet=True)


@pytest.mark.parametrize("chunk_rows", [0, -1])
def test_chunks_have_rows(chunk_rows: int):
    for given in (as_arrow(), fitted().encode_table(as_arrow())):
        with pytest.raises(ValueError, match=f"chunk_rows={chunk_rows}; use 1 or more"):
            fitted().transform(given, chunk_rows=chunk_rows, quiet=True)


CONDITIONS: list[Expression] = [x > 0, yes, x, city, seen, x == 1, x != 1, city.one_hot()]


@pytest.mark.parametrize("condition", CONDITIONS, ids=repr)
def test_an_expression_has_no_truth_value_in_python(condition: Expression):
    message = re.escape("use & | ~ instead of and, or, not, and where() instead of if")
    with pytest.raises(TypeError, match=message):
        bool(condition)
    with pytest.raises(TypeError, match=message):
        _ = condition and x
    with pytest.raises(TypeError, match=message):
        _ = not condition


def test_a_comparison_between_two_bounds_is_refused_instead_of_losing_one():
    with pytest.raises(TypeError, match="no truth value"):
        _ = 0 < x < 1


def test_expressions_show_how_they_are_made():
    shown = repr(where((x > 0) & ~yes, x.impute("mean"), 3))
    condition = "and(less(0.0, number('x')), not(boolean('yes')))"
    assert shown == f"where({condition}, impute(number('x'), with='mean'), 3.0)"
