"""Candidates that are no good: refused for what is wrong with them while live answers everybody."""

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from features.fitted import Fitted
from models.gate import Limits, run_gate
from models.manifest import FEATURES, GOLDEN, MANIFEST, MODEL
from models.store import Store
from server import opening
from tests.harmful import crashing, endless, hungry
from tests.in_thread import Client, post, server_over
from tests.operating import Since
from tests.packed import copied_as, edited, full_bundle, packed, rewritten
from tests.swapping import Swapping
from tests.workers import Record, children_of, wait_until

NAME = "trips"
RECORD = {
    "distance": 12.5,
    "driver": "badge 7781",
    "carrier": "UA",
    "is_weekend": False,
    "leaves": "2013-01-05T12:00:00Z",
}
FULL, PLAIN = "full", "plain"
"""Versions that candidates are made of: with every rung, and with the model alone."""
CPU_SECONDS = 2
ROUNDS = int(os.environ.get("KEELMARK_TRIAL_ROUNDS", "5"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 is live; the two others are good too."""
    store = tmp_path_factory.mktemp("store")
    full_bundle(store)
    copied_as(store / NAME / "1", FULL)
    packed(store, PLAIN)
    Store(store).set_live(NAME, "1", by="the tests")
    return store


@pytest.fixture(scope="module")
def server(store: Path, state: Path, workers: int) -> Generator[Swapping]:
    with server_over(store, state, workers=workers, deadline_ms=60_000) as client:
        yield Swapping(client, state, NAME)


# what can be wrong with them


def half_copied(folder: Path) -> None:
    path = folder / MODEL
    path.write_bytes(path.read_bytes()[:-1000])


def without_a_file(folder: Path) -> None:
    (folder / MODEL).unlink()


def altered(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL).write_bytes(content)


def misnamed(folder: Path) -> None:
    rename = edited(lambda manifest: manifest.update(version="another"))
    (folder / MANIFEST).write_bytes(rename((folder / MANIFEST).read_bytes()))


def of_other_features(folder: Path) -> None:
    """With a vocabulary in another order: the model would take one carrier for another."""

    def change(content: bytes) -> bytes:
        value = json.loads(content)
        value["state"]["vocabularies"]["carrier"].reverse()
        return json.dumps(Fitted._read(value).to_json()).encode()

    rewritten(folder, FEATURES, change)


def golden_differs(row: str, rung: str) -> Callable[[Path], None]:
    """What was recorded of one rung is not what it answers."""

    def change(golden: Any) -> None:
        found = next(one for one in golden["rows"] if one["name"] == row)
        found["expected"][rung] = {"probability": 0.987}

    return lambda folder: rewritten(folder, GOLDEN, edited(change))


class Bad(NamedTuple):
    """A way to be no good: of which version, what is done to it, and what is said of it."""

    of: str
    spoil: Callable[[Path], None]
    cause: str
    words: str


CRASHES = {"crashes": Bad(PLAIN, crashing, "gate", "it was ended by SIGFPE")}
BAD = {
    **(CRASHES if platform.machine() == "x86_64" else {}),
    "hangs": Bad(PLAIN, endless, "gate", f"more than {CPU_SECONDS} s of processor time"),
    "eats-memory": Bad(PLAIN, hungry, "gate", "more memory than its gate allows"),
    "model-alone": Bad(
        FULL, golden_differs("sample 0", "model"), "golden", "row 'sample 0': output 'probability'"
    ),
    "baseline-alone": Bad(
        FULL, golden_differs("sample 0", "baseline"), "golden", "the baseline's output"
    ),
    "rules-alone": Bad(
        FULL,
        golden_differs("carrier: unknown", "rules"),
        "golden",
        "the rules' (unknown_carrier) output",
    ),
    "half-copied": Bad(FULL, half_copied, "corrupt", "model.onnx is truncated"),
    "without-a-file": Bad(FULL, without_a_file, "corrupt", "['model.onnx'] missing"),
    "altered": Bad(FULL, altered, "corrupt", "model.onnx was altered"),
    "misnamed": Bad(FULL, misnamed, "corrupt", "says that it is trips/another"),
    "other-features": Bad(FULL, of_other_features, "features", "the model is bound to features"),
}


@dataclass
class Caller:
    """Asks all the time for the same; keeps what was not the same answer of the live version."""

    client: Client
    answered: int = 0
    wrong: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])
    _stop: bool = False
    _thread: Any = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_until(lambda: self.answered > 1 or bool(self.wrong))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join(60)
        assert not self.wrong, self.wrong[:3]

    def _run(self) -> None:
        request = post(f"/predict/{NAME}", json.dumps(RECORD).encode())
        known: Any = None
        try:
            with self.client.connect() as connection:
                while not self._stop:
                    began = time.perf_counter()
                    answer = connection.ask(request)
                    self.seconds.append(time.perf_counter() - began)
                    said = (answer.status, answer.json["prediction"], answer.json["served_by"])
                    known = known or said
                    if answer.json["version"] != "1" or said != known or answer.status != 200:
                        self.wrong.append(f"{answer}")
                    self.answered += 1
                    time.sleep(0.005)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test shows it)
            self.wrong.append(repr(error))


@pytest.fixture
def impatient(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate as it is, but that a model that never ends need not be waited for a minute."""
    if how == "hangs":
        limits = Limits(cpu_seconds=CPU_SECONDS)
        monkeypatch.setattr(opening, "run_gate", partial(run_gate, limits=limits))


@pytest.fixture
def candidate(store: Path, how: str) -> str:
    """The version that is no good."""
    if not (store / NAME / how).exists():
        BAD[how].spoil(copied_as(store / NAME / BAD[how].of, how))
    return how


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", BAD)
def test_it_is_refused_with_its_reason_and_changes_nothing(
    server: Swapping, candidate: str, how: str
):
    cause, words = BAD[how].cause, BAD[how].words
    since, counted = Since(server.state), refusals(server.client, cause)
    before = server.status(), copies(server.state)
    with Caller(server.client):
        answer = server.ask("load", version=candidate, reason="a try")
    assert (answer.status, answer.error["code"]) == (422, "bundle_refused")
    assert (answer.error["cause"], words in answer.error["message"]) == (cause, True), answer.error
    (event,) = since.all
    assert (event.kind, event.model) == ("swap_refused", NAME)
    assert event.facts["cause"] == cause
    assert event.facts["why"] == answer.error["message"]
    assert (event.facts["version"], event.facts["reason"]) == (candidate, "a try")
    assert refusals(server.client, cause) == counted + 1
    assert (server.status(), copies(server.state)) == before
    assert not children_of(os.getpid(), "gate_child")


def refusals(client: Client, cause: str) -> float:
    return client.metric(f'keelmark_swap_refusals_total{{cause="{cause}"}}')


def copies(state: Path) -> list[str]:
    """This machine's own copies of models."""
    return sorted(path.name for path in (state / "opened").iterdir())


def test_one_that_was_refused_does_not_stand_in_the_way_of_a_good_one(server: Swapping):
    done = server.do("load", version=FULL)
    assert done["after"]["candidate"] == FULL
    assert server.do("unload", version=FULL)["released"]


@pytest.mark.trial
def test_live_traffic_does_not_feel_them(server: Swapping, store: Path, record_property: Record):
    """p99 while one is refused after the other, beside p99 while nothing happens."""
    ratios: dict[str, float] = {}
    for how in ("crashes", "eats-memory", "baseline-alone", "half-copied", "other-features"):
        if not (store / NAME / how).exists():
            BAD[how].spoil(copied_as(store / NAME / BAD[how].of, how))
        quiet, busy = list[float](), list[float]()
        for _ in range(ROUNDS):
            with Caller(server.client) as caller:
                began = time.monotonic()
                server.refused("load", "bundle_refused", version=how)
                took = time.monotonic() - began
            busy.append(p99(caller.seconds))
            with Caller(server.client) as caller:
                time.sleep(took)
            quiet.append(p99(caller.seconds))
        ratios[how] = statistics.median(busy) / statistics.median(quiet)
        record_property(f"{how}: p99 quiet and while it is refused, ms", (quiet, busy))
    record_property("ratios of the medians", ratios)
    assert statistics.median(ratios.values()) < 3


def p99(seconds: list[float]) -> float:
    return round(sorted(seconds)[int(0.99 * len(seconds))] * 1e3, 3)
