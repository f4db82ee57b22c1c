"""The rows that a bundle is made from: encoded, in time, with their target; and the held-out."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encode_table import to_arrow
from features.encoding import Encoded
from features.errors import TableError
from features.fitted import Fitted
from models.errors import PackingError
from models.times import time_of

HELD_OUT_SHARE: Final = 10
"""One row in ten is held out where the owner gave no table for it."""
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC).timestamp()
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, slots=True)
class Rows:
    """Encoded rows with what is known about them.

    Attributes:
        table: what they were encoded from.
        target: as the table has it, object or number (n,); None when not given.
        times: seconds since 1970, float64 (n,); NaN where unknown; None without a time column.
    """

    table: Any
    encoded: Encoded
    target: NDArray[Any] | None
    times: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.encoded.rows)


def read_rows(fitted: Fitted, table: Any, target: Any, time: str | None) -> Rows:
    """Encodes a table with its target (a column name or values) and time column.

    Raises:
        TableError: a column is missing or of a type the field cannot be read from.
        PackingError: a target of another length, or a time column that holds no times.
    """
    encoded = fitted.encode_table(table)
    values = _target(table, target)
    if values is not None and len(values) != len(encoded.rows):
        raise PackingError(
            f"the target has {len(values)} values, the table {len(encoded.rows)} rows; pass one "
            "per row"
        )
    times = None if time is None else _times(fitted, table, encoded, time)
    return Rows(table, encoded, values, times)


def _target(table: Any, target: Any) -> NDArray[Any] | None:
    if target is None:
        return None
    values = _plain(table, target)
    if all(value is None or isinstance(value, (int, float)) for value in values):
        if any(isinstance(value, bool) for value in values):
            return np.asarray(values, object)
        return np.asarray([np.nan if value is None else value for value in values], np.float64)
    return np.asarray(values, object)


def _plain(table: Any, target: Any) -> list[Any]:
    """The target as Python values, null as None; values of several columns as lists."""
    if getattr(target, "ndim", 1) > 1:
        return np.asarray(target).tolist()
    name, holder = (target, table) if isinstance(target, str) else ("target", {"target": target})
    try:
        return to_arrow(holder, [name]).column(name).to_pylist()
    except TableError as error:
        raise PackingError(
            f"the target {name!r} cannot be read: {error}. Name a column of the table, or pass "
            "one value per row."
        ) from error


def _times(fitted: Fitted, table: Any, encoded: Encoded, name: str) -> NDArray[np.float64]:
    for place, field in enumerate(fitted.fields):
        if field.name == name:
            if field.kind != "timestamp":
                raise PackingError(f"time={name!r} is a {field.kind}; name a timestamp column")
            return encoded.rows[:, place]
    return _column_times(table, name)


def _column_times(table: Any, name: str) -> NDArray[np.float64]:
    """Times of a column that is no field: timestamps with a zone (or taken as UTC), or seconds."""
    import pyarrow as pa

    try:
        column = to_arrow(table, [name]).column(name)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        if pa.types.is_timestamp(column.type):
            ticks = np.asarray(column.cast(pa.int64()).to_pandas(), np.float64)
            return _plausible(ticks / PER_SECOND[column.type.unit], name)
        if pa.types.is_boolean(column.type):
            raise PackingError(f"time={name!r} holds booleans; name a column of timestamps")
        return _plausible(np.asarray(column.cast(pa.float64()).to_numpy(), np.float64), name)
    except (TableError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PackingError(
            f"time={name!r} cannot be read as times: {error}. Name a column of timestamps, or of "
            "seconds since 1970."
        ) from error


def _plausible(seconds: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    outside = (seconds < EARLIEST) | (seconds > LATEST)
    if not outside.any():
        return seconds
    row = int(outside.argmax())
    power = next((p for p in (3, 6, 9) if abs(seconds[row]) / 10**p <= LATEST), 0)
    units = {3: "milliseconds", 6: "microseconds", 9: "nanoseconds"}
    hint = f": these look like {units[power]}; divide by {10**power}" if power else ""
    raise PackingError(
        f"time={name!r}, row {row}: {seconds[row]:g} seconds since 1970 are not within 1900 to "
        f"2200{hint}. Name a column of timestamps, or of seconds since 1970."
    )


def held_out(rows: Rows, time: str | None, seed: int) -> tuple[NDArray[np.int64], str]:
    """Positions of the held-out tenth, ascending, and the rule by which they were chosen."""
    count = max(1, len(rows) // HELD_OUT_SHARE)
    if rows.times is not None:
        order = np.argsort(np.nan_to_num(rows.times, nan=-np.inf), kind="stable")
        return np.sort(order[-count:]), f"last tenth of the training rows by {time}"
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return np.sort(chosen), f"a tenth of the training rows, drawn with seed {seed}"


def part(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Some of the rows; their table is not cut."""
    encoded = Encoded(rows.encoded.rows[places], rows.encoded.flags[places])
    return Rows(
        None,
        encoded,
        None if rows.target is None else rows.target[places],
        None if rows.times is None else rows.times[places],
    )


def fingerprint(rows: Rows) -> str:
    """sha256 over the encoded rows and flags, in order: which rows, whatever library held them."""
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(rows.encoded.rows, "<f8").tobytes())
    digest.update(np.ascontiguousarray(rows.encoded.flags).tobytes())
    return f"sha256:{digest.hexdigest()}"


def time_range(rows: Rows) -> tuple[str | None, str | None]:
    """First and last time as text."""
    times = () if rows.times is None else rows.times[np.isfinite(rows.times)]
    if not len(times):
        return None, None
    return time_of(float(np.min(times))), time_of(float(np.max(times)))
