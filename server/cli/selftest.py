"""`keelmark selftest`: what follows where the self-test of a loaded version fails."""

from typing import Annotated, Literal

import typer

from server.cli.ops_client import call, of_model, terms
from server.cli.options import AsJson, DryRun, IfGeneration, Model, OpsUrl, Reason, StateDir
from server.cli.show import out, say_json


def selftest(
    model: Model,
    version: Annotated[str, typer.Argument(help="Version of the model, one that is loaded.")],
    action: Annotated[
        Literal["fallback", "report"],
        typer.Argument(help="fallback: lower rungs answer; report: the model goes on."),
    ],
    *,
    reason: Reason,
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Says what a self-test that keeps failing does to this version, in place of the setting.

    It holds when the command returns, survives a restart while the version is live, and ends with
    it. Ends with 1 if the server refuses, 2 if the command is wrong, 4 if no server answers.
    """
    body = {"version": version, "action": action} | terms(reason, if_generation, dry_run=dry_run)
    done = call(of_model(model, "selftest"), body, server=server, state_dir=state_dir)
    if as_json:
        say_json(done)
        return
    what = "would" if dry_run else "does" if done["changed"] else "did already"
    says = f"{model} {version}: a failing self-test {what} {action} (before: {done['before']})"
    out().print(says, markup=False)
    out().print(f"just now: {done['found'] or 'all golden rows are good'}", markup=False)
