"""Who may ask what of the ops port: a guard in front of everything but metrics and health.

A viewer's or operator's call needs a token, on loopback too: any page in a browser can reach
loopback. For the same reason `Host` must be a name this server goes by (a foreign name that
resolves to it is an attack called DNS rebinding), `Origin`, which browsers send, must be our own,
and a change must come as `application/json`, which pages of others cannot send without being asked
first.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request

from server.events import EventLog, shortened
from server.logs import logger
from server.settings import Settings
from server.tokens import Access, Token, Tokens

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  (a name to leave out, not to bind)
STATUS: Final = {"unauthorized": 401, "forbidden": 403, "unsupported_media_type": 415}
REFUSALS_AT_ONCE: Final = 20
REFUSALS_EVERY_SECONDS: Final = 300.0
"""Refusals that are written of one name at once, and the time after which there is one more."""
UNKNOWN: Final = "unknown"

_log = logger("access")


class AccessRefused(Exception):
    """A call that was not let through, and why; `who` is the token's name, if it is one of ours."""

    def __init__(self, code: str, message: str, who: str = UNKNOWN) -> None:
        super().__init__(message)
        self.code: Final = code
        self.status: Final = STATUS[code]
        self.who: Final = who


class Sparing:
    """Lets some through at once and then one in a while, for each name apart.

    A flood of calls without a token can neither fill the disk with events nor hide what somebody
    with one does. Safe to ask from several threads: at worst one more is let through.
    """

    def __init__(self, at_once: int, now: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._now = now
        self._left: dict[str, tuple[float, float, int]] = {}

    def held_back(self, name: str) -> int | None:
        """How many were held back since the last; None if this one is too."""
        now = self._now()
        left, then, held = self._left.get(name, (self._at_once, now, 0))
        left = min(self._at_once, left + (now - then) / REFUSALS_EVERY_SECONDS)
        if left < 1:
            self._left[name] = left, now, held + 1
            return None
        self._left[name] = left - 1, now, 0
        return held


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a call brings with it."""

    host: str
    origin: str | None
    authorization: str | None
    content_type: str
    is_change: bool


class Guard:
    """Lets calls through, or refuses them with an event.

    Args:
        settings: names that the ops port goes by.
        tokens: who is who.
        events: where refusals are written, sparingly, with the number of those in between.
    """

    def __init__(self, settings: Settings, tokens: Tokens, events: EventLog) -> None:
        self._hosts = _own_names(settings)
        self._tokens = tokens
        self._events = events
        self._sparing = Sparing(REFUSALS_AT_ONCE)

    def needs(self, access: Access) -> Callable[[Request], Token]:
        """A FastAPI dependency: the token of who asks, if that is enough.

        The dependency raises `AccessRefused`.
        """

        def allowed(request: Request) -> Token:
            asked = _asked(request)
            try:
                _check_single(request)
                return self._let_through(asked, access)
            except AccessRefused as refused:
                self._tell(request, asked, refused)
                raise

        return allowed

    def _let_through(self, asked: _Asked, access: Access) -> Token:
        self._check_sender(asked)
        token = self._token_of(asked)
        if access == "operator" and not token.is_operator:
            raise AccessRefused(
                "forbidden",
                f"token {token.name!r} is a viewer's; this call changes something and needs an "
                "operator's. `keelmark token add NAME --access operator` makes one.",
                who=token.name,
            )
        return token

    def _check_sender(self, asked: _Asked) -> None:
        if _name_of(asked.host) not in self._hosts:
            raise AccessRefused(
                "forbidden",
                f"Host {shortened(asked.host)!r} is no name of this server; use one of "
                f"{', '.join(sorted(self._hosts))}, or add it to the setting ops_hosts.",
            )
        own = (f"http://{asked.host}", f"https://{asked.host}")
        if asked.origin is not None and asked.origin not in own:
            raise AccessRefused(
                "forbidden",
                f"Origin {shortened(asked.origin)!r} is another site; pages of others may not ask "
                "this server.",
            )
        media_type = asked.content_type.partition(";")[0].strip().lower()
        if asked.is_change and media_type != "application/json":
            raise AccessRefused(
                "unsupported_media_type",
                f"Content-Type is {shortened(asked.content_type)!r}; a change is sent as "
                "application/json.",
            )

    def _token_of(self, asked: _Asked) -> Token:
        scheme, _, text = (asked.authorization or "").partition(" ")
        token = self._tokens.find(text.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise AccessRefused(
                "unauthorized",
                "this call needs a token: `Authorization: Bearer TOKEN`. The server's own is in "
                "operator.token in its state folder; `keelmark token add` makes others.",
            )
        return token

    def _tell(self, request: Request, asked: _Asked, refused: AccessRefused) -> None:
        held_back = self._sparing.held_back(refused.who)
        if held_back is None:
            return
        facts = {
            "code": refused.code,
            "method": request.method,
            "path": shortened(request.url.path),
            "host": shortened(asked.host),
            "origin": None if asked.origin is None else shortened(asked.origin),
            "from": request.client.host if request.client else None,
            "held_back": held_back,
        }
        try:
            self._events.append("access_refused", who=refused.who, facts=facts)
        except OSError as error:  # a full disk lets nobody in
            _log.error("event_not_written", kind="access_refused", reason=str(error), **facts)


def _own_names(settings: Settings) -> frozenset[str]:
    bound = [_bracketed(settings.ops_host)] if settings.ops_host not in EVERYWHERE else []
    names: Iterable[str] = (*LOOPBACK, *bound, *(_bracketed(name) for name in settings.ops_hosts))
    return frozenset(name.lower() for name in names)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _name_of(host: str) -> str:
    """The name in a `Host` header, without its port."""
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).lower()


def _check_single(request: Request) -> None:
    """Refuses a header that decides and is there twice: others may have looked at the other one."""
    for name in ("host", "origin", "authorization", "content-type"):
        if len(request.headers.getlist(name)) > 1:
            raise AccessRefused("forbidden", f"the header {name} is there twice; send it once.")


def _asked(request: Request) -> _Asked:
    headers: Any = request.headers
    return _Asked(
        headers.get("host", ""),
        headers.get("origin"),
        headers.get("authorization"),
        headers.get("content-type", ""),
        request.method not in ("GET", "HEAD"),
    )
