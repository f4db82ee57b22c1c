"""Which lane predictions take, and whether the installed uvicorn is one whose insides we know.

The httptools lane stands in the middle of uvicorn's protocol. What it relies on is tried out before
it is used, on connections without a network; with a uvicorn that does otherwise everything is
answered on the ASGI lane.
"""

from collections.abc import Coroutine
from typing import Any, Final

import uvicorn
from uvicorn.server import ServerState

from server.asgi_lane import BEGAN, Lane
from server.asked import Request
from server.connections import Protocol, protocol_for
from server.core import Core
from server.http_counters import HttpCounters
from server.httptools_lane import QuickProtocol, quick
from server.logs import logger
from server.protocols.predict import Answer, error_answer
from server.settings import Settings, SettingsError

HEAD: Final = b"POST /predict/m HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
BODY: Final = b"{}"
ELSEWHERE: Final = b"GET /models?a=b HTTP/1.1\r\nHost: c\r\n\r\n"


class UnlikeError(Exception):
    """The installed uvicorn does otherwise than the httptools lane relies on."""


def with_lane(settings: Settings, lane: Lane, protocol: type[Protocol]) -> type[Protocol]:
    """The protocol of the data port: with the httptools lane, if that is wanted and possible.

    Raises:
        SettingsError: it is asked for, and not possible.
    """
    if settings.lane == "asgi":
        return protocol
    try:
        try_out()
    except Exception as error:
        why = str(error) if isinstance(error, UnlikeError) else repr(error)
        if settings.lane == "httptools":
            raise SettingsError(
                f"--lane httptools does not go with uvicorn {uvicorn.__version__} ({why}); install "
                "another uvicorn, or leave the setting out: the ASGI lane then answers"
            ) from error
        logger("lanes").warning("asgi_lane_taken", uvicorn=uvicorn.__version__, why=why)
        return protocol
    return quick(protocol, lane)


def try_out() -> None:
    """Takes requests through uvicorn's protocol, as the httptools lane does.

    Raises:
        Exception: of whatever kind, with whatever this uvicorn does otherwise.
    """
    _try_one_request()
    _try_a_pipeline()
    _try_the_end()


def _try_one_request() -> None:
    trial = _Trial()
    trial.protocol.data_received(HEAD)
    trial.protocol.data_received(BODY)
    trial.expect(trial.asked == 1 and not trial.tasks, "a request cannot be taken out of its hands")
    trial.answer()
    state = trial.protocol.server_state
    trial.expect(state.total_requests == 1, "requests are counted elsewhere")
    trial.protocol.data_received(ELSEWHERE)
    trial.expect(trial.tasks == 1, "what follows such a request is not begun")
    scope = trial.protocol.cycle.scope
    seen = (scope["path"], scope["query_string"], scope["headers"], BEGAN in scope)
    trial.expect(seen == ("/models", b"a=b", [(b"host", b"c")], True), "scopes are made otherwise")


def _try_a_pipeline() -> None:
    trial = _Trial()
    trial.protocol.data_received(HEAD + BODY + ELSEWHERE + ELSEWHERE)
    waiting = (trial.tasks, len(trial.protocol.pipeline), trial.protocol.flow.read_paused)
    trial.expect(waiting == (0, 2, True), "what comes behind a request does not wait for it")
    trial.answer()
    begun = (trial.tasks, len(trial.protocol.pipeline))
    trial.expect(begun == (1, 1), "what has waited for a request is not begun after it")


def _try_the_end() -> None:
    trial = _Trial()
    trial.protocol.data_received(HEAD + BODY)
    trial.protocol.shutdown()
    trial.expect(not trial.is_closed, "a request under way is cut by the end")
    trial.answer()
    trial.expect(trial.is_closed, "a connection is kept after the end")
    trial = _Trial()
    trial.protocol.data_received(HEAD + BODY)
    trial.is_closed = True
    trial.protocol.connection_lost(None)
    trial.answer()
    trial.expect(not trial.protocol.connections, "connections that are lost are not forgotten")


class _Held(QuickProtocol):
    """The lane without a core: what it is to be asked is kept."""

    trial: "_Trial"

    def _ask(self, request: Request) -> None:
        del request
        self.trial.asked += 1

    def answer(self, answer: Answer) -> None:
        """What was kept is answered."""
        self._hand_over(answer)


class _Trial:
    """One connection, and what stands for its transport and its loop.

    Attributes:
        asked: requests that the lane has taken.
        tasks: that uvicorn has begun.
        is_closed: the connection.
    """

    def __init__(self) -> None:
        self.asked = self.tasks = 0
        self.is_closed = self.is_paused = False
        settings = Settings()
        lane = Lane(_nothing, Core(settings), HttpCounters())
        usual = protocol_for(settings.max_connections, settings.max_header_bytes)
        held = type("_Held", (_Held, usual), {"lane": lane, "trial": self})
        config = uvicorn.Config(_nothing, http=held, ws="none", lifespan="off", log_config=None)
        whole: Any = self  # of a loop and a transport what is used of them
        self.protocol: Any = held(config, ServerState(), {}, _loop=whole)
        self.protocol.connection_made(whole)

    def answer(self) -> None:
        self.protocol.answer(error_answer("draining", "no more", b"id"))

    @staticmethod
    def expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001
        if not holds:
            raise UnlikeError(otherwise)

    # as a loop

    def create_task(self, work: Coroutine[Any, Any, None], **_: Any) -> Any:
        work.close()
        self.tasks += 1
        return self

    def add_done_callback(self, _: Any) -> None:
        """As a task, which never ends."""

    def call_later(self, _seconds: float, _do: Any, *_: Any) -> None:
        """Nothing here takes so long."""

    # as a transport

    def get_extra_info(self, _: str) -> None:
        """Of no network."""

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def write(self, _: bytes) -> None:
        """Nobody reads it."""

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never run."""
