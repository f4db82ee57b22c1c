"""A bundle that is let go of leaves nothing for the collector of cycles.

Workers hide what lives from the collector, so that it holds up no request; a cycle that lives as
long as its bundle would be there for ever.
"""

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from models.contract import diff, read_contract
from models.store import Store
from server.cost import curve
from server.opening import facts_of, layout_of, make_route
from server.series import ModelSeries
from server.settings import SHIPPED_STORE
from server.warm_up import warm_up
from tests.packed import full_bundle


@pytest.fixture(scope="module", params=["shipped", "full"])
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, str, str]:
    if request.param == "shipped":
        store = Store(SHIPPED_STORE)
        return store, "flights", store.versions("flights")[0]
    folder = tmp_path_factory.mktemp("store")
    full_bundle(folder)
    return Store(folder), "trips", "1"


def left_by(step: Callable[[], object]) -> Counter[str]:
    """Kinds of objects that only the collector finds."""
    step()  # what the first time makes once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        step()
        gc.collect()
        return Counter(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_what_was_opened_and_warmed_up_goes_without_the_collector(bundle: tuple[Store, str, str]):
    store, name, version = bundle

    def open_and_let_go() -> None:
        opened = store.open(name, version, batch_exact=True)
        ModelSeries(layout_of(opened), facts_of(opened))
        warm_up(make_route(opened, curve({1: 1e-4, 64: 2e-4})))

    assert left_by(open_and_let_go) == {}


def test_what_was_read_to_compare_contracts_goes_without_the_collector(
    bundle: tuple[Store, str, str],
):
    store, name, version = bundle
    folder: Path = store.folder(name, version)
    assert left_by(lambda: diff(read_contract(folder), read_contract(folder))) == {}
