"""The text log: one event a line, as JSON or for people, libraries' lines too.

A line carries names, codes, counts and ids, never a value of a record: what a field held may be
sensitive, and the place to look at values is the answer (`repaired`, `reasons`, `error.fields`).
Tracebacks are printed without local variables for the same reason.
"""

import logging
import sys
import time
import traceback
from typing import Any, Final, TextIO

import structlog

from server.settings import LogFormat

LIBRARIES_TOO_LOUD: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")
"""Their errors are kept. uvicorn warns of each request that is no HTTP, which strangers could fill
a disk with; it is counted instead."""


def configure(level: str, layout: LogFormat, *, stream: TextIO | None = None) -> None:
    """Sends every log line of this process to `stream` (standard error), once, in one layout."""
    out = stream or sys.stderr
    as_json = layout == "json" or (layout == "auto" and not out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(as_json=as_json, colors=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in LIBRARIES_TOO_LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)


def logger(room: str) -> Any:
    """The logger of a room: `logger("runtime").info("model_loaded", model=..., version=...)`.

    It needs no `configure`, and takes nothing from structlog's own defaults: those print the local
    variables of a traceback, and with them records.
    """
    return structlog.wrap_logger(
        logging.getLogger(f"keelmark.{room}"),
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def where(error: BaseException) -> list[str]:
    """The lines an error came through, innermost last; not its message, which may hold values."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


class Seldom:
    """Lets one line of a kind through each second, with the number of those held back."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._said: dict[str, tuple[float, int]] = {}

    def held_back(self, kind: str) -> int | None:
        """How many lines were held back since the last; None if this one is too."""
        now = time.monotonic()
        last, held = self._said.get(kind, (-self._seconds, 0))
        if now - last < self._seconds:
            self._said[kind] = last, held + 1
            return None
        self._said[kind] = now, 0
        return held


def flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


def _shared() -> list[Any]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(*, as_json: bool, colors: bool) -> list[Any]:
    if as_json:
        rendered = structlog.processors.JSONRenderer()
        return [structlog.processors.format_exc_info, _head_first, rendered]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _head_first(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Puts what every line has before what only this one has."""
    return {name: event[name] for name in ("timestamp", "level", "event") if name in event} | event
