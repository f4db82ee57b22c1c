"""What a table's columns are taken for: fields with features, or left out, each with its reason.

Nothing is guessed that the data cannot show: bounds stay comments with the observed range, and a
column that gives the target away is not recognized.
"""

import json
import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from server.starter.compute import pc
from server.starter.errors import StarterError
from server.starter.reading import TableFile, is_code_name
from server.starter.target import Target, explained, read_target

FEW_LEVELS: Final = 20
"""Categories up to this size get a column for each text."""
MOST_LEVELS: Final = 1_000
MOST_STEPS: Final = 31
ID_SHARE: Final = 0.95
"""Whole numbers of which so many are different look like ids, texts half of it."""
ID_ROWS: Final = 100
ALONE_FIELDS: Final = 3
"""Fields that the baseline reads: those that say most about the target alone."""
MONTHS_FROM_DAYS: Final = 365
"""With less than a year, later rows come in months that training never saw."""
RESERVED: Final = frozenset(
    ("number", "category", "boolean", "timestamp", "elapsed", "features", "baseline")
)
"""Names that the project's definition.py has for other things."""

Features = dict[str, str]
"""Feature name to its expression, as Python code."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the project.

    Attributes:
        name: of the field.
        variable: of the field in Python.
        kind: the constructor that declares it.
        arguments: of the constructor after the name, as code.
        notes: comments to stand above it.
        features: made of it for the model.
        simple: made of it for the baseline; none where it does not suit one.
        says: share of the target's variance that it explains alone, 0 to 1.
        example: of a value, as JSON has it.
    """

    name: str
    variable: str
    kind: str
    arguments: tuple[str, ...]
    notes: tuple[str, ...]
    features: Features
    simple: Features
    says: float
    example: Any
    levels: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it has no nulls."""
        return "nullable=False" in self.arguments


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A column that is no field, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is known about a table to start from; `rows` have a target."""

    file: TableFile
    rows: Any
    target: Target
    time: str | None
    columns: tuple[Column, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def strongest(self) -> tuple[Column, ...]:
        """Columns for the baseline, those that say most first."""
        ranked = sorted((c for c in self.columns if c.simple), key=lambda c: -c.says)
        return tuple(ranked[:ALONE_FIELDS])

    @property
    def slices(self) -> tuple[str, ...]:
        """Categories by which quality can be looked at, the strongest first."""
        ranked = sorted(self.columns, key=lambda column: -column.says)
        return tuple(c.name for c in ranked if 2 <= c.levels <= FEW_LEVELS)[:2]

    @property
    def ordered_times(self) -> tuple[Column, Column] | None:
        """Two timestamps of which one is never after the other, if there are such."""
        times = [column for column in self.columns if column.kind == "timestamp"]
        for first in times:
            for last in times:
                if first is not last and self._in_order(first.name, last.name):
                    return first, last
        return None

    def _in_order(self, first: str, last: str) -> bool:
        a, b = self.rows[first], self.rows[last]
        if a.type != b.type or a.equals(b):
            return False
        return pc.all(pc.less_equal(a, b)).as_py() is True


def survey(
    file: TableFile, target: str | None, time: str | None, without: Sequence[str] = ()
) -> Survey:
    """Takes each column for what it shows, but for those `without` which it is to be.

    Raises:
        StarterError: no such column, a target that cannot be one, or nothing to predict it from.
    """
    names: list[str] = list(file.table.column_names)
    wanted = _column_named(file, target, "--target", "names what is to be predicted")
    timed = None if time is None else _column_named(file, time, "--time", "says when a row was")
    unwanted = [_column_named(file, name, "--without", "names a column") for name in without]
    rows = file.table.filter(file.table[wanted].is_valid())
    if timed is not None:
        _check_time(rows, timed)
    aim = read_target(rows, wanted)
    taken: set[str] = set(RESERVED)
    found = [
        _column(rows[name], name, aim, _variable(name, taken))
        for name in names
        if name not in (wanted, *unwanted)
    ]
    found += [LeftOut(name, "was left out by --without") for name in unwanted]
    unread = [LeftOut(n, "holds no field's type") for n, code in file.types.items() if not code]
    columns = tuple(column for column in found if isinstance(column, Column))
    left_out = tuple(column for column in found if isinstance(column, LeftOut))
    if not columns:
        why = "; ".join(f"{column.name} {column.why}" for column in left_out)
        raise StarterError(f"{file.path}: no column to predict {wanted!r} from: {why}")
    return Survey(file, rows, aim, timed, columns, (*left_out, *unread))


def _column_named(file: TableFile, name: str | None, option: str, what: str) -> str:
    columns = [*file.table.column_names]
    asked = None if name is None else file.renamed.get(name, name)
    if asked is None:
        raise StarterError(f"{option} {what}; {file.path} has the columns {', '.join(columns)}")
    if asked not in columns:
        raise StarterError(
            f"{file.path} has no column {name!r} ({option}); it has {', '.join(columns)}"
        )
    return asked


def _check_time(rows: Any, name: str) -> None:
    if not pa.types.is_timestamp(rows[name].type):
        seen = rows[name].drop_null()[0].as_py() if rows[name].null_count < len(rows) else None
        raise StarterError(
            f"--time {name}: it holds {seen!r}, expected dates and times such as 2024-05-31 or "
            "2024-05-31T14:30:00Z (ISO 8601); convert the column, or leave --time out: the rows "
            "to measure on are then drawn by chance"
        )


# the columns


def _variable(name: str, taken: set[str]) -> str:
    """A Python name for a field, of its own."""
    base = re.sub(r"\W+", "_", name.lower()).strip("_") or "field"
    base = f"n{base}" if base[0].isdigit() else base
    if keyword.iskeyword(base) or base in taken:
        base += "_"
    free, number = base, 2
    while free in taken:
        free, number = f"{base}{number}", number + 1
    taken.add(free)
    return free


def _column(values: Any, name: str, target: Target, variable: str) -> Column | LeftOut:
    known = values.drop_null()
    n_levels = int(pc.count_distinct(known).as_py())
    if not n_levels:
        return LeftOut(name, "has no value in any row")
    if n_levels == 1 and not values.null_count:
        return LeftOut(name, f"is {known[0].as_py()!r} in every row")
    kind = values.type
    seen = _Seen(name, variable, values, n_levels, target)
    if pa.types.is_boolean(kind):
        return _boolean(seen)
    if pa.types.is_string(kind):
        return _category(seen)
    if pa.types.is_timestamp(kind):
        return _timestamp(seen)
    return _whole_or_number(seen)


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    variable: str
    values: Any
    n_levels: int
    target: Target

    @property
    def nulls(self) -> int:
        return self.values.null_count

    def column(
        self,
        kind: str,
        *,
        features: Features,
        simple: Features | None = None,
        arguments: Sequence[str] = (),
        notes: Iterable[str] = (),
        groups: NDArray[np.int64] | None = None,
        levels: int = 0,
    ) -> Column:
        said = [f"null in {self.nulls:,} of {len(self.values):,} rows"] if self.nulls else []
        nullable = () if self.nulls else ("nullable=False",)
        return Column(
            name=self.name,
            variable=self.variable,
            kind=kind,
            arguments=(*arguments, *nullable),
            notes=(*notes, *said),
            features=features,
            simple=simple or {},
            says=0.0 if groups is None else explained(groups, self.target.values),
            example=_plain(self.values.drop_null()[0].as_py()),
            levels=levels,
        )

    def null_feature(self) -> Features:
        return {f"no_{self.variable}": f"{self.variable}.is_null()"} if self.nulls else {}


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _groups_of_levels(values: Any) -> NDArray[np.int64]:
    encoded = values.combine_chunks().dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(len(encoded.dictionary))
    return np.asarray(codes.to_numpy(zero_copy_only=False))


def _groups_of_numbers(values: Any) -> NDArray[np.int64]:
    numbers = np.asarray(values.cast(pa.float64()).to_numpy(), np.float64)
    edges = np.unique(np.nanquantile(numbers, np.linspace(0.1, 0.9, 9)))
    return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers))


