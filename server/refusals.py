"""Why a row gets an error: it is no record, a policy rejects it, or strict says no.

Messages name fields and what was expected; what came is repeated only where the field is not
sensitive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from features.fields import FLAG_NAMES
from models.bundle import Bundle
from models.ladder import MODEL, REJECTED, Answers
from models.outputs import NO_DECISION
from models.vocabulary import OUTCOMES

LONGEST_SHOWN: Final = 64
"""Characters of a bad value that an error repeats."""

KINDS: Final[Mapping[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
"""JSON types by what they are decoded to; any other is a number."""

OURS: Final = frozenset(
    {"output_invalid", "model_error", "overload", "breaker", "selftest", "operator"}
)
"""Reasons that no record is to blame for: a strict caller gets 503, not 422."""

UNPROCESSABLE: Final = 422
FAILED: Final = OUTCOMES.index("failed")

_json = msgspec.json.Encoder().encode


class BadField(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of `error.fields`. `got` is left out where nothing came or nothing may be shown."""

    # No default: row 0 is said too.
    row: int
    field: str | None = None
    trouble: str | None = None
    expected: str | None = None
    got: str | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """What a row's caller is told; `status` is the HTTP status if it were the only row."""

    code: str
    message: str
    status: int
    fields: tuple[BadField, ...] = ()


RowErrors = Mapping[int, RowError]
NO_ERRORS: Final[RowErrors] = {}


def errors_of(
    bundle: Bundle,
    records: Sequence[dict[str, Any]],
    strays: Mapping[int, Any],
    answers: Answers,
    first: int,
    *,
    is_strict: bool,
) -> RowErrors:
    """The rows of a request that get an error, by their place in the run.

    Their outcome becomes rejected (the record is the cause) or failed (we are), and they are no
    decision.

    Args:
        bundle: that answered.
        records: of the request; `{}` at the places of `strays`.
        strays: by row of the request, items that were no objects.
        answers: of a run, in which the request's rows begin at `first`.
        first: see `answers`.
        is_strict: only the model's answer to an unrepaired record will do.
    """
    errors: dict[int, RowError] = {}
    for row, record in enumerate(records):
        place = first + row
        if row in strays:
            errors[place] = _not_an_object(row, strays[row])
        elif place in answers.bad:
            errors[place] = _rejected(bundle, row, record, answers.bad[place])
        elif is_strict and (answers.outcome[place] != MODEL or place in answers.repaired):
            errors[place] = _strict(bundle, row, record, answers, place)
    for place, error in errors.items():
        answers.outcome[place] = REJECTED if error.status == UNPROCESSABLE else FAILED
        answers.decision_code[place] = NO_DECISION
    return errors


def _not_an_object(row: int, item: Any) -> RowError:
    return RowError(
        "rejected_record",
        "this item is not a JSON object; send an object with the model's fields",
        422,
        (BadField(row, expected="object", got=kind_of(item)),),
    )


def _rejected(
    bundle: Bundle, row: int, record: dict[str, Any], troubles: Sequence[tuple[int, int]]
) -> RowError:
    bad = tuple(_bad_field(bundle, row, record, *trouble) for trouble in troubles)
    return RowError(
        "rejected_record",
        f"nobody answers this record: {_names(bad)}. Send what `expected` says, and try again.",
        422,
        bad,
    )


def _strict(
    bundle: Bundle, row: int, record: dict[str, Any], answers: Answers, place: int
) -> RowError:
    """Strict said no: because of the record (422), or because of us (503)."""
    reasons = answers.reasons.get(place, [])
    if ours := [reason for reason in reasons if reason in OURS]:
        return RowError(
            "strict",
            f"the model itself could not answer ({ours[0]}) and Keelmark-Strict asked for nothing "
            "less. Try again, or without the header.",
            503,
        )
    repaired = answers.repaired.get(place, {})
    troubles = [*repaired.items(), *(_field_and_trouble(r) for r in reasons if ":" in r)]
    places = {field.name: index for index, field in enumerate(bundle.fields)}
    bad = tuple(
        _bad_field(bundle, row, record, places[name], FLAG_NAMES.index(trouble))
        for name, trouble in troubles
    )
    return RowError(
        "strict",
        f"not answered as sent by the model: {_names(bad)}. Correct the record, or leave "
        "Keelmark-Strict out to get the marked answer.",
        422,
        bad,
    )


def _field_and_trouble(reason: str) -> tuple[str, str]:
    name, _, trouble = reason.rpartition(":")
    return name, trouble


def _bad_field(bundle: Bundle, row: int, record: dict[str, Any], place: int, flag: int) -> BadField:
    field = bundle.fields[place]
    is_shown = field.sensitive is None and field.name in record
    return BadField(
        row,
        field.name,
        FLAG_NAMES[flag],
        bundle.encoder.describe(place),
        shown(record[field.name]) if is_shown else None,
    )


def _names(bad: Sequence[BadField]) -> str:
    return ", ".join(f"{item.field} is {_words(item.trouble)}" for item in bad)


def _words(trouble: str | None) -> str:
    return (trouble or "bad").replace("_", " ")


def shown(value: Any) -> str:
    """A caller's value as its own JSON text, cut to 64 characters; its type if there is no text."""
    try:
        text = _json(value).decode()
    except Exception:  # noqa: BLE001  (nested too deeply, say: an error about it must not fail)
        return kind_of(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def kind_of(value: Any) -> str:
    """The JSON type of a value: all that is told of what belongs to no field, sensitive or not."""
    return KINDS.get(type(value), "number")
