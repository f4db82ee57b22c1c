"""`keelmark load`, `promote`, `rollback`, `unload`: the slots of a model of a running server."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from server.cli.ops_client import call, of_model, terms
from server.cli.options import (
    AsJson,
    Breaking,
    DryRun,
    IfGeneration,
    Model,
    OpsUrl,
    Reason,
    StateDir,
)
from server.cli.show import out, say_json, show_contract

PATIENCE_SECONDS: Final = 3600.0
"""A load takes as long as verifying and opening the bundle in every worker."""

Version = Annotated[str, typer.Argument(help="Version of the model.")]


def load(
    model: Model,
    version: Version,
    *,
    drop_previous: Annotated[
        bool,
        typer.Option("--drop-previous", help="Even if nobody can roll back then."),
    ] = False,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Verifies a version of the store and opens it beside the live one, which goes on answering.

    It answers whoever asks for it with `?version=`. Ends with 1 if the server refuses, 4 if none
    answers.
    """
    body = {"version": version, "drop_previous": drop_previous} | terms(
        reason, if_generation, dry_run=dry_run
    )
    _show(_asked("load", model, body, server, state_dir), dry_run=dry_run, as_json=as_json)


def unload(
    model: Model,
    version: Version,
    *,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Lets go of a candidate or a previous version, and gives its memory back.

    Ends with 1 if the server refuses, 4 if none answers.
    """
    body = {"version": version} | terms(reason, if_generation, dry_run=dry_run)
    _show(_asked("unload", model, body, server, state_dir), dry_run=dry_run, as_json=as_json)


def promote(
    model: Model,
    version: Version,
    *,
    breaking: Breaking = False,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Makes the candidate live: it answers every request that is sent after the command returned.

    The version that was live stays loaded, for `keelmark rollback`. Ends with 1 if the server
    refuses, 4 if none answers.
    """
    body = {"version": version, "breaking": breaking} | terms(
        reason, if_generation, dry_run=dry_run
    )
    _show(_asked("promote", model, body, server, state_dir), dry_run=dry_run, as_json=as_json)


def rollback(
    model: Model,
    *,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Makes the previous version live again, at once; what was live becomes the candidate.

    Ends with 1 if the server refuses, 4 if none answers.
    """
    body = terms(reason, if_generation, dry_run=dry_run)
    _show(_asked("rollback", model, body, server, state_dir), dry_run=dry_run, as_json=as_json)


def _asked(
    swap: str, model: str, body: dict[str, Any], server: str | None, state_dir: Path | None
) -> dict[str, Any]:
    """What the server answers."""
    path = of_model(model, swap)
    return call(path, body, server=server, state_dir=state_dir, timeout_seconds=PATIENCE_SECONDS)


def _show(done: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        say_json(done)
        return
    model = done["model"]
    console, after = out(), _shown(done["after"])
    if not done["changed"]:
        console.print(f"{model}: nothing to do; {after}", markup=False)
        return
    word = "would be" if dry_run else "is"
    before = _shown(done["before"])
    console.print(f"{model} {word}: {after} (before: {before})", markup=False)
    show_contract(done["contract"])
    if done["successors"]:
        console.print(f"{done['successors']} workers were replaced, so that none stood still")
    if done["released"] is False:
        console.print("requests still hold it; its memory comes back when they end")


def _shown(slots: dict[str, str | None]) -> str:
    """The slots of a model in words."""
    return ", ".join(f"{name} {text}" for name, text in slots.items() if text) or "nothing loaded"
