"""Starting the processes of a server, and hearing of their end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1"}
"""numpy's own library would start a thread for each CPU in every worker, for nothing."""


class Child:
    """A process of ours: spawned in a group of its own, waited for, never left behind.

    Args:
        module: that it runs, with the number of its control socket and our process id.
        control: its end of a socket to us; closed here.
        ended: is called on the loop when it has ended and before it is waited for.
    """

    def __init__(self, module: str, control: socket.socket, ended: Callable[[], None]) -> None:
        paths = [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  (no links followed)
        with control:
            self._process = subprocess.Popen(  # noqa: S603  (ourselves)
                [sys.executable, "-P", "-m", module, str(control.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(control.fileno(),),
                process_group=0,  # else Ctrl-C would reach it before it is told to end
                env={**ONE_THREAD, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self.pid = self._process.pid
        self._ended = ended
        self._descriptor = os.pidfd_open(self.pid)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._on_end)

    @property
    def code(self) -> int:
        """How it ended: its exit code, or the number of a signal, negative."""
        return self._process.returncode

    def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        if self._descriptor >= 0:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        try:
            self._ended()
        finally:
            self._process.wait()
