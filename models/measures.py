"""Measures: what is counted of every row, in the bins fixed at training.

`Measures.count` is the fold of the serving process, and it built the training counts too: one rule
decides what enters a shape (`models/columns.py`) and one place which bin it falls into.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.fields import Field
from features.zones import Zone
from models.bins import NOT_COUNTED, QUANTILE_BINS, Bins, CodeBins, FloatArray, IntArray, NumberBins
from models.columns import (
    Columns,
    Flags,
    Marks,
    MeasuredOutput,
    OutputColumns,
    Target,
    measured,
)
from models.errors import BundleCorrupt
from models.shapes import Part, Shape, Subject
from models.vocabulary import TROUBLES

LARGEST_STANDARDIZED: Final = 1e6
"""Standardized values are cut here: one absurd value must not make a sum of weeks infinite."""


class HasShapes(Protocol):
    """The part of a reference that says what is counted."""

    @property
    def shapes(self) -> Sequence[Shape]:
        """Fields in row order, then outputs."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """One distribution that is counted, with its training counts.

    Attributes:
        name: `distance`, `sched_dep.lead`, `probability`: the `field` or `output` label of metrics.
        of: the field or output itself.
        labels: the `bin` label of each bin.
        counts: training rows in each bin, int64 (n_bins,).
        mean, sd: of the training values; 0 and 1 where `has_moments` is false.
    """

    subject: Subject
    name: str
    of: str
    part: Part
    bins: Bins
    labels: tuple[str, ...]
    counts: IntArray
    mean: float
    sd: float
    has_moments: bool

    @property
    def target(self) -> Target:
        """Where the values come from."""
        return self.subject, self.of, self.part


def measure_of(shape: Shape) -> Measure:
    """What to count for a shape of the reference; moments where it had any spread."""
    has_moments = shape.mean is not None and shape.sd is not None and _is_scale(shape.sd)
    return Measure(
        subject=shape.subject,
        name=shape.name,
        of=shape.of,
        part=shape.part,
        bins=shape.bins,
        labels=shape.bins.labels,
        counts=np.asarray(shape.counts, np.int64),
        mean=shape.mean if has_moments and shape.mean is not None else 0.0,
        sd=shape.sd if has_moments and shape.sd is not None else 1.0,
        has_moments=has_moments,
    )


def _is_scale(sd: float) -> bool:
    """Whether values can be measured in it: not 0, and squares neither vanish nor overflow."""
    return 1e-140 < sd < 1e140


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Counts of some rows; those of several sets of rows add up.

    Attributes:
        bins: rows in each bin of each measure, int64 (n_bins,), laid out by `Measures.offsets`.
        moments: of the standardized values of `Measures.with_moments`, float64 (len, 4): sum of the
            positive ones, of the negative ones (as a positive number), of the squares of either.
        quality: values of each field with each of `vocabulary.TROUBLES`, int64 (n_fields, 4).
    """

    bins: IntArray
    moments: FloatArray
    quality: IntArray


