"""Golden rows: which there are, that they say what happens, and that a difference is seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs
from sklearn.linear_model import LogisticRegression

from features import boolean, category, number, timestamp
from features.encoding import Encoded
from features.feature_set import FeatureSet
from features.fields import FLAG_NAMES
from features.fitted import Fitted
from models.bundle import Bundle
from models.edges import edge_cases
from models.errors import GoldenMismatch, PackingError
from models.examples import generated, records_of
from models.golden import coverage
from models.ladder import Below, Ladder, Plan
from models.manifest import Golden, GoldenRow, read
from models.outputs import ModelOutputs
from models.packing import pack
from models.replay import replay, replay_row, ulps_apart
from tests.packed import (
    DRIVERS,
    copied,
    edited,
    full_bundle,
    packed,
    rewritten,
    trained,
    trips,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(packed(tmp_path_factory.mktemp("store")))


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return copied(bundle.folder, tmp_path / "bundle")


def replayed(bundle: Bundle) -> Any:
    assert bundle.fitted is not None
    return replay(bundle, bundle.golden, bundle.fitted.feature_names)


def named(bundle: Bundle) -> dict[str, Any]:
    return {row.name: row for row in bundle.golden.rows}


def flags_of(bundle: Bundle, name: str) -> dict[str, str]:
    row = named(bundle)[name]
    pairs = zip(bundle.fields, row.flags, strict=True)
    return {field.name: FLAG_NAMES[flag] for field, flag in pairs if flag}


# which there are


def test_sample_rows_come_first_and_fill_up_the_edges(bundle: Bundle):
    names = [row.name for row in bundle.golden.rows]
    samples = [name for name in names if name.startswith("sample ")]
    assert names[: len(samples)] == [f"sample {i}" for i in range(len(samples))]
    assert len(names) == 256
    assert len(set(names)) == len(names)


def test_every_policy_and_rung_is_exercised(bundle: Bundle):
    found = coverage(bundle)
    assert found.missing == []
    assert found.rungs["rejected"] > 0
    assert found.policies["distance: out_of_bounds (reject)"] > 0
    assert found.rules["default"] == len(bundle.golden.rows)


def test_what_no_row_exercises_is_named(folder: Path):
    def drop(golden: Any) -> None:
        golden["rows"] = [
            row for row in golden["rows"] if "out_of_bounds" not in str(row["expected"])
        ]

    rewritten(folder, "golden.json", edited(drop))
    missing = coverage(Bundle.open(folder)).missing
    assert missing == ["rung rejected", "policy distance: out_of_bounds (reject)"]


def test_each_field_has_each_of_its_troubles_alone(bundle: Bundle):
    private = {"driver": "unknown"}  # its values are generated, so no text is known
    assert flags_of(bundle, "distance: missing") == private | {"distance": "missing"}
    assert flags_of(bundle, "distance: invalid") == private | {"distance": "invalid"}
    assert flags_of(bundle, "distance: high + 1 ulp") == private | {"distance": "out_of_bounds"}
    assert flags_of(bundle, "distance: high") == private
    assert flags_of(bundle, "distance: low - 1 ulp") == private | {"distance": "out_of_bounds"}
    assert flags_of(bundle, "carrier: unknown") == private | {"carrier": "unknown"}
    assert flags_of(bundle, "is_weekend: invalid") == private | {"is_weekend": "invalid"}
    assert flags_of(bundle, "leaves: invalid") == private | {"leaves": "invalid"}
    assert set(flags_of(bundle, "all missing").values()) == {"missing"}
    assert set(flags_of(bundle, "all invalid").values()) == {"invalid"}


def test_the_policies_choose_the_expected_rung(bundle: Bundle):
    rows = named(bundle)
    assert rows["distance: high + 1 ulp"].expected.rung == "rejected"
    assert rows["distance: high + 1 ulp"].expected.bad == {"distance": "out_of_bounds"}
    assert rows["is_weekend: missing"].expected.rung == "rules"
    assert rows["is_weekend: missing"].expected.reasons == ("is_weekend:missing",)
    assert rows["distance: invalid"].expected.repaired == {"distance": "invalid"}
    assert rows["distance: missing"].expected.rung == "model"
    assert rows["sample 0"].expected.rung == "model"
    assert all(row.expected.rules == {"probability": 0.25} for row in bundle.golden.rows)
    assert all(row.expected.model is not None for row in bundle.golden.rows)


def test_time_has_its_days_and_traps(bundle: Bundle):
    assert bundle.fitted is not None
    rows, place = named(bundle), [field.name for field in bundle.fields].index("leaves")

    def second(name: str) -> float:
        return float(np.frombuffer(bytes.fromhex(rows[f"leaves: {name}"].row), "<f8")[place])

    assert second("epoch 0") == 0
    assert second("leap day") == np.datetime64("2024-02-29T23:59:59").astype(int)
    assert rows["leaves: leap day"].record["leaves"] == "2024-02-29T23:59:59Z"
    zone = bundle.fitted.zones["America/New_York"]
    gap, overlap = second("first second after a gap"), second("first second after an overlap")
    assert {gap, overlap} <= set(zone.transitions)
    # 2:30 does not exist and is read with the offset before the gap; 1:30 is the earlier of the
    # two.
    assert second("wall-clock time in a gap") == gap + 1800
    assert second("wall-clock time in an overlap") == overlap - 1800
    assert not rows["leaves: wall-clock time in a gap"].record["leaves"].endswith("Z")


@pytest.fixture(scope="module")
def every_kind() -> Fitted:
    columns = {
        "plain": number("plain"),
        "bounded": number("bounded", low=-1, high=1, out_of_bounds="clip"),
        "flag": boolean("flag").passthrough(),
        "code": category("code", of="integer").one_hot(),
        "text": category("text", normalize=("strip", "casefold"), vocabulary=("a", "b")).one_hot(),
        "zoned": timestamp("zoned", tz="Europe/Paris").hour(),
        "utc": timestamp("utc").hour(),
        "millis": timestamp("millis", unit="ms").hour(),
    }
    return FeatureSet("kinds", version=1, features=columns).fit(table_of_every_kind(), quiet=True)


def table_of_every_kind() -> pa.Table:
    nanos = 1_700_000_000_123_456_789
    return pa.table(
        {
            "plain": pa.array([1.5, None, float("inf"), -0.0]),
            "bounded": pa.array([0.5, 2.0, None, -1.0]),
            "flag": pa.array([True, False, None, True]),
            "code": pa.array([7, 8, None, 9]),
            "text": pa.array([" A", "b", "c", None]),
            "zoned": pa.array([nanos, None, 0, nanos], pa.timestamp("ns")),
            "utc": pa.array([nanos // 1000, None, -1, 10**15], pa.timestamp("us", tz="Asia/Tokyo")),
            "millis": pa.array([nanos // 10**6, None, 0, 5], pa.timestamp("ms", tz="UTC")),
        }
    )


def test_edge_cases_are_what_they_are_called(every_kind: Fitted):
    base = records_of(table_of_every_kind(), np.asarray([0]), every_kind.fields)[0]
    cases = edge_cases(every_kind.fields, every_kind.vocabularies, every_kind.zones, base)
    names = [field.name for field in every_kind.fields]
    encoded = every_kind.record_encoder.encode([record for _, record in cases])
    for (name, _), flags in zip(cases, encoded.flags, strict=True):
        field, _, what = name.partition(": ")
        if what in FLAG_NAMES:
            assert FLAG_NAMES[flags[names.index(field)]] == what, name
        elif (
            what not in ("integer beyond 2^53", "empty text")
            and "ulp" not in what
            and field in names
        ):
            assert FLAG_NAMES[flags[names.index(field)]] == "ok", name
    assert np.isfinite(every_kind.transform(encoded)).any(), (
        "and none of them makes the graph raise"
    )


def test_many_fields_share_their_cases_and_each_comes_to_all_its_edges(every_kind: Fitted):
    base = records_of(table_of_every_kind(), np.asarray([0]), every_kind.fields)[0]
    given = every_kind.fields, every_kind.vocabularies, every_kind.zones, base
    alone = edge_cases(*given)
    assert edge_cases(*given, most=len(alone)) == alone
    for most in (len(alone) - 1, len(alone) // 2, 40):
        together = edge_cases(*given, most=most)
        assert len(together) <= most
        assert len({name for name, _ in together}) == len(together)
        for name, record in alone[3:]:
            field = name.partition(": ")[0]
            shown = [repr(other[field]) for _, other in together[3:]]
            assert repr(record[field]) in shown, name  # 0.0 is not -0.0


def test_a_bundle_of_many_fields_has_few_golden_rows_and_misses_nothing(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = [f"n{i}" for i in range(80)]
    table = {name: rng.random(300) for name in names}
    declared = {name: number(name, low=0, high=1).impute(0.5) for name in names}
    fitted, x = FeatureSet("wide", version=1, features=declared).fit_transform(table, quiet=True)
    target = x[:, 0] > 0.5
    policies: dict[str, Any] = {name: {"out_of_bounds": "rules"} for name in names[:40]}
    folder = pack(
        tmp_path,
        "wide",
        "1",
        features=fitted,
        model=LogisticRegression().fit(x, target),
        training=table,
        target=target,
        policies=policies,
        rules=[{"name": "high", "when": "r.n7 > 0.99", "outputs": 0.75}],
        default=0.25,
        progress=False,
    )
    bundle = Bundle.open(folder)
    assert len(bundle.golden.rows) <= 256
    assert coverage(bundle).missing == []
    assert replayed(bundle).rows == len(bundle.golden.rows)


def test_one_row_alone_says_what_differs_and_which_rungs_that_spoils(bundle: Bundle):
    replay_row(bundle, 3)
    row = bundle.golden.rows[3]
    wrong = structs.replace(row.expected, model={"probability": 0.875})
    expected = structs.replace(row, expected=wrong)
    with pytest.raises(GoldenMismatch) as found:
        replay_row(with_row(bundle, 3, expected), 3)
    assert (found.value.row, found.value.spoils) == ("sample 3", "model")
    assert "output 'probability' is" in found.value.got
    assert found.value.expected.startswith("0.875")
    flags = (1, *row.flags[1:])
    with pytest.raises(GoldenMismatch) as found:
        replay_row(with_row(bundle, 3, structs.replace(row, flags=flags)), 3)
    assert found.value.spoils == "baseline"


def with_row(bundle: Bundle, place: int, row: GoldenRow) -> Bundle:
    """A bundle that expects something else."""
    rows = list(bundle.golden.rows)
    rows[place] = row
    return replace(bundle, golden=structs.replace(bundle.golden, rows=tuple(rows)))


def test_records_of_a_table_encode_to_its_bits(every_kind: Fitted):
    table = table_of_every_kind()
    records = records_of(table, np.arange(table.num_rows), every_kind.fields)
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    by_record, by_table = every_kind.record_encoder.encode(records), every_kind.encode_table(table)
    assert by_record.rows.tobytes() == by_table.rows.tobytes()
    assert by_record.flags.tobytes() == by_table.flags.tobytes()
    assert records[0]["millis"] == 1_700_000_000_123
    assert records[0]["zoned"] == "2023-11-14T22:13:20.123456789"


def test_sensitive_values_are_generated(bundle: Bundle):
    text = (bundle.folder / "golden.json").read_text()
    assert not any(driver in text for driver in DRIVERS)
    records = [row.record for row in bundle.golden.rows if row.name.startswith("sample")]
    assert len({record["driver"] for record in records}) > 10


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize(
    "field",
    [
        number("x").field,
        number("x", low=3).field,
        number("x", high=-3).field,
        number("x", low=0.25, high=0.5).field,
        boolean("x").field,
        category("x").field,
        category("x", of="integer").field,
        category("x", vocabulary=("a", "b")).field,
        timestamp("x").field,
        timestamp("x", unit="s").field,
        number("x", low=0, high=10, example=7.5).field,
    ],
    ids=lambda field: f"{field.kind} {field.low} {field.high}",
)
def test_generated_values_are_ones_the_field_accepts(field: Any, seed: int):
    from features.encode_record import RecordEncoder
    from features.encoding import codings

    value = generated(field, seed)
    vocabularies = {"x": field.vocabulary or ()}
    encoder = RecordEncoder(codings([field], vocabularies, {}))
    flag = FLAG_NAMES[encoder.encode([{"x": value}]).flags[0, 0]]
    assert flag == ("unknown" if field.kind == "category" and not field.vocabulary else "ok")
    assert value == generated(field, seed)


def test_the_same_training_gives_the_same_golden_rows(bundle: Bundle, tmp_path: Path):
    again = packed(tmp_path / "store")
    assert (again / "golden.json").read_bytes() == (bundle.folder / "golden.json").read_bytes()
    assert (again / "model.onnx").read_bytes() == (bundle.folder / "model.onnx").read_bytes()


def test_encoders_that_disagree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import models.cases

    def wrong(*arguments: Any) -> list[dict[str, Any]]:
        records = records_of(*arguments)
        return [{**record, "distance": 1.0} for record in records]

    monkeypatch.setattr(models.cases, "records_of", wrong)
    with pytest.raises(PackingError, match="training and serving would differ"):
        packed(tmp_path / "store")


# every rung


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(full_bundle(tmp_path_factory.mktemp("full")))


@pytest.fixture
def full_folder(full: Bundle, tmp_path: Path) -> Path:
    return copied(full.folder, tmp_path / "bundle")


def test_each_row_says_what_every_rung_says(full: Bundle):
    rows = named(full)
    clean = rows["sample 0"].expected
    assert clean.rung == "model"
    assert clean.model is not None
    assert clean.baseline is not None
    assert clean.model != clean.baseline
    assert (clean.rule, clean.rules) == ("default", {"probability": 0.25})
    assert (clean.failed_checks, clean.reason) == ((), "operator")


def test_a_rung_that_does_not_answer_says_nothing(full: Bundle):
    rows = named(full)
    refused = rows["carrier: invalid"].expected
    assert refused.baseline is None, "it does not accept an invalid carrier"
    assert (refused.rung, refused.reasons) == ("rules", ("carrier:invalid",))
    assert rows["carrier: unknown"].expected.baseline is not None
    assert rows["carrier: unknown"].expected.rule == "unknown_carrier"
    assert rows["is_weekend: missing"].expected.rung == "baseline"


def test_a_row_says_which_checks_fail(full: Bundle):
    far = named(full)["distance: high"].expected
    assert "far_from_home" in far.failed_checks
    assert (far.rung, far.bad) == ("rejected", {})
    late = named(full)["check workday_or_near: fails"].expected
    assert (late.rung, late.reasons) == ("baseline", ("check:workday_or_near",))
    assert late.baseline is not None
    assert late.decision == ("late" if late.baseline["probability"] >= 0.5 else "in_time")


def test_a_bundle_with_every_rung_replays(full: Bundle):
    found, rows = replayed(full), len(full.golden.rows)
    assert 200 < rows <= 256
    assert (found.rows, found.features_off_by_one, found.batch_exact) == (rows, 0, True)


def other_answer(row: str, rung: str, value: Any) -> Any:
    def change(golden: Any) -> None:
        found = next(one for one in golden["rows"] if one["name"] == row)
        found["expected"][rung] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            other_answer("sample 3", "baseline", {"probability": 0.75}),
            "the baseline's output 'probability' is 0.",
        ),
        (other_answer("sample 3", "baseline", None), "the baseline answers [0."),
        (
            other_answer("carrier: invalid", "baseline", {"probability": 0.75}),
            "the baseline answers nothing, expected {'probability': 0.75}",
        ),
        (
            other_answer("carrier: unknown", "rules", {"probability": 0.75}),
            "the rules' (unknown_carrier) output 'probability' is 0.5, expected 0.75",
        ),
        (
            other_answer("carrier: unknown", "rule", "default"),
            "rule 'unknown_carrier' answers, expected 'default'",
        ),
        (other_answer("rule too_late: answers", "reason", "overload"), "rule 'default' answers"),
        (
            other_answer("check workday_or_near: fails", "failed_checks", []),
            "the failed checks are ('workday_or_near',), expected ()",
        ),
    ],
)
def test_a_rung_that_answers_otherwise_is_named(full_folder: Path, change: Any, words: str):
    rewritten(full_folder, "golden.json", edited(change))
    with pytest.raises(GoldenMismatch) as caught:
        replayed(Bundle.open(full_folder))
    assert words in str(caught.value)


def test_a_rule_that_raises_for_a_golden_row_is_named(full_folder: Path):
    """Also where a rule before it answers."""

    def change(fallback: Any) -> None:
        fallback["rules"][-1]["when"] = "reason == 'deadline' || int(r.carrier) > 3"

    rewritten(full_folder, "fallback.json", edited(change))
    with pytest.raises(GoldenMismatch, match="rule 'too_late' raises"):
        replayed(Bundle.open(full_folder))


class OffBelow:
    """A ladder whose baseline answers otherwise in a batch."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ladder, name)

    def below(self, plan: Plan, reason: str) -> Below:
        said = self._ladder.below(plan, reason)
        if len(plan.rows) > 1:
            said.baseline[3] = [0.9]
        return said


