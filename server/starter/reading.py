"""Reading somebody's table: a CSV file whose types nobody declared, or Parquet.

A CSV file is read as texts first. Each column's distinct texts then say what it holds, so that one
odd cell far down the file is seen here and not by the first training run.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from server.starter.compute import pc
from server.starter.errors import StarterError

SUFFIXES: Final = (".csv", ".csv.gz", ".parquet")
DELIMITERS: Final = ",;\t|"
NULL_TEXTS: Final = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
"""Cells, in lower case and without spaces around, that are no value."""

_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+")
_WHOLE: Final = re.compile(r"[+-]?\d+\.0*")
_CODE_NAME: Final = re.compile(r"(^|[_ .-])(id|code|key|no|nr|zip)$", re.IGNORECASE)

Cells = Sequence[str]


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table with typed columns, and how its file has to be read to be this table.

    Attributes:
        table: its columns with names that fields may have.
        types: of the file's columns, by the file's names: text, as Python code.
        renamed: name in the file to name in the table.
        nulls: the texts that stand for no value (CSV).
        delimiter, decimal_point: of CSV.
        whole: columns of whole numbers written as 7.0, to be read as floats and made integers.
        by_text: columns of float32 or decimals, to be made the float64 that is written like them.
    """

    path: Path
    table: pa.Table
    types: dict[str, str]
    renamed: dict[str, str] = field(default_factory=dict[str, str])
    nulls: tuple[str, ...] = ()
    delimiter: str = ","
    decimal_point: str = "."
    whole: tuple[str, ...] = ()
    by_text: tuple[str, ...] = ()

    @property
    def is_csv(self) -> bool:
        return self.path.suffix != ".parquet"

    def new_name(self, name: str) -> str:
        """The table's name for a column of the file."""
        return self.renamed.get(name, name)


def read_table(path: Path) -> TableFile:
    """The table in a file, by its suffix.

    Raises:
        StarterError: no such file, none of a table, one that is damaged, or one without rows.
    """
    if not path.is_file():
        raise StarterError(f"there is no file {path}; name a table to start from, or leave it out")
    if not path.name.endswith(SUFFIXES):
        raise StarterError(f"{path}: a table is read from {', '.join(SUFFIXES)}; convert it first")
    try:
        found = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StarterError(f"{path} cannot be read: {error}{_way_out(error)}") from error
    if not found.table.num_rows:
        raise StarterError(f"{path} has no rows; a model is made from some hundred at least")
    return found


def _way_out(error: Exception) -> str:
    if "UTF8" in str(error).upper().replace("-", ""):
        return "; save it as UTF-8, as with: iconv -f latin1 -t utf-8 OLD.csv > NEW.csv"
    return ""


def _new_names(names: Sequence[str]) -> dict[str, str]:
    """Name in the file to the name of its field, which has to begin with a letter.

    Raises:
        StarterError: columns without a name, or two of one.
    """
    if "" in names or len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1} or {""})
        raise StarterError(f"every column needs a name of its own; look at {twice}")
    taken = {name for name in names if is_field_name(name)}
    new: dict[str, str] = {}
    for name in names:
        new[name] = name if name in taken else _free(_cleaned(name), taken)
        taken.add(new[name])
    return new


