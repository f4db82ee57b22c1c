"""For any record, however broken: a valid answer of some rung, or a 422 that names every bad field.

Records are made by `tests.broken_records` and sent to several bundles through a socket, in lists
and alone. Expected is only what is promised of any bundle: never a 5xx, never an undeclared value.
"""

import json
import math
import random
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import pytest

from features import FeatureSet, category, number
from models import pack
from models.bundle import Bundle
from models.rules import MOST_ADDITIONS
from tests import cells, packed, tiny
from tests.broken_records import UNDECODABLE, Generator, trouble_of
from tests.in_thread import Client, post, server_over

TRIAL_RECORDS: Final = 1_000_000
LIST_ROWS: Final = (100, 250, 1_000)
SECONDS: Final = "Keelmark-Deadline-Ms: 60000"
RUNG_OF: Final = {"accept": 0, "repair": 0, "baseline": 1, "rules": 2, "reject": 3}
SERVED_BY: Final = ("model", "baseline", "rules")
OURS: Final = {"model_error", "deadline", "overload", "breaker"}
"""Reasons that depend on the others of a list, or on the moment."""
ITEM: Final = {"prediction", "outputs", "decision", "served_by", "rule", "repaired", "reasons"}
SHARED: Final = {"model", "version", "request_id", "prediction_id"}


def pack_kinds(store: Path, _: str) -> None:
    """Classes: a label, and probabilities that a rule need not know."""
    fitted, x = packed.trained()
    model = lgb.LGBMClassifier(n_estimators=3, num_leaves=4, n_jobs=1, verbose=-1)
    rows = packed.trips()
    pack(
        store,
        "kinds",
        "1",
        features=fitted,
        model=model.fit(x, rows["kind"]),
        training=rows,
        target="kind",
        decision="classes",
        default="middle",
        policies={"carrier": {"unknown": "rules", "invalid": "reject"}},
        rules=[{"name": "far", "when": "r.distance > 50.0", "outputs": "long"}],
        max_repaired=1,
        progress=False,
    )


WORDS: Final = ("caf\u00e9", "\u00c5ngstr\u00f6m", "plain")
"""Each but the last can be written in several ways that look alike."""


def pack_words(store: Path, name: str) -> None:
    """Texts that are normalized, and a rule as long as one may be."""
    size = number("size", low=0, high=10)
    word = category("word", vocabulary=WORDS, normalize=["strip", "nfc"])
    rng = random.Random(2)
    rows: dict[str, Any] = {
        "size": [rng.uniform(0, 10) for _ in range(300)],
        "word": [rng.choice(WORDS) for _ in range(300)],
    }
    declared = {"size": size, "word": word.one_hot(unknown=True)}
    fitted, x = FeatureSet("words", version=1, features=declared).fit_transform(rows, quiet=True)
    target = [float(value > 5) for value in rows["size"]]
    model = lgb.LGBMClassifier(n_estimators=3, num_leaves=4, n_jobs=1, verbose=-1)
    long = " + ".join(["r.size"] * (MOST_ADDITIONS + 1))
    pack(
        store,
        name,
        "1",
        features=fitted,
        model=model.fit(x, target),
        training={**rows, "late": target},
        target="late",
        policies={"word": {"unknown": "rules"}, "size": {"missing": "rules"}},
        decision=[{"below": 0.5, "is": "small"}, {"is": "large"}],
        rules=[{"name": "large", "when": f"{long} > 150.0", "outputs": 0.75}],
        default=0.25,
        progress=False,
    )


def pack_plain(store: Path, name: str) -> None:
    few = cells.FEW_CELLS
    cells.pack_cells(store, name, cells=few, max_repaired=None, has_baseline=False)


PACKERS: Final[Mapping[str, Any]] = {
    "trips": lambda store, _: packed.full_bundle(store),
    "kinds": pack_kinds,
    "tiny": lambda store, _: tiny.pack_tiny(store),
    "cells": lambda store, name: cells.pack_cells(store, name, max_repaired=1, has_baseline=True),
    "plain": pack_plain,
    "words": pack_words,
}
TRIP: Final = {
    "distance": 9.85,
    "driver": "badge 7781",
    "carrier": "UA",
    "is_weekend": False,
    "leaves": "2013-01-01T10:04:36Z",
}
GOOD: Final[Mapping[str, dict[str, Any]]] = {
    "trips": TRIP,
    "kinds": TRIP,
    "tiny": tiny.GOOD,
    "cells": cells.good(),
    "plain": cells.good(cells.FEW_CELLS),
    "words": {"size": 3.5, "word": "caf\u00e9"},
}


