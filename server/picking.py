"""Which bundle takes part in a request besides the live one: who answers it, and who gets a copy.

A canary answers a share of a model's *callers*: the place of a caller is a hash of its key and of
the model, and it is the candidate's if that place lies below the share. So a caller stays on its
side while the share stands, and a growing share only adds callers to it. The key is the request's
`Keelmark-Key`; else, of a single record, the value of the field that the live bundle names
(`route_key`); else the request id. A list goes to one bundle as a whole.
"""

import hashlib
import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from server.asked import Request
from server.routes import Route, RouteTable

_PLACES: Final = 2**53
"""So many places are float64 exactly, and all below 1."""
_encode = msgspec.json.Encoder().encode


def picked(
    routes: RouteTable, live: Route, request: Request, new_id: Callable[[], bytes]
) -> tuple[Route, Route | None]:
    """The route of a request, and that of the candidate which gets a copy of it.

    Args:
        routes: some of whose models have a candidate that takes part.
        live: what would answer it otherwise.
        request: with its whole body.
        new_id: makes an id, for a request that has none.
    """
    second = routes.trials.get(request.model)
    if second is None or request.version is not None:
        return live, None
    if second.canary:
        key = key_of(request, live.bundle.manifest.route_key)
        if place_of(request.model, key or request.request_id or new_id()) < second.canary:
            return second.route, None
    if second.shadow and random.random() < second.shadow:  # noqa: S311  (nobody is to be fooled)
        return live, second.route
    return live, None


def place_of(model: str, key: bytes) -> float:
    """The place of a caller of a model, from 0 to below 1: the same in every process, for ever."""
    digest = hashlib.blake2b(key, digest_size=8, salt=_salt_of(model)).digest()
    return (int.from_bytes(digest, "little") >> 11) / _PLACES


@lru_cache(maxsize=1024)
def _salt_of(model: str) -> bytes:
    """So that the callers who go first are others for each model."""
    return hashlib.blake2b(model.encode(), digest_size=hashlib.blake2b.SALT_SIZE).digest()


def key_of(request: Request, field: str | None) -> bytes | None:
    """What keeps a request's caller on one side, if it says so itself, or its record does.

    Args:
        request: with its whole body.
        field: whose value it is where there is no header; None for none.
    """
    if request.key is not None or field is None:
        return request.key
    return key_in(request.body, field)


def key_in(body: bytes, field: str) -> bytes | None:
    """The value of a field in a body of one record; None for a list, or where there is none.

    Only this field is decoded, the rest is passed over: which bundle decodes and encodes the record
    is not known before. A body that cannot be decoded has no key; whoever reads it says so.
    """
    if body.lstrip()[:1] != b"{":
        return None
    try:
        return _text_of(_decoder(field)(body).value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


@lru_cache(maxsize=1024)
def _decoder(field: str) -> Callable[[bytes], Any]:
    """Reads one field of an object."""
    keyed = msgspec.defstruct("Keyed", [("value", Any, None)], rename={"value": field})
    return msgspec.json.Decoder(keyed).decode


def _text_of(value: Any) -> bytes | None:
    """The same for what is the same value in JSON: 7 and 7.0 are one caller."""
    if value is None or isinstance(value, str):
        return value.encode() if value else None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return _encode(value)
