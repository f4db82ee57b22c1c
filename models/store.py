"""A store: one folder per model, one folder per version, and a wish which version is live.

    flights/7/         a bundle
    flights/live.json  {"format":1,"live":"7","previous":"6","revision":12,"at":…,"by":…}

A version appears whole or not at all: it is written aside, synced, and renamed into place. A server
needs no write access; what it really serves are facts that it keeps elsewhere.
"""

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from models.bundle import Bundle
from models.difference import baseline_difference, spec_difference
from models.errors import (
    BundleCorrupt,
    BundleError,
    BundleNotFound,
    DefinitionChanged,
    LiveChanged,
    NothingLive,
    PackingError,
    StoreError,
    VersionTaken,
)
from models.folders import locked, made, replace_file, sync
from models.machine_copy import Copies
from models.manifest import (
    AGAIN,
    FEATURES,
    MANIFEST,
    MODEL_NAME,
    VERSION,
    FeaturesIdentity,
    Manifest,
    Strict,
    read,
    write,
)
from models.times import time_now

LIVE: Final = "live.json"
LEFT_BEHIND: Final = rf"\.{VERSION}\.[0-9a-f]{{8}}"
"""Names of the folders that versions are written in, and of the files that wishes are."""
LEFT_BEHIND_SECONDS: Final = 3600


class LiveWish(Strict, frozen=True, kw_only=True):
    """`live.json`: which version the owner wants to be live."""

    format: Literal[1]
    live: str
    previous: str | None = None
    revision: Annotated[int, Meta(ge=1)]
    """Grows by one with every change, so that two changes cannot both believe they were first."""
    at: str
    by: str


