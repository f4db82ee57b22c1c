"""The rows of a run that are refused, in the requests that brought them."""

from typing import Any

from models.ladder import Answers
from server.asked import Asked
from server.refusals import NO_ERRORS, RowErrors, errors_of


def find_errors(group: list[Asked], answers: Answers) -> RowErrors:
    """The rows that get an error instead of an answer, by their place in the run; mostly none."""
    errors: dict[int, Any] = {}
    first = 0
    for asked in group:
        if asked.strays or answers.bad or asked.request.is_strict:
            errors |= errors_of(
                asked.route.bundle,
                asked.records,
                asked.strays,
                answers,
                first,
                is_strict=asked.request.is_strict,
            )
        first += len(asked.records)
    return errors or NO_ERRORS
