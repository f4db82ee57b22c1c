"""What callers would notice, as operators are told of it: on a load, and where a promote refuses."""
# ruff: noqa: E501  (the table has one change a line)

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from features.fitted import Fitted
from models.manifest import FALLBACK, FEATURES, MANIFEST
from models.store import Store
from tests.in_thread import server_over
from tests.operating import Since
from tests.packed import copied_as, edited, full_bundle, rewritten
from tests.swapping import Swapping

pytestmark = pytest.mark.in_turn

NAME = "trips"
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 is live; the others are made of it."""
    store = tmp_path_factory.mktemp("store")
    full_bundle(store)
    Store(store).set_live(NAME, "1", by="the tests")
    return store


@pytest.fixture(scope="module")
def running(store: Path, state: Path, workers: int) -> Generator[Swapping]:
    with server_over(store, state, workers=workers) as client:
        yield Swapping(client, state, NAME)


@pytest.fixture
def server(running: Swapping) -> Generator[Swapping]:
    yield running
    running.clear()


# edits of a bundle, as somebody who packs it otherwise would make them


def manifest(change: Callable[[Any], None]) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / MANIFEST
        path.write_bytes(edited(change)(path.read_bytes()))

    return edit


def output(**changed: Any) -> Edit:
    return manifest(lambda value: value["outputs"][0].update(changed))


def fallback(change: Callable[[Any], None]) -> Edit:
    return lambda folder: rewritten(folder, FALLBACK, edited(change))


def policy(field: str, trouble: str, wanted: str) -> Edit:
    return fallback(lambda value: value["policies"][field].update({trouble: {"policy": wanted}}))


def field(name: str, **changed: Any) -> Edit:
    """What is None is no longer declared."""

    def change(value: Any) -> None:
        declared = next(one for one in value["spec"]["fields"] if one["name"] == name)
        for key, wanted in changed.items():
            declared.pop(key) if wanted is None else declared.update({key: wanted})

    return fitted(change)


def fitted(change: Callable[[Any], None]) -> Edit:
    """Another definition, or other learned values, to which the model is bound then."""

    def edit(folder: Path) -> None:
        value = json.loads((folder / FEATURES).read_bytes())
        change(value)
        found = Fitted._read(value)
        rewritten(folder, FEATURES, lambda _: json.dumps(found.to_json()).encode())
        bound = {
            "identity": found.identity,
            "spec_digest": found.spec_digest,
            "state_digest": found.state_digest,
            "features_digest": found.features_digest,
        }
        manifest(lambda value: value["features"].update(bound))(folder)

    return edit


def without_checks(folder: Path) -> None:
    fallback(lambda value: value.update(checks=[]))(folder)
    manifest(lambda value: value.update(checks=[]))(folder)


THRESHOLDS = [{"is": "in_time", "below": 0.4}, {"is": "late"}]
DECISIONS = [{"is": "in_time", "below": 0.4}, {"is": "who knows", "below": 0.6}, {"is": "late"}]
BREAKING, COMPATIBLE = "breaking", "compatible"

TABLE: list[tuple[str, Edit, str, str]] = [
    # its name, what is edited, the verdict, words of the sentence that tells of it
    ("km-now-miles", field("distance", unit="mi"), BREAKING, "field 'distance'"),
    ("bounds-narrowed", field("distance", high=50.0), BREAKING, "was from 0 to 100 and is from"),
    ("bounds-widened", field("distance", high=500.0), COMPATIBLE, "field 'distance'"),
    ("no-zone", field("leaves", tz=None), BREAKING, "field 'leaves'"),
    ("a-text-forgotten", fitted(lambda v: v["state"]["vocabularies"]["carrier"].pop()), BREAKING, "no longer knows 'AA'"),
    ("a-secret-shown", field("driver", sensitive=None), BREAKING, "field 'driver'"),
    ("null-a-value", field("is_weekend", nullable=None), COMPATIBLE, "field 'is_weekend'"),
    ("rejected-now", policy("carrier", "unknown", "reject"), BREAKING, "the record is rejected"),
    ("baseline-now", policy("carrier", "unknown", "baseline"), COMPATIBLE, "field 'carrier'"),
    ("fewer-repairs", fallback(lambda v: v.update(max_repaired=1)), BREAKING, "repair"),
    ("other-rules", fallback(lambda v: v["rules"].pop()), COMPATIBLE, "rule"),
    ("other-default", fallback(lambda v: v["default"].update(probability=0.5)), COMPATIBLE, "0.5"),
    ("a-check-less", without_checks, COMPATIBLE, "check"),
    ("range-widened", output(low=None), BREAKING, "output 'probability'"),
    ("range-narrowed", output(high=0.9), COMPATIBLE, "output 'probability'"),
    ("another-type", output(dtype="float64"), BREAKING, "output 'probability'"),
    ("other-class", output(positive=False), BREAKING, "output 'probability'"),
    ("a-threshold", manifest(lambda v: v.update(decision=THRESHOLDS)), COMPATIBLE, "0.4"),
    ("a-decision-more", manifest(lambda v: v.update(decision=DECISIONS)), BREAKING, "who knows"),
    ("no-decisions", manifest(lambda v: v.update(decision=None)), BREAKING, "decision"),
    ("label", manifest(lambda v: v["label"].update(type="number")), BREAKING, "feedback sent a boolean"),
    ("slower", manifest(lambda v: v["objectives"].update(latency_seconds=0.1)), COMPATIBLE, "0.1"),
    ("route-key", manifest(lambda v: v.update(route_key="driver")), COMPATIBLE, "driver"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "edit", "verdict", "words"), TABLE, ids=[row[0] for row in TABLE])
def test_a_load_tells_what_callers_would_notice(
    server: Swapping, store: Path, name: str, edit: Edit, verdict: str, words: str
):
    """In a dry run, which only compares: these bundles would not all pass their gate."""
    if not (store / NAME / name).exists():
        edit(copied_as(store / NAME / "1", name))
    before, since = server.status(), Since(server.state)
    said = server.do("load", version=name, dry_run=True)
    assert (said["changed"], said["after"]["candidate"]) == (True, name)
    contract = said["contract"]
    assert contract["verdict"] == verdict, contract
    assert words in " ".join(contract["changes"]), contract
    assert (server.status(), since.all) == (before, [])


@pytest.mark.parametrize("name", ["slower", "label", "range-widened"])
def test_a_promote_refuses_what_breaks_callers(server: Swapping, store: Path, name: str):
    """Bundles that pass their gate."""
    _, edit, verdict, words = next(row for row in TABLE if row[0] == name)
    if not (store / NAME / name).exists():
        edit(copied_as(store / NAME / "1", name))
    since = Since(server.state)
    loaded = server.do("load", version=name)
    assert loaded["contract"]["verdict"] == verdict
    if verdict == BREAKING:
        for is_dry in (True, False):
            answer = server.ask("promote", version=name, dry_run=is_dry)
            assert (answer.status, answer.error["cause"]) == (409, "contract"), answer.body
            assert loaded["contract"]["changes"][0] in answer.error["message"]
            assert "--breaking" in answer.error["message"]
        (event,) = since("swap_refused")
        assert (event.facts["swap"], event.facts["cause"]) == ("promote", "contract")
        assert words in event.facts["why"]
        assert server.slots() == ("1", name, None)
    promoted = server.do("promote", version=name, breaking=verdict == BREAKING)
    assert promoted["contract"] == loaded["contract"]
    assert server.slots() == (name, None, "1")
