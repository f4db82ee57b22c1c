"""`keelmark serve`: both ports in one process, until a signal."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.show import out, say_json, table
from server.settings import Loaded, Settings, flag_of, load, shown, type_of, unit_of


def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; else KEELMARK_CONFIG, else keelmark.toml here."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Print every setting and where it came from, and stop.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --check: one line of JSON.")
    ] = False,
    **flags: Any,
) -> None:
    """Serves the models of a store: predictions on one port, metrics and health on another.

    Ends with 0 after SIGTERM or SIGINT, 2 where a setting, port or folder cannot be used, 4 where
    there is nothing to serve.
    """
    loaded = load(flags, config=config)
    if check:
        show_settings(loaded, as_json=as_json)
        return
    from server.serve import run

    run(loaded.settings, loaded.warnings)


def show_settings(loaded: Loaded, *, as_json: bool) -> None:
    """The table of `--check`."""
    rows = [
        (name, shown(name, getattr(loaded.settings, name)), unit_of(field), loaded.origins[name])
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        say_json(
            {name: {"value": value, "from": origin} for (name, value, _, origin) in rows}
            | {"warnings": loaded.warnings}
        )
        return
    out().print(table("Settings", ("setting", "value", "unit", "from"), rows))
    for warning in loaded.warnings:
        out().print(f"warning: {warning}", markup=False)


def _with_flags() -> None:
    """Gives the command a flag for each setting, so that there is one place for them."""
    signature = inspect.signature(serve)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_flag(name),
        )
        for name in Settings.model_fields
    ]
    serve.__signature__ = signature.replace(parameters=[*own, *added])
    serve.__annotations__ |= {parameter.name: parameter.annotation for parameter in added}


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    unit = f" ({unit_of(field)})" if unit_of(field) else ""
    said = f"{field.description}{unit} Default: {shown(name, field.default)}."
    kinds = {
        "integer": int,
        "number": float,
        "path": Path,
        "list of texts": list[str],
        "yes or no": bool,
    }
    kind: Any = kinds.get(type_of(field), str)
    return Annotated[kind | None, typer.Option(flag_of(name), help=said, show_default=False)]


_with_flags()
