"""The httptools lane: predictions answered where they are parsed, without ASGI between.

A scope, a cycle, a task and an event cost as much as decoding, encoding and the model together. A
`POST /predict/{model}` that comes as almost all do, behind no other request of its connection, is
put to the core as soon as its last byte has come, and its answer is written by one call. Whatever
is unusual goes uvicorn's own way, and so to the ASGI lane: both give the same answers.
"""

from time import perf_counter_ns
from typing import Any, ClassVar, Final

from models.errors import RequestError
from server.asgi_lane import BEGAN, PREDICT, TEMPLATE, TOO_SLOW, Lane
from server.asked import Request
from server.asking import CLOSE, Asking, check, read_headers, version_in
from server.connections import Protocol, raw_response
from server.protocols.predict import Answer, Header

PATH: Final = PREDICT.encode()


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
        asking: what its headers say.
        model: that it is for.
        version: that it wants.
        began_ns: `perf_counter_ns` at its first byte.
        body: as far as it has come.
        is_waited_for: its body did not come whole with its headers.
    """

    __slots__ = (
        "asking",
        "began_ns",
        "body",
        "default_headers",
        "disconnected",
        "is_waited_for",
        "keep_alive",
        "model",
        "more_body",
        "on_response",
        "response_complete",
        "version",
    )
    message_event: Final = _Nobody()

    def __init__(self) -> None:
        self.response_complete = True
        self.keep_alive = True
        self.disconnected = False
        self.more_body = False
        self.on_response: Any = None
        self.default_headers: list[Header] = []
        self.asking = Asking()
        self.model = ""
        self.version: str | None = None
        self.began_ns = 0
        self.body: bytes | bytearray = b""
        self.is_waited_for = False

    def begin(self, model: str, version: str | None, asking: Asking, began_ns: int) -> None:
        """The headers have come."""
        self.model = model
        self.version = version
        self.asking = asking
        self.began_ns = began_ns
        self.body = b""
        self.more_body = True
        self.response_complete = False

    def take(self, body: bytes) -> None:
        """A piece of the body has come."""
        if not self.body:
            self.body = body
        elif isinstance(self.body, bytes):
            self.body = bytearray(self.body) + body
        else:
            self.body += body

    def request(self) -> Request:
        """All of it, for the core."""
        asking = self.asking
        return Request(
            self.model,
            bytes(self.body),
            self.began_ns,
            self.version,
            asking.request_id,
            asking.traceparent,
            asking.is_strict,
            asking.deadline_ns,
        )


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
            quick.more_body = False
            if quick.is_waited_for:
                self._end_waiting()
            self._ask()

    # the request

    def _takes(self) -> bool:
        """Whether the request whose headers have come is as almost all are."""
        url, parser, cycle = self.url, self.parser, self.cycle
        if not (
            self._is_quick
            and url.startswith(PATH)
            and (cycle is None or cycle.response_complete)
            and parser.should_keep_alive()
            and parser.get_method() == b"POST"
            and not self.server_state.default_headers
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and self._read_bytes - self._begun_at <= self.max_header_bytes
        ):
            return False
        asking = read_headers(self.headers)
        path, _, query = url.partition(b"?")
        if not (self._is_usual(asking) and path.isascii() and b"%" not in path and b"#" not in url):
            return False
        version = version_in(query) if query else None
        self._quick.begin(path[len(PATH) :].decode(), version, asking, self._began_ns)
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

    def _ask(self) -> None:
        request, core = self._quick.request(), self.lane.core
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
        quick = self._quick
        if not self.transport.is_closing():
            self.transport.write(self._written(answer))
            if not quick.keep_alive:
                self.transport.close()
        quick.response_complete = True
        behind = quick.on_response
        if behind is None:
            self.on_response_complete()
        else:
            behind()

    def _written(self, answer: Answer) -> bytes:
        quick, default_headers = self._quick, self.server_state.default_headers
        traceparent = quick.asking.traceparent
        if traceparent is None and quick.keep_alive and not default_headers:
            return raw_response(answer)
        more = list(default_headers)
        if traceparent is not None:
            more.append((b"traceparent", traceparent))
        if CLOSE in more:
            quick.keep_alive = False
        elif not quick.keep_alive and CLOSE not in answer.head.headers:
            more.append(CLOSE)
        return raw_response(answer.with_headers(*more))

    # bodies that do not come

    def _end_waiting(self) -> None:
        self._quick.is_waited_for = False
        self.lane.slow_bodies.end(self)

    def _give_up(self) -> None:
        """Refuses a request whose body takes too long."""
        quick = self._quick
        quick.is_waited_for = quick.more_body = quick.keep_alive = False
        error = RequestError("undecodable", TOO_SLOW)
        self._hand_over(self.lane.core.refuse(error, quick.asking.request_id))


def quick(protocol: type[Protocol], lane: Lane) -> type[QuickProtocol]:
    """A port's protocol, with predictions on the httptools lane."""
    return type("QuickProtocol", (QuickProtocol, protocol), {"lane": lane})
