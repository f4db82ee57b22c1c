"""What a record becomes before a model sees it: one definition for training and for serving.

Declaring, fitting and reading need numpy; compiling needs onnx and tables pyarrow, imported where used.
"""

from features.encoding import Encoded
from features.errors import DeclarationError, FeatureError, FeaturesCorrupt, FitError, TableError
from features.expressions import (
    Boolean,
    Category,
    Expression,
    Number,
    Timestamp,
    boolean,
    category,
    elapsed,
    maximum,
    minimum,
    number,
    safe_div,
    timestamp,
    where,
)
from features.feature_set import FeatureSet, Fitted
from features.fields import Field

__all__ = [
    "Boolean",
    "Category",
    "DeclarationError",
    "Encoded",
    "Expression",
    "FeatureError",
    "FeatureSet",
    "FeaturesCorrupt",
    "Field",
    "FitError",
    "Fitted",
    "Number",
    "TableError",
    "Timestamp",
    "boolean",
    "category",
    "elapsed",
    "maximum",
    "minimum",
    "number",
    "safe_div",
    "timestamp",
    "where",
]
