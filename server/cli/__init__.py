"""The command `keelmark`. Each command is one file here; `docs/command-line.md` describes them all.

Exit codes mean the same everywhere: see `server.cli.exits`.
"""

import sys

import typer

from features.errors import FeatureError
from models.errors import ServingError
from server.cli import (
    demo,
    deploy,
    diff,
    events,
    features,
    force_fallback,
    init,
    inspect,
    override,
    predict,
    publish,
    selftest,
    serve,
    status,
    swaps,
    token,
    trials,
    verify,
    workers,
)
from server.cli.exits import code_of
from server.cli.show import complain
from server.settings import SettingsError

app = typer.Typer(
    name="keelmark",
    help="Serves a model as one unit with its features, its checks, and what it was trained on.",
    no_args_is_help=True,
    add_completion=False,
    # Typer's own tracebacks print local variables, and with them records.
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 refused: the bundle or the records did not pass; 2 wrong usage "
    "or settings; 3 a deploy without a verdict; 4 what was named is not there or does not answer.",
)
app.command()(init.init)
app.command()(serve.serve)
app.command()(verify.verify)
app.command()(inspect.inspect)
app.command("diff")(diff.diff_bundles)
app.command()(predict.predict)
app.command()(features.features)
app.command()(publish.publish)
app.command()(demo.demo)
app.command()(status.status)
app.command()(deploy.deploy)
app.command()(swaps.load)
app.command()(swaps.promote)
app.command()(swaps.rollback)
app.command()(swaps.unload)
app.command()(trials.shadow)
app.command()(trials.canary)
app.command()(force_fallback.force_fallback)
app.command()(override.override)
app.command()(selftest.selftest)
app.command()(events.events)
app.add_typer(token.app, name="token")
app.add_typer(workers.app, name="workers")


@app.callback()
def keelmark() -> None:
    """Keeps the commands' names even if there were one only."""


def main() -> None:
    """Runs the command; an error of ours is a sentence, not a traceback."""
    try:
        app()
    except (ServingError, SettingsError, FeatureError, ModuleNotFoundError) as error:
        complain(error)
        sys.exit(code_of(error))
