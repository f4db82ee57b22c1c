"""The connections of the data port: how many, how slow to begin, and what is no HTTP.

uvicorn's httptools protocol does the work; here is what a server that faces strangers needs
besides. It reads a few of uvicorn's own attributes (`app`, `headers`, `cycle`), which the tests
hold it to.
"""

import asyncio
from collections.abc import Iterator, Sized
from http import HTTPStatus
from itertools import chain
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.asgi_lane import App, Receive, Scope, Send
from server.asking import CLOSE
from server.http_counters import OTHER, HttpCounters
from server.prediction_ids import PredictionIds
from server.protocols.predict import Answer, error_answer

NOT_HTTP: Final = "these bytes are no HTTP/1.1 request; send one that is, over a new connection."
HEAD_TOO_LARGE: Final = (
    "the request's address and headers are larger than is taken here; send fewer or shorter ones, "
    "over a new connection."
)
TOO_MANY: Final = "too many connections are open; try again a little later, or keep fewer open."


class Refusals:
    """Answers what does not get as far as the application, and counts it.

    Args:
        http: counters of the port; None where nothing is counted.
    """

    def __init__(self, http: HttpCounters | None) -> None:
        self._http = http
        self._ids = PredictionIds()

    def make(self, code: str, message: str, status: int | None = None) -> Answer:
        """The answer; the connection it goes to is closed after it."""
        answer = error_answer(code, message, self._ids.next(), status)
        if self._http is not None:
            self._http.count(OTHER, answer.status, code)
        return answer.with_headers(CLOSE)

    async def overloaded(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """The application of connections beyond the cap."""
        await self._say(send, self.make("overloaded", TOO_MANY))

    def unreadable(self, *, is_head: bool) -> Answer:
        """What came is no HTTP, or (`is_head`) has more headers than are taken."""
        if not is_head:
            return self.make("undecodable", NOT_HTTP)
        return self.make("too_large", HEAD_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def app(self, *, is_head: bool) -> App:
        """The application of a request behind whose body such bytes come."""

        async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
            await self._say(send, self.unreadable(is_head=is_head))

        return refuse

    async def _say(self, send: Send, answer: Answer) -> None:
        start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})


