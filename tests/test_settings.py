"""Where settings come from, which source wins, and what is said of a bad one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from server.settings import Settings, SettingsError, flag_of, load, shown, type_of, variable_of


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder without a settings file, and no variable but those a test sets."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)


def test_defaults_serve_the_shipped_store_on_loopback():
    loaded = load()
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 8080)
    assert (loaded.settings.ops_host, loaded.settings.ops_port) == ("127.0.0.1", 8081)
    assert shown("store", loaded.settings.store) == "the shipped store"
    assert set(loaded.origins.values()) == {"default"}


def test_flag_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Path("keelmark.toml").write_text("port = 1\nmax_rows = 2\nmax_keys = 3\n")
    monkeypatch.setenv("KEELMARK_PORT", "4")
    monkeypatch.setenv("KEELMARK_MAX_ROWS", "5")
    loaded = load({"port": 6, "host": None})
    settings = loaded.settings
    assert (settings.port, settings.max_rows, settings.max_keys) == (6, 5, 3)
    assert loaded.origins["port"] == "--port"
    assert loaded.origins["max_rows"] == "KEELMARK_MAX_ROWS"
    assert loaded.origins["max_keys"] == "keelmark.toml"
    assert loaded.origins["host"] == "default"


def test_the_file_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "other.toml"
    other.write_text('log_level = "debug"')
    assert load(config=other).settings.log_level == "debug"
    monkeypatch.setenv("KEELMARK_CONFIG", str(other))
    assert load().origins["log_level"] == str(other)


def test_a_list_is_json_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEELMARK_REQUIRED_MODELS", '["a", "b"]')
    assert load().settings.required_models == ("a", "b")


def test_rungs_are_forced_by_flag_variable_and_file(monkeypatch: pytest.MonkeyPatch):
    Path("keelmark.toml").write_text('force = ["a=rules"]')
    assert load().settings.forced_rungs == {"a": "rules"}
    monkeypatch.setenv("KEELMARK_FORCE", '["b=baseline", "c=rules"]')
    assert load().settings.forced_rungs == {"b": "baseline", "c": "rules"}
    assert load({"force": ["d=rules"]}).settings.forced_rungs == {"d": "rules"}
    assert Settings().forced_rungs == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("force", '["a"]', "'a' is not MODEL=rules or MODEL=baseline"),
        ("force", '["=rules"]', "is not MODEL=rules or MODEL=baseline"),
        ("force", '["a=model"]', "is not MODEL=rules or MODEL=baseline"),
        ("force", '["a=rules", "a=baseline"]', "a is there twice"),
        ("deadline_ms", "0.5", "greater than or equal to 1"),
        ("deadline_ms", "60001", "less than or equal to 60000"),
        ("queue_requests", "0", "greater than or equal to 1"),
        ("port", "x", "setting port (from KEELMARK_PORT) is 'x': input should be a valid integer"),
        ("port", "70000", "less than or equal to 65535"),
        ("max_rows", "0", "greater than or equal to 1"),
        *(
            (name, value, said)
            for name in Settings.model_fields
            if name.endswith("_seconds") and name != "keep_alive_seconds"
            for value, said in (("inf", "finite"), ("nan", "finite"), ("1e9", "less than or equal"))
        ),
        ("keep_alive_seconds", "100000000", "less than or equal to 86400"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("required_models", "[a", "required_models (from KEELMARK_REQUIRED_MODELS)"),
    ],
)
def test_a_bad_value_is_named_with_its_source(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable_of(name), value)
    with pytest.raises(SettingsError) as raised:
        load()
    assert said in str(raised.value)
    assert "docs/settings.md" in str(raised.value)


def test_an_unknown_name_in_the_file_is_refused_with_a_guess():
    Path("keelmark.toml").write_text("prot = 1")
    with pytest.raises(SettingsError, match=r"'prot' \(did you mean port\?\)"):
        load()


def test_a_file_that_is_no_toml_or_not_there_is_refused():
    Path("keelmark.toml").write_text("port 1")
    with pytest.raises(SettingsError, match="not readable TOML"):
        load()
    with pytest.raises(SettingsError, match="no settings file"):
        load(config=Path("nowhere.toml"))


def test_a_variable_that_is_no_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEELMARK_PROT", "1")
    (warning,) = [text for text in load().warnings if "KEELMARK_PROT " in text]
    assert "did you mean KEELMARK_PORT?" in warning


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        load().settings.port = 1


def test_settings_made_directly_read_no_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEELMARK_PORT", "4")
    assert Settings().port == 8080


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_prose_a_type_and_a_flag(name: str):
    field = Settings.model_fields[name]
    assert field.description
    assert field.description.endswith(".")
    assert type_of(field)
    assert flag_of(name) == "--" + name.replace("_", "-")