def test_a_batch_has_the_lower_rungs_answers_of_its_rows(full: Bundle):
    wrong: Any = OffInBatches(full)
    wrong.ladder = OffBelow(full.ladder)
    words = "in a batch, the baseline's output 'probability' is 0.9"
    with pytest.raises(GoldenMismatch, match=words):
        replay(wrong, full.golden, trained()[0].feature_names)


def test_a_check_or_rule_that_no_row_exercises_is_named(full_folder: Path):
    def drop(golden: Any) -> None:
        golden["rows"] = [
            row
            for row in golden["rows"]
            if row["expected"]["rule"] != "too_late" and not row["expected"]["failed_checks"]
        ]

    rewritten(full_folder, "golden.json", edited(drop))
    assert coverage(Bundle.open(full_folder)).missing == [
        "rule too_late",
        "check far_from_home: fails (reject)",
        "check workday_or_near: fails (baseline)",
    ]


def test_a_baseline_that_no_row_reaches_is_named(full_folder: Path):
    def drop(golden: Any) -> None:
        for row in golden["rows"]:
            row["expected"]["baseline"] = None

    rewritten(full_folder, "golden.json", edited(drop))
    assert coverage(Bundle.open(full_folder)).missing == ["rung baseline"]


# replaying


def test_a_bundle_replays_where_it_was_packed(bundle: Bundle):
    found = replayed(bundle)
    assert (found.rows, found.features_off_by_one, found.batch_exact) == (256, 0, True)


