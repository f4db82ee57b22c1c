"""What features the bundles of a store have, read from their files alone.

A store is known here by its layout, `<store>/<name>/<version>/features.json`. What names features:

    flights@1                 a definition; its fitted features, if all bundles have the same
    flights@1+9c2f81d04b7a    fitted features, by some digits of their digest
    flights/7                 those of a bundle
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.errors import FeaturesNotFound
from features.spec import KIND

FILE: Final = "features.json"
StorePath = str | os.PathLike[str]
_NAMED: Final = re.compile(
    r"(?P<bundle>[^@/+]+/[^@/+]+)|(?P<label>[^@/+]+@[0-9]+)(\+(?P<digits>[0-9a-f]+))?"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """The features of one bundle, as they are written: nothing is checked yet.

    Attributes:
        bundle: `flights/7`.
        content: features.json.
    """

    bundle: str
    content: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"{self.content.get('name')}@{self.content.get('version')}"

    @property
    def spec_digest(self) -> str:
        return str(self.content.get("spec_digest"))

    @property
    def features_digest(self) -> str:
        return str(self.content.get("features_digest"))

    @property
    def identity(self) -> str:
        return f"{self.label}+{self.features_digest[:12]}"


@dataclass(frozen=True, slots=True)
class Library:
    """What a store has.

    Attributes:
        stored: by bundle, in the order of their names.
        unreadable: bundle to what is wrong with its file.
    """

    store: str
    stored: tuple[Stored, ...]
    unreadable: Mapping[str, str]


def read_library(store: StorePath) -> Library:
    """Every bundle's features; those of bundles that take tensors are none.

    Args:
        store: a folder that `pack` wrote to, or a `Store`.

    Raises:
        FeaturesNotFound: there is no such folder.
    """
    root = Path(store)
    if not root.is_dir():
        raise FeaturesNotFound(f"no store at {root}; name a folder that `pack` has written to")
    stored: list[Stored] = []
    unreadable: dict[str, str] = {}
    for path in _files(root):
        bundle = path.parent.relative_to(root).as_posix()
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            unreadable[bundle] = f"{FILE} cannot be read: {error}"
            continue
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind == KIND:
            stored.append(Stored(bundle, content))
        elif kind != "tensors":
            unreadable[bundle] = f"{FILE} has kind {kind!r}; it is none of ours"
    return Library(os.fspath(root), tuple(stored), unreadable)


def _files(root: Path) -> Iterator[Path]:
    """Those of published versions: what is being written is in hidden folders."""
    for path in sorted(root.glob(f"*/*/{FILE}")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def find(library: Library, named: str) -> list[Stored]:
    """What goes by a name, at least one.

    Raises:
        FeaturesNotFound: nothing does, or it is no such name.
    """
    parts = _NAMED.fullmatch(str(named))
    if parts is None:
        raise FeaturesNotFound(
            f"{named!r} names no features; write a label, flights@1, an identity, "
            f"flights@1+9c2f81d04b7a, or a bundle, flights/7. {_there_is(library)}"
        )
    bundle, label, digits = parts["bundle"], parts["label"], parts["digits"] or ""
    found = [
        one
        for one in library.stored
        if one.bundle == bundle or (one.label == label and one.features_digest.startswith(digits))
    ]
    if not found:
        raise FeaturesNotFound(f"no features {named} in {library.store}. {_there_is(library)}")
    return found


def the_definition(library: Library, named: str) -> Stored:
    """One of those that go by the name, all being of one definition.

    Raises:
        FeaturesNotFound: as `find`, or they are not; the message names the choices.
    """
    found = find(library, named)
    if len({one.spec_digest for one in found}) > 1:
        raise FeaturesNotFound(
            f"{named} has several definitions in {library.store}: {_listed(found)}. Name a bundle, "
            f"as in {found[0].bundle!r}; a label names one definition, so pack the others under "
            "another version of the feature set"
        )
    return found[0]


def the_fitted(library: Library, named: str) -> Stored:
    """One of those that go by the name, all having learned the same.

    Raises:
        FeaturesNotFound: as `find`, or they have not; the message names the choices.
    """
    found = find(library, named)
    if len({one.features_digest for one in found}) > 1:
        raise FeaturesNotFound(
            f"{named} was fitted several times in {library.store}: {_listed(found)}. Name one of "
            f"them, as in {found[0].identity!r}"
        )
    return found[0]


def _there_is(library: Library) -> str:
    has = f"It has {_listed(library.stored)}" if library.stored else "It has no features"
    broken = "".join(f"; {bundle}: {why}" for bundle, why in library.unreadable.items())
    return has + broken


def _listed(stored: Iterable[Stored]) -> str:
    """Identities with their bundles: `flights@1+9c2f81d04b7a (flights/7, flights/8)`."""
    bundles: dict[str, list[str]] = {}
    for one in stored:
        bundles.setdefault(one.identity, []).append(one.bundle)
    return ", ".join(f"{identity} ({', '.join(those)})" for identity, those in bundles.items())