class Measures:
    """Everything counted for one bundle. Immutable; any thread may call any method.

    Attributes:
        measures: in the order of the reference: fields first, then outputs.
        offsets: where each measure's bins begin in `Counted.bins`, and the end, int64
            (n_measures + 1,).
        n_bins: bins of all measures together.
        n_fields: F, columns of encoded rows.
        n_outputs: O, columns of `output_columns`.
        with_moments: indices into `measures`, one a row of `Counted.moments`.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        *,
        fields: Sequence[Field],
        zones: Mapping[str, Zone],
        outputs: Sequence[MeasuredOutput],
    ) -> None:
        self.measures = tuple(measures)
        self.offsets: IntArray = np.cumsum([0, *(len(m.labels) for m in measures)], dtype=np.int64)
        self.n_bins = int(self.offsets[-1])
        self.n_fields = len(fields)
        self.n_outputs = len(measured(outputs))
        self.with_moments = tuple(i for i, m in enumerate(self.measures) if m.has_moments)
        self._columns = Columns(fields, zones, outputs)
        self._output_columns = OutputColumns(outputs)
        slots = [self._columns.slots[m.target] for m in self.measures]
        self._binning = _Binning(self.measures, slots, self.offsets)
        self._moments = _Moments(self.measures, slots)
        self._stand_ins = np.zeros((self._columns.n_slots, 1))
        self._stand_ins[slots, 0] = [m.mean for m in self.measures]

    @classmethod
    def from_reference(
        cls,
        fields: Sequence[Field],
        vocabularies: Mapping[str, Sequence[str]],
        zones: Mapping[str, Zone],
        outputs: Sequence[MeasuredOutput],
        reference: HasShapes,
    ) -> "Measures":
        """What the reference of a bundle says is counted, over the rows of that bundle.

        Raises:
            BundleCorrupt: the reference measures a field or output that the bundle does not have,
                or has bins of another vocabulary.
        """
        _check(fields, vocabularies, outputs, reference.shapes)
        measures = [measure_of(shape) for shape in reference.shapes]
        return cls(measures, fields=fields, zones=zones, outputs=outputs)

    def count(
        self,
        rows: FloatArray,
        flags: Flags,
        outputs: FloatArray,
        is_model: Marks,
        arrived: FloatArray,
    ) -> Counted:
        """Counts n rows; best some hundreds at a time, so that all of it stays in the cache.

        Args:
            rows: encoded rows, float64 (n, F).
            flags: of each value, uint8 (n, F).
            outputs: from `output_columns`, float64 (n, O); anything where `is_model` is false.
            is_model: whether the model's own answer was given, bool (n,).
            arrived: when each row came, epoch seconds, float64 (n,); in training its time column,
                NaN where it has none.
        """
        values, enters = self._columns.read(rows, flags, outputs, is_model, arrived)
        left_out = np.logical_not(enters)
        np.copyto(values, self._stand_ins, where=left_out)  # finite, and nothing to any sum
        bins = self._binning.count(values, left_out)
        return Counted(bins, self._moments.sums(values), count_troubles(flags))

    def output_columns(self, values: Sequence[Any]) -> FloatArray:
        """One float64 column for each measured output: float64 (n, O).

        Args:
            values: one array or list an output of the manifest, in its order; None where a row has
                none.

        Probabilities and values are taken as they are, labels and class probabilities become the
        index of their class (`len(classes)` for a label that is none of them); vectors are not
        measured.
        """
        return self._output_columns.read(values)


def count_troubles(flags: Flags) -> IntArray:
    """Values with each trouble, from uint8 (n, F) to int64 (F, 4).

    A flag that is none of the troubles' marks a value that is not there to be judged.
    """
    n_fields, n_flags = flags.shape[1], len(TROUBLES) + 1
    # In uint8, 0 less 1 is 255: ok is out of range like any flag beyond the troubles.
    where = np.flatnonzero(flags - np.uint8(1) < len(TROUBLES))  # few; the rest is done on them
    if not len(where):
        return np.zeros((n_fields, len(TROUBLES)), np.int64)
    cells = (where % n_fields) * n_flags + flags.ravel()[where]
    counts = np.bincount(cells, minlength=n_fields * n_flags)
    return counts.reshape(n_fields, n_flags)[:, 1:]


class _Numbers:
    """Bins of numbers, all at once: how many edges of its measure each value is above.

    Over a few hundred rows comparing with every edge takes a fifth of the time of a binary search
    for each value, whose branches no processor can guess (24 fields, 512 rows: 59 against 321 µs).

    Attributes:
        slots: rows of the values it bins.
    """

    def __init__(self, wanted: Sequence[tuple[int, int, NumberBins]]) -> None:
        self.slots = np.array([slot for slot, _, _ in wanted], np.intp)
        self._offsets = _column([offset for _, offset, _ in wanted], np.int64)
        height = max((len(bins.edges) for _, _, bins in wanted), default=0)
        self._edges = np.full((height, len(wanted), 1), np.inf)  # nothing is above the padding
        for position, (_, _, bins) in enumerate(wanted):
            self._edges[: len(bins.edges), position, 0] = bins.edges

    def place(self, values: FloatArray, out: IntArray) -> None:
        """Puts positions in all bins, int64 (n_numbers, n), of values (n_slots, n) into `out`."""
        above = (values[self.slots] > self._edges).view(np.uint8)
        np.add(np.add.reduce(above, axis=0, dtype=np.uint8), self._offsets, out=out)


class _Codes:
    """Bins of all codes at once: their tables stand one after another, with positions in all bins.

    Attributes:
        slots: rows of the values it bins.
    """

    def __init__(self, wanted: Sequence[tuple[int, int, CodeBins]], *, not_counted: int) -> None:
        self.slots = np.array([slot for slot, _, _ in wanted], np.intp)
        sizes = [len(bins.bin_of_code) for _, _, bins in wanted]
        self._highest = _column([size - 1 for size in sizes], np.float64)
        self._starts = _column([0, *np.cumsum(sizes)[:-1]] if sizes else [], np.int64)
        self._table = np.array(
            [
                not_counted if position == NOT_COUNTED else offset + position
                for _, offset, bins in wanted
                for position in bins.bin_of_code
            ],
            np.int64,
        )

    def place(self, values: FloatArray, out: IntArray) -> None:
        """Puts positions in all bins, int64 (n_codes, n), of values (n_slots, n) into `out`."""
        codes = np.minimum(np.maximum(values[self.slots], 0.0), self._highest)
        np.take(self._table, codes.astype(np.int64) + self._starts, out=out, mode="clip")


class _Binning:
    """Counts rows in the bins of all measures."""

    def __init__(
        self, measures: Sequence[Measure], slots: Sequence[int], offsets: IntArray
    ) -> None:
        self._n_bins = int(offsets[-1])
        placed = list(zip(slots, offsets[:-1].tolist(), (m.bins for m in measures), strict=True))
        numbers = [(s, o, bins) for s, o, bins in placed if isinstance(bins, NumberBins)]
        codes = [(s, o, bins) for s, o, bins in placed if isinstance(bins, CodeBins)]
        # Discrete numbers have up to twice the edges of deciles: apart, they do not pad the others.
        self._groups = [
            _Numbers([n for n in numbers if len(n[2].edges) <= QUANTILE_BINS]),
            _Numbers([n for n in numbers if len(n[2].edges) > QUANTILE_BINS]),
            _Codes(codes, not_counted=self._n_bins),
        ]
        self._slots = np.concatenate([group.slots for group in self._groups])

    def count(self, values: FloatArray, left_out: Marks) -> IntArray:
        """Rows in each bin, int64 (n_bins,), of finite values (n_slots, n)."""
        positions = np.empty((len(self._slots), values.shape[1]), np.int64)
        start = 0
        for group in self._groups:
            stop = start + len(group.slots)
            group.place(values, positions[start:stop])
            start = stop
        # What is left out falls into one bin more, which is cut off.
        np.copyto(positions, self._n_bins, where=left_out[self._slots])
        return np.bincount(positions.ravel(), minlength=self._n_bins + 1)[: self._n_bins]


class _Moments:
    """Sums of standardized values, by sign: a counter never goes down, and a signed sum would."""

    def __init__(self, measures: Sequence[Measure], slots: Sequence[int]) -> None:
        wanted = [(slot, m) for slot, m in zip(slots, measures, strict=True) if m.has_moments]
        self._slots = np.array([slot for slot, _ in wanted], np.intp)
        self._means = _column([m.mean for _, m in wanted], np.float64)
        self._sds = np.array([m.sd for _, m in wanted])
        reach = LARGEST_STANDARDIZED * self._sds[:, None]
        self._low, self._high = self._means - reach, self._means + reach

    def sums(self, values: FloatArray) -> FloatArray:
        """Float64 (n_with_moments, 4) of finite values (n_slots, n)."""
        distance = np.minimum(np.maximum(values[self._slots], self._low), self._high)
        distance -= self._means
        above, below = np.maximum(distance, 0.0), np.minimum(distance, 0.0)
        ones = np.ones(values.shape[1])
        sums = np.empty((len(self._slots), 4))
        sums[:, 0] = np.vecdot(above, ones) / self._sds
        sums[:, 1] = np.vecdot(below, ones) / -self._sds
        sums[:, 2] = np.vecdot(above, above) / self._sds**2
        sums[:, 3] = np.vecdot(below, below) / self._sds**2
        return sums


def _column(values: Sequence[Any], dtype: type) -> NDArray[Any]:
    """An array (n, 1): one number for each row of a table of values."""
    return np.array(values, dtype).reshape(-1, 1)


def _check(
    fields: Sequence[Field],
    vocabularies: Mapping[str, Sequence[str]],
    outputs: Sequence[MeasuredOutput],
    shapes: Sequence[Shape],
) -> None:
    """Refuses a reference that is of another bundle."""
    of_fields = [shape for shape in shapes if shape.subject == "field"]
    of_outputs = [shape for shape in shapes if shape.subject == "output"]
    if [*of_fields, *of_outputs] != list(shapes):
        raise _corrupt("has outputs before fields")
    if repeated := {s.name for s in of_fields if sum(t.name == s.name for t in of_fields) > 1}:
        raise _corrupt(f"has several shapes of {sorted(repeated)}")
    known = {field.name: field for field in fields}
    if foreign := sorted({shape.of for shape in of_fields} - set(known)):
        raise _corrupt(f"measures {foreign}, which are no fields of this bundle")
    for shape in of_fields:
        _check_bins(shape, _n_codes(known[shape.of], shape.part, vocabularies))
    wanted = measured(outputs)
    if [shape.of for shape in of_outputs] != [output.name for output in wanted]:
        raise _corrupt(f"measures other outputs than {[output.name for output in wanted]}")
    for shape, output in zip(of_outputs, wanted, strict=True):
        is_class = output.kind in ("label", "class_probabilities")
        _check_bins(shape, len(output.classes or ()) + 1 if is_class else None)


def _n_codes(field: Field, part: Part, vocabularies: Mapping[str, Sequence[str]]) -> int | None:
    """How many codes the measured values of a field have; None for numbers."""
    if field.kind == "category":
        return len(vocabularies[field.name]) + 2
    if field.kind == "boolean":
        return 2
    return {"hour": 24, "weekday": 7}.get(part)


def _check_bins(shape: Shape, n_codes: int | None) -> None:
    has = len(shape.bins.bin_of_code) if isinstance(shape.bins, CodeBins) else None
    if has != n_codes:
        raise _corrupt(f"has bins of {has} codes for {shape.name!r}, expected {n_codes}")


def _corrupt(what: str) -> BundleCorrupt:
    return BundleCorrupt(
        f"reference.json {what}. It was made for another model or altered; "
        "use the bundle as it was packed, or pack it again"
    )