@dataclass
class Subject:
    """A served bundle, and what its manifest promises of every answer."""

    client: Client
    name: str
    bundle: Bundle
    generator: Generator
    seen: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Records by who answered and the first reason."""

    def send(self, records: Sequence[str]) -> Any:
        response = self.client.send(self.request(",".join(records).join("[]")))
        assert response.status in (200, 422), (response.status, response.body[:500])
        return response.json["predictions"]

    def request(self, body: str) -> bytes:
        return post(f"/predict/{self.name}", body.encode(), SECONDS)

    def check(self, text: str, item: Any) -> None:
        """One record, and the item of a list that answers it."""
        record = json.loads(text)
        where = (self.name, text[:3_000], item)
        troubles = self.troubles(record)
        policies = self.bundle.fallback.policies
        said = {name: policies[name][word].policy for name, word in troubles.items()}
        worst = max((RUNG_OF[policy] for policy in said.values()), default=0)
        if "error" in item:
            bad = {name for name in said if said[name] != "accept"}
            self._check_rejected(record, item["error"], bad, where)
            return
        assert worst < 3, where
        assert item.keys() <= ITEM, where
        assert SERVED_BY.index(item["served_by"]) >= worst, where
        repaired = {name: word for name, word in troubles.items() if said[name] == "repair"}
        assert item.get("repaired", {}) == repaired, where
        self._check_marks(item, [f"{n}:{troubles[n]}" for n in said if RUNG_OF[said[n]]], where)
        self._check_values(item, where)
        self.seen[item["served_by"], item.get("reasons", [""])[0]] += 1

    def troubles(self, record: Mapping[str, Any]) -> dict[str, Any]:
        assert self.bundle.fitted is not None
        words = self.bundle.fitted.vocabularies
        found = {
            one.name: trouble_of(one, record.get(one.name), words.get(one.name, ()))
            for one in self.bundle.fields
        }
        return {name: word for name, word in found.items() if word != "ok"}

    def _check_rejected(self, record: Any, error: Any, bad: set[str], where: Any) -> None:
        assert error["code"] == "rejected_record", where
        assert {one["field"] for one in error["fields"] if "field" in one} == bad, where
        checks = {check.name: check for check in self.bundle.fallback.checks}
        rejecting = [one["check"] for one in error["fields"] if "check" in one]
        assert all(checks[name].policy == "reject" for name in rejecting), where
        policies = self.bundle.fallback.policies
        named = [one for one in error["fields"] if "field" in one]
        by_policy = {policies[one["field"]][one["trouble"]].policy for one in named}
        assert rejecting or "reject" in by_policy, where
        sensitive = {one.name for one in self.bundle.fields if one.sensitive}
        for one in error["fields"]:
            assert one["expected"], where
            assert len(one.get("got", "")) <= 64, where
            if "field" in one:
                is_shown = one["field"] in record and one["field"] not in sensitive
                assert ("got" in one) == is_shown, where
        self.seen["rejected", ""] += 1

    def _check_marks(self, item: Any, fallen: list[str], where: Any) -> None:
        reasons = item.get("reasons", [])
        assert reasons[: len(fallen)] == fallen, where
        assert len(set(reasons)) == len(reasons), where
        assert (item["served_by"] == "model") == (not reasons), where
        assert (item["served_by"] == "rules") == ("rule" in item), where
        if item["served_by"] == "baseline":
            assert self.bundle.ladder.baseline is not None, where

    def _check_values(self, item: Any, where: Any) -> None:
        outputs = self.bundle.outputs
        values = item.get("outputs", {outputs[0].name: item["prediction"]})
        assert list(values) == [spec.name for spec in outputs], where
        assert values[outputs[0].name] == item["prediction"], where
        if "rule" in item:
            rules = {rule.name: rule.outputs for rule in self.bundle.fallback.rules}
            assert values == rules.get(item["rule"], self.bundle.fallback.default), where
        for spec in outputs:
            value = values[spec.name]
            if spec.kind == "label":
                assert value in (spec.classes or ()), where
            elif value is None:
                assert (spec.kind, item["served_by"]) == ("class_probabilities", "rules"), where
            else:
                numbers = value if len(spec.shape) == 2 else [value]
                assert len(spec.shape) == 1 or len(numbers) == spec.shape[1], where
                for number in numbers:
                    assert type(number) in (int, float), where
                    assert math.isfinite(number), where
                    assert spec.low is None or number >= spec.low, where
                    assert spec.high is None or number <= spec.high, where
        assert item["decision"] == self.decision(values), where

    def decision(self, values: Mapping[str, Any]) -> Any:
        primary, steps = self.bundle.outputs[0], self.bundle.manifest.decision
        if isinstance(steps, str):
            return values[primary.name]
        assert steps is not None
        edges = [step.below for step in steps if step.below is not None]
        return steps[bisect_right(edges, values[primary.name])].name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def subjects(client: Client, names: Sequence[str], seed: int) -> list[Subject]:
    live = client.serving.runtime.routes.live
    found: list[Subject] = []
    for name in names:
        bundle = live[name].bundle
        assert bundle.fitted is not None
        texts = [text for words in bundle.fitted.vocabularies.values() for text in words]
        near = [text + " " for text in texts] + [text.upper() for text in texts]
        near += [unicodedata.normalize(form, text) for text in texts for form in ("NFD", "NFKD")]
        generator = Generator(bundle.fields, GOOD[name], [*texts, *near, " green "], seed)
        found.append(Subject(client, name, bundle, generator))
    return found


def serve(store: Path, state: Path, names: Sequence[str], seed: int) -> Iterator[list[Subject]]:
    for name in names:
        PACKERS[name](store, name)
    with server_over(store, state) as client:
        yield subjects(client, names, seed)


@pytest.fixture(scope="module")
def two(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Subject]]:
    """Checks, a baseline, rules and rejections; classes."""
    yield from serve(store, tmp_path_factory.mktemp("state"), ["trips", "kinds"], seed=4)


def hold(subject: Subject, records: int, rng: random.Random) -> None:
    """Sends so many records in lists, and some of them alone, too."""
    left = records
    while left > 0:
        size = min(left, rng.choice(LIST_ROWS))
        left -= size
        sent = [subject.generator.record() for _ in range(size)]
        items = subject.send(sent)
        assert len(items) == size
        for text, item in zip(sent, items, strict=True):
            subject.check(text, item)
        chosen = rng.sample(range(size), 5)
        assert_alone(subject, [(sent[row], items[row]) for row in chosen])


def hold_while_it_raises(subject: Subject) -> None:
    """Lists with a record for which the model of `tests.cells` raises; five open its breaker."""
    if subject.name not in ("cells", "plain"):
        return
    poison = json.dumps({**GOOD[subject.name], "x": cells.X_RAISES})
    for _ in range(8):
        sent = [poison, *(subject.generator.record() for _ in range(99))]
        for text, item in zip(sent, subject.send(sent), strict=True):
            subject.check(text, item)
    below = "baseline" if subject.bundle.ladder.baseline else "rules"
    assert subject.seen[below, "model_error"] > 5 <= subject.seen[below, "breaker"]


def assert_alone(subject: Subject, pairs: Sequence[tuple[str, Any]]) -> None:
    """What a list says of a record is what is said of it alone."""
    with subject.client.connect() as connection:
        connection.send(b"".join(subject.request(text) for text, _ in pairs))
        for text, item in pairs:
            response = connection.receive()
            body = response.json
            if OURS & {*item.get("reasons", ()), *body.get("reasons", ())}:
                continue
            assert response.status == (422 if "error" in item else 200), (text, item)
            if "error" in item:
                alone, listed = (_without_rows(error) for error in (body["error"], item["error"]))
                assert alone == listed
            else:
                assert body.keys() - item.keys() == SHARED
                assert {key: body[key] for key in item} == item


def _without_rows(error: Any) -> Any:
    fields = [{key: entry[key] for key in entry if key != "row"} for entry in error["fields"]]
    return {"code": error["code"], "message": error["message"], "fields": fields}


def test_any_record_is_answered_by_some_rung_or_refused_by_name(two: list[Subject]):
    for subject in two:
        hold(subject, 8_000, random.Random(5))
        assert {who for who, _ in subject.seen} >= {"model", "rules", "rejected"}
    assert ("baseline", "is_weekend:missing") in two[0].seen


def test_texts_written_in_another_way_are_known(tmp_path: Path):
    for (words,) in serve(tmp_path / "store", tmp_path / "state", ["words"], seed=4):
        hold(words, 2_000, random.Random(5))
        assert {who for who, _ in words.seen} == {"model", "rules"}
        same = json.dumps({"size": 3.5, "word": " cafe\u0301"})
        (item,) = words.send([same])
        words.check(same, item)
        assert item["served_by"] == "model"


def test_what_is_no_json_is_refused_whole(two: list[Subject]):
    """Alone, in a record, in a list among good records: 400, and nothing is answered."""
    trips = two[0]
    good = json.dumps(TRIP)
    for value in UNDECODABLE:
        for body in (value, f'{{"distance":{value}}}', f'[{good},{{"distance":{value}}}]'):
            response = trips.client.send(trips.request(body))
            assert (response.status, response.error["code"]) == (400, "undecodable"), body[:80]


def test_items_that_are_no_records_are_refused_one_by_one(two: list[Subject]):
    trips = two[0]
    strays = ["null", "1", '"x"', "[]", "true", "[{}]", "1e308"]
    good = json.dumps(TRIP)
    items = trips.send([text for stray in strays for text in (good, stray)])
    assert {item["served_by"] for item in items[::2]} == {"model"}
    assert {item["error"]["code"] for item in items[1::2]} == {"rejected_record"}


@pytest.mark.trial
def test_a_million_broken_records_are_answered(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
):
    folder, names = tmp_path_factory.mktemp("store"), list(PACKERS)
    rng = random.Random(6)
    for found in serve(folder, tmp_path_factory.mktemp("state"), names, seed=7):
        for subject in found:
            hold(subject, TRIAL_RECORDS // len(names), rng)
            hold_while_it_raises(subject)
            with capsys.disabled():
                print(f"\n{subject.name}: {told(subject)}", end="", flush=True)  # noqa: T201
        assert sum(sum(subject.seen.values()) for subject in found) >= TRIAL_RECORDS


def told(subject: Subject) -> str:
    """Records by who answered."""
    by: Counter[str] = Counter()
    for (who, _), count in subject.seen.items():
        by[who] += count
    return f"{sum(by.values()):,} records, " + ", ".join(f"{who} {n:,}" for who, n in by.items())
