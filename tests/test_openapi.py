"""The OpenAPI page is what the server does: read as a person would, and tried by schemathesis."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from features import category, number, timestamp
from features.expressions import Expression
from features.fields import Field
from models.manifest import Policy
from models.policies import troubles_of
from models.vocabulary import ERROR_CODES
from server import openapi
from server.openapi import codes_of, field_schema
from server.protocols.predict import STATUS, Head
from tests.in_thread import Client, get, server_over
from tests.packed import CHECKS, full_bundle
from tests.tiny import GOOD, NAME

PATH = f"/predict/{NAME}"


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with server_over(store, tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture(scope="module")
def page(server: Client) -> dict[str, Any]:
    return server.send(get("/openapi.json")).json


def record_of(page: dict[str, Any]) -> dict[str, Any]:
    return page["components"]["schemas"][f"{NAME}.record"]


# what it says


def test_every_path_is_there(page: dict[str, Any]):
    assert set(page["paths"]) == {
        PATH,
        "/models",
        "/models/{model}",
        "/health/live",
        "/health/ready",
    }


def test_a_field_has_its_type_bounds_unit_description_and_what_else_is_answered(
    page: dict[str, Any],
):
    fields = record_of(page)["properties"]
    age = fields["age"]
    assert (age["type"], age["minimum"], age["maximum"]) == ("number", 0, 120)
    assert (age["x-unit"], age["description"]) == ("y", "in full years")
    good, *others = fields["height"]["anyOf"]
    assert (good["maximum"], good["description"]) == (3, "a number in m")
    assert [choice["description"] for choice in others] == [
        "missing: answered by the model and counted",
        "out of bounds: answered by the model, marked in `repaired`",
        "invalid: answered by the model, marked in `repaired`",
    ]
    assert record_of(page)["required"] == ["age"]


def test_the_example_is_real_and_answered_by_the_model(server: Client, page: dict[str, Any]):
    body = page["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    example = body["examples"]["one"]["value"]
    assert server.predict(example).json["served_by"] == "model"
    assert set(example) == set(GOOD)


def test_every_error_code_is_under_its_status(page: dict[str, Any]):
    responses = page["paths"][PATH]["post"]["responses"]
    assert set(responses) == {"200", *(str(status) for status in STATUS.values())}
    said = {code for status in {*STATUS.values()} for code in codes_of(status)}
    assert said == set(ERROR_CODES) == set(STATUS)
    assert "strict" in codes_of(422) + codes_of(503)


def test_answers_follow_their_schema(server: Client, page: dict[str, Any]):
    validator = jsonschema_rs.validator_for(
        {"$ref": f"#/components/schemas/{NAME}.answer", "components": page["components"]}
    )
    for change in ({}, {"height": 99}, {"member": "x"}):
        validator.validate(server.predict({**GOOD, **change}).json)


def declared(expression: Expression) -> Field:
    assert expression.field is not None
    return expression.field


ALL_REJECTED = {name: Policy(policy="reject") for name in ("missing", "invalid", "unknown")}


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("2024-02-28T23:59:59Z", True),
        ("2024-02-28 23:59+05:30", True),
        ("2024-02-28T23:59:59.123456789Z", True),
        ("2024-02-30T00:00Z", False),
        ("2024-04-31T00:00Z", False),
        ("2024-13-01T00:00Z", False),
        ("2024-02-28T24:00Z", False),
        ("2024-02-28T23:59:60Z", False),
        ("2024-02-28", False),
        ("2024-02-28T23:59", False),
    ],
)
def test_the_pattern_of_timestamps_is_what_the_encoder_reads(text: str, is_good: bool):
    schema = field_schema(declared(timestamp("at")), ALL_REJECTED, ())
    assert bool(re.fullmatch(schema["pattern"], text)) == is_good
    schema = field_schema(declared(timestamp("at", tz="Europe/Paris")), ALL_REJECTED, ())
    without = text.removesuffix("Z")
    assert bool(re.search(schema["pattern"], without)) == (is_good or text == "2024-02-28T23:59")


def test_a_rejected_unknown_makes_the_vocabulary_the_choice():
    field = declared(category("city"))
    assert field_schema(field, ALL_REJECTED, ("a", "b"))["enum"] == ["a", "b"]
    numbered = declared(category("code", of="integer"))
    assert field_schema(numbered, ALL_REJECTED, ("7", "10"))["enum"] == [7, 10]


def test_every_policy_is_described():
    field = declared(number("x", low=0, high=1))
    for policy in openapi.WHAT_HAPPENS:
        policies = {trouble: Policy(policy=policy) for trouble in troubles_of(field)}  # pyright: ignore[reportArgumentType]
        schema = field_schema(field, policies, ())
        others = schema.get("anyOf", [schema])[1:]
        assert len(others) == (0 if policy == "reject" else 3)


# a bundle with a baseline, checks and rules

FULL_PATH = "/predict/trips"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """No check of it rejects: what a check rejects no schema of a record can say."""
    store = tmp_path_factory.mktemp("full")
    milder = {**CHECKS["far_from_home"], "policy": "baseline"}
    full_bundle(store, checks={**CHECKS, "far_from_home": milder}, max_repaired=1)
    with server_over(store, tmp_path_factory.mktemp("full-state")) as client:
        yield client


@pytest.fixture(scope="module")
def full_page(full: Client) -> dict[str, Any]:
    return full.send(get("/openapi.json")).json


def test_an_answer_names_rungs_rules_checks_and_reasons_of_its_bundle(
    page: dict[str, Any], full_page: dict[str, Any]
):
    answer = full_page["components"]["schemas"]["trips.answer"]["properties"]
    assert answer["served_by"]["enum"] == ["model", "baseline", "rules"]
    assert answer["rule"]["enum"] == ["long_weekend", "unknown_carrier", "too_late", "default"]
    reasons = answer["reasons"]["items"]["enum"]
    assert {"carrier:unknown", "check:far_from_home", "deadline", "operator"} <= {*reasons}
    assert not {"unknown", "check", "is_weekend:unknown"} & {*reasons}
    headers = full_page["paths"][FULL_PATH]["post"]["responses"]["200"]["headers"]
    assert headers["Keelmark-Served-By"]["schema"]["enum"] == ["model", "baseline", "rules"]
    small = page["components"]["schemas"][f"{NAME}.answer"]["properties"]
    assert small["served_by"]["enum"] == ["model", "rules"]
    assert small["rule"]["enum"] == ["default"]


def test_the_operation_tells_what_no_schema_can_say(full_page: dict[str, Any]):
    operation = full_page["paths"][FULL_PATH]["post"]
    assert (
        "else a simpler baseline model, else the rules (`long_weekend`" in operation["description"]
    )
    assert "`far_from_home`: distance <" in operation["description"]
    deadline = next(p for p in operation["parameters"] if p["name"] == "Keelmark-Deadline-Ms")
    assert deadline["schema"] == {"type": "integer", "minimum": 1, "maximum": 60_000}
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    assert "deadline" in operation["responses"]["504"]["description"]


def test_a_failed_check_has_its_name_in_the_schema_of_errors(full_page: dict[str, Any]):
    schema = full_page["paths"][FULL_PATH]["post"]["responses"]["422"]
    [error, _] = schema["content"]["application/json"]["schema"]["anyOf"]
    field = error["properties"]["error"]["properties"]["fields"]["items"]["properties"]
    assert field["check"]["enum"] == ["far_from_home", "workday_or_near"]


def test_schemathesis_finds_nothing_on_a_ladder(full: Client):
    ran = tried(full, "positive", "--max-examples", "40", "--include-path", FULL_PATH)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "No issues found" in ran.stdout


# what schemathesis finds


def tried(server: Client, mode: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs every check of schemathesis on the whole page."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server.serving.data_url}/openapi.json",
    ]
    options = ["--mode", mode, "--checks", "all", "--phases", "examples,coverage,fuzzing"]
    if mode == "positive":
        # A deadline of a millisecond is valid, and a busy machine may then answer 504.
        options += ["-H", "Keelmark-Deadline-Ms: 60000"]
    options += ["--seed", "20240305", "--generation-database", "none", "--no-color"]
    return subprocess.run(
        [*command, *options, *arguments], capture_output=True, text=True, timeout=170, check=False
    )


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_schemathesis_finds_nothing(server: Client, tmp_path: Path, mode: str):
    ran = tried(server, mode, "--max-examples", "100", "--continue-on-failure")
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "No issues found" in ran.stdout


FAULT = ("--max-failures", "1", "--max-examples", "100", "--include-path", PATH, "--no-shrink")


def test_schemathesis_finds_a_seeded_500(server: Client, monkeypatch: pytest.MonkeyPatch):
    from server import core

    write_rows = core.write_rows

    def defect(route: Any, group: Any, results: Any) -> None:
        assert not results.answers.repaired, "seeded"
        write_rows(route, group, results)

    monkeypatch.setattr(core, "write_rows", defect)
    ran = tried(server, "positive", *FAULT)
    assert ran.returncode == 1
    assert "Server error" in ran.stdout


def test_schemathesis_finds_a_status_that_the_page_has_not(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    from server import core

    refuse = core.Core.refuse

    def teapot(*arguments: Any) -> Any:
        answer = refuse(*arguments)
        return answer._replace(head=Head(418, answer.head.headers))

    monkeypatch.setattr(core.Core, "refuse", teapot)
    ran = tried(server, "negative", *FAULT, "--max-failures", "5", "--continue-on-failure")
    assert ran.returncode == 1
    assert "Undocumented status code" in ran.stdout


def test_schemathesis_finds_a_missing_bound_of_a_field_that_is_rejected(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    good = openapi._number

    def unbounded(field: Any) -> Any:
        return good(dataclasses.replace(field, high=None))

    monkeypatch.setattr(openapi, "_number", unbounded)
    core = server.core  # the page is written once a route table
    monkeypatch.setattr(core, "routes", dataclasses.replace(core.routes))
    ran = tried(server, "positive", *FAULT)
    assert ran.returncode == 1
    assert "Schema-valid request rejected" in ran.stdout


def test_the_page_is_written_anew_for_another_route_table(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    core = server.core
    before, first = core.routes, server.send(get("/openapi.json")).json
    monkeypatch.setattr("server.apps.document", lambda *_: {"of": "another table"})
    assert server.send(get("/openapi.json")).json == first
    server.call(setattr, core, "routes", before.with_route(next(iter(before.live.values()))))
    try:
        assert server.send(get("/openapi.json")).json == {"of": "another table"}
    finally:
        server.call(setattr, core, "routes", before)
