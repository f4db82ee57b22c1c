"""The ops plane as an application: metrics and health, for who looks after the server."""

from collections import deque
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from server.apps import PROBED, health_response, speak_our_errors
from server.events import events_in
from server.ops.access import AccessRefused, Guard
from server.ops.deploys import Cancel, Deploy
from server.ops.desk import Desk, ReplaceWorkers
from server.ops.forcing import ForceFallback
from server.ops.ledger import OperatorError
from server.ops.overriding import AskOverride
from server.ops.selftesting import SetSelftest
from server.ops.status import status_of
from server.ops.swap_bodies import Load, Promote, Rollback, Unload
from server.ops.trials import Canary, Shadow
from server.prediction_ids import PredictionIds
from server.runtime import Runtime
from server.tokens import Token

NO_SUCH_PATH: Final = (
    "nothing is served at this path; there are GET /metrics, GET /health/live, GET /health/ready "
    "and GET /health/startup for everybody, GET /status, GET /events and GET "
    "/models/{model}/deploy with a viewer's token, and POST /models/{model}/load, unload, promote, "
    "rollback, canary, shadow, deploy, selftest, override and force-fallback and POST "
    "/workers/replace with an operator's. Predictions are on the data port."
)
LARGEST_BODY_BYTES: Final = 65_536
MOST_EVENTS: Final = 1_000


