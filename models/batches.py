"""Whether a row has the same bits alone and in a batch, as far as running many shows.

Kernels for matrices and vectors take other ways for a remainder of rows than for full lanes; a tree
walks the same way for each row. Where they differ, few rows show it: of a logistic regression over
two numbers 0.03 to 0.4 % (measured), so a few hundred rows prove nothing about such a model.
"""

import math
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.outputs import ModelOutputs

SIZES: Final = (64, 33, 16, 8, 7, 4, 3, 2)
"""Full lanes and remainders of every kind; the largest, in which most is found, first."""
BLOCK_ROWS: Final = 256
TREE_ROWS: Final = 4_096
MATRIX_ROWS: Final = 16_384
TREE_SECONDS: Final = 1.0
MATRIX_SECONDS: Final = 5.0
ABSORBED: Final = 10
"""One of so many sums that differ by a bit changes a bit of the output, at the least."""
BLOCK_SECONDS: Final = 60.0
"""Where one block is all that is run: of a network with large layers a row alone takes long."""
MATRIX_OPERATORS: Final = frozenset(("LinearClassifier", "LinearRegressor", "Gemm", "MatMul"))

Run = Callable[[NDArray[np.float64]], ModelOutputs]


class Probe(NamedTuple):
    """What a probe found: `rows` are those that were run alone and in batches of every size."""

    exact: bool
    rows: int


def probe(run: Run, rows: NDArray[np.float64], *, seconds: float = math.inf) -> Probe:
    """Runs rows alone and in batches of several sizes and offsets, until the time is over.

    Args:
        run: the model, for encoded rows float64 (n, F).
        rows: what to run, float64 (n, F).
        seconds: no new size is begun after them; a first size of one block always is.
    """
    end, done = time.monotonic() + seconds, 0
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        alone = _in_pieces(run, block, size=1, first=1)
        for size in SIZES:
            for first in (size, max(1, size // 3)):
                if not _in_pieces(run, block, size=size, first=first).same_bits(alone):
                    return Probe(exact=False, rows=done)
            if time.monotonic() > end:
                return Probe(exact=True, rows=done)
        done += len(block)
    return Probe(exact=True, rows=done)


def probe_model(
    run: Run, rows: NDArray[np.float64], operators: Iterable[str], *, seed: int, sums: int = 1
) -> bool:
    """Whether a model over these rows is to be trusted with batches.

    A model that multiplies matrices is probed with many more rows, and not trusted when its time
    is over before all of them were run.

    Args:
        run: the model with its features.
        rows: encoded rows of the training table, float64 (n, F).
        operators: of the model, without those of its features.
        seed: which of the rows are taken, and how they are mixed.
        sums: of products that a run computes for each row. Another order of adding shows in few of
            them, so a model with many needs fewer rows.
    """
    rng = np.random.default_rng(seed)
    if MATRIX_OPERATORS.isdisjoint(operators):
        chosen = rng.permutation(len(rows))[:TREE_ROWS]
        return probe(run, rows[chosen], seconds=TREE_SECONDS).exact
    wanted = max(BLOCK_ROWS, min(MATRIX_ROWS, ABSORBED * MATRIX_ROWS // sums))
    mixed = _mixed(rows, wanted, rng)
    found = probe(run, mixed, seconds=BLOCK_SECONDS if wanted == BLOCK_ROWS else MATRIX_SECONDS)
    return found.exact and found.rows == len(mixed)


def _mixed(rows: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """As many rows as wanted: the rows there are, then fields of different rows put together."""
    chosen = rng.permutation(len(rows))[:count]
    drawn = rng.integers(0, len(rows), (count - len(chosen), rows.shape[1]))
    return np.concatenate([rows[chosen], np.take_along_axis(rows, drawn, axis=0)])


def _in_pieces(run: Run, rows: NDArray[np.float64], *, size: int, first: int) -> ModelOutputs:
    """The outputs of runs of `size` rows, the first of `first`, put together again."""
    edges = [0, *range(first, len(rows), size), len(rows)]
    parts = [run(rows[a:b]).arrays() for a, b in pairwise(edges)]
    columns: list[NDArray[Any]] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return ModelOutputs(columns)