Change = tuple[str, Any, str]


def changes() -> list[Any]:
    def row(golden: Any, name: str) -> Any:
        return next(row for row in golden["rows"] if row["name"] == name)

    def bits(name: str, key: str, kind: str, place: int, step: int) -> Any:
        def change(golden: Any) -> None:
            values = np.frombuffer(bytearray.fromhex(row(golden, name)[key]), kind).copy()
            whole = values.view(f"<i{values.itemsize}")
            whole[place] += step
            row(golden, name)[key] = values.tobytes().hex()

        return change

    def expect(name: str, **values: Any) -> Any:
        return lambda golden: row(golden, name)["expected"].update(values)

    def flag(golden: Any) -> None:
        row(golden, "sample 3")["flags"][0] = 2

    def record(golden: Any) -> None:
        row(golden, "sample 3")["record"]["distance"] = 1.0

    return [
        pytest.param(bits("sample 3", "row", "<f8", 0, 1), "field 'distance'", id="row bit"),
        pytest.param(
            bits("sample 3", "features", "<f4", 1, 2), "feature 'log_distance'", id="2 ulp"
        ),
        pytest.param(flag, "flag of field 'distance'", id="flag"),
        pytest.param(record, "field 'distance'", id="record"),
        pytest.param(expect("sample 3", model={"probability": 0.999}), "0.999", id="output"),
        pytest.param(expect("sample 3", rung="rules"), "rung", id="rung"),
        pytest.param(expect("sample 3", decision="never"), "decision", id="decision"),
        pytest.param(
            expect("sample 3", repaired={"distance": "invalid"}), "repaired", id="repaired"
        ),
        pytest.param(expect("is_weekend: missing", reasons=[]), "reasons", id="reasons"),
        pytest.param(expect("sample 3", rules={"probability": 0.5}), "rules", id="default"),
        pytest.param(expect("distance: high + 1 ulp", bad={}), "bad fields", id="bad"),
    ]


