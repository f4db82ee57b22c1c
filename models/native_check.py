"""The training library's own predictions against the ONNX model's, on rows of graph features.

A conversion that is slightly wrong is not slightly wrong for everybody: one threshold rounded the
other way sends a few rows to another leaf, whole percents away. So every held-out row is compared,
and none may be off by more than rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.convert import Converted
from models.convert.graph import Native
from models.errors import ConversionFailed, NativeMismatch
from models.manifest import NativeCheck, OutputSpec
from models.outputs import Decisions, ModelOutputs, differing_rows

CHUNK_ROWS: Final = 8_192
SHOWN_ROWS: Final = 5
LARGEST_FLOAT32: Final = float(np.finfo(np.float32).max)

Run = Callable[[NDArray[np.float64]], ModelOutputs]


@dataclass(slots=True)
class _Found:
    """What the comparison has seen so far."""

    rows: int = 0
    near_threshold: int = 0
    largest: dict[str, float] = field(default_factory=dict[str, float])
    wrong_rows: int = 0
    wrong_with_nulls: int = 0
    wrong_beyond: int = 0
    """Of them those with a field that float32 does not hold, which made the feature null."""
    wrong: list[str] = field(default_factory=list[str])


def check_native(
    converted: Converted,
    outputs: Sequence[OutputSpec],
    decisions: Decisions,
    run: Run,
    *,
    rows: NDArray[np.float64],
    edges: NDArray[np.float64],
    names: Sequence[str],
    advance: Callable[[int], None] = lambda _: None,
) -> NativeCheck | None:
    """Compares both on held-out rows and on golden edge cases, as encoded float64 (n, F).

    Args:
        converted: with the native model; None is returned when it has none.
        outputs: with their tolerances.
        decisions: of the primary output.
        run: the fused model.
        rows: held-out rows.
        edges: rows of the edge cases: nulls, unknown categories and bounds that held-out rows lack.
        names: of the edge cases.
        advance: called with the number of rows done.

    Raises:
        NativeMismatch: naming rows and values.
    """
    if converted.native is None:
        return None
    held_out, generated = _Found(), _Found()
    numbered = [f"held-out row {place}" for place in range(len(rows))]
    parts = ((held_out, numbered, rows), (generated, [f"edge case '{n}'" for n in names], edges))
    for found, called, all_rows in parts:
        for start in range(0, len(all_rows), CHUNK_ROWS):
            chunk = all_rows[start : start + CHUNK_ROWS]
            beyond = np.logical_or.reduce(np.abs(chunk) > LARGEST_FLOAT32, axis=1)
            _compare(
                converted.native, outputs, decisions, run(chunk), found, called[start:], beyond
            )
            advance(len(chunk))
    if held_out.wrong or generated.wrong:
        raise NativeMismatch(_message(converted, held_out, generated))
    largest = {
        name: max(found.largest.get(name, 0.0) for found in (held_out, generated))
        for name in {**held_out.largest, **generated.largest}
    }
    return NativeCheck(
        rows=held_out.rows,
        edge_rows=generated.rows,
        largest_difference=largest,
        near_threshold=held_out.near_threshold + generated.near_threshold,
    )


def _compare(
    native: Native,
    outputs: Sequence[OutputSpec],
    decisions: Decisions,
    got: ModelOutputs,
    found: _Found,
    called: Sequence[str],
    beyond: NDArray[np.bool_],
) -> None:
    assert got.features is not None
    kept, expected = _native_answers(native, got.features)
    found.rows += len(kept)
    ties = _ties(outputs, expected)
    wrong = np.zeros(len(kept), np.bool_)
    for spec, column in zip(outputs, got.values, strict=True):
        if spec.name not in expected:
            continue
        answers, wanted = column[kept], expected[spec.name]
        differ = differing_rows(spec, wanted, answers)
        if spec.kind == "label":
            found.near_threshold += int((differ & ties).sum())
            differ &= ~ties
        else:
            _note_largest(found, spec, wanted, answers)
        for place in np.flatnonzero(differ & ~wrong)[:SHOWN_ROWS].tolist():
            found.wrong.append(
                f"{called[int(kept[place])]}: {spec.name} is {_text(answers[place])}, "
                f"natively {_text(wanted[place])}"
            )
        wrong |= differ
    found.wrong_rows += int(wrong.sum())
    nulls = wrong & np.isnan(got.features[kept]).any(axis=1)
    found.wrong_with_nulls += int(nulls.sum())
    found.wrong_beyond += int((nulls & beyond[kept]).sum())
    primary = outputs[0]
    if primary.name in expected and primary.kind != "label":
        codes = decisions.codes_of(got.values[0][kept])
        moved = codes != decisions.codes_of(expected[primary.name])
        found.near_threshold += int((moved & ~wrong).sum())


def _native_answers(
    native: Native, features: NDArray[np.float32]
) -> tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]:
    """Positions that the native model answers, and its answers.

    Some libraries refuse null features; rows with one are then left out, as such a model cannot
    have been trained on any either.
    """
    everything = np.arange(len(features))
    try:
        return everything, native(features)
    except Exception as first:  # noqa: BLE001  (whatever a library raises about its input)
        finite = np.flatnonzero(np.isfinite(features).all(axis=1))
        if not len(finite):
            return finite, {}
        try:
            return finite, native(features[finite])
        except Exception as error:
            raise ConversionFailed(
                f"the native model does not predict: {error!r} (and with nulls: {first!r}). "
                "Pass one that takes float32 features (n, K)."
            ) from error


def _ties(outputs: Sequence[OutputSpec], expected: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Rows whose two most probable classes are within tolerance: either may be the label."""
    for spec in outputs:
        if spec.kind == "class_probabilities" and spec.name in expected:
            best = np.sort(expected[spec.name], axis=1)
            return best[:, -1] - best[:, -2] <= 2 * spec.tolerance.absolute
    rows = next((len(values) for values in expected.values()), 0)
    return np.zeros(rows, np.bool_)


