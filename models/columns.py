"""What of a row is measured, and which of it enters a shape: values, leads, hours, weekdays."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features.fields import OK, OUT_OF_BOUNDS, UNKNOWN, Field
from features.zones import Zone
from models.bins import FloatArray
from models.shapes import Part, Subject

Flags = NDArray[np.uint8]
Marks = NDArray[np.bool_]

UTC: Final = Zone("UTC", (), (0,))

_CLOCK_PARTS: Final[tuple[Part, ...]] = ("lead", "hour", "weekday")
_MONDAY: Final = 3
"""Days from 1970-01-01, a Thursday, back to its Monday."""


class MeasuredOutput(Protocol):
    """What counting needs to know of an output of the manifest."""

    @property
    def name(self) -> str:
        """Name of the output."""
        ...

    @property
    def kind(self) -> str:
        """One of `vocabulary.OUTPUT_KINDS`."""
        ...

    @property
    def classes(self) -> Sequence[Any] | None:
        """Its classes, in the order of their probabilities."""
        ...


Target = tuple[Subject, str, Part]
"""One thing to measure: a field or an output, its name, and what of it."""


def targets(
    fields: Sequence[Field], outputs: Sequence[MeasuredOutput], *, time_field: str | None
) -> list[Target]:
    """Everything measured of a bundle: fields in row order, then outputs.

    A timestamp is never measured by its value: every later month would be drift. Its lead is left
    out where there is no time column to measure it from, and of the field that is the time column.

    Args:
        fields: of the encoded rows.
        outputs: of the manifest.
        time_field: the time column of the training table, a field or not; None without one.
    """
    wanted: list[Target] = [
        ("field", field.name, part) for field in fields for part in _parts(field, time_field)
    ]
    wanted.extend(("output", output.name, "value") for output in measured(outputs))
    return wanted


def _parts(field: Field, time_field: str | None) -> tuple[Part, ...]:
    if field.kind != "timestamp":
        return ("value",)
    if time_field in (None, field.name):
        return ("hour", "weekday")
    return _CLOCK_PARTS


def measured(outputs: Sequence[MeasuredOutput]) -> list[MeasuredOutput]:
    """The outputs that have a distribution: neither vectors nor labels of unlisted classes."""
    return [output for output in outputs if output.kind != "vector" and _has_values(output)]


def _has_values(output: MeasuredOutput) -> bool:
    return bool(output.classes) or output.kind not in ("label", "class_probabilities")


class Columns:
    """Reads what is measured from encoded rows and outputs, by the one rule of what enters a shape.

    A field's value enters when its flag is ok or unknown, and also when it is out of bounds and the
    field keeps such values; missing and invalid values, and those that were replaced, do not. An
    output enters when the model itself gave the answer: what a lower rung says would look like
    drift. What is not finite never enters.

    Attributes:
        slots: where each target is found in what `read` returns; everything that could be measured
            has a slot, whether a reference asks for it or not.
        n_slots: S.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        zones: Mapping[str, Zone],
        outputs: Sequence[MeasuredOutput],
    ) -> None:
        self.slots: dict[Target, int] = {}
        for position, field in enumerate(fields):
            self.slots["field", field.name, "value"] = position
        self._n_fields = len(fields)
        self._clocks: list[tuple[int, _Clock]] = []
        for position, field in enumerate(fields):
            if field.kind == "timestamp":
                self._add_clock(position, field, zones)
        self._outputs_from = len(self.slots)
        for output in measured(outputs):
            self.slots["output", output.name, "value"] = len(self.slots)
        self.n_slots = len(self.slots)
        keeps = np.array([field.out_of_bounds == "keep" for field in fields], np.bool_)
        self._keeps = keeps if keeps.any() else None

    def _add_clock(self, position: int, field: Field, zones: Mapping[str, Zone]) -> None:
        for part in _CLOCK_PARTS:
            self.slots["field", field.name, part] = len(self.slots)
        self._clocks.append((position, _Clock(UTC if field.tz is None else zones[field.tz])))

    def read(
        self,
        rows: FloatArray,
        flags: Flags,
        outputs: FloatArray,
        is_model: Marks,
        arrived: FloatArray,
    ) -> tuple[FloatArray, Marks]:
        """Measured values, float64 (S, n), and which of them enter, bool (S, n).

        Arguments are those of `Measures.count`.
        """
        values = np.empty((self.n_slots, len(rows)))
        enters = np.empty(values.shape, np.bool_)
        values[: self._n_fields] = rows.T
        values[self._outputs_from :] = outputs.T
        enters[: self._n_fields] = self._may_enter(flags).T
        enters[self._outputs_from :] = is_model
        slot = self._n_fields
        for position, clock in self._clocks:
            part = slice(slot, slot + len(_CLOCK_PARTS))
            clock.read(values[position], arrived, out=values[part])
            enters[part] = enters[position]
            slot = part.stop
        enters &= np.isfinite(values)
        return values, enters

    def _may_enter(self, flags: Flags) -> Marks:
        marks = (flags == OK) | (flags == UNKNOWN)
        if self._keeps is not None:
            marks |= (flags == OUT_OF_BOUNDS) & self._keeps
        return marks


