"""The connections of the data port: how many, how slow to begin, and what is no HTTP.

uvicorn's httptools protocol does the work; here is what a server that faces strangers needs
besides. It reads a few of uvicorn's own attributes (`app`, `scope`, `cycle`), which the tests hold
it to.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from server.asgi_lane import Receive, Scope, Send
from server.prediction_ids import PredictionIds
from server.protocols.predict import Answer, error_answer

_ids: Final = PredictionIds()


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with a cap on connections and errors in our own shape. Made by `protocol_for`."""

    max_connections: int = 1_024

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Takes the connection; one too many is told so at its first request, rather than reset."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self.app = overloaded

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, and closes: where the next request would begin nobody knows."""
        answer = error_answer("undecodable", NOT_HTTP, _ids.next())
        self.transport.write(raw_response(answer))
        self.transport.close()


NOT_HTTP: Final = "these bytes are no HTTP/1.1 request; send one that is, over a new connection."
TOO_MANY: Final = "too many connections are open; try again a little later, or keep fewer open."


def protocol_for(max_connections: int) -> type[Protocol]:
    """The protocol with its cap in the class: uvicorn passes nothing of ours to instances."""
    return type("Protocol", (Protocol,), {"max_connections": max_connections})


async def overloaded(scope: Scope, receive: Receive, send: Send) -> None:
    """The app of connections beyond the cap: 503, and the connection ends."""
    answer = error_answer("overloaded", TOO_MANY, _ids.next())
    headers = [*answer.headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def raw_response(answer: Answer) -> bytes:
    """An answer as bytes of HTTP that close the connection: there is no request to answer."""
    head = b"".join(b"%b: %b\r\n" % header for header in answer.headers)
    return b"HTTP/1.1 %d Bad Request\r\n%bconnection: close\r\n\r\n%b" % (
        answer.status,
        head,
        answer.body,
    )


class HeaderWatch:
    """Closes connections that do not get their headers together, without a timer a request.

    `look` is called a few times a second. It remembers which connections were before the end of
    their headers, and closes those that still are, in the same request, after the limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Any, tuple[Any, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        """Closes what is overdue at `now`, a monotonic time in seconds."""
        before, self._since = self._since, {}
        for connection in connections:
            if not is_before_headers(connection):
                continue
            # The scope is made at a request's first byte: the same one is the same request.
            scope, since = before.get(connection, (connection.scope, now))
            if scope is not connection.scope:
                since = now
            if now - since >= self._seconds:
                connection.transport.close()
            else:
                self._since[connection] = (connection.scope, since)


def is_before_headers(connection: Any) -> bool:
    """Whether nothing has come yet, or a request's headers have begun and not ended."""
    scope, cycle = connection.scope, connection.cycle
    return scope is None or cycle is None or cycle.scope is not scope
