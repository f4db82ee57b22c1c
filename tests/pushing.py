"""A bare repository with the hook of `deploy/git`, somebody who pushes, and callers meanwhile."""

import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.serving import Server
from tests.three import NAME

ROOT: Final = Path(__file__).parent.parent
HOOK: Final = ROOT / "deploy" / "git" / "post-receive"
COMMAND: Final = f"env PYTHONPATH={ROOT} {sys.executable} -m keelmark"
LIMIT_SECONDS: Final = 60.0
IN_A_ROW: Final = 30
"""So many answers of one version, in a row: it has all traffic."""


class Repository:
    """A bare repository with the hook, a working copy of somebody who pushes, and a store."""

    def __init__(self, folder: Path, packed: Path) -> None:
        self.bare, self.work, self.store = (folder / name for name in ("bare.git", "work", "store"))
        self.temporary = folder / "temporary"
        for made in (self.work, self.store, self.temporary):
            made.mkdir()
        self._packed = packed
        self._environment = {
            "HOME": str(folder),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.temporary),
            "GIT_CONFIG_NOSYSTEM": "1",
            "LC_ALL": "C",
        } | {
            f"GIT_{who}_{what}": f"{who}@example.org".lower()
            for who, what in itertools.product(("AUTHOR", "COMMITTER"), ("NAME", "EMAIL"))
        }
        self.git("init", "--quiet", "--bare", "--initial-branch=main", self.bare)
        self.git("init", "--quiet", "--initial-branch=main", self.work)
        for name in ("pre-receive", "post-receive"):
            shutil.copy(HOOK, self.bare / "hooks" / name)
        self.set(store=self.store, keelmark=COMMAND)

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            self.git("config", f"keelmark.{name}", value, at=self.bare)

    def git(self, *arguments: object, at: Path | None = None, given: bytes = b"") -> str:
        """What git says, of the working copy; it has to succeed."""
        ran = self._run(*arguments, at=at, given=given)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.decode().strip()

    def _run(
        self, *arguments: object, at: Path | None = None, given: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        command = ["git", *map(str, arguments)]
        where = at or (self.work if self.work.is_dir() else self.bare.parent)
        return subprocess.run(
            command, cwd=where, env=self._environment, input=given, capture_output=True, check=False
        )

    def bundle(self, version: str) -> Path:
        """Puts a bundle into the working copy."""
        to = self.work / NAME / version
        return Path(shutil.copytree(self._packed / NAME / version, to))

    def commit(self) -> None:
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a bundle")

    def push(self, *refs: str) -> tuple[bool, str]:
        """Whether it was taken, and what the pusher read."""
        ran = self._run("push", self.bare, *(refs or ("HEAD:main",)))
        said = ran.stderr.decode()
        lines = [line.removeprefix("remote: ").rstrip() for line in said.splitlines()]
        return ran.returncode == 0, "\n".join(lines)

    def state(self) -> dict[str, Any]:
        """All that a push could leave behind."""
        return {
            "objects": sorted(str(path) for path in (self.bare / "objects").rglob("*")),
            "refs": self.git("for-each-ref", at=self.bare),
            "store": {
                str(path): path.is_file() and path.stat().st_mtime_ns
                for path in self.store.rglob("*")
            },
            "temporary": list(self.temporary.iterdir()),
            "ran": (self.bare.parent / "ran").exists(),
        }


@dataclass
class Callers:
    """Calls all the time, at a pace, one after the other; each answer is checked.

    Attributes:
        last: the versions that answered the last calls.
        failures: answers that were none.
        asked: how many calls were made.
    """

    server: Server
    a_second: float = 25.0
    last: list[int] = field(default_factory=list[int])
    failures: list[Any] = field(default_factory=list[Any])
    asked: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._call)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._stop.set()
        self._thread.join(LIMIT_SECONDS)
        assert self.failures == []

    def _call(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            due = began + self.asked / self.a_second
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            self.asked += 1
            try:
                self._one(self.asked % 10, self.asked // 10 % 5)
            except Exception as error:  # noqa: BLE001  (whatever it is, the test shows it)
                self.failures.append(repr(error))

    def _one(self, x: int, y: int) -> None:
        """A record as those of the training; version n answers x + 100 n y + 1000 n."""
        answer = self.server.predict(NAME, {"x": float(x), "y": float(y)})
        found = answer.body["prediction"] if answer.status == 200 else 0.0
        version = int(found // 1000)
        if found == 0.0 or found != x + 100 * version * y + 1000 * version:
            self.failures.append(answer)
        else:
            self.last = [*self.last[-IN_A_ROW:], version]
