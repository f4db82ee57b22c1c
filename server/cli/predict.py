"""`keelmark predict`: a bundle's answers to a record or a table, without a server."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from models.bundle import Bundle
from models.errors import FormatUnknown
from server.cli.answer_tables import table_writer
from server.cli.answers import Answered, answer_records, answer_table
from server.cli.bundles import BundleName, StoreOption, bundle_folder
from server.cli.exits import REFUSED
from server.cli.options import AsJson
from server.cli.show import out, say_json
from server.json_lines import Unreadable
from server.tables import SUFFIXES, Chunk, Source, open_source, readable

CHUNK_ROWS = 2_000
MOST_TOLD = 5
"""Of those who answered, with their reasons, as many are told."""

Input = Annotated[
    str,
    typer.Argument(
        help="A record as JSON, a file (.csv, .jsonl, .json, .parquet), or - for standard input.",
        metavar="INPUT",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Where a table's answers go (.csv, .jsonl, .parquet); else CSV on standard output.",
    ),
]


def predict(
    bundle: BundleName,
    given: Input,
    *,
    out_file: OutFile = None,
    store: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Answers a record, or a table: its columns, then the prediction, who gave it, and why.

    A row is answered as the server would answer it. Ends with 0 if every row was answered, 1 if one
    was not (its `error` says why), 2 if the input cannot be read, 4 if there is no such bundle.
    """
    opened = Bundle.open(bundle_folder(bundle, store))
    if opened.fitted is None:
        raise FormatUnknown(
            f"bundle '{opened.name}/{opened.version}' takes tensors, not records, and this version "
            "of keelmark does not answer tensors; `keelmark inspect` shows what it is"
        )
    try:
        refused = _answer(opened, given, out_file, as_json=as_json)
    except Unreadable as error:
        raise typer.BadParameter(str(error)) from error
    if refused:
        raise typer.Exit(REFUSED)


def _answer(bundle: Bundle, given: str, out_file: Path | None, *, as_json: bool) -> int:
    """Answers what was given, whatever it is; gives the number of rows without an answer."""
    path = Path(given)
    if path.suffix in SUFFIXES:
        _check_other_file(path, out_file)
        return predict_table(bundle, open_source(path, bundle.fields), out_file)
    return predict_record(bundle, _text_of(given), as_json=as_json)


def _check_other_file(given: Path, out_file: Path | None) -> None:
    if out_file is not None and out_file.exists() and given.exists() and out_file.samefile(given):
        raise typer.BadParameter(
            f"{out_file} is the table that is read; name another file with --out"
        )


def _text_of(given: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read()
    if Path(given).suffix != ".json":
        return given.encode()
    with readable(Path(given)):
        return Path(given).read_bytes()


def predict_record(bundle: Bundle, text: bytes, *, as_json: bool) -> int:
    """Prints the answer to one record or a list; gives the number of rows that have none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise typer.BadParameter(f"neither a record as JSON nor a file: {error}") from error
    records = value if isinstance(value, list) else [value]
    if not all(isinstance(record, dict) for record in records):
        raise typer.BadParameter("a record is a JSON object")
    answered = answer_records(bundle, records)
    shown = answered.as_dicts() if isinstance(value, list) else answered.as_dicts()[0]
    _print(shown, as_json=as_json)
    return answered.refused


def _print(value: Any, *, as_json: bool) -> None:
    if as_json or not out().is_terminal:
        say_json(value)
    else:
        out().print_json(msgspec.json.encode(value).decode())


def predict_table(bundle: Bundle, source: Source, out_file: Path | None) -> int:
    """Answers a table in chunks; gives the number of rows without an answer.

    Where not the model answered every row, it says on standard error who did, and the reasons.
    """
    refused = 0
    told = Counter[str]()
    with table_writer(out_file, bundle.outputs) as write, _progress() as progress:
        task = progress.add_task("rows", total=source.n_rows)
        for chunk in source.chunks(CHUNK_ROWS):
            answered = answer_chunk(bundle, chunk)
            columns = answered.columns()
            write(chunk, columns)
            refused += answered.refused
            told.update(map(_told, columns["served_by"], columns["reasons"]))
            progress.advance(task, len(answered))
    if set(told) - {"model"}:
        shown = ", ".join(f"{who} {rows:,}" for who, rows in told.most_common(MOST_TOLD))
        print(f"{told.total():,} rows: {shown}", file=sys.stderr)  # noqa: T201  (beside the table)
    return refused


def _told(served_by: str | None, reasons: str) -> str:
    """Who answered a row, and why not the model."""
    who = served_by or "nobody"
    return f"{who} ({reasons})" if reasons else who


def answer_chunk(bundle: Bundle, chunk: Chunk) -> Answered:
    """Its answers, whichever way it was read."""
    if chunk.table is None:
        return answer_records(bundle, chunk.records)
    return answer_table(bundle, chunk.table)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
