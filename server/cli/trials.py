"""`keelmark canary`, `shadow`: what a candidate gets of the requests of a running server."""

import math
from typing import Annotated, Any

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
from server.cli.shares import share_of, shares_shown
from server.cli.show import out, say_json, show_contract

Version = Annotated[str, typer.Argument(help="Version of the candidate.")]


def share_in(text: str) -> float:
    """A share of requests: `10%`, or `0.1`.

    >>> share_in("10%"), share_in("0.5"), share_in("0")
    (0.1, 0.5, 0.0)

    Raises:
        typer.BadParameter: it is no share, or a number that may mean either.
    """
    try:
        share = share_of(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"{text!r} is no share; give one such as 10%, 0.1, or 0 for none")
    return share


Share = Annotated[
    float,
    typer.Argument(parser=share_in, metavar="SHARE", help="Such as 10% or 0.1; 0 ends it."),
]


def canary(
    model: Model,
    version: Version,
    share: Share,
    *,
    breaking: Breaking = False,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Lets the candidate answer a share of the model's callers, always the same ones.

    A growing share only adds callers. Ends with 1 if the server refuses, 4 if none answers.
    """
    body = {"version": version, "share": share, "breaking": breaking}
    body |= terms(reason, if_generation, dry_run=dry_run)
    done = call(of_model(model, "canary"), body, server=server, state_dir=state_dir)
    _show(done, as_json=as_json)


def shadow(
    model: Model,
    version: Version,
    share: Share,
    *,
    reason: Reason = "",
    if_generation: IfGeneration = None,
    dry_run: DryRun = False,
    server: OpsUrl = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Gives the candidate copies of a share of the requests; nobody gets its answers.

    It answers them while the server has time to spare. Ends with 1 if the server refuses, 4 if none
    answers.
    """
    body = {"version": version, "share": share} | terms(reason, if_generation, dry_run=dry_run)
    done = call(of_model(model, "shadow"), body, server=server, state_dir=state_dir)
    _show(done, as_json=as_json)


def _show(done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(done)
        return
    named, after = f"{done['model']} {done['version']}", shares_shown(done["after"])
    if not done["changed"]:
        out().print(f"{named}: nothing to do; {after}", markup=False)
        return
    word = "would be" if done["dry_run"] else "is"
    out().print(f"{named} {word}: {after} (before: {shares_shown(done['before'])})", markup=False)
    show_contract(done["contract"])