def _note_largest(
    found: _Found, spec: OutputSpec, wanted: NDArray[Any], answers: NDArray[Any]
) -> None:
    with np.errstate(invalid="ignore"):
        difference = np.abs(wanted.astype(np.float64) - answers.astype(np.float64))
    finite = difference[np.isfinite(difference)]
    largest = float(finite.max()) if finite.size else 0.0
    found.largest[spec.name] = max(found.largest.get(spec.name, 0.0), largest)


def _text(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)


def _nulls_hint(*found: _Found) -> str:
    wrong, with_nulls = (sum(f.wrong_rows for f in found), sum(f.wrong_with_nulls for f in found))
    if not wrong or wrong != with_nulls:
        return ""
    beyond = sum(f.wrong_beyond for f in found)
    ways = ["impute them in the features"] * (beyond < wrong)
    ways += ["declare low/high or clip(): beyond float32 a feature is null"] * (beyond > 0)
    return (
        "\nAll of them have null features, which this estimator's conversion treats otherwise: "
        f"{'; and '.join(ways)}."
    )


def _message(converted: Converted, held_out: _Found, generated: _Found) -> str:
    shown = [*held_out.wrong, *generated.wrong][:SHOWN_ROWS]
    counts = f"{held_out.wrong_rows} of {held_out.rows} held-out rows"
    if generated.wrong_rows:
        counts += f" and {generated.wrong_rows} of {generated.rows} edge cases"
    converters = ", ".join(f"{name} {version}" for name, version in converted.versions.items())
    return (
        f"the ONNX model does not answer as the {converted.framework} {converted.estimator} does: "
        f"{counts} are off by more than rounding.\n  "
        + "\n  ".join(shown)
        + _nulls_hint(held_out, generated)
        + "\nTrain on what `fitted.transform(table)` returns (float32, not your own columns), and "
        "check that the estimator's options survive conversion. "
        + (f"Converted with {converters}." if converters else "")
    )
