"""Tokens: made, kept as digests, found, revoked."""

import json
import os
import stat
from pathlib import Path

import pytest

from server.settings import SettingsError
from server.tokens import (
    OWN,
    TOKENS,
    Access,
    Tokens,
    digest_of,
    new_token,
    own_token,
    read_tokens,
    token_of,
    write_tokens,
)


def add(folder: Path, name: str, access: Access) -> str:
    token = new_token()
    write_tokens(folder, (*read_tokens(folder), token_of(name, access, digest_of(token))))
    return token


def test_without_configuration_the_server_makes_an_operators_token_for_its_owner(tmp_path: Path):
    tokens = Tokens(tmp_path)
    path = tmp_path / OWN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = tokens.find(path.read_text().strip())
    assert found is not None
    assert found.is_operator


def test_the_servers_own_token_stays_over_restarts(tmp_path: Path):
    Tokens(tmp_path)
    before = own_token(tmp_path, make=False)
    Tokens(tmp_path)
    assert own_token(tmp_path, make=False) == before


def test_a_configured_token_is_found_by_its_holder_only(tmp_path: Path):
    viewer, operator = add(tmp_path, "grafana", "viewer"), add(tmp_path, "ann", "operator")
    tokens = Tokens(tmp_path)
    found = [tokens.find(text) for text in (viewer, operator, viewer[:-1], "", new_token())]
    assert [token and (token.name, token.access) for token in found] == [
        ("grafana", "viewer"),
        ("ann", "operator"),
        None,
        None,
        None,
    ]


def test_no_token_is_written_down(tmp_path: Path):
    token = add(tmp_path, "ann", "operator")
    assert token.startswith("keelmark_")
    assert token not in (tmp_path / TOKENS).read_text()
    assert stat.S_IMODE((tmp_path / TOKENS).stat().st_mode) == 0o600


def test_the_servers_own_token_ends_with_the_first_configured_operator(tmp_path: Path):
    tokens = Tokens(tmp_path)
    own = own_token(tmp_path, make=False)
    add(tmp_path, "grafana", "viewer")
    assert tokens.find(own) is not None
    add(tmp_path, "ann", "operator")
    assert tokens.find(own) is None


def test_a_revoked_token_is_worthless_at_once(tmp_path: Path):
    token = add(tmp_path, "ann", "operator")
    tokens = Tokens(tmp_path)
    assert tokens.find(token) is not None
    write_tokens(tmp_path, ())
    assert tokens.find(token) is None


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        json.dumps({"format": 2, "tokens": []}),
        json.dumps({"format": 1, "tokens": [{"name": "a", "access": "root", "sha256": "0" * 64}]}),
        json.dumps({"format": 1, "tokens": [{"name": "a", "access": "viewer", "sha256": "short"}]}),
    ],
)
def test_a_file_that_is_no_list_of_tokens_is_refused_with_the_way_out(tmp_path: Path, content: str):
    (tmp_path / TOKENS).write_text(content)
    with pytest.raises(SettingsError, match=r"tokens\.json.*keelmark token add"):
        Tokens(tmp_path)


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, "-x", "ann\n"])
def test_a_name_that_events_could_not_show_is_refused(name: str):
    with pytest.raises(SettingsError, match="cannot name a token"):
        token_of(name, "viewer", "0" * 64)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_token_that_cannot_be_read_is_refused_with_the_way_out(tmp_path: Path):
    Tokens(tmp_path)
    (tmp_path / OWN).chmod(0)
    with pytest.raises(SettingsError, match="KEELMARK_TOKEN"):
        own_token(tmp_path, make=False)


def test_a_missing_token_names_the_way_out(tmp_path: Path):
    with pytest.raises(SettingsError, match="KEELMARK_TOKEN"):
        own_token(tmp_path, make=False)