def create_ops_app(
    runtime: Runtime, *, guard: Guard | None = None, desk: Desk | None = None
) -> FastAPI:
    """The ops port of whatever serves behind `runtime`.

    Args:
        runtime: what serves.
        guard: in front of what is not open to everybody who reaches the port.
        desk: takes operators' calls. Without both there are metrics and health alone.
    """
    app = FastAPI(
        title="Keelmark operations",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    speak_our_errors(app, PredictionIds().next, NO_SUCH_PATH)

    @app.get("/metrics")
    async def metrics(accept: Annotated[str, Header()] = "") -> Response:
        """Prometheus text, or OpenMetrics for who asks for it."""
        content_type, body = runtime.metrics(accept)
        return Response(body, headers={"content-type": content_type})

    @app.api_route("/health/live", **PROBED)
    async def live() -> Response:
        return health_response(runtime.health("live"))

    @app.api_route("/health/ready", **PROBED)
    async def ready() -> Response:
        return health_response(runtime.health("ready"))

    @app.api_route("/health/startup", **PROBED)
    async def started() -> Response:
        return health_response(runtime.health("startup"))

    if guard is not None and desk is not None:
        _add_viewers_pages(app, runtime, guard, desk)
        _add_operators_calls(app, guard, desk)
        _add_calls_of_trials(app, guard, desk)
        _add_calls_of_rungs(app, guard, desk)
    return app


def _add_viewers_pages(app: FastAPI, runtime: Runtime, guard: Guard, desk: Desk) -> None:
    viewer = [Depends(guard.needs("viewer"))]

    @app.get("/status", dependencies=viewer)
    async def status() -> Response:
        """What is served, and what operators have said."""
        return _json(status_of(runtime, desk.facts, desk.events.head, desk.wishes, desk.deploys))

    @app.get("/models/{model}/deploy", dependencies=viewer)
    async def deploy_of(model: str) -> Response:
        """The deploy of a model that goes on, or the last one."""
        return _json(desk.deploys.seen(model))

    @app.get("/events", dependencies=viewer)
    def events(last: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 50) -> Response:
        """The latest events, oldest first."""
        return _json(list(deque(events_in(desk.events.path.parent), maxlen=last)))


def _add_operators_calls(app: FastAPI, guard: Guard, desk: Desk) -> None:
    operator = Depends(guard.needs("operator"))

    async def refused(request: Request, error: AccessRefused | OperatorError) -> Response:
        """An error body, in the shape that all have."""
        said = {"code": error.code, "message": str(error), "request_id": _ids().decode()}
        if isinstance(error, OperatorError):
            said["cause"] = error.cause
        headers = {"www-authenticate": "Bearer"} if error.code == "unauthorized" else {}
        return _json({"error": said}, error.status, headers)

    app.add_exception_handler(AccessRefused, refused)  # pyright: ignore[reportArgumentType]
    app.add_exception_handler(OperatorError, refused)  # pyright: ignore[reportArgumentType]

    async def wrong(request: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        what = ".".join(str(part) for part in problem["loc"])
        return await refused(request, OperatorError("invalid", f"{what}: {problem['msg']}"))

    app.add_exception_handler(RequestValidationError, wrong)  # pyright: ignore[reportArgumentType]

    @app.post("/models/{model}/override")
    async def override(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Tries other policies, values or rules on the golden rows, and puts them to use."""
        asked = await _body_of(request, AskOverride)
        return _json(await desk.overriding.override(model, asked, who=token.name))

    @app.post("/models/{model}/load")
    async def load(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Examines a version and opens it beside the live one; answers when that is done."""
        asked = await _body_of(request, Load)
        return _json(await desk.swaps.load(model, asked, who=token.name))

    @app.post("/models/{model}/unload")
    async def unload(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Empties the slot beside the live one."""
        asked = await _body_of(request, Unload)
        return _json(await desk.swaps.unload(model, asked, who=token.name))

    @app.post("/models/{model}/promote")
    async def promote(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Makes the candidate live, for every request that begins after the answer."""
        asked = await _body_of(request, Promote)
        return _json(await desk.swaps.promote(model, asked, who=token.name))

    @app.post("/models/{model}/rollback")
    async def rollback(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Makes the previous version live again."""
        asked = await _body_of(request, Rollback)
        return _json(await desk.swaps.rollback(model, asked, who=token.name))

    @app.post("/workers/replace")
    async def replace_workers(request: Request, token: Annotated[Token, operator]) -> Response:
        """Puts a new process into the place of each worker; answers when that is done."""
        asked = await _body_of(request, ReplaceWorkers)
        return _json(await desk.replace_workers(asked, who=token.name))


def _add_calls_of_rungs(app: FastAPI, guard: Guard, desk: Desk) -> None:
    operator = Depends(guard.needs("operator"))

    @app.post("/models/{model}/force-fallback")
    async def force_fallback(
        model: str, request: Request, token: Annotated[Token, operator]
    ) -> Response:
        """Sends the model's rows to a lower rung, or no longer."""
        asked = await _body_of(request, ForceFallback)
        return _json(await desk.forcing.force(model, asked, who=token.name))

    @app.post("/models/{model}/selftest")
    async def selftest(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Says what follows where the self-test of a version fails."""
        asked = await _body_of(request, SetSelftest)
        return _json(await desk.selftesting.set(model, asked, who=token.name))


def _add_calls_of_trials(app: FastAPI, guard: Guard, desk: Desk) -> None:
    operator = Depends(guard.needs("operator"))

    @app.post("/models/{model}/deploy")
    async def deploy(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Begins to bring a version to all traffic in stages; answers when that has begun."""
        asked = await _body_of(request, Deploy)
        return _json(await desk.deploys.start(model, asked, who=token.name))

    @app.post("/models/{model}/deploy/cancel")
    async def cancel(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Has the deploy of a model roll back."""
        asked = await _body_of(request, Cancel)
        return _json(await desk.deploys.cancel(model, asked, who=token.name))

    @app.post("/models/{model}/canary")
    async def canary(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Lets the candidate answer a share of the model's callers."""
        asked = await _body_of(request, Canary)
        return _json(await desk.swaps.canary(model, asked, who=token.name))

    @app.post("/models/{model}/shadow")
    async def shadow(model: str, request: Request, token: Annotated[Token, operator]) -> Response:
        """Gives the candidate copies of a share of the requests."""
        asked = await _body_of(request, Shadow)
        return _json(await desk.swaps.shadow(model, asked, who=token.name))


_ids = PredictionIds().next
Body = TypeVar("Body")


async def _body_of(request: Request, kind: type[Body]) -> Body:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_BODY_BYTES:
            raise OperatorError("invalid", f"the body is larger than {LARGEST_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise OperatorError("invalid", f"the body is not what this call takes: {error}") from error


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = msgspec.json.encode(value)
    return Response(content, status, headers, media_type="application/json")
