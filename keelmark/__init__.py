"""The public face: `from keelmark import FeatureSet, number, pack`.

Names are fetched when they are first asked for, so that `import keelmark` costs nothing: code that
only declares fields never loads the store, and a shell completing names loads no runtime.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features import (
        FeatureSet,
        Fitted,
        boolean,
        category,
        cross,
        elapsed,
        maximum,
        minimum,
        number,
        onnx_op,
        safe_div,
        timestamp,
        where,
    )
    from features.sklearn_transformer import FeatureTransformer
    from models import Bundle, OnnxModel, Store, pack, pack_tensors, repair

__all__ = [
    "Bundle",
    "FeatureSet",
    "FeatureTransformer",
    "Fitted",
    "OnnxModel",
    "Store",
    "boolean",
    "category",
    "cross",
    "elapsed",
    "maximum",
    "minimum",
    "number",
    "onnx_op",
    "pack",
    "pack_tensors",
    "repair",
    "safe_div",
    "timestamp",
    "where",
]


_OF_EXTRAS = {"FeatureTransformer": "features.sklearn_transformer"}
"""Names whose modules need a library that not everybody has."""


def __getattr__(name: str) -> Any:
    if name in _OF_EXTRAS:
        return getattr(importlib.import_module(_OF_EXTRAS[name]), name)
    if name in __all__:
        for package in map(importlib.import_module, ("features", "models")):
            if name in package.__all__:
                globals()[name] = value = getattr(package, name)
                return value
    raise AttributeError(f"module {__name__!r} has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__


def _refuse_shadows() -> None:
    """Raises ImportError when Python finds another `features`, `models` or `server` than ours.

    The names are short, and many a project has such a folder, which wins when Python is started
    beside it. Found late, that shows as an attribute missing from a stranger's module.
    """
    home = Path(__file__).resolve().parent.parent
    for name in ("features", "models", "server"):
        ours = home / name / "__init__.py"
        found = _origin(name)
        if found != ours:
            raise ImportError(_what_to_do(name, found, ours), name=name)


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py
        return Path(next(iter(spec.submodule_search_locations or [name]))).resolve()
    return Path(spec.origin).resolve()


def _what_to_do(name: str, found: Path | None, ours: Path) -> str:
    if found is None:
        return f"Keelmark's package {name!r} is missing, expected at {ours}: install keelmark again"
    return (
        f"{found} is imported as {name!r}, the name of a package of Keelmark ({ours}). Give yours "
        "another name or put it into a package, or start Python where it is not on sys.path: from "
        "another folder, without PYTHONPATH, or with `python -P`"
    )


_refuse_shadows()
