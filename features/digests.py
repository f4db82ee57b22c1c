"""Canonical bytes and digests: the same value, the same digest on any machine, seed or locale."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Sorted keys, ASCII, no spaces, floats as `float.hex()` (NaN and infinities spelled).

    An integer-valued float stays a float, so that 1 and 1.0, which mean different things in a
    declaration, do not collide by accident of formatting.

    >>> canonical_json({"b": 1, "a": [1.0, None]})
    b'{"a":["0x1.0000000000000p+0",null],"b":1}'
    """
    plain = _plain(value)
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return text.encode("ascii")


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of `value`, hexadecimal."""
    return sha256_hex(canonical_json(value))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value).hex()
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        pairs: Mapping[Any, Any] = value
        return {str(key): _plain(item) for key, item in pairs.items()}
    if isinstance(value, Sequence):
        items: Sequence[Any] = value
        return [_plain(item) for item in items]
    return value
