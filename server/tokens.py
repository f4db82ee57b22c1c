"""Tokens of the ops port: who may look, and who may change something. Kept as digests only.

<state folder>/tokens.json     what `keelmark token` wrote: names, access, sha256 of each token
<state folder>/operator.token  the token itself, made where nothing else is configured, for the
                               commands that run beside the server; only its owner can read it
"""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from models.folders import replace_file
from models.manifest import END
from server.settings import SettingsError

TOKENS: Final = "tokens.json"
OWN: Final = "operator.token"
OWN_NAME: Final = "operator.token"
"""How events name who came with the token that the server made."""
PREFIX: Final = "keelmark_"
"""Begins every token, so that scanners find one that was committed by mistake."""
BYTES: Final = 32

Access = Literal["viewer", "operator"]
"""A viewer reads; an operator changes, too."""
Name = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._@-]{{0,63}}{END}")]


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds it and what it allows; `sha256` is that of the token, hexadecimal."""

    name: Name
    access: Access
    sha256: Annotated[str, msgspec.Meta(pattern=f"^[0-9a-f]{{64}}{END}")]

    @property
    def is_operator(self) -> bool:
        return self.access == "operator"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The tokens that a server accepts.

    Read again when their file changes: revoking one needs no restart.

    Args:
        folder: the state folder.

    Raises:
        SettingsError: the file cannot be read, or the server's own token cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()
        self._read()

    def find(self, token: str) -> Token | None:
        """Who it is. It takes as long for a wrong token as for a right one."""
        self._read()
        digest = digest_of(token)
        found = None
        for each in self._tokens:
            if hmac.compare_digest(each.sha256, digest):
                found = each
        return found

    def _read(self) -> None:
        seen = _identity(self._folder / TOKENS)
        if seen == self._seen:
            return
        tokens = read_tokens(self._folder)
        if not any(token.is_operator for token in tokens):
            own = own_token(self._folder, make=True)
            tokens = (*tokens, Token(OWN_NAME, "operator", digest_of(own)))
        self._tokens, self._seen = tokens, seen


def _identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced; its time alone moves in steps of milliseconds."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def read_tokens(folder: Path) -> tuple[Token, ...]:
    """What is configured in a state folder.

    Raises:
        SettingsError: the file is not what `keelmark token` writes.
    """
    path = folder / TOKENS
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).tokens
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"the tokens in {path} cannot be read ({error}); correct the file, or remove it and "
            "make them again with `keelmark token add`"
        ) from error


def write_tokens(folder: Path, tokens: tuple[Token, ...]) -> None:
    """Replaces what is configured."""
    content = msgspec.json.format(msgspec.json.encode(_File(1, tokens)), indent=1)
    _write_private(folder / TOKENS, content + b"\n")


def new_token() -> str:
    """A token nobody can guess: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(BYTES)


def token_of(name: str, access: Access, sha256: str) -> Token:
    """A token with these.

    Raises:
        SettingsError: the name cannot be one.
    """
    try:
        given = {"name": name, "access": access, "sha256": sha256}
        return msgspec.convert(given, Token)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"{name!r} cannot name a token: use up to 64 letters, digits and . _ @ -, as in ci"
        ) from error


def own_token(folder: Path, *, make: bool) -> str:
    """The token for commands beside the server.

    Args:
        folder: the state folder.
        make: it, where there is none.

    Raises:
        SettingsError: it cannot be read or written.
    """
    path = folder / OWN
    try:
        if make and not path.exists():
            _write_private(path, new_token().encode() + b"\n")
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the token {path} cannot be read or written ({error}); only the user that runs the "
            "server can: run the command as that user, or set KEELMARK_TOKEN"
        ) from error


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _write_private(path: Path, content: bytes) -> None:
    """Never readable for others, not even for a moment."""
    replace_file(path, content, alone=True, mode=0o600)