def _boolean(seen: _Seen) -> Column:
    variable = seen.variable
    used = f"{variable}.impute(0)" if seen.nulls else variable
    features = {variable: used, **seen.null_feature()}
    groups = _groups_of_levels(seen.values)
    return seen.column("boolean", features=features, simple={variable: used}, groups=groups)


def _category(seen: _Seen) -> Column | LeftOut:
    if seen.n_levels > max(FEW_LEVELS, ID_SHARE / 2 * len(seen.values)):
        example = str(seen.values.drop_null()[0].as_py())[:40]
        return LeftOut(
            seen.name,
            f"has {seen.n_levels:,} different texts in {len(seen.values):,} rows, such as "
            f"{example!r}: an id, free text, or dates that are not ISO 8601",
        )
    texts = sorted(map(str, pc.unique(seen.values.drop_null()).to_pylist()))
    is_flag = len(texts) == 2 and {text.lower() for text in texts} <= {"yes", "no", "y", "n"}
    if is_flag:
        note = "a truth value written as text: callers send the text; or convert it in table.py"
        vocabulary = f"vocabulary=[{', '.join(map(json.dumps, texts))}]"
        return _levels(seen, arguments=[vocabulary], notes=[note])
    return _levels(seen)


def _levels(
    seen: _Seen, arguments: Sequence[str] = (), notes: Iterable[str] = ()
) -> Column | LeftOut:
    """A category: a column per text where there are few, else its share and its target mean."""
    variable = seen.variable
    said = [f"{seen.n_levels:,} levels", *notes]
    if seen.n_levels > MOST_LEVELS:
        said.append(f"the {MOST_LEVELS:,} most frequent are known, the others unknown")
    groups = _groups_of_levels(seen.values)
    if seen.n_levels <= FEW_LEVELS:
        one_hot = f"{variable}.one_hot(missing=True)" if seen.nulls else f"{variable}.one_hot()"
        return seen.column(
            "category",
            features={variable: one_hot},
            simple={variable: one_hot},
            arguments=arguments,
            notes=said,
            groups=groups,
            levels=seen.n_levels,
        )
    features = {f"{variable}_share": f"{variable}.frequency()"}
    if seen.target.task != "classes":
        features[f"{variable}_mean"] = f"{variable}.target_mean()"
    return seen.column(
        "category",
        features=features,
        arguments=arguments,
        notes=said,
        groups=groups,
        levels=seen.n_levels,
    )


