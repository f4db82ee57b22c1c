"""What a record becomes before a model sees it: one definition for training and for serving.

Declaring, reading and encoding records need numpy alone. onnxruntime is imported when a session is
opened, onnx to compile and pyarrow for tables, each where it is used.
"""

from features.declarations import boolean, category, number, timestamp
from features.encoding import Encoded
from features.errors import (
    DeclarationError,
    FeatureError,
    FeaturesCorrupt,
    FeaturesNotFound,
    FitError,
    TableError,
)
from features.expressions import (
    Boolean,
    Category,
    Number,
    Timestamp,
    cross,
    elapsed,
    maximum,
    minimum,
    safe_div,
    where,
)
from features.feature_set import FeatureSet
from features.fields import Field
from features.fitted import Fitted
from features.hatch import onnx_op
from features.nodes import Expression

__all__ = [
    "Boolean",
    "Category",
    "DeclarationError",
    "Encoded",
    "Expression",
    "FeatureError",
    "FeatureSet",
    "FeaturesCorrupt",
    "FeaturesNotFound",
    "Field",
    "FitError",
    "Fitted",
    "Number",
    "TableError",
    "Timestamp",
    "boolean",
    "category",
    "cross",
    "elapsed",
    "maximum",
    "minimum",
    "number",
    "onnx_op",
    "safe_div",
    "timestamp",
    "where",
]
