"""The httptools lane: predictions answered where they are parsed, without ASGI between.

A scope, a cycle, a task and an event cost as much as decoding, encoding and the model together. A
`POST /predict/{model}` that comes as almost all do, behind no other request of its connection, is
put to the core as soon as its last byte has come, and its answer is written by one call. Whatever
is unusual goes uvicorn's own way, and so to the ASGI lane: both give the same answers.
"""

from functools import lru_cache
from time import perf_counter_ns
from typing import Any, ClassVar, Final

from models.errors import RequestError
from server.asgi_lane import BEGAN, PREDICT, TEMPLATE, TOO_SLOW, Lane
from server.asked import Request
from server.asking import CLOSE, Asking, check, read_headers, version_in
from server.connections import Protocol, raw_response
from server.protocols.predict import Answer, Header

PATH: Final = PREDICT.encode()
NONE: Final = Request("", b"", 0)
"""What a connection has that is asked nothing."""


class _Nobody:
    """Whom uvicorn wakes when a request's caller has gone: here nobody sleeps."""

    def set(self) -> None:
        """Nothing is to be done."""


class Quick:
    """A connection's request on this lane. It stands where uvicorn keeps a request's cycle.

    One object for all requests of a connection, one after the other: a request is on this lane only
    if all before it are answered.

    Attributes:
        response_complete, keep_alive, disconnected, more_body, on_response, message_event,
            default_headers: as uvicorn and `Protocol` read and write them of a cycle.
        request: with its body as far as it has come.
        is_waited_for: its body did not come whole with its headers.
    """

    __slots__ = (
        "_body",
        "default_headers",
        "disconnected",
        "is_waited_for",
        "keep_alive",
        "more_body",
        "on_response",
        "request",
        "response_complete",
    )
    message_event: Final = _Nobody()

    def __init__(self) -> None:
        self.response_complete = True
        self.keep_alive = True
        self.disconnected = False
        self.more_body = False
        self.on_response: Any = None
        self.default_headers: list[Header] = []
        self.request = NONE
        self.is_waited_for = False
        self._body: bytearray | None = None

    def begin(self, request: Request) -> None:
        """The headers have come."""
        self.request = request
        self.more_body = True
        self.response_complete = False

    def take(self, body: bytes) -> None:
        """A piece of the body has come, the first mostly being all of it."""
        if self._body is not None:
            self._body += body
        elif self.request.body:
            self._body = bytearray(self.request.body) + body
        else:
            self.request.body = body

    def end(self) -> Request:
        """The whole request."""
        self.more_body = False
        if self._body is not None:
            self.request.body, self._body = bytes(self._body), None
        return self.request


