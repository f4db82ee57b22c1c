"""A bundle for whose series the metrics page has no room is not loaded; the others serve."""

from pathlib import Path

import pytest

from models.store import Store
from server.events import events_in
from server.opening import facts_of, layout_of
from server.series import ModelSeries
from tests.in_thread import get, server_over
from tests.tiny import GOOD, NAME, pack_tiny

LATER = "tiny_two"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two alike models, of which `tiny` is opened first."""
    folder = tmp_path_factory.mktemp("store")
    pack_tiny(folder)
    pack_tiny(folder, name=LATER)
    return folder


@pytest.fixture(scope="module")
def n_series(both: Path) -> int:
    """Series of either."""
    bundle = Store(both).open(NAME, "1")
    return ModelSeries(layout_of(bundle), facts_of(bundle)).n_series


def test_a_bundle_without_room_is_refused_in_words_counted_and_harms_no_other(
    both: Path, n_series: int, workers: int, tmp_path: Path
):
    with server_over(both, tmp_path, workers=workers, max_series=2 * n_series - 1) as server:
        assert server.predict(GOOD).json["served_by"] == "model"
        refused = server.predict(GOOD, model=LATER)
        assert (refused.status, refused.error["code"]) == (503, "not_loaded")
        ready = server.send(get("/health/ready"))
        assert ready.status == 503
        assert "more series" in ready.json["models"][LATER]["why"]
        assert server.metric("keelmark_metrics_series_limit") == 2 * n_series - 1
        assert server.metric("keelmark_metrics_series_refused_total") == 1
        assert f'model="{LATER}"' not in server.ops("/metrics").body.decode()
    (event,) = (event for event in events_in(tmp_path) if event.kind == "model_not_loaded")
    assert event.model == LATER
    assert f"{n_series:,} series" in event.facts["reason"]
    assert "max_series" in event.facts["reason"]


def test_bundles_that_just_fit_are_loaded(both: Path, n_series: int, workers: int, tmp_path: Path):
    with server_over(both, tmp_path, workers=workers, max_series=2 * n_series) as server:
        assert server.predict(GOOD, model=LATER).json["served_by"] == "model"
        assert server.send(get("/health/ready")).status == 200
        assert server.metric("keelmark_metrics_series_refused_total") == 0
