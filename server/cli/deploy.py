"""`keelmark deploy`: a version comes to all traffic in stages, or is rolled back, by itself.

The deploy is the server's: this command asks for it, and watches.
"""

import math
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from server.cli.deploy_page import Page
from server.cli.exits import HELD, REFUSED
from server.cli.ops_client import NotRunning, ServerSaysNo, call, of_model, terms
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
from server.cli.shares import share_of
from server.cli.show import out, say_json, show_contract
from server.durations import seconds_or_zero
from server.settings import SettingsError

LOOK_SECONDS: Final = 0.5
AWAY_SECONDS: Final = 60.0
"""So long a server may be away, as when it is started again, before watching ends."""
START_SECONDS: Final = 300.0
INTERRUPTED: Final = 130
CODES: Final = {"promoted": 0, "rolled_back": REFUSED, "held": HELD}


def deploy(
    model: Model,
    version: Annotated[
        str | None,
        typer.Argument(help="Version of the store; without one, what goes on is watched."),
    ] = None,
    *,
    shadow: Annotated[
        str, typer.Option(help="How long it answers copies of requests; 0 for not at all.")
    ] = "10m",
    canary: Annotated[
        str, typer.Option(help="Shares of the callers that it answers, in percent; or none.")
    ] = "1,10,50",
    bake: Annotated[
        str, typer.Option(help="How long each share, and then all traffic, is watched.")
    ] = "10m",
    max_wait: Annotated[
        str, typer.Option(help="How long a stage may last before the deploy is held.")
    ] = "1h",
    requests: Annotated[
        int, typer.Option(min=1, help="That the candidate must have answered in each stage.")
    ] = 200,
    evidence: Annotated[
        Literal["live", "replay"],
        typer.Option(help="replay puts kept rows to both versions first, for a quiet server."),
    ] = "live",
    rows: Annotated[
        Path | None,
        typer.Option(help="Table for it beside golden rows: a .csv, .jsonl or .parquet file."),
    ] = None,
    max_changed_decisions: Annotated[
        str | None, typer.Option(help="Share that may be decided otherwise than by live, as 5%.")
    ] = None,
    breaking: Breaking = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Roll back what goes on.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Begin it, and do not watch.")] = False,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Brings a version to all traffic in stages, watching it; rolls it back where it is no good.

    Ctrl-C ends the watching, not the deploy. Ends with 0 if it was promoted, 1 if it was rolled
    back or the server refuses, 3 if it is held: the verdict is yours; 4 if no server answers.
    """
    common = terms(reason, if_generation, dry_run=dry_run)
    where: dict[str, Any] = {"server": server, "state_dir": state_dir}
    path = of_model(model, "deploy")
    if cancel and version is not None:
        raise SettingsError("--cancel rolls back what goes on, whatever it is; name no version")
    if cancel:
        done = call(f"{path}/cancel", common, **where)
    elif version is None:
        done = call(path, **where)
    else:
        body = {
            "version": version,
            "shadow_seconds": seconds_or_zero(shadow),
            "canary_percents": percents_of(canary),
            "bake_seconds": seconds_or_zero(bake),
            "max_wait_seconds": seconds_or_zero(max_wait),
            "requests": requests,
            "evidence": evidence,
            "rows": None if rows is None else str(rows.absolute()),
            "max_changed_decisions": _share_or_none(max_changed_decisions),
            "breaking": breaking,
        }
        done = call(path, body | common, timeout_seconds=START_SECONDS, **where)
    if done["deploy"] is None:
        raise NotRunning(f"there is no deploy of {model!r}; name a version to begin one")
    if dry_run or detach:
        _show_call(done, cancel=cancel, as_json=as_json)
        return
    if not as_json and version is not None:
        _show_call(done, cancel=cancel, as_json=False)
    ended = watch(path, done["deploy"], where, as_json=as_json)
    if as_json:
        say_json(ended)
    if cancel and ended["result"] == "rolled_back":
        return
    raise typer.Exit(CODES[ended["result"]])


def watch(
    path: str, known: dict[str, Any], where: dict[str, Any], *, as_json: bool
) -> dict[str, Any]:
    """Shows a deploy until it has ended; gives how.

    Raises:
        NotRunning: no server answers any more, or another deploy has begun.
        Exit: somebody has pressed Ctrl-C.
    """
    shown, heard = known, time.monotonic()
    try:
        with Page(is_shown=not as_json) as page:
            while True:
                page.show(shown)
                if shown["ended"] is not None:
                    return shown
                time.sleep(LOOK_SECONDS)
                try:
                    shown = _deploy_now(path, where)
                    heard = time.monotonic()
                except (NotRunning, ServerSaysNo):  # it may be started again just now
                    if time.monotonic() - heard > AWAY_SECONDS:
                        raise
                if shown["id"] != known["id"]:
                    raise NotRunning(
                        f"another deploy has begun, of {shown['version']}; `keelmark events` says "
                        "what became of this one"
                    )
    except KeyboardInterrupt:
        model = known["model"]
        words = f"it goes on: `keelmark deploy {model}` watches it, `--cancel` rolls it back"
        out().print(words, markup=False)
        raise typer.Exit(INTERRUPTED) from None


def _deploy_now(path: str, where: dict[str, Any]) -> dict[str, Any]:
    found = call(path, **where)["deploy"]
    if found is None:
        raise NotRunning(
            "the server knows nothing of the deploy any more; `keelmark events` says what became "
            "of it"
        )
    return found


def percents_of(text: str) -> list[float]:
    """Shares as people write them.

    >>> percents_of("1,10,50"), percents_of("5%"), percents_of("none")
    ([1.0, 10.0, 50.0], [5.0], [])

    Raises:
        SettingsError: they are none.
    """
    if text.strip() == "none":
        return []
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"--canary {text!r} is no list of percentages; write as in 1,10,50, or none"
        ) from error


def _share_or_none(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = share_of(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise SettingsError(f"--max-changed-decisions {text!r} is no share; write as in 5% or 0.05")
    return share


def _show_call(done: dict[str, Any], *, cancel: bool, as_json: bool) -> None:
    if as_json:
        say_json(done)
        return
    console, found = out(), done["deploy"]
    what = "rolled back" if cancel else "deployed"
    word = f"would be {what}" if done["dry_run"] else f"is being {what}"
    if not done["changed"]:
        word = "is being deployed already" if found["ended"] is None else "has ended"
    head = f"{found['model']} {found['version']} {word}, beside {found['live']}"
    console.print(head, markup=False)
    if done["drops"]:
        words = f"{done['drops']} is dropped: nobody can roll back to it any more"
        console.print(words, markup=False)
    show_contract(done["contract"])
    if done["dry_run"] and not cancel:
        for stage in found["stages"]:
            seconds, requests = stage["seconds"], stage["requests"]
            needs = f", {requests} requests" if requests else ""
            console.print(f"{stage['name']}: {seconds:g} s{needs}", markup=False)
