"""The ops plane as an application: metrics and health, for who looks after the server."""

from typing import Annotated

from fastapi import FastAPI, Header
from fastapi.responses import Response

from server.apps import health_response, speak_our_errors
from server.prediction_ids import PredictionIds
from server.runtime import Runtime


def create_ops_app(runtime: Runtime) -> FastAPI:
    """The ops port of whatever serves behind `runtime`; open to everybody who reaches it."""
    app = FastAPI(title="Keelmark operations", docs_url=None, redoc_url=None, openapi_url=None)
    speak_our_errors(app, PredictionIds().next)

    @app.get("/metrics")
    async def metrics(accept: Annotated[str, Header()] = "") -> Response:
        """Prometheus text, or OpenMetrics for who asks for it."""
        content_type, body = runtime.metrics(accept)
        return Response(body, headers={"content-type": content_type})

    @app.get("/health/live")
    async def live() -> Response:
        return health_response(runtime.health("live"))

    @app.get("/health/ready")
    async def ready() -> Response:
        return health_response(runtime.health("ready"))

    @app.get("/health/startup")
    async def started() -> Response:
        return health_response(runtime.health("startup"))

    return app
