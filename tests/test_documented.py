"""What can be set, asked, answered or typed is in docs/, and what is in docs/ is there."""

import inspect
import re
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI
from fastapi.routing import APIRoute
from typer.core import TyperOption

from models.vocabulary import ERROR_CODES, EVENT_KINDS, OPS_ERROR_CODES
from server import Settings, create_app, create_ops_app
from server.asgi_lane import TEMPLATE
from server.asking import READ
from server.cli import app, exits
from server.protocols.predict import STATUS
from server.runtime import InProcessRuntime
from server.settings import flag_of, shown, type_of, unit_of, variable_of

DOCS = Path(__file__).parent.parent / "docs"
SETTINGS, HTTP, COMMANDS = (
    (DOCS / name).read_text("utf-8") for name in ("settings.md", "http-api.md", "command-line.md")
)


def settings_table() -> str:
    """The table of docs/settings.md."""
    lines = ["| flag | variable | type | unit | default | what it does |", "| --- " * 6 + "|"]
    for name, field in Settings.model_fields.items():
        choices = type_of(field).replace("|", "\\|")
        cells = (
            f"`{flag_of(name)}`",
            f"`{variable_of(name)}`",
            choices,
            unit_of(field),
            shown(name, field.default),
            field.description or "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_every_setting_is_documented():
    assert settings_table() in SETTINGS, f"put this into docs/settings.md:\n{settings_table()}"


def paths_of(application: FastAPI) -> set[str]:
    return {route.path for route in application.routes if isinstance(route, APIRoute)}


def test_every_path_is_documented():
    lane = create_app()
    assert isinstance(lane.app, FastAPI)
    data = paths_of(lane.app) | {TEMPLATE, "/openapi.json", "/docs"}
    ops = paths_of(create_ops_app(InProcessRuntime(Settings())))
    listed = re.findall(r"^\| (\S+) \| `(?:GET|POST) (/\S+?)` \|", HTTP, re.MULTILINE)
    assert {path for port, path in listed if port == "data"} == data
    assert {path for port, path in listed if port == "ops"} == ops


def test_every_error_code_is_documented_with_its_status():
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\d, or]+) \|", HTTP, re.MULTILINE))
    assert listed.keys() == set(ERROR_CODES)
    for code, statuses in listed.items():
        assert str(STATUS[code]) in statuses


FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"expect"}
"""Headers of HTTP itself, which every client sends as it has to."""


@pytest.mark.parametrize("name", sorted(READ.keys() - FRAMING))
def test_every_header_that_is_read_is_documented(name: bytes):
    assert f"`{name.decode()}" in HTTP.lower()


@pytest.mark.parametrize(
    "name",
    [
        "Keelmark-Model",
        "Keelmark-Version",
        "Keelmark-Served-By",
        "Retry-After",
        "Allow",
        "traceparent",
    ],
)
def test_every_header_that_is_sent_is_documented(name: str):
    assert f"`{name}`" in HTTP


def options_of(name: str) -> set[str]:
    """The long options of a command, but --help."""
    command = typer.main.get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    commands = [command, *getattr(command, "commands", {}).values()]
    return {
        option
        for each in commands
        for parameter in each.params
        if isinstance(parameter, TyperOption)
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    }


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))  # pyright: ignore[reportAttributeAccessIssue]
def test_every_command_and_option_is_documented(name: str):
    section = re.search(
        rf"^## keelmark {name}\n(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL
    )
    assert section, f"docs/command-line.md has no section for {name}"
    own = options_of(name) - {
        flag_of(setting) for setting in Settings.model_fields if name == "serve"
    }
    assert {option for option in own if f"`{option}" not in section[1]} == set()


def test_there_is_no_command_without_a_section():
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert set(re.findall(r"^## keelmark ([\w-]+)", COMMANDS, re.MULTILINE)) == set(commands)


def test_every_kind_of_event_is_documented():
    section = COMMANDS.split("## keelmark events")[1].split("\n## ")[0]
    listed = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", listed)) == set(EVENT_KINDS)


def test_every_exit_code_is_documented():
    codes = [value for name, value in inspect.getmembers(exits) if name.isupper()]
    listed = re.findall(r"^\| (\d) \|", COMMANDS, re.MULTILINE)
    assert sorted(map(int, listed)) == sorted(codes)


def test_every_error_of_the_ops_port_is_documented():
    assert {code for code in OPS_ERROR_CODES if f"`{code}`" not in COMMANDS} == set()
