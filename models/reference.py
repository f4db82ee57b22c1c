"""`reference.json`: what training looked like, to which live counts are compared.

It is built with the functions that count live rows, from the training rows as the encoder made
them, so that a difference is one of the data and not of two programs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np

from features.encoding import Encoded
from features.fields import Field
from features.zones import Zone
from models.background import Background, background
from models.bins import (
    BOOLEAN_BINS,
    HOUR_BINS,
    WEEKDAY_BINS,
    Bins,
    FloatArray,
    IntArray,
    NumberBins,
    category_bins,
    class_bins,
    number_bins,
)
from models.columns import (
    Columns,
    Flags,
    Marks,
    MeasuredOutput,
    OutputColumns,
    Target,
    measured,
    targets,
)
from models.drift import MIN_ROWS
from models.errors import PackingError
from models.measures import Measures, measure_of
from models.outputs import class_text
from models.shapes import WINDOW_SECONDS, Part, Shape
from models.troubles import TroubleRates, trouble_rates
from models.windows import Hours, window_noise

CHUNK_ROWS: Final = 2048


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training distributions of a bundle and how much they varied.

    Attributes:
        rows: training rows.
        few_rows: too few for any verdict; distributions are counted all the same.
        time: the time column of the training table; null without one, and then no noise is known.
        shapes: everything measured: fields in row order, then outputs.
        troubles: per field and trouble, how often training had it.
        importance: share of each field in what the model uses, summing to 1.
        background: rows for explanations.
    """

    format: Literal[1]
    rows: int
    few_rows: bool
    time: str | None
    shapes: tuple[Shape, ...]
    troubles: TroubleRates
    importance: dict[str, float]
    background: Background | None = None


