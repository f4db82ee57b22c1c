"""`POST /predict/{model}`: the body a caller sends, and the bytes that go back.

Decoding needs no bundle. Writing is prepared once per bundle: whatever is the same in every answer
of a bundle is bytes already, so that an answer is one join.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from models.bundle import Bundle
from models.errors import RequestError
from models.ladder import Answers
from models.vocabulary import OUTCOMES, SERVED_BY
from server.refusals import BadField, RowError, RowErrors
from server.settings import Settings

Header = tuple[bytes, bytes]

STATUS: Final = {
    "undecodable": 400,
    "unknown_model": 404,
    "unknown_version": 404,
    "method_not_allowed": 405,
    "takes_tensors": 409,
    "too_large": 413,
    "too_many_rows": 413,
    "unsupported_media_type": 415,
    "rejected_record": 422,
    "strict": 422,
    "overloaded": 503,
    "draining": 503,
    "not_loaded": 503,
    "deadline": 504,
    "internal": 500,
}
"""The HTTP status of every error code; `strict` is 503 or 504 where the record is not the cause."""

SEVERITY: Final = {422: 0, 503: 1, 504: 2, 500: 3}
"""A list of which no row was answered has the highest status of its rows' errors."""

RETRY_AFTER_SECONDS: Final = b"1"
JSON: Final[Header] = (b"content-type", b"application/json")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Head:
    """What answers begin with, which many share: as a lane of ASGI needs it, and as bytes.

    Attributes:
        status: of HTTP.
        headers: but for the body's length.
        raw: of HTTP/1.1, up to the number that is the body's length.
    """

    __slots__ = ("headers", "raw", "status")

    def __init__(self, status: int, headers: Sequence[Header]) -> None:
        self.status = status
        self.headers = tuple(headers)
        line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
        self.raw = b"%b%bcontent-length: " % (line, b"".join(map(_line, headers)))


def _line(header: Header) -> bytes:
    return b"%b: %b\r\n" % header


class Answer(NamedTuple):
    """What goes back: everything a lane needs, and nothing it has to look at."""

    head: Head
    body: bytes
    code: str | None = None
    """Of an error body."""

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self.head.status

    @property
    def headers(self) -> list[Header]:
        """All of them."""
        return [*self.head.headers, (b"content-length", b"%d" % len(self.body))]

    def with_headers(self, *more: Header) -> "Answer":
        """The same answer with more headers."""
        return self._replace(head=Head(self.head.status, (*self.head.headers, *more)))


def decode(body: bytes, settings: Settings) -> tuple[list[Any], bool]:
    """The records of a body, and whether it was one record rather than a list.

    An item of a list may be anything here: one that is no object is that row's own error later.

    Raises:
        RequestError: `undecodable` for the whole body, or `too_many_rows`.
    """
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise undecodable(f"the body is not JSON ({error})") from error
    except RecursionError as error:
        raise undecodable("the body is nested too deeply") from error
    if type(value) is dict:
        _check_shape(body, 1, len(value), value, settings)
        return [value], True
    if type(value) is not list:
        raise undecodable("the body is neither an object nor a list")
    if len(value) > settings.max_rows:
        raise RequestError(
            "too_many_rows",
            f"{len(value)} records in one request; at most {settings.max_rows} are taken. "
            "Send them in several requests.",
        )
    keys = [len(record) for record in value if type(record) is dict]
    _check_shape(body, len(keys), max(keys, default=0), value, settings)
    return value, False


def undecodable(what: str) -> RequestError:
    return RequestError(
        "undecodable",
        f"{what}; expected one record (a JSON object) or a list of records. "
        "A missing value is null; NaN and Infinity are not JSON.",
    )


def _check_shape(body: bytes, objects: int, keys: int, value: Any, settings: Settings) -> None:
    if keys > settings.max_keys:
        raise undecodable(f"a record has {keys} keys, at most {settings.max_keys} are taken")
    # n flat records in a list have n + 1 brackets. Only a body that has more than the rest of the
    # depth allows can be too deep, and only such a body is walked. Items that are no objects are
    # no records: they have brackets of their own, or none.
    brackets = body.count(b"{") + body.count(b"[")
    if brackets - objects + 1 > settings.max_depth and _depth(value) > settings.max_depth:
        raise undecodable(f"the body is nested deeper than {settings.max_depth} levels")


def _depth(value: Any) -> int:
    """Levels of nesting, counted level by level."""
    level: list[Any] = [value]
    depth = 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


