"""How commands reach a running server: its address and token from the state folder, or as told."""

import contextlib
import http.client
import ipaddress
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from models.errors import ServingError
from server.settings import SettingsError, load
from server.state_folder import running_server
from server.tokens import own_token

VARIABLE: Final = "KEELMARK_TOKEN"
TIMEOUT_SECONDS: Final = 30.0


class NotRunning(ServingError):
    """No server where one was looked for, something else answers there, or it went away."""


class ServerSaysNo(ServingError):
    """A call that the server refused; the message is the server's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status: Final = status
        self.code: Final = code


def state_folder_of(given: Path | None) -> Path:
    """The state folder that a server started here would have."""
    return given or load().settings.state_dir


def call(
    path: str,
    body: dict[str, Any] | None = None,
    *,
    server: str | None,
    state_dir: Path | None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Any:
    """The JSON answer of a running server; POST where there is a body, else GET.

    Raises:
        SettingsError: it is on another machine, and no token for it is set.
        NotRunning: no server runs there, or it does not answer.
        ServerSaysNo: it refused.
    """
    folder = state_folder_of(state_dir)
    base = (server or _url(folder)).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise SettingsError(f"--server {base!r} is no URL; use such as http://127.0.0.1:8081")
    is_here = server is None or _is_loopback(base)
    token = _token(folder, base, is_here=is_here)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, headers)  # noqa: S310  (checked above)
    try:
        with _opener(is_here=is_here).open(request, timeout=timeout_seconds) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        raise _no(refused) from refused
    except (ConnectionError, http.client.IncompleteRead) as error:
        raise NotRunning(
            f"the connection to {base} broke before the answer came: the server has ended. What a "
            "command was to change is done wholly or not at all; `keelmark status` says which when "
            "a server runs again with this state folder"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotRunning(
            f"{base} does not answer as a keelmark ops port does ({error}); is it the ops port, "
            "and does the server run?"
        ) from error


def of_model(model: str, what: str) -> str:
    """The path of a call about a model; a name that can be none is the server's to refuse.

    >>> of_model("churn", "load"), of_model("a b", "load")
    ('/models/churn/load', '/models/a%20b/load')
    """
    return f"/models/{quote(os.fsencode(model), safe='')}/{what}"


def terms(reason: str, if_generation: int | None, *, dry_run: bool) -> dict[str, Any]:
    """What the body of every call that changes a model says beside the change itself."""
    return {"reason": reason, "if_generation": if_generation, "dry_run": dry_run}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An ops port sends nobody elsewhere, and the token is not for whoever else is there."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Nowhere: the answer is an error."""


def _opener(*, is_here: bool) -> urllib.request.OpenerDirector:
    # No proxy gets to see a token of this machine.
    proxies = urllib.request.ProxyHandler({} if is_here else None)
    return urllib.request.build_opener(_NoRedirects, proxies)


def _is_loopback(url: str) -> bool:
    """Whether who answers there is on this machine.

    >>> [_is_loopback(f"http://{host}:8081") for host in ("127.0.0.1", "[::1]", "localhost", "b")]
    [True, True, True, False]
    """
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _url(folder: Path) -> str:
    ports = running_server(folder)
    if ports is None:
        raise NotRunning(
            f"no server runs with the state folder {folder}; start one, name its folder with "
            "--state-dir, or its ops port with --server"
        )
    return ports.ops


def _token(folder: Path, base: str, *, is_here: bool) -> str:
    if token := os.environ.get(VARIABLE, ""):
        return token
    if not is_here:
        raise SettingsError(
            f"{base} is another machine, which does not get the token of this one; set {VARIABLE} "
            "to one that `keelmark token add` printed there"
        )
    return own_token(folder, make=False)


def _no(refused: urllib.error.HTTPError) -> ServerSaysNo:
    try:
        error = json.load(refused)["error"]
        return ServerSaysNo(refused.code, str(error["code"]), str(error["message"]))
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return ServerSaysNo(refused.code, "internal", f"it answered {refused.code}")
