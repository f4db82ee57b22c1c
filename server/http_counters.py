"""What a worker counts of HTTP itself: requests by path and status, errors by path and code.

Requests that reached no bundle are counted here and nowhere else: no such model, a body that is not
JSON, a list without rows. Rows are counted with their bundle (`server.regions`).
"""

import mmap
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from models.vocabulary import ERROR_CODES
from server.layout import Ints
from server.vitals import WORDS, Vitals

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

OTHER: Final = "other"
PATHS: Final = (
    "/predict/{model}",
    "/models",
    "/models/{model}",
    "/health/live",
    "/health/ready",
    "/openapi.json",
    "/docs",
)
"""What the data port answers, as templates; any other path counts as `other`."""

STATUSES: Final = (200, 400, 404, 405, 409, 413, 415, 422, 431, 500, 503, 504, OTHER)
"""What the data port answers with; any other status counts as `other`."""


class HttpCounters:
    """One worker's counters, a word for each series. For one thread: the only writer of its memory.

    Args:
        paths: path templates, the same in every process. What is none of them counts as `other`:
            strangers cannot make series.
        buffer: writable memory, zero or as a predecessor left it; None for memory of this process.
        offset: where the worker's part begins in it, a multiple of 8.

    Raises:
        ValueError: the memory is too small.

    Attributes:
        requests: path and status of each counter of requests.
        errors: path and code of each counter of errors; they come behind those of requests.
        n_bytes: size of a worker's part.
        vitals: what it says of itself beside them.
    """

    def __init__(
        self,
        paths: Sequence[str] = PATHS,
        buffer: "WriteableBuffer | None" = None,
        *,
        offset: int = 0,
    ) -> None:
        self.paths = (*paths, OTHER)
        self.requests: tuple[tuple[str, int | str], ...] = tuple(product(self.paths, STATUSES))
        self.errors: tuple[tuple[str, str], ...] = tuple(product(self.paths, ERROR_CODES))
        series = (*self.requests, *self.errors)
        self.n_bytes = 8 * (len(series) + WORDS)
        self._patterns = [(path, _pattern(path)) for path in paths]
        self._at: dict[tuple[str, int | str], int] = {labels: i for i, labels in enumerate(series)}
        memory = memoryview(mmap.mmap(-1, self.n_bytes) if buffer is None else buffer).cast("B")
        if len(memory) < offset + self.n_bytes:
            raise ValueError(
                f"HTTP counters have {len(memory) - offset} bytes from {offset} on, expected "
                f"{self.n_bytes}: make that many bytes for each worker"
            )
        self._words = memory[offset : offset + 8 * len(series)].cast("q")
        self._more = memory[offset + 8 * len(series) : offset + self.n_bytes].cast("q")
        self.vitals = Vitals(self._more)

    def count(self, path: str, status: int, code: str | None = None) -> None:
        """Counts a request, immediately before its answer is handed over.

        Args:
            path: the template that it matched, or (slower) the path itself.
            status: of its answer.
            code: of `ERROR_CODES`, where the answer is an error.
        """
        at = self._at.get((path, status))
        self._words[self._other(path, status) if at is None else at] += 1
        if code is not None:
            self._words[self._at[self._known(path), code]] += 1

    def read(self) -> Ints:
        """Counts of `requests`, then of `errors`: int64 (n,), a copy."""
        return np.array(self._words, np.int64)

    def close(self) -> None:
        """Lets the memory go; nothing can be counted or read afterwards."""
        self._words.release()
        self._more.release()

    def _known(self, path: str) -> str:
        """The template of a path, `other` for one of ours nowhere."""
        if path in self.paths:
            return path
        matching = (t for t, pattern in self._patterns if pattern.fullmatch(path))
        return next(matching, OTHER)

    def _other(self, path: str, status: int) -> int:
        return self._at[self._known(path), status if status in STATUSES else OTHER]


def _pattern(template: str) -> re.Pattern[str]:
    """What matches a template: a parameter is one segment of a path."""
    constant = re.split(r"\{\w+\}", template)
    return re.compile("[^/]+".join(map(re.escape, constant)))


def read_http(counters: Iterable[HttpCounters]) -> Ints:
    """What several workers have counted, as `HttpCounters.read` of one."""
    return np.sum([each.read() for each in counters], axis=0)
