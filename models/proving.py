"""What `pack` proves and measures of a bundle in the making, before anything is written."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.ops.hatch import foreign_operators
from models.batches import TREE_SECONDS, probe, probe_model
from models.cases import Cases
from models.convert import Converted
from models.convert.graph import nodes_of
from models.draft import Draft, Settled
from models.errors import PackingError
from models.evaluation import importances, metrics, rounded, target_codes
from models.golden import SEED
from models.ladder import MODEL
from models.manifest import Golden, NativeCheck
from models.native_check import check_native
from models.outputs import ModelOutputs
from models.progress import Steps
from models.reference import Reference, build_reference
from models.slices import Slices, quality_by_slice
from models.training_rows import Rows
from models.vocabulary import REASONS

INVALID_SHARE: Final = 0.01
OUTPUT_INVALID: Final = REASONS.index("output_invalid")


def compare(
    steps: Steps, converted: Converted, settled: Settled, held: Rows, cases: Cases
) -> NativeCheck | None:
    """Compares the model with its library; None when there is nothing to compare with."""
    edges = settled.encoder.encode([record for _, record in cases.edges]).rows
    with steps.step("comparing with the training library", len(held) + len(edges)) as advance:
        return check_native(
            converted,
            settled.outputs,
            settled.ladder.decisions,
            settled.run,
            rows=held.encoded.rows,
            edges=edges,
            names=[name for name, _ in cases.edges],
            advance=advance,
        )


def check_reaches(golden: Golden, *, has_baseline: bool) -> None:
    """Golden rows that only the rules answer would prove nothing about model and baseline.

    Raises:
        PackingError: no sample row is the model's, or the baseline accepts no row.
    """
    if has_baseline and not any(row.expected.baseline for row in golden.rows):
        raise PackingError(
            "the baseline answers no golden row: each has a trouble that it does not accept, or "
            "its answer is not valid. Accept more with baseline_accepts, or give sensitive fields "
            "an `example` or a declared vocabulary."
        )
    samples = [row for row in golden.rows if row.name.startswith("sample")]
    if any(row.expected.rung == "model" for row in samples):
        return
    first = golden.rows[0].expected
    raise PackingError(
        f"no sample row is answered by the model; the first goes to {first.rung} for "
        f"{list(first.reasons)}. Sensitive fields have generated values there: give them an "
        "`example`, declare their vocabulary, or accept unknown values; else check the policies."
    )


def answered_by_model(settled: Settled, rows: Rows, answers: ModelOutputs) -> NDArray[np.bool_]:
    """The training rows that the model would answer, bool (n,).

    Raises:
        PackingError: more than a hundredth of them has invalid outputs: those are for accidents,
            not for what training is made of.
    """
    judged = settled.ladder.judge(settled.ladder.plan_table(rows.encoded), answers)
    invalid = judged.reason.count(OUTPUT_INVALID)
    asked = judged.outcome.count(MODEL) + invalid
    if invalid <= INVALID_SHARE * asked:
        return np.asarray(judged.outcome) == MODEL
    place = judged.reason.index(OUTPUT_INVALID)
    answer = [column[place : place + 1].tolist()[0] for column in answers.values]
    raise PackingError(
        f"{invalid} of the {asked} training rows that the model answers have invalid outputs, as "
        f"row {place}: {dict(zip((s.name for s in settled.outputs), answer, strict=True))}; at "
        f"most {INVALID_SHARE:.0%} may, as the rules would answer them. Not-a-number comes from "
        "null features: impute them, or let a policy send such rows to the rules. For numbers "
        "out of range widen valid_range, end an ONNX model whose probabilities miss 1 by rounding "
        "with Clip, or declare a score that is no probability a `value`."
    )


def batch_exact(draft: Draft, converted: Converted, golden: Golden, held: Rows, rows: Rows) -> bool:
    """Whether rows have the same bits alone and in a batch: golden, held-out and training rows."""
    records = draft.encoder.encode([row.record for row in golden.rows]).rows
    real = np.concatenate([held.encoded.rows, rows.encoded.rows])
    operators = {node.op_type for node in nodes_of(converted.model.graph)}
    operators |= foreign_operators(draft.fitted.feature_set.features.values())
    sums = sums_of_products(converted.model.graph)
    return probe(draft.run, records, seconds=TREE_SECONDS).exact and probe_model(
        draft.run, real, operators, seed=SEED, sums=sums
    )


def sums_of_products(graph: Any) -> int:
    """How many a run computes for each row, as far as matrices are constants; at least one."""
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    sums = 0
    for node in graph.node:
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in shapes:
            is_turned = any(each.name == "transB" and each.i for each in node.attribute)
            sums += shapes[node.input[1]][0 if is_turned else -1]
    return max(1, sums)


def evaluate(draft: Draft, held: Rows) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on the held-out rows, and the importance of each field."""
    target = None if held.target is None else target_codes(draft.outputs, held.target)
    names = [field.name for field in draft.fields]
    importance = importances(names, draft.run, draft.outputs, held.encoded.rows, target, seed=SEED)
    if target is None:
        return {}, importance
    answers = draft.run_all(held.encoded.rows)
    return rounded(metrics(draft.outputs, answers, target)), rounded(importance)


def by_slice(draft: Draft, reference: Reference, held: Rows, names: Sequence[str]) -> Slices:
    if held.target is None or not names:
        return {}
    return quality_by_slice(
        names,
        draft.fields,
        draft.fitted.zones,
        reference.shapes,
        held.encoded,
        draft.outputs,
        draft.run_all(held.encoded.rows),
        target_codes(draft.outputs, held.target),
    )


def training_reference(
    settled: Settled,
    rows: Rows,
    answers: ModelOutputs,
    is_model: NDArray[np.bool_],
    time: str | None,
    importance: Mapping[str, float],
) -> Reference:
    """The training distributions, counted as serving will: outputs only where the model answers."""
    return build_reference(
        settled.draft.fitted,
        rows.encoded,
        answers.values,
        settled.outputs,
        times=rows.times,
        time_field=time,
        is_model=is_model,
        importance=importance,
    )
