"""Callers on a loop in a thread of their own, who ask until a block ends."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Self

HEAD_END: Final = b"\r\n\r\n"
PATIENT: Final = "Keelmark-Deadline-Ms: 60000"
"""A header of requests that the model is to answer, on a busy machine too."""
END_SECONDS: Final = 120.0
"""In which callers have the answers that they wait for when the block ends."""


class Calling:
    """What callers share: they begin with the block, and when it ends they are told to stop."""

    _stop = False
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._stop = True
        self._thread.join(END_SECONDS)
        assert not self._thread.is_alive(), "a caller got no answer and no end"

    def _each(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What each caller does until `_stop` is so."""
        raise NotImplementedError

    async def _all(self) -> None:
        await asyncio.gather(*self._each())


async def received(reader: asyncio.StreamReader) -> tuple[bytes, Any]:
    """The next answer: its head in lower case, and its body's JSON."""
    head = (await reader.readuntil(HEAD_END)).lower()
    size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    return head, json.loads(await reader.readexactly(size))
