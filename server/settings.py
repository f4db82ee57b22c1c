"""Every setting of the server, in one frozen object that is read once at start-up.

Three places are asked, in this order: the command's flags, `KEELMARK_*` in the environment, the
    table in `keelmark.toml`. `keelmark serve --check` prints what came from where;
    `docs/settings.md` has the same table.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PREFIX: Final = "KEELMARK_"
CONFIG_FILE: Final = "keelmark.toml"
OTHER_VARIABLES: Final = frozenset({PREFIX + "CONFIG", PREFIX + "TOKEN"})
"""What commands read from the environment beside the settings."""
SHIPPED_STORE: Final = Path(__file__).parent.parent / "models" / "shipped"

LONGEST_SECONDS: Final = 86_400
"""A day: more than any of our times is meant to be, and little enough for every clock."""

MOST_DEADLINE_MS: Final = 60_000
"""The longest deadline that a caller or a setting may give."""

MOST_WORKERS: Final = 256
"""More than any machine of ours has CPUs for, and little enough for every table of them."""

UNSET: Final = {
    "required_models": "all",
    "deadline_ms": "the model's",
    "max_batch": "as measured",
}
"""What a setting is called that has no value."""

Forced = Literal["baseline", "rules"]
WorkerCount = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
LaneChoice = Literal["auto", "asgi", "httptools"]
SelftestAction = Literal["fallback", "report"]
LogFormat = Literal["auto", "json", "console"]
FollowWith = Literal["promote", "deploy"]
LogLevel = Literal["debug", "info", "warning", "error"]


def _setting(default: Any, prose: str, *, unit: str = "", **bounds: Any) -> Any:
    return Field(default, description=prose, json_schema_extra={"unit": unit}, **bounds)


class Settings(BaseSettings):
    """What a person may decide about a server. Built by `load`, or directly in notebooks."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = _setting(
        "127.0.0.1",
        "Address of the data port. In a container it must be 0.0.0.0, which the image sets.",
    )
    port: int = _setting(
        8080, "Data port: predictions, models, health. 0 takes a free one.", ge=0, le=65535
    )
    ops_host: str = _setting(
        "127.0.0.1",
        "Address of the ops port. 0.0.0.0 opens `/metrics` and `/health/*` to everybody who "
        "reaches it.",
    )
    ops_port: int = _setting(
        8081, "Ops port: metrics and health. 0 takes a free one.", ge=0, le=65535
    )
    ops_hosts: tuple[str, ...] = _setting(
        (),
        "Names besides loopback's and `ops_host` under which operators reach the ops port, as a "
        "JSON list; calls for any other `Host` are refused there.",
    )
    store: Path = _setting(
        SHIPPED_STORE,
        "Folder of bundles, `<name>/<version>/`. The default is the store that comes with the "
        "package.",
    )
    state_dir: Path = _setting(
        Path(".keelmark"),
        "Folder for what the server itself remembers; it is locked by one server and ignored by "
        "git.",
    )
    follow: bool = _setting(
        False,
        "Watch the store, and go over to the version that `live.json` wishes, of new models too: "
        "through the same checks as `load` and `promote`. Without it the wish decides at the first "
        "start only.",
    )
    follow_seconds: float = _setting(
        5.0,
        "With `follow`: how often the store is looked at.",
        unit="seconds",
        gt=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    follow_with: FollowWith = _setting(
        "promote",
        "With `follow`: `deploy` brings what is wished to all traffic in the stages of "
        "`follow_plan`, and rolls it back where it is no good; `promote` switches at once.",
    )
    follow_plan: str = _setting(
        "shadow=10m canary=1,10,50 bake=10m max-wait=1h requests=200",
        "With `follow_with=deploy`: the plan, in the words of `keelmark deploy`; `canary=none` for "
        "no canary.",
    )
    required_models: tuple[str, ...] | None = _setting(
        None,
        "Models without which the server is not ready, as a JSON list. By default all models of "
        "the store.",
    )
    force: tuple[str, ...] = _setting(
        (),
        "`MODEL=rules` or `MODEL=baseline`: this rung answers for the model, with the reason "
        "`operator`, until a start without it.",
    )
    deadline_ms: float | None = _setting(
        None,
        "How long a caller waits who does not say it with `Keelmark-Deadline-Ms`: what the model "
        "cannot answer by then is answered by a lower rung. By default four times the model's "
        "latency objective, or 1000.",
        unit="ms",
        ge=1,
        le=MOST_DEADLINE_MS,
        allow_inf_nan=False,
    )
    workers: WorkerCount | Literal["auto"] = _setting(
        1,
        "Processes that answer requests, on Linux; 1 is a single process, without a supervisor. "
        "`auto` is one for each whole CPU that the machine and the cgroup's quota allow.",
    )
    queue_requests: int = _setting(
        256,
        "Requests that may wait for the thread in which long runs are made; more are answered by a "
        "lower rung, or 503.",
        unit="requests",
        ge=1,
    )
    queue_rows: int = _setting(
        20_000,
        "Rows that these requests may have together. A longer request is taken while no other "
        "waits.",
        unit="rows",
        ge=1,
    )
    queue_bytes: int = _setting(
        64 * 1024 * 1024,
        "Bytes that their bodies may have together. A larger one is taken while no other waits.",
        unit="bytes",
        ge=1,
    )
    max_batch: int | None = _setting(
        None,
        "Most rows of several requests that one long run takes together; 1 makes a run for each "
        "request. By default as many as make a row cheaper, as measured when a model is opened.",
        unit="rows",
        ge=1,
    )
    selftest_seconds: float = _setting(
        600.0,
        "Golden rows are put to every open model while it serves, one at a time when nothing else "
        "is to be done; so long a round of them takes, or longer. 0 does without.",
        unit="seconds",
        ge=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    selftest_action: SelftestAction = _setting(
        "fallback",
        "Where a golden row is answered differently twice in a row: `fallback` lets the rungs "
        "below answer in that process, with the reason `selftest`, until a round is good; `report` "
        "only tells of it.",
    )
    max_series: int = _setting(
        50_000,
        "Series of metrics that all loaded models may have together; a model for which there is no "
        "room is not loaded.",
        unit="series",
        ge=1,
    )
    max_stall_ms: float = _setting(
        2.0,
        "Letting go of a large model stops a process for milliseconds. Where that was measured to "
        "be longer than this, workers are replaced one by one instead, and end with the model; one "
        "process waits for a pause in its requests.",
        unit="ms",
        ge=0,
        le=MOST_DEADLINE_MS,
        allow_inf_nan=False,
    )
    lane: LaneChoice = _setting(
        "auto",
        "How predictions are answered: `httptools` in the middle of the HTTP server, which is the "
        "quickest, or `asgi` in front of the application. `auto` takes the first where the "
        "installed uvicorn allows it. The answers are the same.",
    )
    max_body_bytes: int = _setting(
        10 * 1024 * 1024, "Larger request bodies are answered 413.", unit="bytes", ge=1
    )
    max_rows: int = _setting(10_000, "Longer lists of records are answered 413.", unit="rows", ge=1)
    max_depth: int = _setting(
        32, "Bodies nested deeper than this are answered 400.", unit="levels", ge=2, le=500
    )
    max_keys: int = _setting(4_096, "Records with more keys are answered 400.", unit="keys", ge=1)
    max_header_bytes: int = _setting(
        64 * 1024,
        "Requests with a longer address and headers are answered 431.",
        unit="bytes",
        ge=1024,
    )
    header_timeout_seconds: float = _setting(
        5.0,
        "A connection that has not sent its headers by then is closed.",
        unit="seconds",
        gt=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    body_timeout_seconds: float = _setting(
        30.0,
        "A body that is not whole by then is answered 400; a connection that takes nothing of its "
        "answers for so long is cut.",
        unit="seconds",
        gt=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    keep_alive_seconds: int = _setting(
        75,
        "An idle connection is closed after this long.",
        unit="seconds",
        ge=1,
        le=LONGEST_SECONDS,
    )
    max_connections: int = _setting(
        1_024,
        "Requests of connections beyond this are answered 503; with workers, beyond this for each.",
        unit="connections",
        ge=1,
    )
    drain_delay_seconds: float = _setting(
        2.0,
        "After SIGTERM the server is not ready but still answers, with `Connection: close`, for "
        "this "
        "long, so that load balancers notice. SIGINT (Ctrl-C) does not wait.",
        unit="seconds",
        ge=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    drain_seconds: float = _setting(
        30.0,
        "Then requests under way may take this long to end.",
        unit="seconds",
        gt=0,
        le=LONGEST_SECONDS,
        allow_inf_nan=False,
    )
    log_level: LogLevel = _setting("info", "Least severe line that is written to the text log.")
    log_format: LogFormat = _setting(
        "auto",
        "Text log as `json` lines or for people (`console`); `auto` is console on a terminal.",
    )

    @field_validator("force")
    @classmethod
    def _check_forced(cls, force: tuple[str, ...]) -> tuple[str, ...]:
        models = [entry.partition("=")[0] for entry in force]
        for entry in force:
            model, _, rung = entry.partition("=")
            if not model or rung not in get_args(Forced):
                raise PydanticCustomError(
                    "force",
                    "{entry} is not MODEL=rules or MODEL=baseline",
                    {"entry": repr(entry)},
                )
            if models.count(model) > 1:
                raise PydanticCustomError("force", "{model} is there twice", {"model": model})
        return force

    @property
    def forced_rungs(self) -> dict[str, Forced]:
        """The rung that answers for a model, by the model's name."""
        pairs = (entry.partition("=") for entry in self.force)
        return {model: rung for model, _, rung in pairs if rung in ("baseline", "rules")}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load` reads the rest, so that it can say which won."""
        return (init_settings,)


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and where it came from."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and per name where its value came from."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def load(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Loaded:
    """Settings from `flags` (None values left out), `KEELMARK_*` and the file, in this order.

    Args:
        flags: values by setting name, as the command line gives them.
        config: the file; None takes `KEELMARK_CONFIG`, else `keelmark.toml` here if there is one.

    Raises:
        SettingsError: an unknown name in the file, a value that does not fit, or no such file.
    """
    path = config or _config_path()
    layers = [
        ("default", {}),
        (str(path), _from_file(path)),
        ("environment", _from_environment()),
        ("flag", {name: value for name, value in (flags or {}).items() if value is not None}),
    ]
    values = {name: value for _, layer in layers for name, value in layer.items()}
    origins = dict.fromkeys(Settings.model_fields, "default") | {
        name: _origin(source, name) for source, layer in layers for name in layer
    }
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error
    return Loaded(settings, origins, _unknown_variables())


def unit_of(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    return PREFIX + name.upper()


def type_of(field: FieldInfo) -> str:
    """The type as the documentation writes it."""
    names = {
        "Path": "path",
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "yes or no",
    }
    # An optional one is of its own type: nobody writes None.
    choices = [choice for choice in get_args(field.annotation) if choice is not type(None)]
    if not choices or (len(choices) == 1 and choices[0] in (int, float)):
        return names[getattr(choices[0] if choices else field.annotation, "__name__", "str")]
    if Literal["auto"] in choices:
        return "integer | auto"
    is_choice = all(isinstance(choice, str) for choice in choices)
    return " | ".join(choices) if is_choice else "list of texts"


def shown(name: str, value: Any) -> str:
    """A value as the settings table prints it, without the path of this installation."""
    if name == "store" and value == SHIPPED_STORE:
        return "the shipped store"
    if value == ():
        return "none"
    if value is None:
        return UNSET.get(name, str(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _config_path() -> Path:
    return Path(os.environ.get(PREFIX + "CONFIG", CONFIG_FILE))


def _from_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        if path != Path(CONFIG_FILE):
            raise SettingsError(f"no settings file {path}; name an existing one or leave it out")
        return {}
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} is not readable TOML: {error}; correct it there") from error
    if unknown := sorted(set(values) - set(Settings.model_fields)):
        raise SettingsError(
            f"{path} sets {_with_guess(unknown[0])}, which is no setting; known ones are "
            f"{', '.join(Settings.model_fields)}"
        )
    return values


def _from_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except ValueError as error:
        raise SettingsError(
            f"the environment cannot be read: {error}; lists are written as JSON: "
            f"{PREFIX}REQUIRED_MODELS='[\"flights\"]'"
        ) from error


def _unknown_variables() -> tuple[str, ...]:
    known = {variable_of(name) for name in Settings.model_fields} | OTHER_VARIABLES
    strange = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return tuple(
        f"{name} is set in the environment but is no setting{_guess(name, known)}"
        for name in strange
    )


def _with_guess(name: str) -> str:
    return repr(name) + _guess(name, set(Settings.model_fields))


def _guess(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _origin(source: str, name: str) -> str:
    return {"flag": flag_of(name), "environment": variable_of(name)}.get(source, source)


def _hint(value: object) -> str:
    if not str(value).startswith("tcp://"):
        return ""
    return (
        " (Kubernetes sets such variables in the pods beside a Service named keelmark; "
        "enableServiceLinks: false in the pod's spec leaves them out)"
    )


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = [
        f"setting {name} (from {origins.get(name, 'a flag')}) is {problem['input']!r}: "
        f"{problem['msg'][0].lower()}{problem['msg'][1:]}{_hint(problem['input'])}"
        for problem in error.errors()
        for name in [str(problem["loc"][0]) if problem["loc"] else "?"]
    ]
    return "; ".join(lines) + "; see `keelmark serve --help` or docs/settings.md"
