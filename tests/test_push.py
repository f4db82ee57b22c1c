"""`deploy/git/post-receive`: a push of a bundle is published, or is refused and nothing came."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from models.store import Store
from tests.pushing import Repository
from tests.three import NAME, pack_strict, pack_versions

pytestmark = [
    pytest.mark.filterwarnings("ignore:fields .* may be missing"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = pack_versions(tmp_path_factory.mktemp("packed"), 3)
    pack_strict(store)
    return store


@pytest.fixture
def repository(tmp_path: Path, packed: Path) -> Repository:
    return Repository(tmp_path, packed)


def test_a_pushed_bundle_is_published_and_wished_live(repository: Repository):
    repository.bundle("1")
    (repository.work / "README.md").write_text("Bundles of three.")
    repository.commit()
    taken, said = repository.push()
    assert taken, said
    assert "is published" in said
    store = Store(repository.store)
    wish = store.live(NAME)
    assert wish is not None
    assert (wish.live, wish.revision) == ("1", 1)
    assert wish.by.startswith("git push of ")
    assert sorted(path.name for path in repository.store.iterdir()) == [NAME]
    repository.bundle("2")
    repository.commit()
    taken, said = repository.push()
    assert taken, said
    assert (store.resolve(NAME), store.versions(NAME)) == ("2", ["1", "2"])
    assert list(repository.temporary.iterdir()) == []


def test_nothing_of_a_push_is_run_or_applied(repository: Repository):
    """Filters that the repository has are not applied either: the bytes are those of git."""
    ran = repository.bare.parent / "ran"
    bundle = repository.bundle("1")
    attributes = "* filter=evil ident text eol=crlf export-subst\n"
    (repository.work / ".gitattributes").write_text(attributes)
    (repository.work / ".lfsconfig").write_text("[lfs]\nurl = https://example.org\n")
    (repository.work / "hooks").mkdir()
    for name in ("post-checkout", "post-receive"):
        (repository.work / "hooks" / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (repository.work / "hooks" / name).chmod(0o755)
    repository.git("config", "filter.evil.smudge", f"touch {ran}; cat", at=repository.bare)
    repository.git("config", "filter.evil.clean", "cat", at=repository.work)
    repository.git("config", "core.autocrlf", "true", at=repository.bare)
    repository.git("config", "core.safecrlf", "false")
    # As bytes, whatever its attributes say.
    for path in sorted(bundle.iterdir()):
        sha = repository.git("hash-object", "-w", "--no-filters", path)
        name = f"{NAME}/1/{path.name}"
        repository.git("update-index", "--add", "--cacheinfo", f"100644,{sha},{name}")
    repository.git("add", ".gitattributes", ".lfsconfig", "hooks")
    repository.git("commit", "--quiet", "--message", "a bundle")
    taken, said = repository.push()
    assert taken, said
    there = repository.store / NAME / "1"
    assert {p.name: p.read_bytes() for p in there.iterdir()} == {
        p.name: p.read_bytes() for p in bundle.iterdir()
    }
    assert not ran.exists()


# what is refused


def not_a_bundle(at: Repository) -> None:
    (at.work / "notes.txt").write_text("Hello")


def an_empty_push(at: Repository) -> None:
    pass


def without_manifest(at: Repository) -> None:
    (at.bundle("2") / "manifest.json").unlink()


def with_a_manifest_that_is_none(at: Repository) -> None:
    (at.bundle("2") / "manifest.json").write_text("[" * 100_000)


def without_a_file(at: Repository) -> None:
    (at.bundle("2") / "golden.json").unlink()


def altered(at: Repository) -> None:
    path = at.bundle("2") / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def larger_than_allowed(at: Repository) -> None:
    path = at.bundle("2") / "model.onnx"
    path.write_bytes(path.read_bytes() + bytes(2_000_000))


def with_a_file_more(at: Repository) -> None:
    (at.bundle("2") / "run.sh").write_text("touch ran")


def with_a_link(at: Repository) -> None:
    path = at.bundle("2") / "card.md"
    path.unlink()
    path.symlink_to("/etc/passwd")


def with_a_folder(at: Repository) -> None:
    (at.bundle("2") / "baseline.onnx").mkdir()
    (at.work / NAME / "2" / "baseline.onnx" / "x").write_text("x")


def with_a_submodule(at: Repository) -> None:
    at.bundle("2")
    at.git("add", "--all")
    head = at.git("rev-parse", "HEAD")
    at.git("update-index", "--add", "--cacheinfo", f"160000,{head},{NAME}/2/baseline.onnx")
    at.git("commit", "--quiet", "--message", "a submodule")
    at.git("update-index", "--skip-worktree", f"{NAME}/2/baseline.onnx")


def under_another_name(at: Repository) -> None:
    at.bundle("2").rename(at.work / NAME / "9")


def two_at_once(at: Repository) -> None:
    at.bundle("2")
    at.bundle("3")


def a_changed_version(at: Repository) -> None:
    (at.work / NAME / "1" / "card.md").write_text("It is better than it was.")


def many_folders(at: Repository) -> None:
    for n in range(30):
        (at.work / f"m{n}").mkdir()
        (at.work / f"m{n}" / "x").write_text("x")


def that_breaks_callers(at: Repository) -> None:
    at.bundle("strict")


def climbing_out(at: Repository) -> None:
    """A tree with a name that no working copy could have, made by hand."""
    blob = at.git("hash-object", "-w", "--stdin", given=b"x")
    top = ["hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    entries = [
        (b"100644", name, bytes.fromhex(at.git("rev-parse", f"HEAD:{NAME}/1/{name.decode()}")))
        for name in (b"manifest.json",)
    ]
    entries.append((b"100644", b"../../../../out.txt", bytes.fromhex(blob)))
    version = at.git(*top, given=b"".join(m + b" " + n + b"\0" + s for m, n, s in sorted(entries)))
    model = at.git("mktree", given=f"040000 tree {version}\t2\n".encode())
    tree = at.git("mktree", given=f"040000 tree {model}\t{NAME}\n".encode())
    commit = at.git("commit-tree", tree, "-p", "HEAD", "-m", "out")
    at.git("update-ref", "refs/heads/main", commit)


REFUSED: dict[str, tuple[Callable[[Repository], None], str]] = {
    "not a bundle": (not_a_bundle, "this one brings none"),
    "an empty push": (an_empty_push, "this one brings none"),
    "without manifest": (without_manifest, "this one brings none"),
    "with a manifest that is none": (with_a_manifest_that_is_none, "is no manifest of a bundle"),
    "without a file": (without_a_file, "golden.json"),
    "altered": (altered, "model.onnx was altered"),
    "larger than allowed": (larger_than_allowed, "is too large"),
    "with a file more": (with_a_file_more, "'run.sh', which no bundle has"),
    "with a link": (with_a_link, "card.md is a link or a folder"),
    "with a folder": (with_a_folder, "baseline.onnx is a link or a folder"),
    "with a submodule": (with_a_submodule, "baseline.onnx is a link or a folder"),
    "under another name": (under_another_name, "says that it is another one"),
    "two at once": (two_at_once, "this one brings three/2, three/3"),
    "a changed version": (a_changed_version, "versions never change"),
    "many folders": (many_folders, "30 folders are new or changed"),
    "that breaks callers": (that_breaks_callers, "it breaks callers of the live version"),
    "climbing out": (climbing_out, "which no bundle has"),
}
BY_HAND: Final = (with_a_submodule, climbing_out)
"""Have committed themselves what `git add` would not take."""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, packed: Path) -> Repository:
    """A repository to which version 1 was pushed; what is refused changes nothing of it."""
    repository = Repository(tmp_path_factory.mktemp("used"), packed)
    repository.set(maxBytes="1m")
    repository.bundle("1")
    repository.commit()
    taken, said = repository.push()
    assert taken, said
    return repository


@pytest.fixture
def at(used: Repository) -> Repository:
    """As it was after the first push."""
    used.git("reset", "--quiet", "--hard", used.git("rev-parse", "main", at=used.bare))
    used.git("clean", "--quiet", "-ffdx")
    return used


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_new_bundle_is_refused_and_nothing_is_left(at: Repository, what: str):
    spoil, words = REFUSED[what]
    spoil(at)
    if spoil not in BY_HAND:
        at.commit()
    before = at.state()
    taken, said = at.push()
    assert not taken
    assert words in said
    assert at.state() == before


REFS = {
    "another branch": ("HEAD:other",),
    "a tag": ("HEAD:refs/tags/v2",),
    "a replacement of objects": ("HEAD:refs/replace/" + "0" * 39 + "1",),
    "something beside the branch": ("HEAD:main", "HEAD:other"),
    "nothing in the place of the branch": (":main",),
}


@pytest.mark.parametrize("what", REFS)
def test_other_refs_are_refused(at: Repository, what: str):
    at.bundle("2")
    at.commit()
    before = at.state()
    taken, said = at.push(*REFS[what])
    assert not taken
    assert "keelmark: refused: " in said
    assert at.state() == before


def test_git_itself_refuses_what_is_larger_than_it_may_receive(at: Repository):
    at.git("config", "receive.maxInputSize", "100k", at=at.bare)
    try:
        (at.work / "large").write_bytes(os.urandom(1_000_000))
        at.bundle("2")
        at.commit()
        before = at.state()
        taken, said = at.push()
        assert not taken
        assert "maximum allowed size" in said
        assert at.state() == before
    finally:
        at.git("config", "--unset", "receive.maxInputSize", at=at.bare)


def test_a_repository_without_a_store_says_so(repository: Repository):
    repository.git("config", "--unset", "keelmark.store", at=repository.bare)
    repository.bundle("1")
    repository.commit()
    taken, said = repository.push()
    assert not taken
    assert "keelmark.store is not set" in said
