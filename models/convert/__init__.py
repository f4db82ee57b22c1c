"""From a training library's model to the ONNX graph of a bundle: one module a framework."""

import importlib
from typing import Any, Final

from models.convert.graph import Converted
from models.convert.onnx_model import OnnxModel
from models.errors import ConversionFailed

CONVERTERS: Final = {"lightgbm": "models.convert.lightgbm", "sklearn": "models.convert.sklearn"}
"""By the package that a model's class comes from; imported when such a model comes."""


def convert(model: Any, width: int) -> Converted:
    """The ONNX form of a model over `width` float32 features.

    Raises:
        ConversionFailed: a model of an unknown kind, or one that its converter refuses.
    """
    if isinstance(model, OnnxModel):
        from models.convert import onnx_model

        return onnx_model.convert(model, width)
    module = CONVERTERS.get(_framework(model))
    if module is None:
        raise ConversionFailed(
            f"a model of type {type(model).__module__}.{type(model).__qualname__} cannot be "
            "packed; pass a LightGBM model, a scikit-learn estimator, or OnnxModel(bytes, "
            "native=...)"
        )
    return importlib.import_module(module).convert(model, width)


def _framework(model: Any) -> str:
    """The library of the model's class, or of the first of its bases that we know.

    An estimator of a third library that follows scikit-learn is scikit-learn's, as far as its
    converter knows it; LightGBM's wrappers are LightGBM's before that.
    """
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    return next((package for package in packages if package in CONVERTERS), "")


__all__ = ["Converted", "OnnxModel", "convert"]
