"""Replaying golden rows: the answers of this machine against those of the machine that packed them.

Rows must be equal, features too (one unit in the last place of float32 is counted), the outputs of
every rung within the manifest's tolerance, and the policies must choose the same rung for the same
reasons.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.baseline import Baseline
from models.batches import probe
from models.bundle import Bundle
from models.errors import GoldenMismatch
from models.golden import (
    Answered,
    Answering,
    answer,
    bad_fields,
    failed_checks,
    model_values,
    rule_of,
    rule_values,
    rung_name,
)
from models.ladder import Below
from models.manifest import Golden, GoldenRow, GoldenTensors, OutputSpec
from models.outputs import differing_rows

PROBE_SECONDS: Final = 1.0
LONGEST_SHOWN: Final = 1_000
"""Characters of what came, and of what was expected: an answer may be a million numbers."""
REBUILD: Final = (
    "The encoder, the runtime or the processor differs from where it was packed. Keep the "
    "version that serves; pack this one again with this onnxruntime, or serve it with the one it "
    "was packed with."
)

Spoiled = Literal["model", "baseline"]
"""What a difference says of the rungs; see `GoldenMismatch`."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found; a mismatch is raised instead.

    Attributes:
        rows: golden rows replayed, singly and as one batch.
        features_off_by_one: feature values that differ by one float32 unit in the last place,
            singly or in the batch, whichever are more.
        batch_exact: features and outputs of batches, of all rows and of other sizes, have the bits
            of the single rows; those of the baseline too, where it had them when it was packed.
    """

    rows: int
    features_off_by_one: int
    batch_exact: bool


def replay(answering: Answering, golden: Golden, feature_names: Sequence[str]) -> Replay:
    """Puts every golden row to a bundle, singly and all as one batch.

    Raises:
        GoldenMismatch: naming the row, what was expected and what came.
    """
    if not golden.rows:
        return Replay(rows=0, features_off_by_one=0, batch_exact=True)
    singles: list[Answered] = []
    off = 0
    for row in golden.rows:
        answered = answer(answering, [row.record])
        off += _compare(answering, row, answered, feature_names)
        singles.append(answered)
    batch = answer(answering, [row.record for row in golden.rows])
    off = max(off, _compare_batch(answering, golden, batch, feature_names))
    exact = (
        _same_bits(singles, batch)
        and probe(answering.run, batch.plan.rows, seconds=PROBE_SECONDS).exact
        and _baseline_is_exact(answering.ladder.baseline, batch.plan.rows)
    )
    return Replay(len(golden.rows), off, exact)


def _baseline_is_exact(baseline: Baseline | None, rows: NDArray[np.float64]) -> bool:
    """One that was not when it was packed is run row by row, and takes nothing from the model."""
    if baseline is None or not baseline.info.batch_exact:
        return True
    return probe(baseline.run, rows, seconds=PROBE_SECONDS).exact


def _compare(
    answering: Answering, row: GoldenRow, answered: Answered, feature_names: Sequence[str]
) -> int:
    names = [field.name for field in answering.fields]
    off = _same_inputs(row, "", names, feature_names, answered, 0)
    below = answering.ladder.below(answered.plan, row.expected.reason)
    for error in below.rule_errors:
        raise _mismatch(
            row, f"rule {error.rule!r} raises ({error.error})", "true or false", "baseline"
        )
    _same_outputs(answering, row, "", answered, below, 0)
    _same_answer(answering, row, "", answered, 0)
    return off


def _same_values(
    row: GoldenRow, what: str, names: Sequence[str], expected: NDArray[Any], got: NDArray[Any]
) -> None:
    if expected.shape != got.shape:
        raise _mismatch(row, f"it has {len(got)} values", f"{len(expected)}", "baseline")
    # Compared as bits: one NaN is not another, and -0 is not 0.
    wrong = expected.astype(got.dtype).view(np.uint8) != np.ascontiguousarray(got).view(np.uint8)
    places = np.flatnonzero(wrong.reshape(len(names), -1).any(axis=1))
    if len(places):
        place = int(places[0])
        raise _mismatch(
            row,
            f"{what} {names[place]!r} is {got[place].item()!r}",
            f"{expected[place].item()!r}",
            "baseline",
        )


def _features_off(
    row: GoldenRow,
    where: str,
    names: Sequence[str],
    expected: NDArray[np.float32],
    got: NDArray[np.float32],
) -> int:
    """How many features are one unit off; raises for more."""
    if expected.shape != got.shape:
        raise _mismatch(row, f"it has {len(got)} features", f"{len(expected)}")
    off = ulps_apart(expected, got)
    worst = int(off.argmax())
    if off[worst] > 1:
        raise _mismatch(
            row,
            f"{where}feature {names[worst]!r} is {got[worst].item()!r}",
            f"{expected[worst].item()!r} or one float32 unit beside it",
        )
    return int(np.count_nonzero(off))


def ulps_apart(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """float32 numbers between both, elementwise; 0 for two NaN, very many for one."""

    def ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
        bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)

    both = np.isnan(a) & np.isnan(b)
    one = np.isnan(a) ^ np.isnan(b)
    return np.where(both, 0, np.where(one, 2**32, np.abs(ordered(a) - ordered(b))))


def _same_outputs(
    answering: Answering, row: GoldenRow, where: str, answered: Answered, below: Below, place: int
) -> None:
    """Compares what each rung says: of the model, the baseline and the rule."""
    expected = row.expected
    if expected.model is not None:
        got = model_values(answered.outputs, place)
        _same_rung(answering, row, where, expected.model, got)
    if (below.baseline[place] is None) != (expected.baseline is None):
        said = "nothing" if below.baseline[place] is None else f"{below.baseline[place]}"
        raise _mismatch(
            row, f"{where}the baseline answers {said}", f"{expected.baseline}", "baseline"
        )
    if expected.baseline is not None:
        got = below.baseline[place]
        _same_rung(answering, row, f"{where}the baseline's ", expected.baseline, got, "baseline")
    if expected.rules is None:
        return
    rule = rule_of(answered, below, place)
    if expected.rule not in (None, rule):
        raise _mismatch(row, f"{where}rule {rule!r} answers", f"{expected.rule!r}", "baseline")
    got = rule_values(answering, rule)
    _same_rung(answering, row, f"{where}the rules' ({rule}) ", expected.rules, got, "baseline")


def _same_rung(
    answering: Answering,
    row: GoldenRow,
    where: str,
    expected: dict[str, Any],
    got: Sequence[Any] | None,
    spoils: Spoiled = "model",
) -> None:
    assert got is not None
    for spec, value in zip(answering.outputs, got, strict=True):
        wanted = expected[spec.name]
        if not _is_same(spec, wanted, value):
            raise _mismatch(
                row,
                f"{where}output {spec.name!r} is {value!r}",
                f"{wanted!r} (tolerance {spec.tolerance.absolute:g})",
                spoils,
            )


def _is_same(spec: OutputSpec, wanted: Any, got: Any) -> bool:
    if wanted is None or got is None:  # a rule without an opinion on the classes
        return wanted is got
    differ = differing_rows(spec, as_array(spec, [wanted]), as_array(spec, [got]))
    return not differ[0]


def as_array(spec: OutputSpec, values: list[Any]) -> NDArray[Any]:
    """Answers of golden.json as the model gives them."""
    if spec.dtype == "string":
        return np.asarray(values, object)
    if spec.dtype in ("int64", "bool"):
        return np.asarray(values, spec.dtype)
    flat = [float(value) for value in _flat(values)]
    return np.asarray(flat, spec.dtype).reshape(len(values), *spec.shape[1:])


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _same_answer(
    answering: Answering, row: GoldenRow, where: str, answered: Answered, place: int
) -> None:
    """Compares who answers by the policies, why, and the decision."""
    answers, expected = answered.answers, row.expected
    found = {
        "rung is": (rung_name(answers.outcome[place]), expected.rung),
        "reasons are": (tuple(answers.reasons.get(place, ())), expected.reasons),
        "repaired fields are": (answers.repaired.get(place, {}), expected.repaired),
        "bad fields are": (bad_fields(answering.fields, answers, place), expected.bad),
        "failed checks are": (failed_checks(answering, answered, place), expected.failed_checks),
    }
    for what, (got, wanted) in found.items():
        if got != wanted:
            raise _mismatch(row, f"{where}the {what} {got!r}", f"{wanted!r}")
    decision = answers.decision[place]
    if decision != expected.decision and not _near_edge(answering, answered, place):
        raise _mismatch(row, f"{where}the decision is {decision!r}", f"{expected.decision!r}")


def _near_edge(answering: Answering, answered: Answered, place: int) -> bool:
    """Whether what is answered, by whichever rung, is within tolerance of a threshold."""
    spec, value = answering.outputs[0], answered.answers.values[0][place]
    if spec.kind == "label" or value is None:
        return False
    near = answering.ladder.decisions.near_edge(spec, np.asarray([value]))
    return bool(near[0])


def _compare_batch(
    answering: Answering, golden: Golden, batch: Answered, feature_names: Sequence[str]
) -> int:
    """Features that are one unit off; raises for any other difference."""
    names = [field.name for field in answering.fields]
    reasons = {row.expected.reason for row in golden.rows}
    below = {reason: answering.ladder.below(batch.plan, reason) for reason in reasons}
    off, where = 0, "in a batch, "
    for place, row in enumerate(golden.rows):
        off += _same_inputs(row, where, names, feature_names, batch, place)
        _same_outputs(answering, row, where, batch, below[row.expected.reason], place)
        _same_answer(answering, row, where, batch, place)
    return off


def _same_inputs(
    row: GoldenRow,
    where: str,
    names: Sequence[str],
    feature_names: Sequence[str],
    answered: Answered,
    place: int,
) -> int:
    """Compares encoded row, flags and features; the number of features that are one unit off."""
    encoded, features = answered.encoded, answered.outputs.features
    expected_row = np.frombuffer(bytes.fromhex(row.row), "<f8")
    _same_values(row, f"{where}field", names, expected_row, encoded.rows[place])
    expected_flags = np.asarray(row.flags)
    _same_values(row, f"{where}flag of field", names, expected_flags, encoded.flags[place])
    assert features is not None
    expected_features = np.frombuffer(bytes.fromhex(row.features), "<f4")
    return _features_off(row, where, feature_names, expected_features, features[place])


def _same_bits(singles: Sequence[Answered], batch: Answered) -> bool:
    for place, single in enumerate(singles):
        if not single.outputs.same_bits(batch.outputs.part(place, place + 1)):
            return False
    return True


def _mismatch(
    row: GoldenRow | GoldenTensors, got: str, expected: str, spoils: Spoiled = "model"
) -> GoldenMismatch:
    what = "row" if isinstance(row, GoldenRow) else "tensors"
    got, expected = _shown(got), _shown(expected)
    return GoldenMismatch(
        f"golden {what} {row.name!r}: {got}, expected {expected}. {REBUILD}",
        row=row.name,
        got=got,
        expected=expected,
        spoils=spoils,
    )


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def replay_tensors(bundle: Bundle) -> Replay:
    """Puts every golden row of a tensor bundle to it; its batches are the caller's own.

    Raises:
        GoldenMismatch: naming the row and the output.
    """
    for row in bundle.golden.tensors:
        _compare_tensors(bundle, row)
    return Replay(len(bundle.golden.tensors), 0, batch_exact=False)


def _compare_tensors(bundle: Bundle, row: GoldenTensors) -> None:
    assert bundle.inputs is not None
    inputs = {
        spec.name: np.asarray(row.inputs[spec.name], spec.dtype) for spec in bundle.inputs.inputs
    }
    got = bundle.run_tensors(inputs)
    for spec, column in zip(bundle.outputs, got.values, strict=True):
        wanted = as_array(spec, row.outputs[spec.name])
        if wanted.shape != column.shape or differing_rows(spec, wanted, column).any():
            raise _mismatch(
                row,
                f"output {spec.name!r} is {column.tolist()}",
                f"{row.outputs[spec.name]}",
            )


# one row at a time


def count_rows(bundle: Bundle) -> int:
    """Golden rows of a bundle, of records or of tensors."""
    return len(bundle.golden.rows) or len(bundle.golden.tensors)


def replay_row(bundle: Bundle, place: int) -> None:
    """Puts one golden row to a bundle, alone.

    Raises:
        GoldenMismatch: what was expected and what came.
    """
    if bundle.fitted is None:
        _compare_tensors(bundle, bundle.golden.tensors[place])
        return
    row = bundle.golden.rows[place]
    _compare(bundle, row, answer(bundle, [row.record]), bundle.fitted.feature_names)
