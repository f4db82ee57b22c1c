"""What is predicted, and how much a column tells of it alone."""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from server.starter.compute import pc
from server.starter.errors import StarterError
from server.starter.source import literal

MOST_CLASSES: Final = 20


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted.

    Attributes:
        task: `binary`, `classes` or `value`.
        positive: the value that counts as yes, of a binary one, as Python code.
        values: float64 (n, 1), or an indicator column for each class.
    """

    name: str
    task: str
    positive: str = ""
    classes: tuple[Any, ...] = ()
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def read_target(rows: Any, name: str) -> Target:
    """What a column can be predicted as.

    Raises:
        StarterError: one value only, too many texts, or a type that is none of a target.
    """
    column = rows[name]
    found = sorted(pc.unique(column).to_pylist())
    if len(found) < 2:
        raise StarterError(
            f"--target {name}: it is {found[0] if found else 'null'!r} in every row; there is "
            "nothing to learn"
        )
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if len(found) == 2:
        values = pc.equal(column, pa.scalar(found[1], column.type)).to_numpy().astype(float)
        return Target(name, "binary", literal(found[1]), tuple(found), values[:, None])
    if is_number:
        return Target(name, "value", values=column.cast(pa.float64()).to_numpy()[:, None])
    if not pa.types.is_string(column.type) or len(found) > MOST_CLASSES:
        raise StarterError(
            f"--target {name}: it has {len(found)} different values such as {found[0]!r}; expected "
            f"numbers, or at most {MOST_CLASSES} classes"
        )
    codes = np.asarray(pc.index_in(column, pa.array(found)).to_numpy())
    return Target(name, "classes", "", tuple(found), np.eye(len(found))[codes])


def explained(groups: NDArray[np.int64], target: NDArray[np.float64]) -> float:
    """Share of the target's variance between groups, 0 to 1 (eta squared), mean of its columns.

    Args:
        groups: of each row, 0 to k - 1, int64 (n,).
        target: float64 (n, columns).
    """
    counts = np.bincount(groups)
    total = target.var(axis=0) * len(target)
    sums = np.stack([np.bincount(groups, column) for column in target.T], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    between = (counts[:, None] * (means - target.mean(axis=0)) ** 2).sum(axis=0)
    # A group costs a degree of freedom: many small groups explain anything.
    chance = (len(counts) - 1) / max(1, len(target) - 1)
    return float(np.mean(between / np.maximum(total, 1e-300))) - chance
