"""`keelmark force-fallback`: a lower rung answers for a model, at once, until it is let off."""

from typing import Annotated, Literal

import typer

from server.cli.ops_client import call, of_model, terms
from server.cli.options import AsJson, DryRun, IfGeneration, Model, OpsUrl, StandingReason, StateDir
from server.cli.show import out, say_json
from server.durations import seconds_of


def force_fallback(
    model: Model,
    rung: Annotated[
        Literal["baseline", "rules", "off"],
        typer.Argument(help="Who answers from now on; off lets the model answer again."),
    ],
    *,
    reason: StandingReason,
    expires: Annotated[
        str | None, typer.Option(help="End it by itself after, such as 30m, 4h or 2d; 7d at most.")
    ] = None,
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Sends a model's rows to its baseline or its rules, with the reason `operator`.

    It holds when the command returns, survives a restart, and ends with the version it was said of.
    Ends with 1 if the server refuses, 2 if the command is wrong, 4 if no server answers.
    """
    body = {
        "rung": None if rung == "off" else rung,
        **terms(reason, if_generation, dry_run=dry_run),
        "expires_seconds": None if expires is None else seconds_of(expires),
    }
    done = call(of_model(model, "force-fallback"), body, server=server, state_dir=state_dir)
    if as_json:
        say_json(done)
        return
    before, after = (done[name] or "model" for name in ("before", "after"))
    what = "would be" if dry_run else "is" if done["changed"] else "was already"
    answers = after if what == "was already" else f"{after} (before: {before})"
    out().print(f"{model} {done['version']}: who answers {what} {answers}")
