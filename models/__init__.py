"""The bundle: packing, opening, verifying, falling back, and the store that keeps it.

Names are fetched when they are first asked for: serving needs no authoring library, and importing
one of these modules must not bring them in.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.convert.onnx_model import OnnxModel
    from models.packing import pack
    from models.policies import repair
    from models.store import Store
    from models.tensor_packing import pack_tensors

_HOMES: Final = {
    "Bundle": "models.bundle",
    "OnnxModel": "models.convert.onnx_model",
    "Store": "models.store",
    "pack": "models.packing",
    "pack_tensors": "models.tensor_packing",
    "repair": "models.policies",
}

__all__ = ["Bundle", "OnnxModel", "Store", "pack", "pack_tensors", "repair"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
