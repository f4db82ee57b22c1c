"""What the headers of a prediction's request say, and what is refused for them: for every lane."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import parse_qs

from models.errors import RequestError
from server.protocols.predict import Header
from server.settings import MOST_DEADLINE_MS

CLOSE: Final[Header] = (b"connection", b"close")

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,4}").fullmatch
_MEDIA_TYPE: Final = re.compile(
    rb"application/(?:[a-z0-9.+-]+\+)?json(?:\s*;\s*charset\s*=\s*\"?utf-?8\"?)?\s*", re.IGNORECASE
).fullmatch


class Asking:
    """What the headers of a request say.

    Attributes:
        says_connection: there is a `Connection` header, whatever it says.
        expects: there is an `Expect` header, whatever it says.
    """

    __slots__ = (
        "content_encoding",
        "deadline_ns",
        "declared_bytes",
        "expects",
        "is_chunked",
        "is_strict",
        "key",
        "media_type",
        "request_id",
        "says_connection",
        "traceparent",
    )

    def __init__(self) -> None:
        self.content_encoding = b"identity"
        self.declared_bytes = 0
        self.deadline_ns: int | None = None
        self.expects = False
        self.is_chunked = False
        self.is_strict = False
        self.key: bytes | None = None
        self.media_type: bytes | None = None
        self.request_id: bytes | None = None
        self.says_connection = False
        self.traceparent: bytes | None = None


def read_headers(headers: Iterable[Header]) -> Asking:
    """What the headers say, in one pass; their names are in lower case."""
    asking = Asking()
    for name, value in headers:
        take = READ.get(name)
        if take is not None:
            take(asking, value)
    return asking


def _take_content_encoding(asking: Asking, value: bytes) -> None:
    asking.content_encoding = value.lower()


def _take_content_length(asking: Asking, value: bytes) -> None:
    asking.declared_bytes = int(value) if value.isdigit() else 0


def _take_content_type(asking: Asking, value: bytes) -> None:
    asking.media_type = value


def _take_connection(asking: Asking, _: bytes) -> None:
    asking.says_connection = True


def _take_deadline(asking: Asking, value: bytes) -> None:
    asking.deadline_ns = deadline_in(value)


def _take_expect(asking: Asking, _: bytes) -> None:
    asking.expects = True


def _take_key(asking: Asking, value: bytes) -> None:
    asking.key = value or None


def _take_request_id(asking: Asking, value: bytes) -> None:
    asking.request_id = value if _REQUEST_ID(value) else None


def _take_strict(asking: Asking, value: bytes) -> None:
    asking.is_strict = value not in (b"", b"0", b"false")


def _take_traceparent(asking: Asking, value: bytes) -> None:
    asking.traceparent = value if _TRACEPARENT(value) else None


def _take_transfer_encoding(asking: Asking, _: bytes) -> None:
    asking.is_chunked = True


READ: Final[Mapping[bytes, Callable[[Asking, bytes], None]]] = {
    b"connection": _take_connection,
    b"content-encoding": _take_content_encoding,
    b"content-length": _take_content_length,
    b"content-type": _take_content_type,
    b"expect": _take_expect,
    b"keelmark-deadline-ms": _take_deadline,
    b"keelmark-key": _take_key,
    b"keelmark-strict": _take_strict,
    b"traceparent": _take_traceparent,
    b"transfer-encoding": _take_transfer_encoding,
    b"x-request-id": _take_request_id,
}
"""Headers that mean something to a lane; the others are passed over."""


def deadline_in(value: bytes) -> int:
    """Nanoseconds of a deadline in milliseconds; 0 for one that is none."""
    ms = int(value) if _NUMBER(value) else 0
    return ms * 1_000_000 if ms <= MOST_DEADLINE_MS else 0


def check(method: str, asking: Asking) -> None:
    """Refuses what is no JSON sent by POST, and a deadline that is none."""
    if method != "POST":
        raise RequestError(
            "method_not_allowed", f"{method:.20} is not answered here; send the record with POST."
        )
    if asking.deadline_ns == 0:
        raise RequestError(
            "undecodable",
            f"Keelmark-Deadline-Ms is no whole number from 1 to {MOST_DEADLINE_MS}; send how many "
            "milliseconds the request has until its answer, or leave it out.",
        )
    media_type = asking.media_type
    if media_type != b"application/json" and media_type is not None and not _MEDIA_TYPE(media_type):
        raise RequestError(
            "unsupported_media_type",
            f"{media_type.decode('latin-1')!r:.90} is not read here; send JSON in UTF-8 with "
            "Content-Type: application/json.",
        )
    if asking.content_encoding != b"identity":
        raise RequestError(
            "unsupported_media_type", "compressed bodies are not read here; send it as it is."
        )


def headers_for(error: RequestError, asking: Asking, *, is_read: bool) -> list[Header]:
    """Headers that an error needs beside its body.

    Where the body was not read, the connection ends: nobody waits for what may still come of it.
    """
    allow = [(b"allow", b"POST")] if error.code == "method_not_allowed" else []
    return [*allow, CLOSE] if has_body(asking) and not is_read else allow


def has_body(asking: Asking) -> bool:
    """Whether the headers announce a body."""
    return asking.declared_bytes > 0 or asking.is_chunked


def version_in(query: bytes) -> str | None:
    """`version` of a query string, the last one if there are several."""
    versions = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("version")
    return versions[-1] if versions else None
