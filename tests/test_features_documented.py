"""docs/features.md names everything that can be declared, and its code gives what it shows."""

import contextlib
import dataclasses
import doctest
import inspect
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import features
import keelmark
import models
from features import Field
from features.fields import FLAG_NAMES
from features.normalization import NORMALIZATIONS
from features.ops import OPS

DOCS = (Path(__file__).parent.parent / "docs" / "features.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
OPERATIONS = re.findall(r"`(\w+/\d+)`", DOCS)
CONSTRUCTORS = ("boolean", "category", "number", "timestamp")
COMBINERS = ("cross", "elapsed", "maximum", "minimum", "onnx_op", "safe_div", "where")
EXPRESSIONS = (features.Boolean, features.Category, features.Number, features.Timestamp)


def rows_of_tables() -> list[str]:
    return [line for line in DOCS.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", OPS)
def test_every_operator_has_one_line_that_explains_it(name: str):
    assert OPERATIONS.count(name) == 1


def test_no_operator_is_explained_that_is_none():
    assert set(OPERATIONS) == OPS.keys()


METHODS = sorted(
    {
        name
        for kind in EXPRESSIONS
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name != "to_json"
    }
)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_an_expression_is_in_a_table_and_in_an_example(method: str):
    assert any(f".{method}(" in line for line in rows_of_tables())
    assert any(f".{method}(" in block for block in BLOCKS)


@pytest.mark.parametrize("function", COMBINERS)
def test_every_function_over_expressions_is_in_a_table_and_in_an_example(function: str):
    assert any(f"`{function}(" in line for line in rows_of_tables())
    assert any(f"show({function}(" in block for block in BLOCKS)


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_every_constructor_has_a_line_with_its_own_arguments(constructor: str):
    (line,) = [line for line in rows_of_tables() if line.startswith(f"| `{constructor}(name)`")]
    arguments = set(inspect.signature(getattr(keelmark, constructor)).parameters)
    shared = {"name", "nullable", "sensitive", "description", "example"}
    assert shared <= arguments
    assert set(re.findall(r"`(\w+)`", line)) - {"epoch"} == arguments - shared


def test_constructors_and_functions_are_all_that_declare():
    public = {name for name in features.__all__ if name.islower()}
    assert public == {*CONSTRUCTORS, *COMBINERS}
    assert public <= set(keelmark.__all__)


@pytest.mark.parametrize("attribute", [field.name for field in dataclasses.fields(Field)])
def test_every_attribute_of_a_field_has_a_line(attribute: str):
    first_cells = [line.split("|")[1] for line in rows_of_tables()]
    assert any(f"`{attribute}`" in cell for cell in first_cells)


@pytest.mark.parametrize("name", FLAG_NAMES)
def test_every_flag_has_a_line(name: str):
    assert [line for line in rows_of_tables() if line.startswith(f"| `{name}` |")]


@pytest.mark.parametrize("step", NORMALIZATIONS)
def test_every_normalization_is_named(step: str):
    assert f'`"{step}"`' in DOCS


@cache
def failures() -> dict[int, str]:
    """What is wrong with each block, run in the order of the page beside a store."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("store").symlink_to(Path(models.__file__).parent / "shipped")
        return {number: _failure(number, code, names) for number, code in enumerate(BLOCKS)}


def _failure(number: int, code: str, names: dict[str, Any]) -> str:
    told: list[str] = []
    if ">>>" in code:
        name = f"block {number} of docs/features.md"
        runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
        test = doctest.DocTestParser().get_doctest(code, names, name, None, None)
        runner.run(test, out=told.append, clear_globs=False)
        names.update(test.globs)
    else:
        exec(code, names)
    return "".join(told)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_gives_what_it_shows(number: int):
    assert not failures()[number]


def test_the_page_shows_most_of_its_code_with_its_results():
    assert sum(block.count(">>>") for block in BLOCKS) > len(OPS)


def test_the_names_of_the_first_example_are_as_the_comment_says():
    names: dict[str, Any] = {}
    for block in BLOCKS[:2]:
        exec(block, names)
    (said,) = re.findall(r"fitted\.feature_names  # (.*)", DOCS)
    assert repr(names["fitted"].feature_names) == said
