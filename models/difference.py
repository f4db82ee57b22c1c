"""In words, how two definitions of features differ."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from features.digests import sha256_hex


def spec_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per difference of two `spec` parts of features.json: fields, features, versions."""
    return [
        *_items("field", _named(old, "fields"), _named(new, "fields")),
        *_items("feature", _named(old, "features"), _named(new, "features")),
        *_order("fields", old, new),
        *_order("features", old, new),
        *_items("entry", _rest(old), _rest(new)),
    ]


def baseline_difference(
    old: Mapping[str, Any], fields: Sequence[str], new: Mapping[str, Any]
) -> list[str]:
    """The same for the fields of a baseline, all that a bundle has of its features.

    Args:
        old: `spec` of the bundle's model, which declares the baseline's fields as it does.
        fields: that the bundle's baseline reads.
        new: `spec` of another baseline's features, or of a model's.
    """
    read = [field for field in old["fields"] if field["name"] in fields]
    lines = list(_items("field", _named({"fields": read}, "fields"), _named(new, "fields")))
    return lines or ["its fields are declared alike, so what is computed from them differs"]


def _named(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {item["name"]: item for item in spec.get(key, ())}


def _rest(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in ("fields", "features")}


def _items(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in old.keys() - new.keys():
        yield f"{what} {name!r} is gone"
    for name in new.keys() - old.keys():
        yield f"{what} {name!r} is new"
    for name in sorted(old.keys() & new.keys()):
        yield from (f"{what} {name!r}{line}" for line in _values(old[name], new[name], ""))


def _order(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = list(_named(old, key)), list(_named(new, key))
    if before != after and sorted(before) == sorted(after):
        yield f"the {key} have another order: {before}, now {after}"


def _values(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _values(old.get(key), new.get(key), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _values(before, after, f"{path}[{place}]")
    elif old != new:
        yield f"{path}: was {_shown(path, old)}, is {_shown(path, new)}"


def _shown(path: str, value: Any) -> str:
    """A value for people; the graph of an `onnx_op` by the sha256 of its bytes."""
    if path.endswith(".model") and isinstance(value, str):
        return f"sha256 {sha256_hex(base64.b64decode(value))[:12]}"
    return repr(value)
