"""What table.py of a project says: how the file is read that was surveyed."""

import os
from pathlib import Path
from typing import Final

from server.starter.columns import Survey
from server.starter.reading import TableFile
from server.starter.source import WIDTH, entries, literal

_CAST: Final = "    table = table.cast(pa.schema(COLUMNS))\n"
_RENAME: Final = """\
    table = table.rename_columns([RENAMED.get(name, name) for name in table.column_names])
"""
_BY_TEXT: Final = """\
    for name in INEXACT:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.string()))
"""


def table_code(survey: Survey, folder: Path) -> dict[str, str]:
    """What stands at the places of the template."""
    file = survey.file
    used = {*(column.name for column in survey.columns), survey.target.name, survey.time}
    types = {old: code for old, code in file.types.items() if file.new_name(old) in used}
    renamed = {old: literal(new) for old, new in file.renamed.items() if new in used}
    whole = [name for name in file.whole if name in types]
    by_text = [name for name in file.by_text if name in types]
    return {
        "format": "csv" if file.is_csv else "parquet",
        "file": _file(folder, file.path),
        "target_code": literal(survey.target.name),
        "time_code": literal(survey.time),
        "columns": entries(types.items()),
        "constants": _constants(file, whole, by_text),
        "renaming": f"\nRENAMED = {entries(renamed.items())}\n" if renamed else "",
        "reading": _csv(file, whole) if file.is_csv else _parquet(by_text),
        "casting": _CAST if whole or not file.is_csv else "",
        "rename": _RENAME if renamed else "",
    }


def _file(folder: Path, path: Path) -> str:
    relative = os.path.relpath(path.resolve(), folder.resolve())
    default = f"Path(__file__).parent / {literal(Path(relative).as_posix())}"
    inside = f'os.environ.get("TABLE", {default})'
    if len(f"FILE = Path({inside})") <= WIDTH:
        return f"FILE = Path({inside})"
    return f"FILE = Path(\n    {inside}\n)"


def _constants(file: TableFile, whole: list[str], by_text: list[str]) -> str:
    lines = [f"NULLS = {_texts(file.nulls)}"] if file.is_csv else []
    if whole:
        lines += ["# Whole numbers that the file writes as 7.0.", f"WHOLE = {_texts(whole)}"]
    if by_text:
        lines += [
            "# Read by way of text: 0.1 as float32 or decimal is to be the 0.1 that callers send.",
            f"INEXACT = {_texts(by_text)}",
        ]
    return "".join(f"{line}\n" for line in lines)


def _texts(texts: tuple[str, ...] | list[str]) -> str:
    lines = "".join(f"    {literal(text)},\n" for text in texts)
    return f"[\n{lines}]"


def _csv(file: TableFile, whole: list[str]) -> str:
    types = "{**COLUMNS, **dict.fromkeys(WHOLE, pa.float64())}" if whole else "COLUMNS"
    options = [
        "include_columns=list(COLUMNS)",
        f"column_types={types}",
        "null_values=NULLS",
        "strings_can_be_null=True",
    ]
    if file.decimal_point != ".":
        options.append(f"decimal_point={literal(file.decimal_point)}")
    lines = "".join(f"        {option},\n" for option in options)
    parsing = f"csv.ParseOptions(delimiter={literal(file.delimiter)}, newlines_in_values=True)"
    return (
        f"    parsing = {parsing}\n"
        f"    converting = csv.ConvertOptions(\n{lines}    )\n"
        "    table = csv.read_csv(path, parse_options=parsing, convert_options=converting)\n"
    )


def _parquet(by_text: list[str]) -> str:
    reading = "    table = parquet.read_table(path).select(list(COLUMNS))\n"
    return reading + (_BY_TEXT if by_text else "")