class FittedFields(Protocol):
    """What building needs of fitted features."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """In the order of the row."""
        ...

    @property
    def vocabularies(self) -> Mapping[str, tuple[str, ...]]:
        """Texts of each category field, in code order."""
        ...

    @property
    def zones(self) -> Mapping[str, Zone]:
        """Frozen zones by name."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Training rows in time order; without a time column in their own.

    Attributes:
        rows, flags: encoded, (n, F).
        outputs: of the model, as `OutputColumns.read` gives them, (n, O).
        is_model: whether the model would have answered, bool (n,).
        times: epoch seconds, NaN (last) where a row has none, (n,).
    """

    rows: FloatArray
    flags: Flags
    outputs: FloatArray
    is_model: Marks
    times: FloatArray

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, part: slice) -> "_Rows":
        return _Rows(
            self.rows[part],
            self.flags[part],
            self.outputs[part],
            self.is_model[part],
            self.times[part],
        )


def build_reference(
    fitted: FittedFields,
    encoded: Encoded,
    outputs: Sequence[Any],
    output_specs: Sequence[MeasuredOutput],
    *,
    times: FloatArray | None = None,
    time_field: str | None = None,
    is_model: Marks | None = None,
    importance: Mapping[str, float] | None = None,
    with_background: bool = True,
    seed: int = 0,
) -> Reference:
    """The reference of a bundle from its training rows.

    Args:
        fitted: the features the model was trained on; only the encoder's side of them is used.
        encoded: all training rows.
        outputs: the model's answers for them, one array (n, ...) for each of `output_specs`.
        output_specs: outputs of the manifest.
        times: when each row was, epoch seconds, float64 (n,); NaN where that is not known.
        time_field: name of the column of `times`, a field or not; given together with it.
        is_model: rows whose policies leave the answer to the model, bool (n,); None for all.
        importance: from `permutation_importance`.
        with_background: keep a few encoded rows for explanations.
        seed: of the background's sample.

    Raises:
        PackingError: two things measured would have the same name.
    """
    time = None if times is None else time_field
    wanted = targets(fitted.fields, output_specs, time_field=time)
    _check_names(wanted)
    rows = _in_time_order(encoded, OutputColumns(output_specs).read(outputs), times, is_model)
    drafts = [_draft(target, fitted, output_specs, rows) for target in wanted]
    ordered = None if times is None else rows.times
    return Reference(
        format=1,
        rows=len(rows),
        few_rows=len(rows) < MIN_ROWS,
        time=time,
        shapes=_counted(drafts, fitted, output_specs, rows),
        troubles=trouble_rates(fitted.fields, fitted.vocabularies, rows.rows, rows.flags, ordered),
        importance=dict(importance or {}),
        background=background(fitted.fields, rows.rows, seed=seed) if with_background else None,
    )


def _check_names(wanted: Sequence[Target]) -> None:
    """A number called `left.hour` would be counted under the name of the hour of `left`."""
    names = {of for subject, of, part in wanted if subject == "field" and part == "value"}
    for subject, of, part in wanted:
        if subject == "field" and part != "value" and f"{of}.{part}" in names:
            raise PackingError(
                f"field '{of}.{part}' has the name under which the {part} of field {of!r} is "
                "counted. Metrics could not tell them apart; rename one of them."
            )


def _in_time_order(
    encoded: Encoded, outputs: FloatArray, times: FloatArray | None, is_model: Marks | None
) -> _Rows:
    n = len(encoded.rows)
    answered = np.ones(n, np.bool_) if is_model is None else is_model
    if times is None:
        return _Rows(encoded.rows, encoded.flags, outputs, answered, np.full(n, np.nan))
    order = np.argsort(times, kind="stable")  # NaN last
    return _Rows(
        encoded.rows[order], encoded.flags[order], outputs[order], answered[order], times[order]
    )


def _draft(
    target: Target, fitted: FittedFields, specs: Sequence[MeasuredOutput], rows: _Rows
) -> Shape:
    """The shape of one target without its counts: bins, mean and sd."""
    subject, of, part = target
    values = _values(target, fitted, specs, rows)
    if subject == "output":
        bins = _output_bins(next(spec for spec in specs if spec.name == of), values)
    else:
        field = next(field for field in fitted.fields if field.name == of)
        bins = _field_bins(field, part, values, fitted.vocabularies)
    mean, sd = _mean_and_sd(values) if isinstance(bins, NumberBins) else (None, None)
    return Shape(
        subject=subject,
        of=of,
        part=part,
        bins=bins,
        counts=(0,) * len(bins.labels),
        mean=mean,
        sd=sd,
        windows=dict.fromkeys(WINDOW_SECONDS),
    )


def _values(
    target: Target, fitted: FittedFields, specs: Sequence[MeasuredOutput], rows: _Rows
) -> FloatArray:
    """The values of one target that enter its shape, (n_entering,)."""
    subject, of, _ = target
    names = [field.name for field in fitted.fields], [spec.name for spec in measured(specs)]
    at = [i for i, name in enumerate(names[0]) if (subject, of) == ("field", name)]
    out = [i for i, name in enumerate(names[1]) if (subject, of) == ("output", name)]
    columns = Columns(
        [fitted.fields[i] for i in at], fitted.zones, [measured(specs)[i] for i in out]
    )
    values, enters = columns.read(
        rows.rows[:, at], rows.flags[:, at], rows.outputs[:, out], rows.is_model, rows.times
    )
    slot = columns.slots[target]
    return values[slot][enters[slot]]


def _field_bins(
    field: Field, part: Part, values: FloatArray, vocabularies: Mapping[str, Sequence[str]]
) -> Bins:
    if part == "hour":
        return HOUR_BINS
    if part == "weekday":
        return WEEKDAY_BINS
    if field.kind == "boolean":
        return BOOLEAN_BINS
    if field.kind == "category":
        vocabulary = vocabularies[field.name]
        counts = _code_counts(values, len(vocabulary))
        return category_bins(vocabulary, counts, sensitive=field.sensitive is not None)
    return number_bins(values)


def _output_bins(spec: MeasuredOutput, values: FloatArray) -> Bins:
    if spec.kind not in ("label", "class_probabilities"):
        return number_bins(values)
    classes = [class_text(name) for name in spec.classes or ()]
    return class_bins(classes, _code_counts(values, len(classes)))


def _code_counts(codes: FloatArray, n_codes: int) -> IntArray:
    """Rows with each known code, int64 (n_codes,)."""
    return np.bincount(codes.astype(np.int64), minlength=n_codes)[:n_codes]


def _mean_and_sd(values: FloatArray) -> tuple[float | None, float | None]:
    if not len(values):
        return None, None
    if values.min() == values.max():  # the sd computed would be a rounding error
        return float(values[0]), 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(values.mean()), float(values.std())
    return (mean, sd) if np.isfinite(mean) and np.isfinite(sd) else (None, None)


def _counted(
    drafts: Sequence[Shape], fitted: FittedFields, specs: Sequence[MeasuredOutput], rows: _Rows
) -> tuple[Shape, ...]:
    """The shapes with their counts, in all and by window."""
    measures = Measures(
        [measure_of(draft) for draft in drafts],
        fields=fitted.fields,
        zones=fitted.zones,
        outputs=specs,
    )
    hours = Hours.of(rows.times)
    hourly = np.zeros((len(hours.numbers), measures.n_bins), np.int64)
    for hour, part in enumerate(hours.slices()):
        hourly[hour] = _count(measures, rows.part(part))
    totals = hourly.sum(axis=0) + _count(measures, rows.part(slice(hours.n_rows, None)))
    parts = pairwise(measures.offsets.tolist())
    return tuple(
        _with_noise(draft, totals[first:end], hourly[:, first:end], hours)
        for draft, (first, end) in zip(drafts, parts, strict=True)
    )


def _count(measures: Measures, rows: _Rows) -> IntArray:
    """Rows in each bin, int64 (n_bins,), counted as a serving process does."""
    totals = np.zeros(measures.n_bins, np.int64)
    for start in range(0, len(rows), CHUNK_ROWS):
        some = rows.part(slice(start, start + CHUNK_ROWS))
        totals += measures.count(
            some.rows, some.flags, some.outputs, some.is_model, some.times
        ).bins
    return totals


def _with_noise(draft: Shape, totals: IntArray, hourly: IntArray, hours: Hours) -> Shape:
    windows = {
        length: window_noise(totals, hours.windows(hourly, length)) for length in WINDOW_SECONDS
    }
    return msgspec.structs.replace(draft, counts=tuple(totals.tolist()), windows=windows)
