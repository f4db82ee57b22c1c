"""The closed catalogue of operators."""

from typing import Final

from features.ops.base import Op
from features.ops.calendar import CALENDAR_OPS
from features.ops.category import CATEGORY_IS_NULL, CATEGORY_OPS
from features.ops.combine import COMBINING_OPS
from features.ops.cross import CROSS_OPS
from features.ops.hatch import HATCH_OPS
from features.ops.numeric import NUMERIC_OPS

OPS: Final[dict[str, Op]] = {
    op.name: op
    for op in (*NUMERIC_OPS, *COMBINING_OPS, *CATEGORY_OPS, *CROSS_OPS, *CALENDAR_OPS, *HATCH_OPS)
}
"""Every operator by its versioned name."""

__all__ = ["CATEGORY_IS_NULL", "OPS", "Op"]
