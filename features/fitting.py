"""Learning from a training table: vocabularies first, then each fitted operator from its operand's values.

Operands are computed by the same graph that serving runs, stage by stage, so that a mean is the mean of the
values the next operator will really see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.compiler import Plan, compile_values
from features.encode_table import TableLike, count_texts
from features.encoding import Coding, codings
from features.errors import FitError
from features.expressions import Expression, walk
from features.fields import Field
from features.ops import OPS
from features.ops.base import Context, FitInput, State
from features.ops.category import smoothed_means, target_sums
from features.runtime import Session, run_in_chunks

CHUNK_ROWS = 4096
TARGET_MEAN = "target_mean/1"


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
            f"category {field.name!r} has no value in the training table; check the column or declare "
            "category(..., vocabulary=[...])"
        )
    ordered = sorted(counts, key=lambda text: (-counts[text], text))
    return tuple(ordered[: field.max_vocabulary])


def fit_states(
    plan: Plan,
    features: Mapping[str, Expression],
    rows: NDArray[np.float64],
    target: NDArray[np.float64] | None,
) -> dict[str, State]:
    """What every fitted operator learned from the rows, by the key of its expression."""
    owner = {node.key: name for name, root in features.items() for node in walk(root)}
    states: dict[str, State] = {}
    waiting = [node for node in walk(*features.values()) if _learns(node)]
    while waiting:
        unknown = {node.key for node in waiting}
        ready = [node for node in waiting if not unknown & {k.key for k in walk(*node.args)}]
        values = _operands(replace(plan, states=states), ready, rows)
        for node in ready:
            where = f"feature {owner[node.key]!r}, {node!r}"
            states[node.key] = _fit(plan.context, node, values[node.key], target, where)
        waiting = [node for node in waiting if node.key not in states]
    return states


def _learns(node: Expression) -> bool:
    return node.op in OPS and OPS[node.op].fit is not None


def _fit(
    context: Context,
    node: Expression,
    values: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    where: str,
) -> State:
    fit = OPS[node.op].fit
    assert fit is not None
    return fit(FitInput(values, target, _size(context, node), node.params, where))


def _size(context: Context, node: Expression) -> int:
    field = node.args[0].field
    return context.size(field) if field is not None and field.kind == "category" else 0


def _operands(
    plan: Plan, nodes: Sequence[Expression], rows: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The first operand of each node over the rows, float64 (n,)."""
    index = {field.name: position for position, field in enumerate(plan.fields)}
    columns: dict[str, NDArray[np.float64]] = {}
    computed: dict[str, Expression] = {}
    for node in nodes:
        operand = node.args[0]
        if operand.field is not None:
            columns[operand.key] = rows[:, index[operand.field.name]]
        else:
            computed[operand.key] = operand
    if computed:
        model = compile_values(plan, list(computed.values()))
        session = Session(model.SerializeToString())
        chunks = [outputs[0] for outputs in run_in_chunks(session, rows, CHUNK_ROWS)]
        values = np.concatenate(chunks) if chunks else np.empty((0, len(computed)))
        columns |= {key: values[:, position] for position, key in enumerate(computed)}
    return {node.key: columns[node.args[0].key] for node in nodes}


def cross_fitted(
    plan: Plan,
    features: Mapping[str, Expression],
    rows: NDArray[np.float64],
    target: NDArray[np.float64],
    in_fold: NDArray[np.bool_],
) -> dict[str, State]:
    """The plan's states with each `target_mean` as it is without the targets of one fold, bool (n,)."""
    index = {field.name: position for position, field in enumerate(plan.fields)}
    states: dict[str, Any] = dict(plan.states)
    outside = ~in_fold
    for node in walk(*features.values()):
        field = node.args[0].field if node.op == TARGET_MEAN else None
        if field is None:
            continue
        size = plan.context.size(field)
        codes = rows[outside, index[field.name]]
        sums, counts = target_sums(FitInput(codes, target[outside], size, node.params, repr(node)))
        states[node.key] = {"table": smoothed_means(sums, counts, size, node.params["smoothing"])}
    return states


def has_target_mean(features: Mapping[str, Expression]) -> bool:
    return any(node.op == TARGET_MEAN for node in walk(*features.values()))


def codings_of(plan: Plan) -> list[Coding]:
    return codings(plan.fields, plan.context.vocabularies, plan.context.zones)