class AnswerWriter:
    """Writes the answers of one bundle. Immutable; every request of the bundle shares it."""

    __slots__ = ("_bundle", "_heads", "_identity", "_marks", "_names", "_shared")

    def __init__(self, bundle: Bundle) -> None:
        identity: list[Header] = [
            (b"keelmark-model", bundle.name.encode()),
            (b"keelmark-version", bundle.version.encode()),
        ]
        self._bundle = bundle
        self._identity = identity
        self._heads = [
            Head(200, [JSON, *identity, (b"keelmark-served-by", rung.encode())])
            for rung in SERVED_BY
        ]
        self._heads += [Head(200, [JSON, *identity])] * (len(OUTCOMES) - len(SERVED_BY))
        self._shared = b',"model":%b,"version":%b,"request_id":"' % (
            _encode(bundle.name),
            _encode(bundle.version),
        )
        self._names = [_encode(output.name) + b":" for output in bundle.outputs]
        self._marks: dict[tuple[int, str | None], bytes] = {}

    def single(self, answers: Answers, row: int, request_id: bytes, prediction_id: bytes) -> Answer:
        """The answer to a request of one record."""
        pieces = self._row(answers, row)
        pieces += (self._shared, request_id, b'","prediction_id":"', prediction_id, b'"}')
        body = b"".join(pieces)
        return Answer(self._heads[answers.outcome[row]], body)

    def many(
        self,
        answers: Answers,
        rows: range,
        errors: RowErrors,
        request_id: bytes,
        prediction_id: bytes,
    ) -> Answer:
        """The answer to a list, whose records are the `rows` of `answers`."""
        items = [
            row_error(errors[row]) if row in errors else b"".join(self._row(answers, row)) + b"}"
            for row in rows
        ]
        body = b'{%b%b","prediction_id":"%b","predictions":[%b]}' % (
            self._shared[1:],
            request_id,
            prediction_id,
            b",".join(items),
        )
        answered = [answers.outcome[row] for row in rows if row not in errors]
        if answered or not rows:
            return Answer(self._heads[max(answered, default=0)], body)
        worst = max((errors[row] for row in rows), key=lambda error: SEVERITY[error.status])
        head = Head(worst.status, retry_later(worst.status, [JSON, *self._identity]))
        return Answer(head, body, worst.code)

    def refused(self, error: RowError, request_id: bytes) -> Answer:
        """The answer to a single record that nobody answers."""
        answer = error_answer(error.code, error.message, request_id, error.status, error.fields)
        return answer.with_headers(*self._identity)

    def _row(self, answers: Answers, row: int) -> list[bytes]:
        """What an answer says of its row, in pieces, with the first brace and without the last."""
        mark = (answers.outcome[row], answers.decision[row])
        pieces = [
            b'{"prediction":',
            _encode(answers.values[0][row]),
            self._marks.get(mark) or self._mark(mark),
        ]
        if len(self._names) > 1:
            pieces.insert(2, self._outputs(answers, row))
        if row in answers.repaired:
            pieces += (b',"repaired":', _encode(answers.repaired[row]))
        if row in answers.reasons:
            if row in answers.rule:
                pieces += (b',"rule":', _encode(answers.rule[row]))
            pieces += (b',"reasons":', _encode(answers.reasons[row]))
        return pieces

    def _outputs(self, answers: Answers, row: int) -> bytes:
        values = [
            name + _encode(column[row])
            for name, column in zip(self._names, answers.values, strict=True)
        ]
        return b',"outputs":{' + b",".join(values) + b"}"

    def _mark(self, mark: tuple[int, str | None]) -> bytes:
        """`,"decision":…,"served_by":…`: as many as there are decisions and rungs."""
        outcome, decision = mark
        said = b"" if decision is None else b',"decision":' + _encode(decision)
        written = said + b',"served_by":' + _encode(OUTCOMES[outcome])
        self._marks[mark] = written
        return written


def error_answer(
    code: str,
    message: str,
    request_id: bytes,
    status: int | None = None,
    fields: Sequence[BadField] = (),
) -> Answer:
    """The one shape of every error body."""
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "request_id": request_id.decode("ascii"),
    }
    if fields:
        error["fields"] = fields
    body = _encode({"error": error})
    status = status or STATUS[code]
    return Answer(Head(status, retry_later(status, [JSON])), body, code)


def row_error(error: RowError) -> bytes:
    """A list's item for a row without an answer."""
    said: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.fields:
        said["fields"] = error.fields
    return _encode({"error": said})


def retry_later(status: int, headers: list[Header]) -> list[Header]:
    return [*headers, (b"retry-after", RETRY_AFTER_SECONDS)] if status == 503 else headers
