"""One port's HTTP server: uvicorn's, with a watch on slow peers and an end that loses nothing."""

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Generator
from typing import Any, Final

import uvicorn

from server.asking import CLOSE
from server.connections import Protocol
from server.listening import BACKLOG
from server.settings import Settings
from server.watches import StateWatch, UnreadWatch, is_before_headers, is_between_requests

LINGER_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.02
IDLE_TICKS: Final = 10
"""How many of uvicorn's ticks are between two looks at idle connections."""
COLLECTIONS: Final = (10_000, 20, 1_000)
"""Thresholds of the garbage collector. Nothing on a request's way is a cycle, so what the young
collections find is what is under way; a full one stops the loop for milliseconds."""


class Server(uvicorn.Server):
    """uvicorn's server without signal handlers of its own, with a watch on slow peers."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._watches = (
            StateWatch(settings.header_timeout_seconds, is_before_headers),
            UnreadWatch(settings.body_timeout_seconds),
        )
        self._idle = StateWatch(settings.keep_alive_seconds, is_between_requests)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leaves signals to `run`: two servers share this process."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; see uvicorn."""
        connections, now = self.server_state.connections, time.monotonic()
        for watch in self._watches:
            watch.look(connections, now)
        if counter % IDLE_TICKS == 0:  # those are many, and seconds are near enough
            self._idle.look(connections, now)
        return await super().on_tick(counter)

    def close_after_answers(self) -> None:
        """From now on every answer says `Connection: close` and means it, those under way too.

        uvicorn makes a list of default headers each second from `encoded_headers`, and a request's
        cycle keeps the one that was current when it began: all of them are added to.
        """
        cycles = [getattr(each, "cycle", None) for each in self.server_state.connections]
        under_way = [each for each in cycles if each is not None and not each.response_complete]
        for cycle in under_way:
            cycle.keep_alive = False
        lists = [each.default_headers for each in under_way]
        for headers in (self.config.encoded_headers, self.server_state.default_headers, *lists):
            if CLOSE not in headers:
                headers.append(CLOSE)

    def stop_listening(self) -> None:
        """Takes no new connection; what has been accepted is still answered."""
        for server in self.servers if self.started else ():
            server.close()

    async def until_empty(self, hurry: asyncio.Event) -> None:
        """Waits until every connection has had its answer and closed, for a second at most.

        A connection may have been accepted, and its request be on the way: closing it now would
        lose that. Who says nothing for so long is idle. Looks are counted, not seconds: between two
        of them the loop reads what has come, also where it gets no processor time for a second.
        """
        for _ in range(round(LINGER_SECONDS / LOOK_SECONDS)):
            if not self.server_state.connections or hurry.is_set():
                return
            await asyncio.sleep(LOOK_SECONDS)


def port_config(settings: Settings, app: Any, protocol: type[Protocol]) -> uvicorn.Config:
    """How a port is served.

    Args:
        settings: of the server.
        app: what answers there.
        protocol: of its connections.
    """
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        backlog=BACKLOG,
    )


def settle_memory() -> None:
    """Takes what the models hold out of the collector's sight: a full collection shows in p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)
