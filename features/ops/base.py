"""What an operator of the catalogue is: how it is fitted and how a group of its calls becomes ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from features.expressions import Expression
from features.fields import Field

if TYPE_CHECKING:
    from features.graph import Column, GraphBuilder

State: TypeAlias = Mapping[str, Any]
FloatColumn: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Context:
    """What lowering knows beside the expression: vocabulary sizes and frozen zones."""

    vocabularies: Mapping[str, Sequence[str]]
    zones: Mapping[str, Any]

    def size(self, field: Field) -> int:
        """V, the number of texts in the vocabulary; codes V and V + 1 are unknown and missing."""
        return len(self.vocabularies[field.name])


@dataclass(frozen=True, slots=True)
class Call:
    """One application of an operator, or a stand-in for a column that must pass unchanged.

    Attributes:
        columns: the operands; None for a constant operand, whose value is in `constants`.
        neutral: the operator must leave this column as it is (`columns[0]`), or may do anything to it.
        never_negative: the first operand of an encoded row is 0, above, or null.
    """

    expression: Expression | None
    columns: tuple[Column | None, ...]
    constants: tuple[float | None, ...]
    state: State
    neutral: bool = False
    never_negative: bool = False

    @property
    def params(self) -> Mapping[str, Any]:
        return self.expression.params if self.expression is not None else {}

    @property
    def source(self) -> Field:
        """The field that a category operator reads."""
        assert self.expression is not None
        field = self.expression.args[0].field
        assert field is not None
        return field


Lower: TypeAlias = "Callable[[GraphBuilder, Sequence[Call], Context], str]"
"""A tensor [n, sum of widths] for the calls, in their order."""

Fit: TypeAlias = Callable[["FitInput"], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FitInput:
    """What an operator learns from: its operand over the training rows.

    Attributes:
        values: float64 (n,), null is NaN; for a category, codes.
        target: float64 (n,) or None.
        size: V for a category, else 0.
        where: the feature's expression, for messages.
    """

    values: FloatColumn
    target: FloatColumn | None
    size: int
    params: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operator. `name` carries the version of its meaning: another meaning is another version.

    Attributes:
        group: calls of equal group are lowered together.
        spare: how columns ride along in a wider tensor than the operator needs: it leaves them as they are
            by a neutral constant ("keep"), they are put back afterwards ("mask"), nobody wants what it
            makes of them ("drop"), or they must not ride along (None).
        suffixes: names of the columns, appended to the feature's; empty for one column.
    """

    name: str
    gives: type[Expression]
    lower: Lower
    group: str
    doc: str
    spare: Literal["keep", "mask", "drop"] | None = None
    fit: Fit | None = None
    suffixes: Callable[[Expression, Context], Sequence[str]] | None = None

    def column_suffixes(self, expression: Expression, context: Context) -> list[str]:
        return [""] if self.suffixes is None else list(self.suffixes(expression, context))