def is_field_name(name: str) -> bool:
    """Whether a field may have this name."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,127}", name) is not None


def _cleaned(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:100] or "column"
    return cleaned if cleaned[0].isalpha() else f"n{cleaned}"


def _free(name: str, taken: Iterable[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


# CSV


def _read_csv(path: Path) -> TableFile:
    head, delimiter = _head(path)
    texts = _as_texts(path, head, delimiter)
    distinct = {name: [str(cell) for cell in pc.unique(texts[name]).to_pylist()] for name in head}
    nulls = sorted({"", *(c for cells in distinct.values() for c in cells if is_null(c))})
    values = {
        name: [c.strip() for c in cells if not is_null(c)] for name, cells in distinct.items()
    }
    comma = delimiter != "," and any(
        cells and all(_DECIMAL_COMMA.fullmatch(cell) for cell in cells) for cells in values.values()
    )
    point = "," if comma else "."
    types = {name: _type_of_texts(name, cells, point) for name, cells in values.items()}
    whole = tuple(name for name, kind in types.items() if kind == "whole")
    kinds = {name: "pa.int64()" if name in whole else kind for name, kind in types.items()}
    options = pyarrow.csv.ConvertOptions(
        column_types={n: pa.float64() if n in whole else arrow_type(t) for n, t in kinds.items()},
        null_values=nulls,
        strings_can_be_null=True,
        decimal_point=point,
    )
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    table = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=options)
    for name in whole:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.int64()))
    renamed = _new_names(head)
    return TableFile(
        path=path,
        table=table.rename_columns([renamed[name] for name in head]),
        types=kinds,
        renamed={old: new for old, new in renamed.items() if old != new},
        nulls=tuple(nulls),
        delimiter=delimiter,
        decimal_point=point,
        whole=whole,
    )


def _head(path: Path) -> tuple[list[str], str]:
    with pa.input_stream(path) as stream:
        start: bytes = stream.read(65_536)
    line = start.partition(b"\n")[0].decode("utf-8-sig")
    delimiter = max(DELIMITERS, key=line.count)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    with pa.input_stream(path) as stream:
        names = pyarrow.csv.open_csv(stream, parse_options=parse).schema.names
    return list(names), delimiter


def _as_texts(path: Path, names: Sequence[str], delimiter: str) -> pa.Table:
    _new_names(names)
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def is_null(cell: str) -> bool:
    """Whether a cell is one of the many ways to write nothing."""
    return cell.strip().lower() in NULL_TEXTS


def _type_of_texts(name: str, cells: Cells, point: str) -> str:
    """The type all of these texts have, as Python code; `whole` for 7.0 in a column of codes."""
    if not cells:
        return "pa.string()"
    if {cell.lower() for cell in cells} <= {"true", "false"}:
        return "pa.bool_()"
    numbers = [cell.replace(point, ".") for cell in cells] if point == "," else cells
    if _casts(numbers, pa.int64()):
        return "pa.int64()"
    if is_code_name(name) and all(re.fullmatch(_WHOLE, c) or c.isdigit() for c in numbers):
        return "whole"
    if _casts(numbers, pa.float64()):
        return "pa.float64()"
    return _type_of_times(cells) or "pa.string()"


def is_code_name(name: str) -> bool:
    """Whether a column's name says that its numbers are names: `store_id`, `zip`."""
    return _CODE_NAME.search(name) is not None


def _type_of_times(cells: Cells) -> str | None:
    if any(len(cell) < len("2024-01-01") for cell in cells):
        return None
    if _casts(cells, pa.timestamp("us")):
        return 'pa.timestamp("us")'
    return 'pa.timestamp("us", "UTC")' if _casts(cells, pa.timestamp("us", "UTC")) else None


def _casts(cells: Cells, kind: Any) -> bool:
    try:
        pa.array(cells, pa.string()).cast(kind)
    except (pa.ArrowException, ValueError):
        return False
    return True


# Parquet


def _read_parquet(path: Path) -> TableFile:
    table = pq.read_table(path)
    renamed = _new_names(table.column_names)
    types = {entry.name: code_of_type(entry.type) for entry in table.schema}
    by_text = tuple(entry.name for entry in table.schema if _is_inexact(entry.type))
    kept = table.select([name for name, code in types.items() if code])
    for place, name in enumerate(kept.column_names):
        column = kept[name].cast(pa.string()) if name in by_text else kept[name]
        kept = kept.set_column(place, name, column.cast(arrow_type(types[name])))
    return TableFile(
        path=path,
        table=kept.rename_columns([renamed[name] for name in kept.column_names]),
        types=types,
        renamed={old: new for old, new in renamed.items() if old != new},
        by_text=by_text,
    )


def _is_inexact(kind: Any) -> bool:
    """Whether values would become other float64s than those that JSON sends: 0.1 as float32."""
    types = pa.types
    return types.is_decimal(kind) or types.is_float32(kind) or types.is_float16(kind)


def code_of_type(kind: Any) -> str:
    """The type to read a Parquet column as, as Python code; empty where it is no field's."""
    types = pa.types
    if types.is_dictionary(kind):
        return code_of_type(kind.value_type)
    if types.is_timestamp(kind):
        return 'pa.timestamp("us", "UTC")' if kind.tz else 'pa.timestamp("us")'
    return next((code for code, holds in _CODES if any(is_it(kind) for is_it in holds)), "")


_CODES: Final[tuple[tuple[str, tuple[Any, ...]], ...]] = (
    ("pa.bool_()", (pa.types.is_boolean,)),
    ("pa.int64()", (pa.types.is_integer,)),
    ("pa.float64()", (pa.types.is_floating, pa.types.is_decimal)),
    ("pa.string()", (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)),
    ('pa.timestamp("us")', (pa.types.is_date,)),
)


def arrow_type(code: str) -> Any:
    """The Arrow type that a piece of `COLUMNS` in a project's table.py means."""
    by_code = {
        "pa.bool_()": pa.bool_(),
        "pa.int64()": pa.int64(),
        "pa.float64()": pa.float64(),
        "pa.string()": pa.string(),
        'pa.timestamp("us")': pa.timestamp("us"),
        'pa.timestamp("us", "UTC")': pa.timestamp("us", "UTC"),
    }
    return by_code[code]
