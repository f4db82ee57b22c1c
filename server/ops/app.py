"""The ops plane as an application: metrics and health, for who looks after the server."""

from typing import Annotated, Final

from fastapi import FastAPI, Header
from fastapi.responses import Response

from server.apps import PROBED, health_response, speak_our_errors
from server.prediction_ids import PredictionIds
from server.runtime import Runtime

NO_SUCH_PATH: Final = (
    "nothing is served at this path; there are GET /metrics, GET /health/live, GET /health/ready "
    "and GET /health/startup. Predictions are on the data port."
)


def create_ops_app(runtime: Runtime) -> FastAPI:
    """The ops port of whatever serves behind `runtime`; open to everybody who reaches it."""
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

    return app
