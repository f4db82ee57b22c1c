"""The data plane as an application: the lane in front, FastAPI for all but predictions."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from models.errors import RequestError
from server.asgi_lane import CODE, Lane
from server.asking import read_headers
from server.core import internal
from server.health import Health, Phase
from server.model_pages import ModelPage, ModelsPage, describe, summary
from server.openapi import document, error_response, error_schema
from server.protocols.predict import Answer, error_answer
from server.routes import RouteTable
from server.runtime import InProcessRuntime
from server.settings import Settings
from server.version import installed_version

TITLE: Final = "Keelmark"
DESCRIPTION: Final = (
    "Answers of models, each served as one unit with the features it was trained on, the checks of "
    "its inputs, "
    "and what answers when it cannot. Every answer says who gave it and why."
)

NO_SUCH_PATH: Final = (
    "nothing is served at this path; there are POST /predict/{model}, GET /models, GET "
    "/models/{model}, GET /health/live, GET /health/ready and GET /openapi.json."
)
NO_SUCH_METHOD: Final = "this path is not answered with this method; see the header Allow."

PROBED: Final[Mapping[str, Any]] = {"methods": ["GET", "HEAD"], "include_in_schema": False}
"""How health paths are answered: some probes send HEAD."""


def create_app(settings: Settings | None = None, runtime: InProcessRuntime | None = None) -> Lane:
    """The data plane: any ASGI server, test client or notebook can run it.

    Args:
        settings: None takes the defaults.
        runtime: what serves; None makes one. One that nobody has started is started and stopped
            with the application's lifespan.
    """
    runtime = runtime or InProcessRuntime(settings or Settings())
    app = FastAPI(
        title=TITLE,
        version=installed_version(),
        description=DESCRIPTION,
        lifespan=_lifespan(runtime),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    speak_our_errors(app, runtime.core.ids.next, NO_SUCH_PATH)
    _add_pages(app, runtime)
    _add_document(app, runtime)
    return Lane(app, runtime.core, runtime.http)


def _lifespan(runtime: InProcessRuntime) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        if runtime.phase is not Phase.STARTING:
            yield
            return
        await runtime.start()
        yield
        await runtime.stop()

    return lifespan


def _add_pages(app: FastAPI, runtime: InProcessRuntime) -> None:
    @app.get("/models", tags=["models"], summary="What is served")
    async def models() -> ModelsPage:
        """Every model of the store, with its live version, or why it has none."""
        routes = runtime.routes
        return ModelsPage(models=[summary(name, routes) for name in routes.names()])

    @app.get(
        "/models/{model}",
        tags=["models"],
        summary="One model",
        responses={404: error_response(404, error_schema(["unknown_model"]))},
    )
    async def model(model: str) -> ModelPage:
        """Its fields with units and bounds, its outputs, a real example, its owner."""
        return describe(model, runtime.routes)

    @app.get("/health/live", tags=["health"], summary="Is the process alive")
    @app.api_route("/health/live", **PROBED)
    async def live() -> Response:
        """Always 200; the ops port answers it too, and is the one to ask."""
        return health_response(runtime.health("live"))

    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready."}}

    @app.get("/health/ready", tags=["health"], summary="Should traffic come", responses=not_ready)
    @app.api_route("/health/ready", **PROBED)
    async def ready() -> Response:
        """200 while serving with every required model live, else 503."""
        return health_response(runtime.health("ready"))


def _add_document(app: FastAPI, runtime: InProcessRuntime) -> None:
    """The OpenAPI page, written once a route table: it takes longer than many predictions."""
    app.openapi = lambda: document(page_of(app), runtime.routes, runtime.settings)
    written: tuple[RouteTable, bytes] | None = None

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        nonlocal written
        routes = runtime.routes
        if written is None or written[0] is not routes:
            written = routes, msgspec.json.encode(app.openapi())
        return Response(written[1], media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(openapi_url=f"{root}/openapi.json", title=f"{TITLE} - Docs")


def health_response(health: Health) -> Response:
    """A health answer for probes: the status says it all, the body is for people."""
    return JSONResponse(health.body, health.status)


def speak_our_errors(app: FastAPI, new_id: Callable[[], bytes], no_such_path: str) -> None:
    """Gives every error of FastAPI's own the one shape of our error bodies."""
    said = {404: ("unknown_model", no_such_path), 405: ("method_not_allowed", NO_SUCH_METHOD)}

    def answered(request: Request, answer: Answer, headers: Mapping[str, str]) -> Response:
        request.scope[CODE] = answer.code
        response = Response(answer.body, answer.status, headers)
        response.raw_headers[:0] = answer.headers
        return response

    def id_of(request: Request) -> bytes:
        return read_headers(request.scope["headers"]).request_id or new_id()

    async def http_error(request: Request, error: HTTPException) -> Response:
        code, message = said.get(error.status_code, ("internal", str(error.detail)))
        answer = error_answer(code, message, id_of(request), error.status_code)
        return answered(request, answer, error.headers or {})

    async def request_error(request: Request, error: RequestError) -> Response:
        return answered(request, error_answer(error.code, error.message, id_of(request)), {})

    async def defect(request: Request, error: Exception) -> Response:
        answer = internal(error, id_of(request), path=request.scope["path"])
        return answered(request, answer, {})

    app.add_exception_handler(HTTPException, http_error)  # pyright: ignore[reportArgumentType]
    app.add_exception_handler(RequestError, request_error)  # pyright: ignore[reportArgumentType]
    app.add_exception_handler(Exception, defect)


def page_of(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own page without its validation errors: a path's text is always a model's name."""
    page = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for operations in page["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"]["schemas"].pop(name, None)
    return page
