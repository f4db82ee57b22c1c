"""The thin lane: an ASGI callable before the FastAPI app, which answers predictions itself.

A route of FastAPI costs more than decoding, encoding and the model together; here nothing stands
between the body and the core. Everything else goes to the app, which also documents these paths.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sized
from functools import partial
from time import perf_counter_ns
from typing import Any, Final

from models.errors import RequestError
from server.asked import Request
from server.asking import CLOSE, Asking, check, has_body, headers_for, read_headers, version_in
from server.core import Core
from server.http_counters import HttpCounters
from server.iteration import Iteration
from server.protocols.predict import Answer, Header
from server.slow_bodies import SlowBodies

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PREDICT: Final = "/predict/"
TEMPLATE: Final = "/predict/{model}"

CODE: Final = "keelmark.code"
"""Scope entry by which the app says the `error.code` of its answer, to be counted."""
BEGAN: Final = "keelmark.began_ns"
"""Scope entry by which a server of ours says when a request's first byte came."""

TOO_SLOW: Final = "the body did not arrive whole in time; send it again over a new connection."


class DisconnectedError(Exception):
    """The caller has gone before its body was whole; there is nobody to answer."""


class Lane:
    """Answers `POST /predict/{model}`, and hands every other request to `app`.

    One instance serves one event loop.

    Attributes:
        under_way: the requests that its server has read and not answered, if the server tells;
            one that is alone is then settled at once, without waiting for the loop's turn.
        http: counters of requests.
        iteration: the requests that wait for the loop's turn; of every lane.
        slow_bodies: whose bodies have not come whole; of every lane.
    """

    def __init__(self, app: App, core: Core, http: HttpCounters) -> None:
        self.app = app
        self.core = core
        self.under_way: Sized | None = None
        self.http = http
        self.iteration = Iteration(core)
        self.max_body_bytes = core.settings.max_body_bytes
        self.slow_bodies = SlowBodies(core.settings.body_timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].startswith(PREDICT):
            await self._predict(scope, receive, send)
        else:
            await self._elsewhere(scope, receive, send)

    async def _predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_ns: int = scope.get(BEGAN) or perf_counter_ns()
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
        self.http.count(TEMPLATE, answer.status, answer.code)
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
            asking.key,
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
        self.iteration.add(self.core.arrive(request, partial(hand_over, answered)), loop)
        return answered

    async def _read_body(self, asking: Asking, receive: Receive) -> bytes:
        """The whole body; memory never holds more of it than the limit and one read."""
        if asking.declared_bytes > self.max_body_bytes:
            raise self._too_large()
        task = asyncio.current_task()
        assert task is not None, "ASGI servers run an application in a task"
        self.slow_bodies.begin(task, partial(task.cancel, TOO_SLOW), task.get_loop())
        try:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                return self._checked(message.get("body", b""))
            return await self._read_rest(message, receive)
        except asyncio.CancelledError:
            if self.slow_bodies.end(task):
                raise  # somebody else's: who waits too long is no longer among those who wait
            task.uncancel()
            raise RequestError("undecodable", TOO_SLOW) from None
        finally:
            self.slow_bodies.end(task)

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
        if len(body) > self.max_body_bytes:
            raise self._too_large()
        return body  # pyright: ignore[reportReturnType]  (a bytearray is only looked at)

    def _too_large(self) -> RequestError:
        return RequestError(
            "too_large",
            f"the body has more than {self.max_body_bytes} bytes, the most that is taken; send "
            "fewer records in a request.",
        )

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request to the app, and counts what comes of it."""
        closing = [CLOSE] if has_body(read_headers(scope["headers"])) else []

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.http.count(scope["path"], message["status"], scope.get(CODE))
                message["headers"] = [*message.get("headers", ()), *closing]
            await send(message)

        await self.app(scope, receive, counting)


def hand_over(answered: asyncio.Future[Answer], answer: Answer) -> None:
    """Wakes the request's task, unless it was cancelled and nobody waits for the answer."""
    if not answered.done():
        answered.set_result(answer)
