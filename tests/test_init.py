"""`keelmark init`: what it writes works at once, on its own table and on troubled ones."""

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from server.cli import app, main
from server.cli.exits import DONE, USAGE
from server.starter import libraries
from server.starter.columns import Column, LeftOut, Survey, survey
from server.starter.project import FILES
from server.starter.reading import read_table
from server.starter.target import explained
from tests.serving import serving

ROOT = Path(__file__).parent.parent
Cells = Mapping[str, Sequence[Any]]


def run_in(folder: Path, *command: str, **variables: str) -> str:
    """Standard output of a command that must succeed, each of them by the Python that runs us."""
    modules = [] if command[0] == "python" else ["-m", command[0]]
    words = [sys.executable, *modules, *command[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    ran = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert ran.returncode == 0, f"{' '.join(words)}:\n{ran.stdout}{ran.stderr}"
    return ran.stdout


Init = Callable[..., SimpleNamespace]


@pytest.fixture
def init(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Init:
    """Runs `keelmark init` in a folder of its own."""

    def call(*arguments: object) -> SimpleNamespace:
        with monkeypatch.context() as there:
            there.chdir(tmp_path)
            there.setattr(sys, "argv", ["keelmark", "init", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        printed = capsys.readouterr()
        code = ended.value.code if isinstance(ended.value.code, int) else 0
        complaint = " ".join(printed.err.replace("│", " ").split())
        return SimpleNamespace(code=code, out=printed.out, err=complaint)

    return call


def write_csv(path: Path, cells: Cells, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
    return path


def assert_tidy(project: Path) -> None:
    """As ruff would have it, by the project's own settings."""
    run_in(project, "python", "-m", "ruff", "check", "--no-cache", ".")
    run_in(project, "python", "-m", "ruff", "format", "--no-cache", "--check", ".")


# without a table


def steps_of(project: Path) -> list[list[str]]:
    """The commands of the workflow that need nothing but the project, in their order."""
    text = (project / ".github/workflows/model.yml").read_text()
    runs = [step.get("run", "") for step in yaml.safe_load(text)["jobs"]["model"]["steps"]]
    lines = [line.split() for run in runs for line in run.replace("$VERSION", "1").splitlines()]
    return [words for words in lines if words[0] in ("python", "keelmark", "ruff")]


def test_a_project_without_a_table_does_what_its_workflow_says(init: Init, tmp_path: Path):
    assert init("deliveries").code == DONE
    project = tmp_path / "deliveries"
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert files == {*FILES, "table.csv"}
    bundle = project / "build/store/deliveries/1"
    steps, printed = steps_of(project), ""
    for words in steps:
        if "build/live" in words:
            shutil.copytree(bundle, project / "build/live")
        printed = run_in(project, *words)
    assert [" ".join(words[:2]) for words in steps] == [
        "ruff check",
        "ruff format",
        "python train.py",
        "keelmark verify",
        "python -m",
        "keelmark predict",
        "keelmark predict",
        "python compare.py",
    ]
    assert "0.0% of 400 rows differ" in printed
    readme = (project / "README.md").read_text()
    record = json.loads(readme.partition("-d '")[2].partition("'")[0])
    with serving(project / "build/store", tmp_path) as server:
        answer = server.predict("deliveries", record)
        early = server.predict("deliveries", {**record, "promised_at": "2000-01-01T00:00"})
    assert answer.body["served_by"] == "model"
    assert early.body["reasons"] == ["check:ordered_at_first"]
    assert early.body["served_by"] == "baseline"


def test_the_readme_of_a_project_names_what_is_there(init: Init, tmp_path: Path):
    init("deliveries")
    project = tmp_path / "deliveries"
    readme = (project / "README.md").read_text()
    assert "@@" not in readme
    named = re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE)
    assert {"definition.py", "fallback.py", "train.py"} <= set(named)
    assert [name for name in named if not (project / name).exists()] == []


@pytest.mark.parametrize("path", ["docs/getting-started.md", "server/starter/templates/README.md"])
def test_commands_that_are_shown_exist(path: str):
    lines = re.findall(r"^keelmark (\w+)(.*)$", (ROOT / path).read_text(), re.MULTILINE)
    assert {name for name, _ in lines} >= {"verify", "serve", "publish"}
    commands: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest.partition("#")[0])) <= known, rest


def test_two_bundles_that_answer_otherwise_are_told_apart(tmp_path: Path):
    source = ROOT / "server/starter/templates/compare.py.txt"
    shutil.copy(source, tmp_path / "compare.py")
    served = ["model"] * 10
    for name, late in (("live", 3), ("near", 4), ("far", 8)):
        decision = ["late"] * late + ["on_time"] * (10 - late)
        pq.write_table(pa.table({"decision": decision, "served_by": served}), tmp_path / name)
    run_in(tmp_path, "python", "compare.py", "live", "near")
    with pytest.raises(AssertionError, match=r"50\.0% of 10 rows differ"):
        run_in(tmp_path, "python", "compare.py", "live", "far")


# a troubled table

WORDS = ["blue", "soft", "old", "quick", "rain", "paper"]


def troubled(rows: int = 1_000) -> Cells:
    """Customers as a spreadsheet has them: five spellings of null, dates as text, codes as 7.0."""
    draw = random.Random(5)
    days = [date(2023, 1, 1) + timedelta(days=i * 300 // rows) for i in range(rows)]
    spent = [
        draw.choice(["NA", " ", "?"]) if draw.random() < 0.1 else f"{draw.gammavariate(2, 40):.2f}"
        for _ in days
    ]
    return {
        "Customer ID": [f"C{i:05d}" for i in range(rows)],
        "row": list(range(1, rows + 1)),
        "signed up": [
            f"{day} {draw.randrange(24):02d}:{draw.randrange(60):02d}:00" for day in days
        ],
        "last_seen": ["" if draw.random() < 0.05 else str(day + timedelta(days=9)) for day in days],
        "spent (EUR)": spent,
        "store_id": ["" if draw.random() < 0.1 else f"{draw.randrange(1, 40)}.0" for _ in days],
        "newsletter": [draw.choice(["yes", "no"]) for _ in days],
        "member": [draw.choice(["True", "False", ""]) for _ in days],
        "class": [draw.choice(['"A"', "it's", "plain"]) for _ in days],
        "2nd visit": [draw.randrange(2) for _ in days],
        "note": [" ".join(draw.choices(WORDS, k=6)) for _ in days],
        "country": ["DE"] * rows,
        "fax": [""] * rows,
        "churned": [
            ""
            if i % 50 == 7
            else (
                "yes"
                if (text not in ("NA", " ", "?") and float(text) < 60) ^ (draw.random() < 0.2)
                else "no"
            )
            for i, text in enumerate(spent)
        ],
    }


COUNT_NULLS = """
import numpy as np
from definition import features
from table import read
from train import target
fitted, x = features.fit_transform(read(), target=target(read()), quiet=True)
print(np.isnan(x).sum())
"""
"""Most models of scikit-learn take none."""


def test_a_troubled_table_trains_and_serves_at_once(init: Init, tmp_path: Path):
    write_csv(tmp_path / "customers.csv", troubled())
    ran = init("churn", "--table", "customers.csv", "--target", "churned", "--time", "signed up")
    assert ran.code == DONE, ran.err
    project = tmp_path / "churn"
    assert_tidy(project)
    run_in(project, "python", "train.py")
    assert run_in(project, "python", "-c", COUNT_NULLS).strip() == "0"
    record = {
        "signed up": "2023-12-01T10:00:00",
        "last_seen": None,
        "spent_EUR": 12.5,
        "store_id": 7,
        "newsletter": "yes",
        "member": True,
        "class": '"A"',
        "n2nd_visit": 1,
    }
    with serving(project / "build/store", tmp_path) as server:
        answer = server.predict("churn", record).body
        untimed = server.predict("churn", {**record, "signed up": "soon"}).body
    assert answer["served_by"] == "model"
    assert answer["decision"] in ("yes", "no")
    assert untimed["served_by"] == "baseline"
    assert untimed["reasons"] == ["signed up:invalid"]


@pytest.mark.trial
@pytest.mark.parametrize("library", ["LightGBM", "scikit-learn"])
@pytest.mark.parametrize(
    "target", ["member", "newsletter", "spent (EUR)", "class", "2nd visit", "store_id"]
)
def test_any_column_of_the_troubled_table_can_be_the_target(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, target: str
):
    chosen = tuple(one for one in libraries.LIBRARIES if one.name == library)
    monkeypatch.setattr(libraries, "LIBRARIES", chosen)
    write_csv(tmp_path / "customers.csv", troubled(2_000))
    ran = init("any", "--table", "customers.csv", "--target", target)
    assert ran.code == DONE, ran.err
    assert library in ran.out
    project = tmp_path / "any"
    assert_tidy(project)
    run_in(project, "python", "train.py")
    run_in(project, "keelmark", "verify", "build/store/any/1")
    run_in(project, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")


# what columns are taken for


def taken(path: Path, target: str, **options: Any) -> tuple[Survey, dict[str, Column | LeftOut]]:
    found = survey(read_table(path), target, options.pop("time", None), **options)
    return found, {column.name: column for column in (*found.columns, *found.left_out)}


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("tables") / "customers.csv", troubled())


@pytest.fixture
def columns(customers: Path) -> dict[str, Column | LeftOut]:
    return taken(customers, "churned", time="signed up")[1]


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("signed up", "timestamp", ('tz="UTC"', "nullable=False")),
        ("last_seen", "timestamp", ('tz="UTC"',)),
        ("spent_EUR", "number", ()),
        ("store_id", "category", ('of="integer"',)),
        ("newsletter", "category", ('vocabulary=["no", "yes"]', "nullable=False")),
        ("member", "boolean", ()),
        ("class", "category", ("nullable=False",)),
        ("n2nd_visit", "number", ("nullable=False",)),
    ],
)
def test_what_a_column_is_taken_for(
    columns: dict[str, Column | LeftOut], name: str, kind: str, arguments: tuple[str, ...]
):
    column = columns[name]
    assert isinstance(column, Column), column
    assert (column.kind, column.arguments) == (kind, arguments)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Customer ID", "different texts"),
        ("row", "different whole numbers"),
        ("note", "free text"),
        ("country", "is 'DE' in every row"),
        ("fax", "has no value in any row"),
    ],
)
def test_what_is_left_out_says_why(columns: dict[str, Column | LeftOut], name: str, why: str):
    column = columns[name]
    assert isinstance(column, LeftOut), column
    assert why in column.why


def test_rows_without_a_target_are_no_rows(customers: Path):
    assert len(taken(customers, "churned")[0].rows) == 1_000 - 20


def test_a_column_can_be_kept_out(customers: Path):
    found, columns = taken(customers, "churned", without=["spent (EUR)"])
    assert isinstance(columns["spent_EUR"], LeftOut)
    assert "spent_EUR" not in {column.name for column in found.strongest}


def test_two_timestamps_in_one_order_become_a_check(tmp_path: Path, customers: Path):
    times = taken(customers, "churned")[0].ordered_times
    assert [column.name for column in times or ()] == ["signed up", "last_seen"]
    cells: dict[str, list[Any]] = {
        "begin": [f"2024-01-{1 + i % 28:02d}T00:00:00Z" for i in range(50)],
        "end": [f"2024-02-{1 + i % 28:02d}T00:00:00+01:00" for i in range(50)],
        "y": [i % 3 for i in range(50)],
    }
    found, _ = taken(write_csv(tmp_path / "t.csv", cells), "y")
    assert [column.name for column in found.ordered_times or ()] == ["begin", "end"]
    cells["end"][7] = "2023-12-31T00:00:00Z"
    found, _ = taken(write_csv(tmp_path / "t.csv", cells), "y")
    assert found.ordered_times is None


def test_semicolons_and_decimal_commas_are_read(tmp_path: Path):
    cells = {
        "x": ["1,5", "2,25", ""] * 10,
        "text": ["a", "b,c", "a"] * 10,
        "y": ["0,5", "1", "7"] * 10,
    }
    file = read_table(write_csv(tmp_path / "t.csv", cells, ";"))
    assert (file.delimiter, file.decimal_point) == (";", ",")
    assert file.table["x"].to_pylist()[:3] == [1.5, 2.25, None]
    assert file.table["text"][1].as_py() == "b,c"
    assert file.table["y"].to_pylist()[:3] == [0.5, 1.0, 7.0]


def test_an_odd_cell_far_down_makes_a_text_of_its_column(tmp_path: Path):
    cells = {"x": [*map(str, range(200_000)), "n.a. yet"], "y": [i % 7 for i in range(200_001)]}
    file = read_table(write_csv(tmp_path / "t.csv", cells))
    assert pa.types.is_string(file.table["x"].type)


def test_parquet_keeps_its_types_and_floats_that_callers_send(tmp_path: Path):
    table = pa.table(
        {
            "single": pa.array([0.1, None, 2.5], pa.float32()),
            "day": pa.array([date(2024, 1, 1)] * 3),
            "kind": pa.array(["a", "b", None]).dictionary_encode(),
            "at": pa.array(
                [datetime(2024, 1, 1, 12, tzinfo=UTC)] * 3, pa.timestamp("ns", "Europe/Rome")
            ),
            "list": pa.array([[1], [2], [3]]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    file = read_table(tmp_path / "t.parquet")
    assert file.table["single"].to_pylist() == [0.1, None, 2.5]
    assert file.by_text == ("single",)
    kinds = {entry.name: str(entry.type) for entry in file.table.schema}
    assert kinds == {
        "single": "double",
        "day": "timestamp[us]",
        "kind": "string",
        "at": "timestamp[us, tz=UTC]",
    }


def test_a_project_on_parquet_reads_what_was_surveyed(init: Init, tmp_path: Path):
    draw = np.random.default_rng(0)
    table = pa.table(
        {
            "single": pa.array(draw.normal(size=400).round(1), pa.float32()),
            "size (m)": pa.array(draw.integers(0, 90, 400), pa.int32()),
            "kind": pa.array(draw.choice(["a", "b"], 400)).dictionary_encode(),
            "y": pa.array(draw.normal(size=400)),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert init("sizes", "--table", "t.parquet", "--target", "y").code == DONE
    project = tmp_path / "sizes"
    assert_tidy(project)
    printed = run_in(project, "python", "-c", "from table import read; print(read().to_pydict())")
    expected = read_table(tmp_path / "t.parquet").table.to_pydict()
    assert eval(printed) == expected


def test_what_groups_explain_of_a_target():
    target = np.array([0.0, 0.0, 1.0, 1.0] * 100)[:, None]
    knows = np.array([0, 0, 1, 1] * 100)
    knows_not = np.array([0, 1, 0, 1] * 100)
    assert explained(knows, target) == pytest.approx(1, abs=0.01)
    assert explained(knows_not, target) == pytest.approx(0, abs=0.01)
    ids = np.arange(400)
    assert explained(ids, target) == pytest.approx(0, abs=0.01), "a group for each row is chance"


# what is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("Bad", "is no name of a model: at most 64 lower-case letters"),
        ("../up", "is no name of a model"),
        ("there", "is there already, and nothing in it is overwritten"),
        ("new --target y", "Name its file with --table"),
        ("new --table none.csv", "there is no file none.csv"),
        ("new --table t.csv", "names what is to be predicted; t.csv has the columns x, y"),
        ("new --table t.csv --target z", "has no column 'z' (--target); it has x, y"),
        ("new --table t.csv --target y --time z", "has no column 'z' (--time)"),
        ("new --table t.csv --target y --time x", "expected dates and times such as"),
        ("new --table t.csv --target y --without z", "has no column 'z' (--without)"),
        ("new --table t.csv --target y --without x", "no column to predict 'y' from"),
        ("new --table t.xlsx --target y", "a table is read from .csv, .csv.gz, .parquet"),
        ("new --table bad.parquet --target y", "bad.parquet cannot be read"),
        ("new --table latin.csv --target y", "save it as UTF-8, as with: iconv"),
        ("new --table ragged.csv --target y", "ragged.csv cannot be read"),
        ("new --table empty.csv --target y", "empty.csv cannot be read"),
        ("new --table head.csv --target y", "head.csv has no rows"),
        ("new --table twice.csv --target y", "a name of its own; look at ['x']"),
        ("new --table same.csv --target y", "nothing to learn"),
        ("new --table texts.csv --target y", "at most 20 classes"),
    ],
)
def test_refusals_say_what_would_do(init: Init, tmp_path: Path, arguments: str, says: str):
    files = {
        "t.csv": b"x,y\n1,2\n2,3\n3,5\n",
        "t.xlsx": b"PK",
        "bad.parquet": b"PAR1 nothing",
        "latin.csv": "x,y\nZürich,1\nBern,2\n".encode("latin-1"),
        "ragged.csv": b"x,y\n1,2,3\n1,2\n",
        "empty.csv": b"",
        "head.csv": b"x,y\n",
        "twice.csv": b"x,x,y\n1,2,3\n",
        "same.csv": b"x,y\n1,2\n2,2\n",
        "texts.csv": b"x,y\n" + b"".join(b"%d,t%d\n" % (i, i) for i in range(30)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "there").mkdir()
    ran = init(*arguments.split())
    assert ran.code == USAGE
    assert says in ran.err
    assert not (tmp_path / "new").exists()


def test_the_library_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch):
    there = {"sklearn", "skl2onnx", "onnx", "pyarrow"}
    monkeypatch.setattr(libraries, "find_spec", lambda name: name in there)
    assert libraries.installed_library().name == "scikit-learn"
    there |= {"lightgbm", "onnxmltools"}
    assert libraries.installed_library().name == "LightGBM"
    there.clear()
    with pytest.raises(ModuleNotFoundError, match="pip install 'keelmark"):
        libraries.installed_library()
