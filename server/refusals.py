"""Why a row gets an error: it is no record, a policy or a check rejects it, or strict says no.

Messages name fields and checks and what was expected; what came is repeated only where the field is
not sensitive.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

OURS: Final[Mapping[str, str]] = {
    "output_invalid": "its answer was not a valid one",
    "model_error": "it failed",
    "deadline": "it would not have been in time",
    "overload": "too many requests wait for it",
    "breaker": "it has failed too often and is left alone for a while",
    "selftest": "it does not pass its own test",
    "operator": "an operator has taken it out of service",
}
"""Reasons that no record is to blame for, in words: a strict caller gets 503 or 504, not 422."""

UNPROCESSABLE, UNAVAILABLE, LATE = 422, 503, 504
FAILED: Final = OUTCOMES.index("failed")

_json = msgspec.json.Encoder().encode


class BadField(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of `error.fields`: a field, or a check across fields, of a row.

    `got` is left out where nothing came or nothing may be shown.
    """

    # No default: row 0 is said too.
    row: int
    field: str | None = None
    check: str | None = None
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
            errors[place] = _rejected(bundle, row, record, answers, place)
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
        UNPROCESSABLE,
        (BadField(row, expected="object", got=kind_of(item)),),
    )


def _rejected(
    bundle: Bundle, row: int, record: dict[str, Any], answers: Answers, place: int
) -> RowError:
    bad = (
        *(_bad_field(bundle, row, record, *trouble) for trouble in answers.bad[place]),
        *_bad_checks(bundle, row, answers.bad_checks.get(place, ())),
    )
    return RowError(
        "rejected_record",
        f"nobody answers this record: {_names(bad)}. Send what `expected` says, and try again.",
        UNPROCESSABLE,
        bad,
    )


def _strict(
    bundle: Bundle, row: int, record: dict[str, Any], answers: Answers, place: int
) -> RowError:
    """Strict said no: because of the record (422), or because of us (503, or 504 if too late).

    A record that was repaired, or would have fallen by itself, is a cause whatever else happened:
    sent again, it gets no further. Reasons of the record come first, as rows are judged.
    """
    why = next(iter(answers.reasons.get(place, ())), "")
    if why in OURS and place not in answers.repaired:
        return RowError(
            "strict",
            f"the model itself did not answer ({why}: {OURS[why]}) and Keelmark-Strict asked for "
            "nothing less. Try again, or without the header.",
            LATE if why == "deadline" else UNAVAILABLE,
        )
    bad = (
        *_troubled(bundle, row, record, answers, place),
        *_bad_checks(bundle, row, answers.failed_checks.get(place, ())),
    )
    return RowError(
        "strict",
        f"not answered as sent by the model: {_names(bad)}. Correct the record, or leave "
        "Keelmark-Strict out to get the marked answer.",
        UNPROCESSABLE,
        bad,
    )


def _troubled(
    bundle: Bundle, row: int, record: dict[str, Any], answers: Answers, place: int
) -> Iterator[BadField]:
    """Fields that were repaired, or that sent the row to a lower rung."""
    places = {field.name: index for index, field in enumerate(bundle.fields)}
    reasons = (reason.rpartition(":") for reason in answers.reasons.get(place, ()))
    fallen = [(name, trouble) for name, _, trouble in reasons if name in places]
    for name, trouble in (*answers.repaired.get(place, {}).items(), *fallen):
        # A field may be called `check`: what follows it then need not be a trouble.
        if trouble in FLAG_NAMES:
            yield _bad_field(bundle, row, record, places[name], FLAG_NAMES.index(trouble))


def _bad_checks(bundle: Bundle, row: int, names: Iterable[str]) -> Iterator[BadField]:
    texts = {check.name: check.text for check in bundle.fallback.checks}
    return (BadField(row, check=name, expected=texts[name]) for name in names)


def _bad_field(bundle: Bundle, row: int, record: dict[str, Any], place: int, flag: int) -> BadField:
    field = bundle.fields[place]
    is_shown = field.sensitive is None and field.name in record
    return BadField(
        row,
        field.name,
        None,
        FLAG_NAMES[flag],
        bundle.encoder.describe(place),
        shown(record[field.name]) if is_shown else None,
    )


def _names(bad: Sequence[BadField]) -> str:
    return ", ".join(map(_said, bad))


def _said(bad: BadField) -> str:
    if bad.check is not None:
        return f"check {bad.check} does not hold"
    return f"{bad.field} is {(bad.trouble or 'bad').replace('_', ' ')}"


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
