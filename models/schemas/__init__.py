"""JSON Schemas of every JSON file of a bundle and of a store, made from the structs that read them.

`python -m models.schemas` writes them; a test fails when they are no longer what the structs say.
"""

import json
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from features.fields import Field
from models.manifest import Fallback, Golden, Hex256, Manifest, Strict, TensorInputs
from models.reference import Reference
from models.store import LiveWish

HERE: Final = Path(__file__).parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class Feature(Strict, frozen=True, kw_only=True):
    """A column of the model and its expression: a field, a constant or an operator."""

    name: str
    expression: dict[str, Any]


class Spec(Strict, frozen=True, kw_only=True):
    """What is declared, nothing fitted. A field's entries at their default are left out."""

    encoder: int
    fields: list[Field]
    features: list[Feature]


class FrozenZone(Strict, frozen=True, kw_only=True):
    """A time zone of 1900 to 2100: UTC seconds of its changes, and the offsets between them."""

    name: str
    transitions: list[int]
    offsets: list[int]


class State(Strict, frozen=True, kw_only=True):
    """What was fitted: texts in code order, zones, and each operator's constants."""

    vocabularies: dict[str, list[str]]
    zones: dict[str, FrozenZone]
    operators: dict[str, Any]


class FittedOn(Strict, frozen=True, kw_only=True):
    """What it was fitted on and with."""

    rows: int
    tzdata: str


class FeaturesFile(Strict, frozen=True, kw_only=True):
    """`features.json`: definition, fitted state, and the digests of both."""

    format: Literal[1]
    kind: Literal["features"]
    name: str
    version: int
    spec: Spec
    spec_digest: Hex256
    state: State
    state_digest: Hex256
    features_digest: Hex256
    feature_names: list[str]
    fitted: FittedOn


FILES: Final = {
    "manifest": Manifest,
    "features": FeaturesFile,
    "tensor-features": TensorInputs,
    "fallback": Fallback,
    "golden": Golden,
    "reference": Reference,
    "live": LiveWish,
}
"""What reads each file; `tensor-features` is the features.json of a bundle without fields."""


def schema_text(name: str) -> str:
    """The schema of a file, as it is kept here."""
    schema = msgspec.json.schema(FILES[name])
    return json.dumps({"$schema": DIALECT, **_tidy(schema)}, indent=2) + "\n"


def _tidy(schema: Any) -> Any:
    """Docstrings as running text: Pythons differ in how they indent them."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(value.split()) if isinstance(value, str) else _tidy(value)
        for key, value in schema.items()
    }


def schema_path(name: str) -> Path:
    """Where the schema of a file is kept."""
    return HERE / f"{name}.schema.json"


def write_all() -> None:
    """Writes every schema."""
    for name in FILES:
        schema_path(name).write_text(schema_text(name), encoding="utf-8")
