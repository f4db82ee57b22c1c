"""Learning from a training table: vocabularies first, then each fitted operator from its operand.

Operands are computed by the same graph that serving runs, stage by stage, so that a mean is the
mean of the values that the next operator will really see.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiler import compile_features, compile_values
from features.encode_table import TableLike, count_texts
from features.encoding import Coding
from features.errors import FitError
from features.expressions import Category
from features.fields import Field
from features.nodes import Expression, walk
from features.ops import OPS
from features.ops.base import FitInput, Plan, State, Text
from features.ops.category import smoothed_means
from features.progress import Progress
from features.runtime import Session, run_in_chunks

TARGET_MEAN: Final = "target_mean/1"


def learn_vocabularies(fields: Sequence[Field], table: TableLike) -> dict[str, tuple[str, ...]]:
    """Texts per category in code order: as declared, else by falling count, then by code point.

    Raises:
        FitError: a category without a single value and without a declared vocabulary.
    """
    categories = [field for field in fields if field.kind == "category"]
    return {field.name: field.vocabulary or _learned(field, table) for field in categories}


def _learned(field: Field, table: TableLike) -> tuple[str, ...]:
    counts = count_texts(Coding(field, {}, None), table)
    if not counts:
        raise FitError(
            f"category {field.name!r} has no value in the training table; check the column or "
            "declare category(..., vocabulary=[...])"
        )
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    return tuple(ordered[: field.max_vocabulary])


def stages(features: Mapping[str, Expression]) -> list[list[Expression]]:
    """The operators that learn, each stage from operands that need earlier stages alone."""
    waiting = [node for node in walk(*features.values()) if _learns(node)]
    ordered: list[list[Expression]] = []
    while waiting:
        unknown = {node.key for node in waiting}
        blocked = [bool(unknown & {n.key for n in walk(*node.args)}) for node in waiting]
        ordered.append(
            [node for node, is_blocked in zip(waiting, blocked, strict=True) if not is_blocked]
        )
        waiting = [node for node, is_blocked in zip(waiting, blocked, strict=True) if is_blocked]
    return ordered


def fit_states(
    plan: Plan,
    features: Mapping[str, Expression],
    rows: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    progress: Progress,
) -> dict[str, State]:
    """What every fitted operator learned from the rows, by the key of its expression."""
    owner = {node.key: name for name, root in features.items() for node in walk(root)}
    states: dict[str, State] = {}
    ordered = stages(features)
    for done, stage in enumerate(ordered):
        values = _operands(replace(plan, states=states), stage, rows)
        for node in stage:
            where = f"feature {owner[node.key]!r}, {node!r}"
            texts = _texts(replace(plan, states=states), node)
            fit = FitInput(values[node.key], target, texts, node.params, where)
            states[node.key] = _fit(node, fit)
        progress((done + 1) * len(rows), len(ordered) * len(rows))
    return states


def _learns(node: Expression) -> bool:
    return node.op in OPS and OPS[node.op].is_learning(node.params)


def _fit(node: Expression, fit: FitInput) -> State:
    learn = OPS[node.op].fit
    assert learn is not None
    try:
        with np.errstate(all="ignore"):
            state = learn(fit)
    except OverflowError:  # math.fsum
        state = {"sum": math.inf}
    if not all(map(math.isfinite, _numbers(state))):
        raise FitError(
            f"{fit.where}: the training values are too large for float64 arithmetic (beyond 1e150 "
            "or so); clip() them first, or declare the bounds of the field"
        )
    return state


def _numbers(state: State) -> Iterator[float]:
    for value in state.values():
        listed = value if isinstance(value, list) else [value]
        yield from (item for item in listed if isinstance(item, float))


def _texts(plan: Plan, node: Expression) -> tuple[Sequence[Text], ...]:
    return tuple(plan.context.texts(a) if isinstance(a, Category) else () for a in node.args)


def _operands(
    plan: Plan, nodes: Sequence[Expression], rows: NDArray[np.float64]
) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """The operands of each node over the rows, float64 (n,)."""
    index = {field.name: position for position, field in enumerate(plan.fields)}
    columns: dict[str, NDArray[np.float64]] = {}
    computed: dict[str, Expression] = {}
    for operand in [operand for node in nodes for operand in node.args]:
        if operand.field is not None:
            columns[operand.key] = rows[:, index[operand.field.name]]
        else:
            computed[operand.key] = operand
    if computed:
        session = Session(compile_values(plan, list(computed.values())).SerializeToString())
        values = np.concatenate([outputs[0] for outputs in run_in_chunks(session, rows)])
        columns |= {key: values[:, position] for position, key in enumerate(computed)}
    return {node.key: tuple(columns[arg.key] for arg in node.args) for node in nodes}


# target means, cross-fitted


def has_target_mean(features: Mapping[str, Expression]) -> bool:
    return any(node.op == TARGET_MEAN for node in walk(*features.values()))


def cross_fitted(
    plan: Plan,
    features: Mapping[str, Expression],
    rows: NDArray[np.float64],
    target: NDArray[np.float64],
    *,
    folds: int,
    seed: int,
    progress: Progress,
) -> NDArray[np.float32]:
    """Features float32 (n, K) where each fold's `target_mean` is learned from the other folds.

    Raises:
        FitError: more folds than rows, fewer than 2, or a fold without whose rows no target is
        left.
    """
    if not 2 <= folds <= len(rows):
        raise FitError(f"folds={folds}: use 2 to the number of rows, {len(rows)}")
    fold = np.random.default_rng(seed).permutation(len(rows)) % folds
    means = [node for node in walk(*features.values()) if node.op == TARGET_MEAN]
    codes = _operands(plan, means, rows)
    parts: list[NDArray[np.float32]] = []
    for number in range(folds):
        inside = fold == number
        states = dict(plan.states)
        for node in means:
            (column,) = codes[node.key]
            states[node.key] = _means(plan, node, column[~inside], target[~inside])
        model = compile_features(replace(plan, states=states), list(features.values()))
        chunks = run_in_chunks(Session(model.SerializeToString()), rows[inside])
        parts.append(np.concatenate([outputs[0] for outputs in chunks]))
        progress(sum(map(len, parts)), len(rows))
    features_by_fold = np.concatenate(parts)
    out = np.empty_like(features_by_fold)
    out[np.argsort(fold, kind="stable")] = features_by_fold
    return out


def _means(
    plan: Plan, node: Expression, codes: NDArray[np.float64], target: NDArray[np.float64]
) -> State:
    """A `target_mean` as learned from these rows alone."""
    fit = FitInput((codes,), target, _texts(plan, node), node.params, repr(node))
    return {"table": smoothed_means(fit, target)}
