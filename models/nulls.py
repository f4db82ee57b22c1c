"""Nulls on their way into a model that takes none."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.baseline_packing import CompiledBaseline
from models.convert.graph import Native
from models.draft import Settled
from models.outputs import ModelOutputs

AT_ONCE: Final = 256
"""Fields that are tried in one run: each has a record of all fields."""

Run = Callable[[NDArray[np.float64]], ModelOutputs]
"""Outputs and features for encoded rows."""


def warn_of_nulls(
    settled: Settled,
    native: Native | None,
    baseline: CompiledBaseline | None,
    record: Mapping[str, Any],
) -> None:
    """Warns of fields that may be missing where the model or the baseline answers, and cannot.

    Args:
        settled: the model with its policies.
        native: of the training library, which may refuse what the ONNX model takes for a number.
        baseline: of the same bundle, if it has one.
        record: one that the model answers.
    """
    _warn_of_model(settled, native, record)
    if baseline is not None:
        _warn_of_baseline(settled, baseline, record)


def _warn_of_model(settled: Settled, native: Native | None, record: Mapping[str, Any]) -> None:
    policies = settled.fallback.policies
    answered = {
        field.name: policies[field.name]["missing"]
        for field in settled.fields
        if field.nullable and "missing" in policies[field.name]
    }
    names = [
        name
        for name, given in answered.items()
        if given.policy == "accept" or (given.policy == "repair" and given.value is None)
    ]
    refused = _refused(settled.run, settled, native, record, names)
    if refused:
        warnings.warn(
            f"fields {refused} may be missing, which makes a feature null, and this model takes no "
            "null: such rows get no answer of the model, or one that means nothing. Fill them in, "
            "number(...).impute('median'); or say who answers instead, policies={"
            f"{refused[0]!r}: {{'missing': 'rules'}}}}; or declare that they are always there, "
            "nullable=False",
            stacklevel=4,
        )


def _warn_of_baseline(
    settled: Settled, baseline: CompiledBaseline, record: Mapping[str, Any]
) -> None:
    nullable = {field.name for field in settled.fields if field.nullable}
    accepts = baseline.accepts.items()
    names = [name for name, accepted in accepts if "missing" in accepted and name in nullable]
    refused = _refused(baseline.run, settled, baseline.converted.native, record, names)
    if refused:
        warnings.warn(
            f"fields {refused} may be missing where the baseline answers, which makes a feature of "
            "it null, and its model takes no null: such rows go on to the rules, or get an answer "
            "that means nothing. Fill them in among its features, number(...).impute('median'); or "
            f"leave 'missing' out of baseline_accepts for {refused[0]!r}",
            stacklevel=4,
        )


def _refused(
    run: Run,
    settled: Settled,
    native: Native | None,
    record: Mapping[str, Any],
    names: Sequence[str],
) -> list[str]:
    """Those of the names without which a model does not answer; nothing if it never does."""
    found: list[str] = []
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        found += _refused_at_once(run, settled, native, record, some)
    return found


def _refused_at_once(
    run: Run,
    settled: Settled,
    native: Native | None,
    record: Mapping[str, Any],
    names: Sequence[str],
) -> list[str]:
    records = [{**record, name: None} for name in names]
    got = run(settled.encoder.encode([*records, record]).rows)
    features, is_finite = got.features, _finite_rows(got.values)
    assert features is not None
    if not is_finite[-1] or not _is_taken(native, features[-1:]):
        return []
    has_null: NDArray[np.bool_] = np.logical_or.reduce(np.isnan(features), axis=1)
    return [
        name
        for row, name in enumerate(names)
        if has_null[row] and not (is_finite[row] and _is_taken(native, features[row : row + 1]))
    ]


def _finite_rows(outputs: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    found = np.ones(len(outputs[0]), np.bool_)
    for values in outputs:
        if values.dtype.kind == "f":
            found &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return found


def _is_taken(native: Native | None, features: NDArray[np.float32]) -> bool:
    if native is None:
        return True
    try:
        native(features)
    except Exception:  # noqa: BLE001  (whatever a library raises about nulls)
        return False
    return True