class QuickProtocol(Protocol):
    """HTTP/1.1 with predictions on the httptools lane. Made by `quick`."""

    lane: ClassVar[Lane]
    _began_ns = 0
    _is_quick = False
    """Whether requests may take this lane at all: those beyond the cap of connections do not."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._quick = Quick()

    def connection_made(self, transport: Any) -> None:
        """Takes the connection; one too many is refused on uvicorn's way."""
        super().connection_made(transport)
        self._is_quick = self.app is self.config.loaded_app and self.limit_concurrency is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Whose body has not come gets no answer; who only has gone is counted all the same."""
        if self._quick.is_waited_for:
            self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what came; who then waits for the rest of a body does not wait for ever."""
        super().data_received(data)
        quick = self._quick
        if quick.more_body and not quick.is_waited_for and self.cycle is quick:
            quick.is_waited_for = True
            self.lane.slow_bodies.begin(self, self._give_up, self.loop)

    # what the parser says

    def on_message_begin(self) -> None:
        """Begins a request; uvicorn hears of it if it turns out to be uvicorn's."""
        self._begun_at = self._bytes_before
        self._began_ns = perf_counter_ns()
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Takes the request, or lets it go uvicorn's way."""
        if self._takes():
            self.headed = self.headers
            self.cycle = self._quick
        else:
            self._pass_on()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        quick = self._quick
        if self.cycle is not quick:
            super().on_body(body)
        elif quick.more_body:
            self._head_bytes = 0
            quick.take(body)

    def on_message_complete(self) -> None:
        """Puts a whole request to the core: at once where nobody can share its run."""
        quick = self._quick
        if self.cycle is not quick:
            super().on_message_complete()
        elif quick.more_body:
            self._head_bytes = 0
            if quick.is_waited_for:
                self._end_waiting()
            self._ask(quick.end())

    # the request

    def _takes(self) -> bool:
        """Whether the request whose headers have come is as almost all are."""
        parser, cycle = self.parser, self.cycle
        if not (
            self._is_quick
            and (cycle is None or cycle.response_complete)
            and parser.should_keep_alive()
            and parser.get_method() == b"POST"
            and not self.server_state.default_headers
            and not self.flow.write_paused
            and self._read_bytes - self._begun_at <= self.max_header_bytes
        ):
            return False
        wanted = model_in(self.url)
        if wanted is None:
            return False
        asking = read_headers(self.headers)
        if not self._is_usual(asking):
            return False
        model, version = wanted
        request = Request(
            model,
            b"",
            self._began_ns,
            version,
            asking.request_id,
            asking.traceparent,
            asking.is_strict,
            asking.deadline_ns,
            asking.key,
        )
        self._quick.begin(request)
        return True

    def _is_usual(self, asking: Asking) -> bool:
        """Whether nothing in the headers asks for more than an answer, or for a refusal."""
        if asking.is_chunked or asking.expects or asking.declared_bytes > self.lane.max_body_bytes:
            return False
        if asking.says_connection and (
            self.parser.get_http_version() != "1.1" or self.parser.should_upgrade()
        ):
            return False
        try:
            check("POST", asking)
        except RequestError:
            return False
        return True

    def _pass_on(self) -> None:
        """Tells uvicorn what it has not heard."""
        url, headers, begun_at = self.url, tuple(self.headers), self._begun_at
        super().on_message_begin()
        self.url, self._begun_at = url, begun_at
        for name, value in headers:
            super().on_header(name, value)
        self.scope[BEGAN] = self._began_ns

    def _ask(self, request: Request) -> None:
        core = self.lane.core
        try:
            asked = core.arrive(request, self._hand_over)
        except RequestError as error:
            self._hand_over(core.refuse(error, request.request_id))
        except Exception as error:  # noqa: BLE001  (a defect of ours costs its request only)
            self._hand_over(core.defect(error, request))
        else:
            if len(self.connections) == 1:
                core.settle([asked])
            else:
                self.lane.iteration.add(asked, self.loop)

    def _hand_over(self, answer: Answer) -> None:
        """Counts the answer and writes it, if anybody is there to read it."""
        self.lane.http.count(TEMPLATE, answer.head.status, answer.code)
        quick, transport = self._quick, self.transport
        if not transport.is_closing():
            if quick.request.traceparent or self.server_state.default_headers:
                answer = self._with_more_headers(answer)
            if quick.keep_alive:
                transport.write(raw_response(answer))
            else:
                transport.write(raw_response(closing(answer)))
                transport.close()
        quick.response_complete = True
        quick.request = NONE  # idle connections do not keep bodies
        if quick.on_response is None:
            self.on_response_complete()
        else:
            quick.on_response()

    def _with_more_headers(self, answer: Answer) -> Answer:
        """With what the server says in every answer, and what the caller wants to see again."""
        more = list(self.server_state.default_headers)
        if CLOSE in more:
            self._quick.keep_alive = False
        if self._quick.request.traceparent:
            more.append((b"traceparent", self._quick.request.traceparent))
        return answer.with_headers(*more)

    # bodies that do not come

    def _end_waiting(self) -> None:
        self._quick.is_waited_for = False
        self.lane.slow_bodies.end(self)

    def _give_up(self) -> None:
        """Refuses a request whose body takes too long."""
        quick = self._quick
        quick.is_waited_for = quick.more_body = quick.keep_alive = False
        error = RequestError("undecodable", TOO_SLOW)
        self._hand_over(self.lane.core.refuse(error, quick.request.request_id))


@lru_cache(maxsize=256)
def model_in(url: bytes) -> tuple[str, str | None] | None:
    """The model and the version that an address names; None if it is none of the usual ones."""
    path, _, query = url.partition(b"?")
    if not (path.startswith(PATH) and path.isascii()) or b"%" in path or b"#" in url:
        return None
    return path[len(PATH) :].decode(), version_in(query) if query else None


def closing(answer: Answer) -> Answer:
    """The answer, which is the connection's last, saying so."""
    return answer if CLOSE in answer.head.headers else answer.with_headers(CLOSE)


def quick(protocol: type[Protocol], lane: Lane) -> type[QuickProtocol]:
    """A port's protocol, with predictions on the httptools lane."""
    return type("QuickProtocol", (QuickProtocol, protocol), {"lane": lane})
