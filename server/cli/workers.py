"""`keelmark workers`: the processes of a running server that answer requests."""

from typing import Final

import typer

from server.cli.ops_client import call
from server.cli.options import AsJson, OpsUrl, Reason, StateDir
from server.cli.show import out, say_json

PATIENCE_SECONDS: Final = 3600.0

app = typer.Typer(help="Looks after the workers of a running server.", no_args_is_help=True)


@app.callback()
def workers() -> None:
    """Keeps the commands' names even if there were one only."""


@app.command()
def replace(
    *,
    reason: Reason = "",
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Puts a new process into the place of each worker, one by one, without losing a request.

    Idle connections move to the others; none is closed. Ends with 1 if the server refuses or a new
    worker does not become ready, 4 if no server answers.
    """
    done = call(
        "/workers/replace",
        {"reason": reason},
        server=server,
        state_dir=state_dir,
        timeout_seconds=PATIENCE_SECONDS,
    )
    if as_json:
        say_json(done)
        return
    out().print(f"{done['replaced']} workers replaced")
