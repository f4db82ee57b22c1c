"""Pieces of Python, laid out as `ruff format` lays them out."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

WIDTH: Final = 100


def literal(value: Any) -> str:
    """A constant as code; texts in double quotes where they have none themselves."""
    code = repr(value)
    if isinstance(value, str) and code.startswith("'") and '"' not in value:
        inner = code[1:-1].replace("\\'", "'")
        return f'"{inner}"'
    return code


def call(head: str, arguments: Sequence[str]) -> str:
    """`head(a, b)` on one line if it fits, else a line for each argument."""
    line = f"{head}{', '.join(arguments)})"
    if len(line) <= WIDTH:
        return line
    return "\n".join((head, *(f"    {argument}," for argument in arguments), ")"))


def comment(text: str) -> str:
    """A comment of as many lines as it needs."""
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# "))


def entries(pairs: Iterable[tuple[str, str]], depth: int = 0) -> str:
    """A dictionary of texts to code, a line for each, that begins `depth` levels deep."""
    pad = "    " * depth
    lines = [f"{pad}    {literal(name)}: {code},\n" for name, code in pairs]
    return f"{{\n{''.join(lines)}{pad}}}" if lines else "{}"