class PatientFlow(FlowControl):
    """uvicorn's flow control, which reads no further while requests wait for their turn.

    Else every answer would let in as many of them as a read brings, and memory would be the limit.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Reads on if nothing waits; the last to wait asks again when its turn has come."""
        if not self._pipeline:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a cap on connections, and errors in our own shape. Made by `protocol_for`."""

    max_connections: ClassVar[int]
    max_header_bytes: ClassVar[int]
    refusals: ClassVar[Refusals]
    # Of uvicorn: None before there is one, which its own types do not say of all of them.
    parser: Any
    headers: Any
    cycle: Any
    pipeline: Any
    scope: Any

    headed: Any = None
    """The headers of the newest request that has them all: the list itself, made at its begin."""
    _head_bytes = 0
    """Read since the last read that ended a request or brought something of a body."""
    _read_bytes = 0
    """Read up to now."""
    _bytes_before = 0
    """Read before the read that is being parsed."""
    _begun_at = 0
    """Read before the read in which the newest request began."""
    _is_head_too_large = False
    """Then the request is refused, and nothing is parsed any more."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Takes the connection; one too many is told so at its first request, not reset."""
        super().connection_made(transport)
        self.flow = PatientFlow(transport, self.pipeline)
        if len(self.connections) > self.max_connections:
            self.app = self.refusals.overloaded

    def data_received(self, data: bytes) -> None:
        """Parses what came; a request that asks to upgrade is answered over HTTP/1.1."""
        if self._is_head_too_large:
            return
        self._bytes_before = self._read_bytes
        self._read_bytes += len(data)
        self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse_in_order()
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(memoryview(data)[upgrade.args[0] :])
        else:
            # The parser says nothing of a header before its end, and keeps all of it.
            if self._head_bytes > self.max_header_bytes:
                self._is_head_too_large = True
                self._refuse_in_order()

    def on_message_begin(self) -> None:
        """Begins a request, whose first byte has come."""
        self._begun_at = self._bytes_before
        super().on_message_begin()

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (asyncio)
        """Whether to stay open: who sends nothing more may wait for the answer to what came whole.

        That is the last one then; the connection is closed behind it.
        """
        newest = self.cycle
        if newest is None or newest.response_complete or newest.more_body:
            return False
        newest.keep_alive = False
        return True

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body; what is counted from here on are trailers."""
        self._head_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Begins the request, unless it is about to be parsed again without its upgrade.

        Raises:
            ValueError: its head is too large, which ends the parsing.
        """
        self._check_head()
        if not self._is_upgrade():
            if self.expect_100_continue and self.parser.get_http_version() == "1.0":
                self.expect_100_continue = False  # who asks so takes a 100 for the answer
            self.headed = self.headers
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends the request's body; see `on_headers_complete`."""
        self._head_bytes = 0
        if not self._is_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Goes on with what came behind the request; without a timer, see `StateWatch`."""
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused and not self.transport.is_closing():
            self.flow.resume_reading()

    def _check_head(self) -> None:
        # All of it came with those bytes and others: mostly there is nothing to be summed up.
        if self._read_bytes - self._begun_at <= self.max_header_bytes:
            return
        lengths = map(len, chain.from_iterable(self.headers))
        if len(self.url) + sum(lengths) + 4 * len(self.headers) > self.max_header_bytes:
            self._is_head_too_large = True
            raise ValueError(HEAD_TOO_LARGE)

    def _is_upgrade(self) -> bool:
        if not self.parser.should_upgrade():
            return False
        if self.parser.get_method() == b"CONNECT":  # one it stays, also without the header
            raise ValueError(NOT_HTTP)
        return True

    def _parse_without_upgrade(self, rest: memoryview) -> None:
        """Parses a request's headers again, without `Upgrade`, and then what came after them.

        The parser takes what follows an upgrade for another protocol, the request's body too.
        """
        while True:
            try:
                self.parser.feed_data(b"".join(self._head_without_upgrade()))
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse_in_order()
                return
            else:
                return

    def _head_without_upgrade(self) -> Iterator[bytes]:
        version = self.parser.get_http_version().encode()
        yield b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)
        for name, value in self.headers:
            if name != b"upgrade":
                yield b"%b: %b\r\n" % (name, value)
        yield b"\r\n"

    def _refuse_in_order(self) -> None:
        """Answers what cannot be taken, after the answers to the requests before it."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse()
        elif not cycle.more_body:  # the newest request came whole: this is behind it
            cycle.on_response = self._refuse_behind
        elif self.pipeline:  # it is the newest request's body, and that one waits for its turn
            self.pipeline[0] = (cycle, self.refusals.app(is_head=self._is_head_too_large))
        else:
            self._refuse()

    def _refuse_behind(self) -> None:
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._refuse()

    def _refuse(self) -> None:
        """Answers, and closes: where the next request would begin nobody knows."""
        answer = self.refusals.unreadable(is_head=self._is_head_too_large)
        self.transport.write(raw_response(answer))
        self.transport.close()


def protocol_for(
    max_connections: int, max_header_bytes: int, http: HttpCounters | None = None
) -> type[Protocol]:
    """The protocol for one port: uvicorn makes instances and passes nothing of ours to them."""
    own = {
        "max_connections": max_connections,
        "max_header_bytes": max_header_bytes,
        "refusals": Refusals(http),
    }
    return type("Protocol", (Protocol,), own)


def raw_response(answer: Answer) -> bytes:
    """An answer as bytes of HTTP."""
    return b"%b%d\r\n\r\n%b" % (answer.head.raw, len(answer.body), answer.body)
