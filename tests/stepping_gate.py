"""The verifying process, with steps; see `tests.stepping`. Run by its path, like the real one."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASK = json.loads(sys.argv[2])
sys.path[:] = TASK["path"]

from models import gate, gate_child  # noqa: E402
from tests.stepping import taken  # noqa: E402


def at(step: str) -> None:
    """Kills this process or the server, if that is armed."""
    if TASK["copies"] is None:
        return
    act = taken(Path(TASK["copies"]).parent.parent / "steps", step)
    if act == "kill verifier":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "kill server":
        os.kill(TASK["parent"], signal.SIGKILL)
        time.sleep(60)  # until it ends with the server


def stepped(step: str, function: Callable[..., Any]) -> Any:
    """The function, and then the step."""

    def done(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        at(step)
        return result

    return done


gate._replay = stepped("replayed", gate._replay)
gate._copied = stepped("copying", gate._copied)
gate_child.main()
