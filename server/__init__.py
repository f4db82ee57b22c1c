"""HTTP, counters, monitoring, logs and the command line around bundles.

Names are fetched when they are first asked for: a command that only reads a bundle loads no web
framework.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from server.apps import create_app
    from server.ops.app import create_ops_app
    from server.runtime import InProcessRuntime, Runtime
    from server.settings import Settings

_HOMES: Final = {
    "InProcessRuntime": "server.runtime",
    "Runtime": "server.runtime",
    "Settings": "server.settings",
    "create_app": "server.apps",
    "create_ops_app": "server.ops.app",
}

__all__ = ["InProcessRuntime", "Runtime", "Settings", "create_app", "create_ops_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
