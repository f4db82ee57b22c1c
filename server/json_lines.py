"""Tables in JSON lines, which has no columns: names and types are looked for in all of its lines.

A line may leave out a null, and numbers may be whole for thousands of lines; whoever writes CSV or
Parquet has to know every column and its type with the first row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from models.errors import ServingError

_decode = msgspec.json.Decoder(dict[str, Any]).decode

WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


class Unreadable(ServingError):
    """A file that is not there, is damaged, or holds something else; the message names it."""


@dataclass(slots=True)
class Column:
    """What a column holds: one kind of value, but for nulls, unless `mix` says where not.

    `kind` is bool, int, float (whole numbers too), str, list or dict; None where all is null.
    """

    kind: type | None = None
    mix: str = ""
    _row: int = 0

    def see(self, value: Any, row: int) -> None:
        """Takes the value of a row, counted from 1."""
        kind = type(value)
        if value is None or kind is self.kind or self.mix:
            return
        if self.kind is None:
            self.kind, self._row = kind, row
        elif {kind, self.kind} == {int, float}:
            self.kind = float
        else:
            first, other = WORDS[self.kind], WORDS[kind]
            self.mix = f"{first} in row {self._row} and {other} in row {row}"


@dataclass(slots=True)
class Scan:
    """How many rows there are, and the columns in the order in which they come up."""

    rows: int = 0
    columns: dict[str, Column] = field(default_factory=dict[str, Column])


def scan(path: Path) -> Scan:
    """Looks at every line once.

    Raises:
        Unreadable: one is no JSON object; it is named.
    """
    found = Scan()
    for record in records_of(path):
        found.rows += 1
        for name, value in record.items():
            found.columns.setdefault(name, Column()).see(value, found.rows)
    return found


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The object of each line; empty lines are passed over.

    Raises:
        Unreadable: a line is something else.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield _decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Unreadable(
                    f"{path}: line {number} is not a JSON object ({error}); each line is one"
                ) from error
