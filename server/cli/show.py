"""How commands show things: tables for people, JSON for scripts, complaints on standard error."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN: Final[Any] = {"box": None, "pad_edge": False, "header_style": "bold"}


def out() -> Console:
    """Standard output as it is now; wide enough for a table when it is no terminal."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=160)


def complain(error: Exception) -> None:
    """What happened, on standard error, under its name."""
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(type(error).__name__, style="bold red", end=": ", markup=False)
    console.print(str(error), markup=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """A value as JSON on standard output, one line."""
    print(msgspec.json.encode(value).decode())  # noqa: T201  (the command's answer)


def show_contract(contract: dict[str, Any] | None) -> None:
    """What callers of the live version would notice, as the server tells it; nothing for None."""
    if contract is None:
        return
    console = out()
    console.print(f"contract: {contract['verdict']}", markup=False)
    for sentence in contract["changes"]:
        console.print(f"- {sentence}", markup=False)
    if contract["more"]:
        words = f"and {contract['more']} more: `keelmark diff` shows all"
        console.print(words, markup=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table without lines; None is shown as nothing."""
    # As plain text, like the cells: what stands in brackets would be taken for a style.
    made = Table(title=Text(title, style="bold"), title_justify="left", **PLAIN)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made
