"""Arguments and options that several commands have: one name, one text, one meaning."""

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON, for scripts.")]

# which server

StateDir = Annotated[
    Path | None,
    typer.Option(help="State folder of the server; else as `keelmark serve` would take it."),
]
OpsUrl = Annotated[
    str | None,
    typer.Option(
        "--server", help="URL of the ops port; else of the server that has the state folder."
    ),
]

# what is to change there

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the event log.")]
StandingReason = Annotated[str, typer.Option(help="Why; it stands in the event log and in status.")]
"""Of what holds until it is taken back."""
IfGeneration = Annotated[
    int | None, typer.Option(help="Only if the route table has this generation still.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")]
Breaking = Annotated[
    bool, typer.Option("--breaking", help="Even if it breaks requests that are answered now.")
]
