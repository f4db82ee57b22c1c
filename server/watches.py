"""Peers that keep a connection and do not use it: each watch looks at all of them now and then.

No timer a request: `look` is called a few times a second, and remembers since when it has seen a
connection in the same state.
"""

from collections.abc import Callable, Iterable
from typing import Any


class StateWatch:
    """Closes connections that have been in one state, within one request, for too long.

    Args:
        seconds: the limit.
        is_in_state: of a connection.
    """

    def __init__(self, seconds: float, is_in_state: Callable[[Any], bool]) -> None:
        self._seconds = seconds
        self._is_in_state = is_in_state
        self._since: dict[Any, tuple[Any, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        """Closes what is overdue at `now`, a monotonic time in seconds."""
        before, self._since = self._since, {}
        for connection in connections:
            if not self._is_in_state(connection):
                continue
            # The list is made at a request's first byte: the same one is the same request.
            headers = connection.headers
            seen, since = before.get(connection, (headers, now))
            if seen is not headers:
                since = now
            if now - since >= self._seconds:
                connection.transport.close()
            else:
                self._since[connection] = (headers, since)


class UnreadWatch:
    """Cuts connections whose peer takes nothing of what was written to it.

    Closing them does not help: a transport closes when it has written all.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Any, tuple[int, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        """Cuts those whose unwritten bytes have not become fewer for so long."""
        before, self._since = self._since, {}
        for connection in list(connections):
            unwritten = connection.transport.get_write_buffer_size()
            if not unwritten:
                continue
            least, since = before.get(connection, (unwritten, now))
            if unwritten < least:
                least, since = unwritten, now
            if now - since >= self._seconds:
                connection.transport.abort()
            else:
                self._since[connection] = (least, since)


def is_before_headers(connection: Any) -> bool:
    """Whether nothing has come yet, or a request's headers have begun and not ended."""
    headers = connection.headers
    return headers is None or connection.headed is not headers


def is_between_requests(connection: Any) -> bool:
    """Whether every request that has begun is answered."""
    cycle = connection.cycle
    return connection.headed is connection.headers and (cycle is None or cycle.response_complete)
