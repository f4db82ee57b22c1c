"""The thin lane: an ASGI callable before the FastAPI app, which answers predictions itself.

A route of FastAPI costs more than decoding, encoding and the model together; here nothing stands
between the body and the core. Everything else goes to the app, which also documents these paths.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sized
from functools import partial
from time import perf_counter_ns
from typing import Any, Final
from urllib.parse import parse_qs

from models.errors import RequestError
from server.asked import Request
from server.core import Core
from server.http_counters import HttpCounters
from server.iteration import Iteration
from server.protocols.predict import Answer, Header
from server.settings import MOST_DEADLINE_MS
from server.slow_bodies import SlowBodies

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PREDICT: Final = "/predict/"
TEMPLATE: Final = "/predict/{model}"
READ: Final = frozenset(
    {
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"x-request-id",
        b"traceparent",
        b"keelmark-strict",
        b"keelmark-deadline-ms",
        b"transfer-encoding",
    }
)
"""Headers that mean something to the lane; the others are passed over."""

CLOSE: Final[Header] = (b"connection", b"close")

CODE: Final = "keelmark.code"
"""Scope entry by which the app says the `error.code` of its answer, to be counted."""

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_NUMBER: Final = re.compile(rb"[1-9][0-9]{0,4}").fullmatch
_MEDIA_TYPE: Final = re.compile(
    rb"application/(?:[a-z0-9.+-]+\+)?json(?:\s*;\s*charset\s*=\s*\"?utf-?8\"?)?\s*", re.IGNORECASE
).fullmatch


class Asking:
    """What the headers of a request say."""

    __slots__ = (
        "content_encoding",
        "deadline_ns",
        "declared_bytes",
        "is_chunked",
        "is_strict",
        "media_type",
        "request_id",
        "traceparent",
    )

    def __init__(self) -> None:
        self.content_encoding = b"identity"
        self.declared_bytes = 0
        self.deadline_ns: int | None = None
        self.is_chunked = False
        self.is_strict = False
        self.media_type: bytes | None = None
        self.request_id: bytes | None = None
        self.traceparent: bytes | None = None


class DisconnectedError(Exception):
    """The caller has gone before its body was whole; there is nobody to answer."""


class Lane:
    """Answers `POST /predict/{model}`, and hands every other request to `app`.

    One instance serves one event loop.

    Attributes:
        under_way: the requests that its server has read and not answered, if the server tells;
            one that is alone is then settled at once, without waiting for the loop's turn.
    """

    def __init__(self, app: App, core: Core, http: HttpCounters) -> None:
        self.app = app
        self.core = core
        self.under_way: Sized | None = None
        self._http = http
        self._iteration = Iteration(core)
        self._max_body_bytes = core.settings.max_body_bytes
        self._slow_bodies = SlowBodies(core.settings.body_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].startswith(PREDICT):
            await self._predict(scope, receive, send)
        else:
            await self._elsewhere(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_ns = perf_counter_ns()
        asking = read_headers(scope["headers"])
        extra: list[Header] = []
        body: bytes | None = None
        try:
            check(scope["method"], asking)
            body = await self._read_body(asking, receive)
            answer = await self._answer(scope, asking, body, began_ns)
        except RequestError as error:
            answer = self.core.refuse(error, asking.request_id)
            extra = headers_for(error, asking, is_read=body is not None)
        except DisconnectedError:
            return
        except Exception as error:  # noqa: BLE001  (a defect of ours, before its group had one)
            answer = self.core.defect(error, self._request(scope, asking, b"", began_ns))
            extra = [CLOSE] if body is None else []
        if asking.traceparent is not None:
            extra = [*extra, (b"traceparent", asking.traceparent)]
        headers = [*answer.headers, *extra] if extra else answer.headers
        self._http.count(TEMPLATE, answer.status, answer.code)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, asking: Asking, body: bytes, began_ns: int) -> Answer:
        """The answer to a whole request: now if it is alone, else with this iteration's flush."""
        request = self._request(scope, asking, body, began_ns)
        if query := scope["query_string"]:
            request.version = version_in(query)
        if self.under_way is not None and len(self.under_way) == 1:
            # Whatever the same poll read is under way already: nobody to share a run with.
            answer = self._answer_alone(request)
            return answer if isinstance(answer, Answer) else await answer
        return await self._answer_with_others(request)

    @staticmethod
    def _request(scope: Scope, asking: Asking, body: bytes, began_ns: int) -> Request:
        return Request(
            scope["path"][len(PREDICT) :],
            body,
            began_ns,
            None,
            asking.request_id,
            asking.traceparent,
            asking.is_strict,
            asking.deadline_ns,
        )

    def _answer_alone(self, request: Request) -> Answer | asyncio.Future[Answer]:
        """The answer, or who will have it when the runner's thread is done with the request."""
        answers: list[Answer] = []
        asked = self.core.arrive(request, answers.append)
        self.core.settle([asked])
        if answers:
            return answers[0]
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        asked.hand_over = partial(hand_over, answered)
        return answered

    def _answer_with_others(self, request: Request) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Answer] = loop.create_future()
        self._iteration.add(self.core.arrive(request, partial(hand_over, answered)), loop)
        return answered

    async def _read_body(self, asking: Asking, receive: Receive) -> bytes:
        """The whole body; memory never holds more of it than the limit and one read."""
        if asking.declared_bytes > self._max_body_bytes:
            raise self._too_large()
        task = asyncio.current_task()
        assert task is not None, "ASGI servers run an application in a task"
        self._slow_bodies.begin(task)
        try:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                return self._checked(message.get("body", b""))
            return await self._read_rest(message, receive)
        except asyncio.CancelledError:
            if self._slow_bodies.took_too_long(task):
                raise RequestError(
                    "undecodable",
                    "the body did not arrive whole in time; send it again over a new connection.",
                ) from None
            raise
        finally:
            self._slow_bodies.end(task)

    async def _read_rest(self, message: Message, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            body += message.get("body", b"")
            self._checked(body)
            if not message.get("more_body", False):
                return bytes(body)
            message = await receive()

    def _checked(self, body: bytes | bytearray) -> bytes:
        if len(body) > self._max_body_bytes:
            raise self._too_large()
        return body  # pyright: ignore[reportReturnType]  (a bytearray is only looked at)

    def _too_large(self) -> RequestError:
        return RequestError(
            "too_large",
            f"the body has more than {self._max_body_bytes} bytes, the most that is taken. Send "
            f"fewer "
            "records in a request.",
        )

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request to the app, and counts what comes of it."""
        closing = [CLOSE] if has_body(read_headers(scope["headers"])) else []

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._http.count(scope["path"], message["status"], scope.get(CODE))
                message["headers"] = [*message.get("headers", ()), *closing]
            await send(message)

        await self.app(scope, receive, counting)


def hand_over(answered: asyncio.Future[Answer], answer: Answer) -> None:
    """Wakes the request's task, unless it was cancelled and nobody waits for the answer."""
    if not answered.done():
        answered.set_result(answer)


def read_headers(headers: Iterable[Header]) -> Asking:
    """What the headers say, in one pass."""
    asking = Asking()
    for name, value in headers:
        if name in READ:
            if name == b"content-type":
                asking.media_type = value
            elif name == b"content-length":
                asking.declared_bytes = int(value) if value.isdigit() else 0
            elif name == b"x-request-id":
                asking.request_id = value if _REQUEST_ID(value) else None
            elif name == b"traceparent":
                asking.traceparent = value if _TRACEPARENT(value) else None
            elif name == b"keelmark-strict":
                asking.is_strict = value not in (b"", b"0", b"false")
            elif name == b"transfer-encoding":
                asking.is_chunked = True
            elif name == b"keelmark-deadline-ms":
                asking.deadline_ns = deadline_in(value)
            else:
                asking.content_encoding = value.lower()
    return asking


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
            f"Keelmark-Deadline-Ms is no whole number from 1 to {MOST_DEADLINE_MS}; send "
            "milliseconds from the request's headers to its answer, or leave it out.",
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