class Store:
    """A folder of bundles. Holds no state but its path; any thread or process may use it."""

    __slots__ = ("root",)

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __fspath__(self) -> str:
        return str(self.root)

    # reading

    def names(self) -> list[str]:
        """Models that have at least one version, sorted."""
        if not self.root.is_dir():
            raise StoreError(f"no store at {self.root}; name a folder that `pack` has written to")
        try:
            entries = list(os.scandir(self.root))
        except OSError as error:
            raise StoreError(
                f"the store {self.root} cannot be read ({error.strerror}); make it readable"
            ) from error
        return sorted(
            entry.name
            for entry in entries
            if re.fullmatch(MODEL_NAME, entry.name) and entry.is_dir() and self._has_some(entry)
        )

    def _has_some(self, model: "os.DirEntry[str]") -> bool:
        try:
            return bool(self.versions(model.name))
        except OSError:
            return True  # it cannot be read: opening it says so, and the other models are there

    def versions(self, name: str) -> list[str]:
        """Versions of a model, sorted as texts: they have no other order."""
        try:
            entries = list(os.scandir(self.root / _checked(name, MODEL_NAME, "model name")))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(e.name for e in entries if re.fullmatch(VERSION, e.name) and e.is_dir())

    def folder(self, name: str, version: str) -> Path:
        """Where a version is.

        Raises:
            BundleNotFound: it is not in the store; the message says what is.
        """
        versions = self.versions(name)
        if _checked(version, VERSION, "version") not in versions:
            there = f"it has versions {versions}" if versions else "the store has no such model"
            raise BundleNotFound(f"no {name}/{version} in {self.root}: {there}")
        return self.root / name / version

    def open(
        self,
        name: str,
        version: str,
        *,
        batch_exact: bool = False,
        digest: str | None = None,
        copies: Copies | None = None,
        with_models: bool = True,
    ) -> Bundle:
        """Opens a version; see `Bundle.open`.

        Raises:
            BundleCorrupt: also when the folder was renamed or copied under another name.
        """
        folder = self.folder(name, version)
        bundle = Bundle.open(
            folder, batch_exact=batch_exact, digest=digest, copies=copies, with_models=with_models
        )
        if (bundle.name, bundle.version) != (name, version):
            raise BundleCorrupt(
                f"bundle {folder} says that it is {bundle.name}/{bundle.version}; a bundle keeps "
                f"its name and version. Move the folder back, or pack it as {name}/{version}."
            )
        return bundle

    def manifest(self, name: str, version: str) -> Manifest:
        """The manifest alone, without looking at the other files."""
        path = self.folder(name, version) / MANIFEST
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleCorrupt(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
        return read(Manifest, content, what=str(path))

    # the live wish

    def live(self, name: str) -> LiveWish | None:
        """The wish, if one was made."""
        path = self.root / _checked(name, MODEL_NAME, "model name") / LIVE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return read(LiveWish, content, what=str(path))

    def resolve(self, name: str) -> str:
        """The version to serve: the wished one, else the only one.

        Raises:
            BundleNotFound: there is none, or the wished one is not there.
            NothingLive: several versions and no wish.
        """
        wish, versions = self.live(name), self.versions(name)
        if wish is not None:
            self.folder(name, wish.live)
            return wish.live
        if not versions:
            raise BundleNotFound(
                f"the store {self.root} has no model {name!r}; it has {self.names()}"
            )
        if len(versions) > 1:
            raise NothingLive(
                f"model {name!r} has versions {versions} and none is marked live. Say which: "
                f"keelmark publish {name}/{versions[-1]} --live --store {self.root}"
            )
        return versions[0]

    def set_live(
        self, name: str, version: str, *, by: str, expected: int | None = None
    ) -> LiveWish:
        """Wishes a version live, by compare-and-set.

        Args:
            name: the model.
            version: must be in the store.
            by: who wishes it, for the record.
            expected: the revision that the decision was based on, 0 for no wish yet; None takes
                whatever is there.

        Raises:
            LiveChanged: the wish has another revision by now.
        """
        self.folder(name, version)
        folder = self.root / name
        with locked(folder):
            wish = self.next_wish(name, version, by=by, expected=expected)
            replace_file(folder / LIVE, write(wish))
        return wish

    def next_wish(
        self, name: str, version: str, *, by: str, expected: int | None = None
    ) -> LiveWish:
        """What `set_live` would write now; the version may come to the store still.

        Raises:
            LiveChanged: the wish has another revision than expected.
        """
        now = self.live(name)
        revision = 0 if now is None else now.revision
        if expected is not None and revision != expected:
            raise LiveChanged(
                f"the live version of {name!r} is at revision {revision}"
                f"{'' if now is None else f' ({now.live}, by {now.by})'}, not {expected}; "
                "look at it again and repeat"
            )
        return LiveWish(
            format=1,
            live=version,
            previous=_previous(now, version),
            revision=revision + 1,
            at=time_now(),
            by=by,
        )

    # writing

    def check_free(self, name: str, version: str) -> None:
        """Refuses a name, or a version that is there already.

        Raises:
            PackingError: not a name or version.
            VersionTaken: versions are immutable.
        """
        _checked(name, MODEL_NAME, "model name")
        _checked(version, VERSION, "version")
        if version.endswith(".json"):
            raise PackingError(
                f"version {version!r} ends in .json, as the store's own files beside the versions "
                f"do; choose another, such as {version.removesuffix('.json')!r}"
            )
        if version in self.versions(name) or os.path.lexists(self.root / name / version):
            raise VersionTaken(
                f"{name}/{version} is in the store {self.root} already, and versions are "
                f"immutable; choose another version than {self.versions(name)}"
            )

    def check_definition(
        self, features: FeaturesIdentity, spec: dict[str, Any] | None = None
    ) -> None:
        """Refuses a feature label that names another definition in this store.

        Args:
            features: of a model or of a baseline.
            spec: the definition, to show the difference; of a baseline's features a bundle has
                the digest and the fields alone.

        Raises:
            DefinitionChanged: a model or a baseline of the store has the label.
        """
        for name, version, manifest in self._manifests():
            digests = _digests_apart(manifest.features, features)
            if digests:
                if spec is not None:
                    digests = spec_difference(_spec_of(self.root / name / version), spec)
                raise _changed(f"features {features.label} of {name}/{version}", digests)
            simple = manifest.baseline
            if simple is not None and (digests := _digests_apart(simple.features, features)):
                if spec is not None:
                    folder = self.root / name / version
                    digests += baseline_difference(_spec_of(folder), simple.fields, spec)
                raise _changed(
                    f"features {features.label} of the baseline of {name}/{version}", digests
                )

    def _manifests(self) -> Iterator[tuple[str, str, Manifest]]:
        if not self.root.is_dir():
            return
        for name in self.names():
            for version in self.versions(name):
                try:
                    yield name, version, self.manifest(name, version)
                except BundleError:
                    continue  # its own opening refuses it; it does not stop other work

    @contextmanager
    def aside(self, name: str, version: str) -> Generator[Path]:
        """A folder in the store, seen by nobody, to write into; removed unless published.

        It is locked while it is written: what is not was left behind by a process that was killed.
        """
        self.check_free(name, version)
        folder = made(self.root / name / f".{version}.{secrets.token_hex(4)}")
        try:
            with locked(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()  # it goes if it is empty: a new model that came to nothing

    def publish(self, folder: Path, manifest: Manifest) -> Path:
        """Moves a folder written `aside` into its place, in one step.

        Raises:
            VersionTaken: somebody else published this version meanwhile.
            DefinitionChanged: or another definition of its features.
        """
        target = self.root / manifest.name / manifest.version
        for path in folder.iterdir():
            sync(path)
        sync(folder)
        with locked(self.root):
            self.check_new(folder, manifest)
            folder.rename(target)
            sync(target.parent)
            sync(self.root)  # the model's own folder may be new
            self._sweep()
        return target

    def check_new(self, folder: Path, manifest: Manifest) -> None:
        """Refuses what `publish` would refuse.

        Raises:
            VersionTaken: the version is there.
            DefinitionChanged: another definition of its features is.
        """
        self.check_free(manifest.name, manifest.version)
        if manifest.features.label:
            self.check_definition(manifest.features, _spec_of(folder))
        if manifest.baseline is not None:
            self.check_definition(manifest.baseline.features)

    def _sweep(self) -> None:
        """Removes what killed processes left behind: hidden, an hour old, and unlocked folders."""
        for path in self.root.glob("*/.*.*"):
            if not re.fullmatch(LEFT_BEHIND, path.name):
                continue
            with suppress(OSError):
                found = path.lstat()
                if time.time() - found.st_mtime <= LEFT_BEHIND_SECONDS:
                    continue
                if stat.S_ISREG(found.st_mode):  # a wish, which is written in a moment
                    path.unlink()
                    continue
                with locked(path, wait=False):
                    shutil.rmtree(path, ignore_errors=True)


def _checked(text: Any, pattern: str, what: str) -> str:
    if not isinstance(text, str):
        raise PackingError(f"{text!r} is not a {what}, it must be a text; write {str(text)!r}")
    if not re.fullmatch(pattern, text):
        raise PackingError(f"{text!r} is not a {what}; it must match {pattern}")
    return text


def _digests_apart(other: FeaturesIdentity, features: FeaturesIdentity) -> list[str]:
    """One line if both have one label and two definitions."""
    if other.label != features.label or other.spec_digest == features.spec_digest:
        return []
    return [f"spec_digest was {other.spec_digest[:12]}…, is {features.spec_digest[:12]}…"]


def _changed(what: str, difference: list[str]) -> DefinitionChanged:
    return DefinitionChanged(
        f"{what} are defined otherwise:\n  "
        + "\n  ".join(difference)
        + "\nA label names one definition: raise the version of the feature set."
    )


def _previous(now: LiveWish | None, version: str) -> str | None:
    if now is None:
        return None
    return now.previous if now.live == version else now.live


def _spec_of(folder: Path) -> dict[str, Any]:
    path = folder / FEATURES
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        return msgspec.convert(content.get("spec", {}), dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleCorrupt(
            f"{path} cannot be read ({error}), so that its definition cannot be compared with one "
            "of the same label. Copy that bundle again, or remove it from the store."
        ) from error
