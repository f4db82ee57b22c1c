"""The verifying process, with steps; see `tests.stepping`. Run by its path, like the real one."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def at(task: dict[str, Any], step: str) -> None:
    """Kills this process or the server, if that is armed."""
    from tests.stepping import taken

    if task["copies"] is None:
        return
    act = taken(Path(task["copies"]).parent.parent / "steps", step)
    if act == "kill verifier":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "kill server":
        os.kill(task["parent"], signal.SIGKILL)
        time.sleep(60)  # until it ends with the server


def stepped(task: dict[str, Any], step: str, function: Callable[..., Any]) -> Any:
    """The function, and then the step."""

    def done(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        at(task, step)
        return result

    return done


def main() -> None:
    """Has the steps taken around the real program."""
    task = json.loads(sys.argv[2])
    sys.path[:] = task["path"]
    from models import gate, gate_child

    gate._replay = stepped(task, "replayed", gate._replay)
    gate._copied = stepped(task, "copying", gate._copied)
    gate_child.main()


if __name__ == "__main__":
    main()