class _Clock:
    """Lead, hour and weekday of timestamps in one zone."""

    def __init__(self, zone: Zone) -> None:
        self._transitions = np.asarray(zone.transitions, np.float64)
        self._offsets = np.asarray(zone.offsets, np.float64)

    def read(self, utc: FloatArray, arrived: FloatArray, *, out: FloatArray) -> None:
        """Fills float64 (3, n) with seconds from arrival, hour 0-23 and weekday, 0 for Monday."""
        local = utc + self._offsets[self._transitions.searchsorted(utc, side="right")]
        # Floors instead of remainders: np.remainder takes five times as long.
        days = np.floor(local / 86_400)
        np.subtract(utc, arrived, out=out[0])
        np.floor((local - days * 86_400) / 3_600, out=out[1])
        np.subtract(days + _MONDAY, np.floor((days + _MONDAY) / 7) * 7, out=out[2])


Read = Callable[[Any], FloatArray]
"""One output's answers for n rows, an array or a list with None, to float64 (n,)."""


class OutputColumns:
    """Turns the answers of a model into columns that can be counted."""

    def __init__(self, outputs: Sequence[MeasuredOutput]) -> None:
        kept = {output.name for output in measured(outputs)}
        self._reads: list[tuple[int, Read]] = [
            (position, _reader(output))
            for position, output in enumerate(outputs)
            if output.name in kept
        ]

    def read(self, values: Sequence[Any]) -> FloatArray:
        """Answers, one array or list an output of the manifest, to float64 (n, n_measured)."""
        columns = [read(values[position]) for position, read in self._reads]
        if len(columns) == 1:  # almost every model
            return columns[0].reshape(-1, 1)
        return np.column_stack(columns) if columns else np.empty((len(values[0]), 0))


def _reader(output: MeasuredOutput) -> Read:
    if output.kind == "class_probabilities":
        return _most_probable
    if output.kind == "label":
        classes = output.classes or ()
        return partial(_class_index, index={name: code for code, name in enumerate(classes)})
    return _number


def _number(values: Any) -> FloatArray:
    return np.asarray(values, np.float64).reshape(-1)  # (n,) or (n, 1); None becomes NaN


def _most_probable(values: Any) -> FloatArray:
    if not isinstance(values, np.ndarray):  # a lower rung may leave a row's probabilities null
        return np.array([np.nan if row is None else np.argmax(row) for row in values], np.float64)
    return values.argmax(axis=1).astype(np.float64) if len(values) else np.empty(0)


def _class_index(values: Any, index: Mapping[Any, int]) -> FloatArray:
    texts = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    return np.array([index.get(value, len(index)) for value in texts], np.float64)
