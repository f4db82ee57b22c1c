"""Features in Spark and Ray: a mapper that pickles into another process and gives the same bits."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from features import DeclarationError, Fitted, TableError
from features.mapper import ArrowMapper
from tests.fit_features import feature_set, table

PROGRAM = Path(__file__).with_name("map_features.py")


@cache
def rows() -> pa.Table:
    columns = {name: pa.array(values, from_pandas=True) for name, values in table().items()}
    return pa.table({"id": pa.array(range(len(table()["size"]))), **columns})


@cache
def fitted() -> Fitted:
    return feature_set().fit(rows(), "target", quiet=True)


@cache
def expected() -> NDArray[np.float32]:
    return fitted().transform(rows(), quiet=True)


def mapper(*keep: str) -> ArrowMapper:
    return fitted().arrow_mapper(keep=keep)


def bits(made: pa.Table) -> bytes:
    columns = [made.column(name).to_numpy() for name in fitted().feature_names]
    return spelled(np.column_stack(columns)).tobytes()


def spelled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One spelling of NaN."""
    return np.where(np.isnan(values), np.float32(np.nan), values)


def assert_as_expected(made: pa.Table, *kept: str) -> None:
    assert made.column_names == [*kept, *fitted().feature_names]
    assert {made.schema.field(name).type for name in fitted().feature_names} == {pa.float32()}
    assert sum(made.column(name).null_count for name in fitted().feature_names) == 0
    assert bits(made) == spelled(expected()).tobytes()
    for name in kept:
        assert made.column(name).equals(rows().column(name))


def test_a_table_is_mapped_to_a_table():
    made = mapper("id", "city")(rows())
    assert isinstance(made, pa.Table)
    assert_as_expected(made, "id", "city")
    assert made.schema.field("city").equals(rows().schema.field("city"))


def test_an_iterator_of_batches_is_mapped_lazily_batch_by_batch():
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        for batch in rows().to_batches(max_chunksize=99):
            taken += 1
            yield batch

    made = mapper("id")(batches())
    assert taken == 0
    first = next(made)
    assert (taken, first.num_rows) == (1, 99)
    others = list(made)
    assert all(isinstance(batch, pa.RecordBatch) for batch in (first, *others))
    assert_as_expected(pa.Table.from_batches([first, *others]), "id")


def test_a_batch_is_mapped_to_a_batch():
    (batch,) = rows().combine_chunks().to_batches()
    made = mapper()(batch)
    assert isinstance(made, pa.RecordBatch)
    assert_as_expected(pa.Table.from_batches([made]))


def test_the_size_of_pieces_changes_no_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("features.encode_table.BATCH_ROWS", 41)
    assert_as_expected(mapper()(rows()))


@pytest.mark.parametrize(
    "empty", [rows().slice(0, 0), pa.RecordBatch.from_pylist([], rows().schema)]
)
def test_no_rows_have_the_columns_all_the_same(empty: Any):
    made = mapper("id")(empty)
    assert (made.num_rows, made.schema.names) == (0, ["id", *fitted().feature_names])
    assert list(mapper()(iter([]))) == []


@pytest.mark.parametrize("how", ["iterator", "table"])
@pytest.mark.parametrize("pickled_by", ["pickle", "cloudpickle"])
def test_another_process_gives_the_same_bits(how: str, pickled_by: str, tmp_path: Path):
    dumps = pytest.importorskip(pickled_by).dumps
    sent = mapper("id")
    sent(rows())  # a session is open here, which does not travel
    paths = [tmp_path / name for name in ("mapper", "rows", "out")]
    paths[0].write_bytes(dumps(sent))
    with pa.ipc.new_file(paths[1], rows().schema) as file:
        file.write_table(rows())
    ran = subprocess.run(
        [sys.executable, PROGRAM, *paths, how],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROGRAM.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert_as_expected(pa.ipc.open_file(paths[2]).read_all(), "id")


def test_no_session_is_opened_before_rows_come():
    back = pickle.loads(pickle.dumps(mapper()))
    assert "_session" not in vars(back)
    back(rows())
    assert "_session" in vars(back)
    assert "_session" not in vars(pickle.loads(pickle.dumps(back)))


def test_threads_of_one_process_may_share_it():
    shared = mapper()
    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(shared, [rows()] * 8):
            assert bits(made) == spelled(expected()).tobytes()


def test_a_column_to_keep_cannot_have_the_name_of_a_feature():
    with pytest.raises(DeclarationError, match="column 'city#missing', 'mean' to keep would be"):
        mapper("id", "mean", "city#missing")
    with pytest.raises(DeclarationError, match="column 'id' to keep would be there twice"):
        mapper("id", "id")
    with pytest.raises(DeclarationError, match=r"keep='id' is a text; list the columns: keep=\['i"):
        fitted().arrow_mapper(keep="id")


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(TableError, match="no column 'nothing' to keep; the columns are 'id', 'siz"):
        mapper("nothing")(rows())
    with pytest.raises(TableError, match="the table has no column 'gate'"):
        next(mapper()(rows().drop_columns("gate").to_batches()))
