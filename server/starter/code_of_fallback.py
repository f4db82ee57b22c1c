"""What fallback.py of a project says: a check and a rule that the table itself shows."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from server.starter.columns import Column, Survey
from server.starter.compute import pc
from server.starter.source import entries, literal

SHOWN_ROWS: Final = 1_000
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CEL_WORDS: Final = frozenset(
    (
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import"),
        *("in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void"),
        "while",
    )
)


def fallback_code(survey: Survey) -> dict[str, str]:
    """What stands at the places of the template."""
    ordered = survey.ordered_times
    if ordered is None:
        return {"check_imports": "", "checks": _no_check(survey), "rules": _rules(survey)}
    names = ", ".join(sorted(column.variable for column in ordered))
    return {
        "check_imports": f"\nfrom definition import {names}\n",
        "checks": _check(survey, *ordered),
        "rules": _rules(survey),
    }


def records(survey: Survey) -> Iterator[dict[str, Any]]:
    """Rows of the table as callers would send them, those without nulls first."""
    table = survey.rows.select([column.name for column in survey.columns])
    for some in (table.drop_null(), table):
        for row in some.slice(0, SHOWN_ROWS).to_pylist():
            yield {name: _as_json(value) for name, value in row.items()}


def _as_json(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


# checks

_CHECKS_ARE: Final = (
    "# What holds between fields; where it does not, another than the model answers.\n"
)


def _check(survey: Survey, first: Column, last: Column) -> str:
    apart = (row for row in records(survey) if row[first.name] != row[last.name])
    row = next(apart)
    wrong = {**row, first.name: row[last.name], last.name: row[first.name]}
    example = entries(((name, literal(value)) for name, value in wrong.items()), depth=2)
    return (
        f"{_CHECKS_ARE}"
        "CHECKS = {\n"
        f"    {literal(f'{_slug(first.name)[:50]}_first')}: {{\n"
        f'        "holds": {first.variable} <= {last.variable},\n'
        f'        "example": {example},\n'
        "    },\n"
        "}"
    )


def _no_check(survey: Survey) -> str:
    numbers = [column.variable for column in survey.columns if column.kind == "number"]
    low, high = [*numbers, "low", "high"][:2]
    return (
        f"{_CHECKS_ARE}"
        "# The table shows none: no two timestamps of it are always in one order. You may\n"
        "# know one, and import its fields from definition.py:\n"
        f'# CHECKS = {{"in_order": {low} <= {high}}}\n'
        "CHECKS = {}"
    )


# rules


def _rules(survey: Survey) -> str:
    if not survey.strongest:
        return "RULES = []"
    column = survey.strongest[0]
    when, name, matching = _condition(column, survey.rows[column.name])
    return (
        f"# The answer is that of the {int(matching.sum()):,} rows of the table where this holds.\n"
        "RULES = [\n"
        "    {\n"
        f'        "name": {literal(name)},\n'
        f'        "when": {literal(when)},\n'
        f'        "outputs": {_usual(survey, matching)},\n'
        "    },\n"
        "]"
    )


def _condition(column: Column, values: Any) -> tuple[str, str, NDArray[np.bool_]]:
    """A condition on one field in CEL, a name for it, and the rows where it holds."""
    word, slug = column.name, _slug(column.name)
    is_plain = _PLAIN_NAME.fullmatch(word) and word not in _CEL_WORDS
    read = f"r.{word}" if is_plain else f"r[{_cel_text(word)}]"
    if column.kind == "number":
        middle = float(pc.quantile(values, 0.5)[0].as_py())
        above = pc.greater(values, pa.scalar(middle)).fill_null(False)
        return f"{read} > {middle!r}", f"high_{slug}"[:64], np.asarray(above)
    counts = pc.value_counts(values.drop_null()).to_pylist()
    most = max((entry["counts"], str(entry["values"]), entry["values"]) for entry in counts)[2]
    matching = np.asarray(pc.equal(values, pa.scalar(most, values.type)).fill_null(False))
    said = str(most).lower() if column.kind == "boolean" else _cel_text(str(most))
    return f"{read} == {said}", f"{slug}_{_slug(str(most))}"[:64], matching


def _cel_text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _usual(survey: Survey, matching: NDArray[np.bool_]) -> str:
    """What the target is in these rows, as code: the mean, or the most frequent class."""
    means = survey.target.values[matching].mean(axis=0)
    if survey.target.task == "classes":
        return entries([("label", literal(survey.target.classes[int(means.argmax())]))], depth=2)
    return literal(float(f"{means[0]:.4g}"))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "field"
