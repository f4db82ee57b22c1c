"""What an operator of the catalogue is: how it is fitted, and how its calls become ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from features.fields import Field
from features.nodes import Expression, Params
from features.zones import Zone

if TYPE_CHECKING:
    from features.graph import Column, GraphBuilder

Pair: TypeAlias = tuple[str | None, str | None]
"""What a code of a cross stands for; None is null, where null is a value."""

Text: TypeAlias = str | Pair
State: TypeAlias = Mapping[str, Any]
FloatColumn: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Context:
    """What lowering knows beside the expression: vocabularies, frozen zones, what was learned."""

    vocabularies: Mapping[str, Sequence[str]]
    zones: Mapping[str, Zone]
    states: Mapping[str, State] = field(default_factory=dict)

    def texts(self, category: Expression) -> Sequence[Text]:
        """What the codes 0..V-1 of a category stand for: texts, of a cross pairs of them."""
        if category.field is not None:
            return self.vocabularies[category.field.name]
        known = self.states.get(category.key, category.params)
        return [(left, right) for left, right in known["pairs"]]

    def size(self, category: Expression) -> int:
        """V, the number of texts in the vocabulary; codes V and V + 1 are unknown and missing."""
        return len(self.texts(category))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compile for: the row's fields in order, what was learned, and the frozen context."""

    fields: tuple[Field, ...]
    states: Mapping[str, State]
    context: Context

    def __post_init__(self) -> None:
        """The vocabulary of a cross is learned: the context has to know these very states."""
        object.__setattr__(self, "context", replace(self.context, states=self.states))


@dataclass(frozen=True, slots=True)
class Call:
    """One application of an operator, or a stand-in for a column that must pass unchanged.

    Attributes:
        expression: None for a stand-in.
        columns: the operands; None for a constant operand, whose value is in `constants`.
        state: what the operator learned.
        never_negative: the first operand of an encoded row is 0, above, or null.
        never_null: no operand of any row is null.
    """

    expression: Expression | None
    columns: tuple[Column | None, ...]
    constants: tuple[float | None, ...] = (None,)
    state: State = field(default_factory=dict)
    never_negative: bool = False
    never_null: bool = False

    @property
    def neutral(self) -> bool:
        """The operator must leave `columns[0]` as it is, or may do anything to it."""
        return self.expression is None

    @property
    def op(self) -> str:
        return self.expression.op if self.expression is not None else ""

    @property
    def params(self) -> Params:
        return self.expression.params if self.expression is not None else {}

    @property
    def operand(self) -> Column:
        """The column of the first operand, which is no constant."""
        column = self.columns[0]
        assert column is not None
        return column

    @property
    def category(self) -> Expression:
        """What an operator on a category reads: a field, or a cross of two."""
        assert self.expression is not None
        return self.expression.args[0]

    @property
    def source(self) -> Field:
        """The field that an operator on timestamps reads."""
        assert self.expression is not None
        field = self.expression.args[0].field
        assert field is not None
        return field


Lower: TypeAlias = "Callable[[GraphBuilder, Sequence[Call], Context], str | list[tuple[str, int]]]"
"""A tensor [n, sum of widths] for the calls, in their order.

Or several that hold them end to end, each with the number of its calls.
"""

Fit: TypeAlias = "Callable[[FitInput], dict[str, Any]]"


@dataclass(frozen=True, slots=True)
class FitInput:
    """What an operator learns from: its operands over the training rows.

    Attributes:
        columns: each operand, float64 (n,), null is NaN; of a category, codes.
        target: float64 (n,) or None.
        texts: of each operand that is a category what its codes stand for, else nothing.
        where: the feature's expression, for messages.
    """

    columns: tuple[FloatColumn, ...]
    target: FloatColumn | None
    texts: tuple[Sequence[Text], ...]
    params: Params
    where: str

    @property
    def values(self) -> FloatColumn:
        """The first operand."""
        return self.columns[0]

    @property
    def size(self) -> int:
        """V of the first operand, a category."""
        return len(self.texts[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An operator. `name` carries the version of its meaning: another meaning, another version.

    Attributes:
        gives: what an application of it is.
        lower: makes ONNX of a group of calls.
        params: names of what a user may choose; features.json with another name is refused.
        group: calls of equal group are lowered together; empty: those of this operator.
        rank: calls of lower rank stand first in a group.
        riders: how columns ride along in a wider tensor than the operator needs: it leaves them as
            they are by a neutral constant ("keep"), they are put back afterwards ("mask"), nobody
            wants what it makes of them ("drop"), or they must not ride along (None).
        paired: the tensor must have an even width. onnxruntime computes these on two values at a
            time, and a lone last one by another routine with other last bits: a row alone would
            differ from the row in a batch.
        fit: what it learns, None for nothing.
        learns: whether it learns with these parameters; None: always. Constants need no rows.
        suffixes: names of the columns, appended to the feature's; None for one column.
    """

    name: str
    doc: str
    gives: type[Expression]
    lower: Lower
    params: tuple[str, ...] = ()
    group: str = ""
    rank: int = 0
    riders: Literal["keep", "mask", "drop"] | None = None
    paired: bool = False
    fit: Fit | None = None
    learns: Callable[[Params], bool] | None = None
    suffixes: Callable[[Expression, Context], Sequence[str]] | None = None

    def is_learning(self, params: Params) -> bool:
        return self.fit is not None and (self.learns is None or self.learns(params))

    def column_suffixes(self, expression: Expression, context: Context) -> list[str]:
        return [""] if self.suffixes is None else list(self.suffixes(expression, context))
