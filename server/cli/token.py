"""`keelmark token`: who may look at the ops port, and who may change something there."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.exits import REFUSED
from server.cli.ops_client import state_folder_of
from server.cli.options import AsJson, StateDir
from server.cli.show import complain, out, say_json, table
from server.settings import SettingsError
from server.tokens import Access, Token, digest_of, new_token, read_tokens, token_of, write_tokens

app = typer.Typer(help="Makes, lists and revokes tokens of the ops port.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Who will hold it; events name it.")],
    *,
    access: Annotated[
        Access, typer.Option(help="What it allows: to look, or to change something too.")
    ] = "viewer",
    state_dir: StateDir = None,
) -> None:
    """Makes a token and prints it, once: only its digest is kept.

    A running server accepts it at once. With the first operator's token the server's own is no
    longer accepted. Ends with 1 if the name is taken.
    """
    folder = _made(state_folder_of(state_dir))
    tokens = read_tokens(folder)
    if any(token.name == name for token in tokens):
        complain(SettingsError(f"there is a token {name!r} already; revoke it, or take another"))
        raise typer.Exit(REFUSED)
    token = new_token()
    _write(folder, (*tokens, token_of(name, access, digest_of(token))))
    out().print(token, markup=False)


@app.command(name="list")
def list_tokens(*, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Lists who holds a token, and what it allows."""
    tokens = read_tokens(state_folder_of(state_dir))
    if as_json:
        say_json([{"name": token.name, "access": token.access} for token in tokens])
        return
    rows = [(token.name, token.access) for token in tokens]
    out().print(table("Tokens", ("name", "access"), rows))
    if not any(token.is_operator for token in tokens):
        out().print("operator: the server's own token, in operator.token of the state folder")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Of the token.")], *, state_dir: StateDir = None
) -> None:
    """Makes a token worthless, for a running server too. Ends with 1 if there is none."""
    folder = state_folder_of(state_dir)
    tokens = read_tokens(folder)
    left: tuple[Token, ...] = tuple(token for token in tokens if token.name != name)
    if len(left) == len(tokens):
        names = ", ".join(token.name for token in tokens) or "none"
        complain(SettingsError(f"there is no token {name!r} in {folder}; there is {names}"))
        raise typer.Exit(REFUSED)
    _write(folder, left)


def _write(folder: Path, tokens: tuple[Token, ...]) -> None:
    try:
        write_tokens(folder, tokens)
    except OSError as error:
        raise SettingsError(
            f"the tokens in {folder} cannot be written ({error.strerror}), and stay as they were; "
            "make room there, or run the command as the user that runs the server"
        ) from error


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"the state folder {folder} cannot be made ({error.strerror}); name another with "
            "--state-dir"
        ) from error
    return folder
