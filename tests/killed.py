"""`python -m tests.killed serve …` is `keelmark serve`, which a file can kill.

Where the state folder has a file `kill`, the server kills itself the next time that it has written
its facts: they are on the disk, and nothing that comes after them has happened.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from server.cli import main
from server.ops import ledger

KILL: Final = "kill"

write = ledger.write_facts


def written(folder: Path, *facts: Any) -> None:
    """Writes them, and ends where that is wanted."""
    write(folder, *facts)
    if (folder / KILL).exists():
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ledger.write_facts = written
    sys.exit(main())