def _timestamp(seen: _Seen) -> Column:
    variable = seen.variable
    known = seen.values.drop_null()
    ticks = np.asarray(known.cast(pa.int64()).to_numpy())
    arguments: list[str] = []
    notes: list[str] = []
    if seen.values.type.tz is None:
        arguments.append('tz="UTC"')
        notes.append("without offset in the table: say in which zone its clock was")
    parts = ["weekday"]
    if (ticks % 86_400_000_000).any():
        parts.append("hour")
    else:
        notes.append('days without a time: callers send them as "2024-05-31T00:00"')
    if np.ptp(ticks) > MONTHS_FROM_DAYS * 86_400_000_000:
        parts.append("month")
    imputed = '.impute("median")' if seen.nulls else ""
    features = {f"{variable}_{part}": f"{variable}.{part}(){imputed}" for part in parts}
    features |= seen.null_feature()
    return seen.column(
        "timestamp",
        features=features,
        arguments=arguments,
        notes=notes,
        groups=_groups_of_numbers(seen.values.cast(pa.int64())),
    )


def _whole_or_number(seen: _Seen) -> Column | LeftOut:
    values = seen.values
    if pa.types.is_integer(values.type):
        if seen.n_levels >= max(ID_ROWS, ID_SHARE * len(values)):
            return LeftOut(
                seen.name,
                f"has {seen.n_levels:,} different whole numbers in {len(values):,} rows: an id "
                "or a row number",
            )
        if is_code_name(seen.name):
            return _codes(seen)
    return _number(seen)


def _codes(seen: _Seen) -> Column | LeftOut:
    """Whole numbers that are names, as the column's name says."""
    if seen.n_levels > MOST_LEVELS:
        return LeftOut(seen.name, f"has {seen.n_levels:,} different codes: an id")
    note = "whole numbers that are names, as the column's name says; a quantity is a number()"
    return _levels(seen, arguments=['of="integer"'], notes=[note])


def _number(seen: _Seen) -> Column:
    variable, values = seen.variable, seen.values
    ends: Mapping[str, Any] = pc.min_max(values).as_py()
    notes = [f"seen: {_shown(ends['min'])} to {_shown(ends['max'])}"]
    if pa.types.is_integer(values.type) and 2 < seen.n_levels <= FEW_LEVELS:
        notes.append(
            f'{seen.n_levels} whole numbers; if they are names: category(..., of="integer")'
        )
    used = f'{variable}.impute("median")' if seen.nulls else variable
    steps = range(int(ends["min"]), int(ends["max"]) + 1) if _is_short(values) else range(0)
    is_scale = len(steps) == seen.n_levels > 2
    whole = f"range({steps.stop})" if is_scale and not steps.start else repr(steps)
    simple = f"{variable}.one_hot({whole})" if is_scale else f"{used}.standardize()"
    return seen.column(
        "number",
        features={variable: used, **seen.null_feature()},
        simple={variable: simple},
        notes=notes,
        groups=_groups_of_numbers(values),
    )


def _is_short(values: Any) -> bool:
    """Whether whole numbers lie so close that a linear model can have a column for each: hours."""
    if not pa.types.is_integer(values.type):
        return False
    ends = pc.min_max(values).as_py()
    return ends["max"] - ends["min"] < MOST_STEPS


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
