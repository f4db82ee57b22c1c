"""`keelmark init`: a project to start from, on the caller's own table or on a generated one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from models.manifest import MODEL_NAME
from server.cli.show import out, table
from server.starter.errors import StarterError
from server.starter.libraries import Library, installed_library

if TYPE_CHECKING:
    from server.starter.columns import Survey

SAMPLE: Final = "table.csv"

Name = Annotated[
    str, typer.Argument(help="Of the model, and of the folder that is made here.", metavar="NAME")
]
TableFile = Annotated[
    Path | None,
    typer.Option("--table", help="Your table (.csv, .csv.gz, .parquet); else one is generated."),
]
Target = Annotated[str | None, typer.Option(help="The table's column that is to be predicted.")]
Time = Annotated[
    str | None, typer.Option(help="The table's column that says when a row was, if one does.")
]
Without = Annotated[
    list[str] | None,
    typer.Option(help="A column that is known only after the fact, or not wanted; repeatable."),
]


def init(
    name: Name,
    *,
    table_file: TableFile = None,
    target: Target = None,
    time: Time = None,
    without: Without = None,
) -> None:
    """Writes a project that trains, packs, tests and serves a model, on your table at once.

    Fields are inferred: numbers, categories, booleans, timestamps, nullable where the table has
    nulls. What a table cannot show stays a comment. Ends with 2 if nothing was written, 4 if there
    is no library to train with.
    """
    named = [column for column in (target, time, *(without or ())) if column is not None]
    folder = Path(name)
    library = installed_library()
    try:
        _check(folder, table_file, named)
        if table_file is None:
            found = _from_sample(folder)
        else:
            found = _survey(table_file, target, time, without or ())
    except StarterError as error:
        raise typer.BadParameter(str(error)) from error
    _write(folder, found, library)
    _show(folder, found, library)


def _check(folder: Path, table_file: Path | None, named: Sequence[str]) -> None:
    if not re.fullmatch(MODEL_NAME, folder.name) or folder.name != str(folder):
        raise StarterError(
            f"{str(folder)!r} is no name of a model: at most 64 lower-case letters, digits, _ and "
            "-, the first a letter or digit. The folder is made where you are"
        )
    if folder.exists():
        raise StarterError(
            f"{folder} is there already, and nothing in it is overwritten; take another name, or "
            "move it away"
        )
    if table_file is None and named:
        raise StarterError(f"{named[0]!r} is a column of which table? Name its file with --table")


# pyarrow is an extra, and what reads tables is imported when there is one to read.


def _survey(
    path: Path, target: str | None, time: str | None, without: Sequence[str] = ()
) -> "Survey":
    from server.starter.columns import survey
    from server.starter.reading import read_table

    return survey(read_table(path), target, time, without)


def _from_sample(folder: Path) -> "Survey":
    from server.starter import sample

    folder.mkdir()
    sample.write_sample(folder / SAMPLE)
    return _survey(folder / SAMPLE, sample.TARGET, sample.TIME)


def _write(folder: Path, found: "Survey", library: Library) -> None:
    from server.starter.project import write_project

    folder.mkdir(exist_ok=True)
    write_project(folder, found, library)


def _show(folder: Path, found: "Survey", library: Library) -> None:
    console, target = out(), found.target.name
    rows = [
        (column.name, column.kind, f"{max(0.0, column.says):.0%}", "; ".join(column.notes))
        for column in found.columns
    ]
    rows += [(column.name, "left out", "", column.why) for column in found.left_out]
    title = f"{folder}: {target} from {len(found.rows):,} rows of {found.file.path}"
    heads = ("column", "taken as", "tells alone", "seen")
    console.print(table(title, heads, rows))
    console.print(f"Trained with {library.name}. What a column tells alone is its share of the")
    console.print(f"variance of {target}; one that is known only after the fact gives it away:")
    console.print("make the project again with --without COLUMN.")
    if found.time is None:
        console.print("The rows to measure on are drawn by chance; with --time COLUMN, the last.")
    console.print("Next", style="bold")
    for command, what in _next(str(folder)):
        console.print(f"  {command:<44}{what}", markup=False)


def _next(name: str) -> Sequence[tuple[str, str]]:
    return (
        (f"cd {name}", ""),
        ("python train.py", f"fits, packs, checks: build/store/{name}/1"),
        (f"keelmark verify build/store/{name}/1", "replays the golden rows"),
        ("keelmark serve --store build/store", "predictions on 8080; README.md has a record"),
        ("python -m pytest", "the project's own tests"),
    )