@pytest.mark.parametrize(("change", "words"), changes())
def test_a_row_that_does_not_replay_is_named(folder: Path, change: Any, words: str):
    rewritten(folder, "golden.json", edited(change))
    with pytest.raises(GoldenMismatch) as caught:
        replayed(Bundle.open(folder))
    message = str(caught.value)
    assert words in message
    assert "golden row '" in message
    assert "pack this one again" in message


def test_one_unit_in_the_last_place_of_a_feature_is_counted(folder: Path):
    def change(golden: Any) -> None:
        row = golden["rows"][3]
        values = np.frombuffer(bytearray.fromhex(row["features"]), "<f4").copy()
        values[1] = np.nextafter(values[1], np.float32(9))
        row["features"] = values.tobytes().hex()

    rewritten(folder, "golden.json", edited(change))
    assert replayed(Bundle.open(folder)).features_off_by_one == 1


class OffInBatches:
    """A bundle whose batches have other features, or other flags, than its single rows."""

    def __init__(self, bundle: Bundle, *, steps: int = 0, flag: int = 0) -> None:
        self._bundle, self._steps, self._flag = bundle, steps, flag
        self.ladder, self.fields, self.outputs = bundle.ladder, bundle.fields, bundle.outputs
        self.fallback = bundle.fallback
        self.encoder: Any = self

    def encode(self, records: Any) -> Encoded:
        encoded = self._bundle.encoder.encode(records)
        if len(records) > 1:
            encoded.flags[3, 0] += self._flag
        return encoded

    def run(self, rows: Any, /) -> ModelOutputs:
        outputs = self._bundle.run(rows)
        if len(rows) > 1:
            assert outputs.features is not None
            for _ in range(self._steps):
                outputs.features[0, 1] = np.nextafter(outputs.features[0, 1], np.float32(9))
        return outputs


