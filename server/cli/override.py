"""`keelmark override`: other policies, values or rules for a model that serves, for a time."""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from models.vocabulary import TROUBLES
from server.cli.ops_client import call, of_model, terms
from server.cli.options import AsJson, IfGeneration, Model, OpsUrl, StandingReason, StateDir
from server.cli.show import out, say_json
from server.durations import seconds_of
from server.settings import SettingsError

PATIENCE_SECONDS: Final = 300.0
"""Golden rows are answered twice, and a server with workers opens the bundle for it."""
NOT_DONE: Final = "Nothing was changed; --apply puts it to use."

Policy = Annotated[
    str | None, typer.Option(help="Who answers then: accept, repair, baseline, rules or reject.")
]


def override(
    model: Model,
    *,
    field: Annotated[
        list[str] | None,
        typer.Option(help="Field whose policies are changed; can be repeated."),
    ] = None,
    missing: Policy = None,
    invalid: Policy = None,
    out_of_bounds: Policy = None,
    unknown: Policy = None,
    value: Annotated[
        list[str] | None,
        typer.Option(help="What repairs a field, as in distance=8.0; can be repeated."),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="JSON file of rules in place of the bundle's.")
    ] = None,
    rung: Annotated[
        str | None, typer.Option(help="The highest that may answer: baseline or rules.")
    ] = None,
    changes: Annotated[
        Path | None, typer.Option(help="JSON file of all changes, in place of the options above.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the override that stands.")] = False,
    reason: StandingReason,
    expires: Annotated[
        str | None,
        typer.Option(help="End it by itself after, such as 30m or 4h; else 24h, at most 7d."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Put it to use; else it is tried.")
    ] = False,
    if_generation: IfGeneration = None,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Changes who answers a model's rows, for a time; shows first what it does to the golden rows.

    It takes the place of the override that stood before, survives a restart, and ends with the
    version that is live. Ends with 1 if the server refuses, 2 if the command is wrong, 4 if no
    server answers.
    """
    said = dict(zip(TROUBLES, (missing, invalid, out_of_bounds, unknown), strict=True))
    policies = {trouble: policy for trouble, policy in said.items() if policy is not None}
    if bool(field) != bool(policies):
        raise typer.BadParameter("--field and one of --missing, --invalid, ... go together")
    asked: dict[str, Any] = {
        "policies": dict.fromkeys(field or (), policies),
        "values": dict(map(_value, value or ())),
        "rules": None if rules is None else _read(rules),
        "rung": rung,
    }
    has_options = any(part not in (None, {}) for part in asked.values())
    if has_options + (changes is not None) + end != 1:
        raise typer.BadParameter("say what to change with options, with --changes, or say --end")
    if changes is not None:
        asked = _changes_in(changes)
    body = {
        "changes": None if end else asked,
        **terms(reason, if_generation, dry_run=not apply),
        "expires_seconds": None if expires is None else seconds_of(expires),
    }
    path = of_model(model, "override")
    done = call(path, body, server=server, state_dir=state_dir, timeout_seconds=PATIENCE_SECONDS)
    if as_json:
        say_json(done)
    else:
        _show(done)


def _changes_in(path: Path) -> dict[str, Any]:
    found = _read(path)
    if found is None:  # which would end the override that stands
        raise SettingsError(f"{path} holds null and no changes; say --end to end an override")
    return found


def _read(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error


def _value(text: str) -> tuple[str, Any]:
    """A field and its value: JSON, or a text as it is.

    >>> _value("distance=8.0"), _value("carrier=UA"), _value('code="7"')
    (('distance', 8.0), ('carrier', 'UA'), ('code', '7'))
    """
    field, equals, value = text.partition("=")
    if not field or not equals:
        raise typer.BadParameter(f"--value {text!r}; write a field and its value, as distance=8.0")
    try:
        return field, msgspec.json.decode(value.encode())
    except msgspec.DecodeError:
        return field, value


def _show(done: dict[str, Any]) -> None:
    console, model = out(), f"{done['model']} {done['version']}"
    after = done["after"]
    if not done["changed"]:
        what = "no override stands" if after is None else f"it stands already, {_until(after)}"
        console.print(f"{model}: nothing to do; {what}", markup=False)
        return
    _show_effect(done["effect"])
    word = "would be" if done["dry_run"] else "is"
    what = "as packed again" if after is None else f"overridden {_until(after)}"
    console.print(f"{model} {word} {what} (generation {done['generation']})", markup=False)
    if done["dry_run"]:
        console.print(NOT_DONE, markup=False)


def _until(override: dict[str, Any]) -> str:
    return f"until {override['expires']}"


def _show_effect(effect: dict[str, Any]) -> None:
    """What changes for the golden rows."""
    console = out()
    console.print(
        f"{effect['changed']} of {effect['rows']} golden rows are answered otherwise", markup=False
    )
    for moved in effect["moved"]:
        console.print(f"- {moved['rows']}: {moved['before']} -> {moved['after']}", markup=False)
    if effect["same_rung"]:
        console.print(f"- {effect['same_rung']}: by the same rung, another answer", markup=False)
    for example in effect["examples"]:
        why = ", ".join(example["reasons"])
        line = f"  such as {example['name']}: {example['before']} -> {example['after']}"
        console.print(f"{line} ({why})" if why else line, markup=False)
    for policy in effect["unseen"]:
        console.print(f"no golden row shows the policy of {policy}", markup=False)
