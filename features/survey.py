"""Which fields and features the bundles of a store have, and where one name means two things."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from features.digests import canonical_json
from features.errors import FeaturesCorrupt
from features.feature_set import FeatureSet
from features.fields import Field, declaration
from features.fitted import Fitted
from features.library import Library
from features.spec import DOCUMENTATION


@dataclass(frozen=True, slots=True)
class Definition:
    """One meaning of a name.

    Attributes:
        text: as people write it; of a field with the documentation of the first bundle.
        data: as features.json has it.
        bundles: who uses it, `flights/7`, in the order of their names.
    """

    name: str
    text: str
    data: Mapping[str, Any]
    bundles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """A store's fields and features by name, each with all its definitions.

    Attributes:
        unreadable: bundle to what is wrong with its features.json.
    """

    fields: Mapping[str, tuple[Definition, ...]]
    features: Mapping[str, tuple[Definition, ...]]
    unreadable: Mapping[str, str]

    @property
    def conflicts(self) -> list[str]:
        """Names with several definitions, as `field 'distance'`."""
        return [
            f"{what} {name!r}"
            for what, named in (("field", self.fields), ("feature", self.features))
            for name, definitions in named.items()
            if len(definitions) > 1
        ]


def survey(library: Library) -> Survey:
    """What every bundle declares; a file that is not what it says counts as unreadable."""
    sets: dict[str, FeatureSet] = {}
    unreadable = dict(library.unreadable)
    for stored in library.stored:
        try:
            sets[stored.bundle] = Fitted.from_json(stored.content).feature_set
        except FeaturesCorrupt as error:
            unreadable[stored.bundle] = str(error)
    fields = ((bundle, field) for bundle, one in sets.items() for field in one.fields)
    return Survey(
        _by_name(_field_uses(fields)),
        _by_name(
            (bundle, name, repr(expression), expression.to_json())
            for bundle, one in sets.items()
            for name, expression in one.features.items()
        ),
        unreadable,
    )


def _field_uses(fields: Iterable[tuple[str, Field]]) -> "Iterator[_Use]":
    for bundle, field in fields:
        meaning = {k: v for k, v in field.to_json().items() if k not in DOCUMENTATION}
        yield bundle, field.name, declaration(field), meaning


_Use = tuple[str, str, str, Mapping[str, Any]]
"""Bundle, name, text and data of one use of a name."""


def _by_name(uses: Iterable[_Use]) -> dict[str, tuple[Definition, ...]]:
    """Definitions by name; equal data is one definition."""
    found: dict[str, dict[bytes, Definition]] = {}
    for bundle, name, text, data in uses:
        known = found.setdefault(name, {})
        key = canonical_json(data)
        before = known.get(key) or Definition(name, text, data, ())
        known[key] = Definition(name, before.text, before.data, (*before.bundles, bundle))
    return {name: tuple(known.values()) for name, known in sorted(found.items())}