def test_a_batch_has_the_features_and_flags_of_its_rows(bundle: Bundle):
    names = trained()[0].feature_names
    with pytest.raises(GoldenMismatch, match="in a batch, feature 'log_distance'"):
        replay(OffInBatches(bundle, steps=2), bundle.golden, names)
    with pytest.raises(GoldenMismatch, match="in a batch, flag of field 'distance'"):
        replay(OffInBatches(bundle, flag=2), bundle.golden, names)
    found = replay(OffInBatches(bundle, steps=1), bundle.golden, names)
    assert (found.features_off_by_one, found.batch_exact) == (1, False)


def test_an_output_within_tolerance_replays(folder: Path):
    def change(golden: Any) -> None:
        golden["rows"][3]["expected"]["model"]["probability"] += 5e-7

    rewritten(folder, "golden.json", edited(change))
    replayed(Bundle.open(folder))


def test_no_golden_rows_say_nothing(bundle: Bundle):
    empty = Golden(format=1, features_digest=bundle.golden.features_digest, seed=0)
    assert replay(bundle, empty, trained()[0].feature_names).rows == 0


def test_golden_rows_are_read_back_as_written(bundle: Bundle):
    content = (bundle.folder / "golden.json").read_bytes()
    assert read(Golden, content, what="golden.json") == bundle.golden
    assert len(trips()["distance"]) > len(bundle.golden.rows)


FLOATS = st.floats(width=32)


@given(FLOATS, FLOATS)
def test_ulps_apart_is_a_distance(a: float, b: float):
    left, right = np.asarray([a], np.float32), np.asarray([b], np.float32)
    there, back = int(ulps_apart(left, right)[0]), int(ulps_apart(right, left)[0])
    assert there == back >= 0
    assert int(ulps_apart(left, left)[0]) == 0
    assert (there == 0) == (a == b or (np.isnan(a) and np.isnan(b)))


@example(float(np.finfo(np.float32).max))
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_next_float_is_one_ulp_away(a: float):
    left = np.asarray([a], np.float32)
    with np.errstate(over="ignore"):  # beyond the largest number comes infinity
        up = np.nextafter(left, np.float32(np.inf))
    assert int(ulps_apart(left, up)[0]) == 1
