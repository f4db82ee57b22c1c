"""What definition.py of a project says: fields, features of the model and of its baseline."""

from collections.abc import Iterator

from server.starter.columns import Column, Survey
from server.starter.source import call, comment, entries, literal


def definition_code(survey: Survey) -> dict[str, str]:
    """What stands at the places of the template."""
    kinds = {column.kind for column in survey.columns} | (
        {"elapsed"} if survey.ordered_times else set()
    )
    simple = (pair for column in survey.strongest for pair in column.simple.items())
    return {
        "imports": ", ".join(["FeatureSet", *sorted(kinds)]),
        "fields": "".join(map(_field, survey.columns)),
        "left_out": _left_out(survey),
        "features": entries(_features(survey), depth=1),
        "simple_features": entries(simple, depth=1),
    }


def _field(column: Column) -> str:
    notes = [comment(note) for note in column.notes]
    declared = call(
        f"{column.variable} = {column.kind}(", [literal(column.name), *column.arguments]
    )
    return "".join(f"{line}\n" for line in [*notes, declared])


def _left_out(survey: Survey) -> str:
    if not survey.left_out:
        return ""
    lines = [comment(f"- {column.name!r} {column.why}") for column in survey.left_out]
    return "".join(
        f"{line}\n" for line in ["", "# Columns of the table that are no fields:", *lines]
    )


def _features(survey: Survey) -> Iterator[tuple[str, str]]:
    """Names of their own: a column `x` with nulls and a column `no_x` want the same."""
    taken: set[str] = set()
    pairs = [pair for column in survey.columns for pair in column.features.items()]
    if ordered := survey.ordered_times:
        first, last = (column.variable for column in ordered)
        imputed = "" if all(column.is_whole for column in ordered) else '.impute("median")'
        pairs.append((f"{first}_to_{last}", f'elapsed({first}, {last}, unit="h"){imputed}'))
    for wanted, code in pairs:
        name = wanted
        while name in taken:
            name += "_"
        taken.add(name)
        yield name, code
