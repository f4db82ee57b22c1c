"""Both planes as applications, without `keelmark serve`: in a notebook or another server."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server import InProcessRuntime, Runtime, Settings, create_app, create_ops_app
from server.findings import Findings
from server.health import Phase, readiness
from server.routes import RouteTable, Unavailable
from server.warm_up import warm_up
from tests.tiny import GOOD, NAME, pack_tiny

PATH = f"/predict/{NAME}"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    store = tmp_path_factory.mktemp("store")
    pack_tiny(store)
    return Settings(store=store, state_dir=tmp_path_factory.mktemp("state"))


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@asynccontextmanager
async def alive(settings: Settings, runtime: InProcessRuntime) -> AsyncGenerator[httpx.AsyncClient]:
    """The data plane within its lifespan, as an ASGI server would run it."""
    lane = create_app(settings, runtime)
    assert isinstance(lane.app, FastAPI)
    async with lane.app.router.lifespan_context(lane.app), client_of(lane) as client:
        yield client


@on_a_loop
async def test_the_data_plane_opens_its_models_in_the_lifespan(settings: Settings):
    async with alive(settings, InProcessRuntime(settings)) as client:
        assert (await client.post(PATH, json=GOOD)).json()["served_by"] == "model"
        assert (await client.get("/models")).json()["models"][0]["live"] == "1"
        assert (await client.get("/health/ready")).status_code == 200


@on_a_loop
async def test_models_are_warmed_up_before_callers_reach_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    runtime, warmed = InProcessRuntime(settings), list[str]()

    def noted(route: Any) -> Any:
        assert not runtime.routes.live
        warmed.append(route.bundle.name)
        return warm_up(route)

    monkeypatch.setattr("server.opening.warm_up", noted)
    await runtime.start()
    await runtime.stop()
    assert warmed == list(runtime.routes.live) == [NAME]


@on_a_loop
async def test_a_runtime_that_was_started_is_not_started_again(settings: Settings):
    runtime = InProcessRuntime(settings)
    await runtime.start()
    routes = runtime.routes
    async with alive(settings, runtime) as client:
        assert (await client.post(PATH, json=GOOD)).status_code == 200
    assert runtime.routes is routes
    assert runtime.phase is Phase.SERVING
    await runtime.stop()


@on_a_loop
async def test_requests_at_the_same_time_are_answered_each_by_itself(settings: Settings):
    records = [{**GOOD, "age": age} for age in range(0, 120, 3)]
    async with alive(settings, InProcessRuntime(settings)) as client:
        together = await asyncio.gather(*(client.post(PATH, json=r) for r in records))
        alone = [await client.post(PATH, json=record) for record in records]
    predicted = [[a.json()["prediction"] for a in answers] for answers in (together, alone)]
    assert predicted[0] == predicted[1]


@on_a_loop
async def test_the_ops_plane_needs_only_a_runtime(settings: Settings):
    own = InProcessRuntime(settings)
    runtime: Runtime = own
    async with alive(settings, own) as client, client_of(create_ops_app(runtime)) as ops:
        await client.post(PATH, json=GOOD)
        page = await ops.get("/metrics")
        modern = await ops.get("/metrics", headers={"accept": "application/openmetrics-text"})
        nothing = await ops.get("/nothing")
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (
        f'keelmark_predictions_total{{model="{NAME}",version="1",outcome="model"}} 1' in page.text
    )
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")
    assert nothing.json()["error"]["code"] == "unknown_model"
    assert "/metrics" in nothing.json()["error"]["message"]


@on_a_loop
async def test_stopping_folds_what_was_counted(settings: Settings):
    runtime = InProcessRuntime(settings)
    async with alive(settings, runtime) as client:
        await client.post(PATH, json=[GOOD] * 100)
        assert runtime.routes.live[NAME].counter.pending == 100
    assert runtime.routes.live[NAME].counter.pending == 0
    assert runtime.phase is Phase.STOPPED


@on_a_loop
async def test_before_the_models_are_open_they_are_not_loaded(settings: Settings):
    runtime = InProcessRuntime(settings)
    runtime.core.routes = RouteTable(unavailable={NAME: Unavailable(NAME, "1", "being opened")})
    async with client_of(create_app(settings, runtime)) as client:  # without its lifespan
        answer = await client.post(PATH, content=json.dumps(GOOD))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_loaded")
        assert (await client.get("/health/ready")).status_code == 503
    async with client_of(create_ops_app(runtime)) as ops:
        assert (await ops.get("/health/startup")).status_code == 503
        assert (await ops.get("/health/live")).status_code == 200


@pytest.mark.parametrize("phase", Phase)
def test_readiness_is_serving_with_every_required_model(phase: Phase):
    routes = RouteTable(unavailable={"a": Unavailable("a", "1", "broken")})
    assert not readiness(phase, routes, None, Findings()).is_good
    assert readiness(phase, routes, [], Findings()).is_good == (phase is Phase.SERVING)
    missing = readiness(phase, routes, ["b"], Findings())
    assert not missing.is_good
    assert missing.body["models"]["b"] == {"state": "not_in_store"}


@on_a_loop
async def test_a_defect_of_a_page_or_of_the_lane_is_in_the_log_under_its_id(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("server.apps.summary", defect)
    monkeypatch.setattr("server.asgi_lane.check", defect)
    runtime = InProcessRuntime(settings)
    runtime.core.routes = RouteTable(unavailable={NAME: Unavailable(NAME, "1", "being opened")})
    transport = httpx.ASGITransport(create_app(settings, runtime), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page = await client.get("/models", headers={"x-request-id": "page-1"})
        answer = await client.post(PATH, json=GOOD, headers={"x-request-id": "lane-1"})
    assert (page.status_code, answer.status_code) == (500, 500)
    logged = " ".join(str(record.msg) for record in caplog.records)
    assert "request_failed" in logged
    assert "page-1" in logged
    assert "lane-1" in logged
    errors = runtime.metrics("")[1].decode()
    assert 'keelmark_errors_total{path="/predict/{model}",code="internal"} 1' in errors
