"""What a model answers: its outputs for n rows, when they are valid, and the decision they mean."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from models.manifest import Decision, OutputSpec
from models.vocabulary import OUTPUT_TROUBLES

NOT_FINITE, OUT_OF_RANGE = OUTPUT_TROUBLES
LARGEST: Final = float(np.finfo(np.float64).max)
FEW_ROWS: Final = 16
"""Up to here plain Python beats numpy's cost per call (measured: 1 row 0.2 µs against 6)."""
NO_DECISION: Final = 255
MOST_DECISIONS: Final = 254
"""A decision's code is one byte, of which one means none."""


@dataclass(slots=True)
class ModelOutputs:
    """What one run gave. Rows of all arrays are the rows that were sent, in their order.

    Attributes:
        values: one array per output of the manifest, (n,) or (n, width).
        features: float32 (n, K); None for a tensor bundle.
        checks: bool (n, C), true where the check holds; None without checks.
    """

    values: list[NDArray[Any]]
    features: NDArray[np.float32] | None = None
    checks: NDArray[np.bool_] | None = None

    def part(self, start: int, stop: int) -> "ModelOutputs":
        """The rows of one request of a shared run."""
        return ModelOutputs(
            [column[start:stop] for column in self.values],
            None if self.features is None else self.features[start:stop],
            None if self.checks is None else self.checks[start:stop],
        )

    def same_bits(self, other: "ModelOutputs") -> bool:
        """Whether every value has the same bits; texts are compared as texts."""
        mine, others = self.arrays(), other.arrays()
        return len(mine) == len(others) and all(
            a.shape == b.shape and bits(a) == bits(b) for a, b in zip(mine, others, strict=True)
        )

    def arrays(self) -> list[NDArray[Any]]:
        """All there are: values, features, checks."""
        rest = (self.features, self.checks)
        return [*self.values, *(array for array in rest if array is not None)]


def bits(array: NDArray[Any]) -> Any:
    """What two arrays must share to be the same to the bit."""
    return array.tolist() if array.dtype.kind == "O" else array.tobytes()


class ValidRange:
    """Tells which rows of an output may be given: finite, and within the manifest's range."""

    __slots__ = ("high", "is_number", "low")

    def __init__(self, spec: OutputSpec) -> None:
        # Infinite bounds would let infinite answers through.
        self.low = -LARGEST if spec.low is None else spec.low
        self.high = LARGEST if spec.high is None else spec.high
        self.is_number = len(spec.shape) == 1

    def all_hold(self, column: NDArray[Any], answers: list[Any]) -> bool:
        """Whether all rows are valid; `answers` is `column.tolist()`."""
        low, high = self.low, self.high
        if self.is_number and len(answers) <= FEW_ROWS:
            # A loop with a return: `all` would make a generator, 0.3 µs of the ladder's 1.
            for answer in answers:  # noqa: SIM110
                if not low <= answer <= high:
                    return False
            return True
        return not len(column) or (low <= float(column.min()) and float(column.max()) <= high)

    def invalid_rows(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a row is not valid; bool (n,)."""
        # In float64: numpy would round the bounds to the column's float32, and the largest to
        # infinity.
        exact = column.astype(np.float64)
        valid = (exact >= self.low) & (exact <= self.high)
        return _any_per_row(~valid)


class Invalid(NamedTuple):
    """Why a row may not be given: an output's place, and one of `OUTPUT_TROUBLES`."""

    output: int
    trouble: str


class Validity:
    """Tells which rows may be given, all outputs of a bundle considered; a label always may."""

    __slots__ = ("_ranges",)

    def __init__(self, outputs: Sequence[OutputSpec]) -> None:
        self._ranges = tuple(
            (place, ValidRange(spec)) for place, spec in enumerate(outputs) if spec.kind != "label"
        )

    def all_hold(self, outputs: ModelOutputs, values: Sequence[list[Any]]) -> bool:
        """Whether all rows are valid; `values` are the outputs' columns as lists."""
        for place, valid in self._ranges:
            answers = values[place]
            if len(answers) == 1 and valid.is_number:
                if not valid.low <= answers[0] <= valid.high:
                    return False
            elif not valid.all_hold(outputs.values[place], answers):
                return False
        return True

    def invalid(self, outputs: ModelOutputs) -> dict[int, Invalid]:
        """Rows that may not be given, and the first output for which."""
        found: dict[int, Invalid] = {}
        for place, valid in self._ranges:
            column = outputs.values[place]
            for row in np.flatnonzero(valid.invalid_rows(column)).tolist():
                trouble = OUT_OF_RANGE if np.isfinite(column[row]).all() else NOT_FINITE
                found.setdefault(row, Invalid(place, trouble))
        return found


def check_answer(spec: OutputSpec, value: Any) -> None:
    """Refuses what is no valid answer of an output; owners write such in place of a model's.

    `class_probabilities` may be None: a rule need not have an opinion on every class.

    Raises:
        ValueError: another type, shape or class, not finite, or out of the valid range.
    """
    if spec.kind == "label":
        _check_label(spec, value)
    elif value is not None or spec.kind != "class_probabilities":
        _check_numbers(spec, value)


def _check_label(spec: OutputSpec, value: Any) -> None:
    kinds = {"string": str, "bool": bool, "int64": int}
    if type(value) is not kinds.get(spec.dtype, type(value)):
        raise ValueError(f"output {spec.name!r}: {value!r} is not a label of type {spec.dtype}")
    if spec.classes and value not in spec.classes:
        raise ValueError(
            f"output {spec.name!r}: {value!r} is none of its classes {list(spec.classes)}"
        )


def _check_numbers(spec: OutputSpec, value: Any) -> None:
    shape = spec.shape[1:]
    if not all(type(number) in (int, float) for number in _flat(value)):
        raise ValueError(f"output {spec.name!r}: {value!r} is not a number, or a list of numbers")
    try:
        column = np.asarray([value], np.float64)
    except (ValueError, OverflowError):  # ragged, or an integer beyond float64
        column = np.empty(0)
    fits = column.size and column.ndim == len(spec.shape)
    fits = fits and all(
        wanted in (-1, size) for wanted, size in zip(shape, column.shape[1:], strict=True)
    )
    if not fits or ValidRange(spec).invalid_rows(column)[0]:
        raise ValueError(
            f"output {spec.name!r}: {value!r} is not a valid answer of shape {list(shape)}, "
            f"finite, from {spec.low} to {spec.high}"
        )


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in cast("Sequence[Any]", value):
            yield from _flat(item)
    else:
        yield value


class Decisions:
    """The manifest's decision: named thresholds of the primary output, or its classes.

    `names` are all decisions there are, in the order of their codes; empty when none is declared.
    """

    __slots__ = ("_code_of", "_edges", "_texts", "names")

    def __init__(self, primary: OutputSpec, decision: Decision) -> None:
        self._edges: list[float] = []
        self._code_of: dict[Any, int] = {}
        self.names: tuple[str, ...] = ()
        if decision == "classes":
            classes = primary.classes or ()
            self.names = tuple(class_text(name) for name in classes)
            self._code_of = {name: code for code, name in enumerate(classes)}
        elif decision is not None:
            self._edges = [step.below for step in decision if step.below is not None]
            self.names = tuple(step.name for step in decision)
        self._texts = (*self.names, *[None] * (NO_DECISION + 1 - len(self.names)))

    def codes(self, primary: Sequence[Any]) -> list[int]:
        """A code for each answer of the primary output; 255 where none is declared."""
        edges = self._edges
        if edges:
            if len(primary) == 1:  # the usual request: a comprehension is a call
                return [bisect_right(edges, primary[0])]
            return [bisect_right(edges, answer) for answer in primary]
        if self._code_of:
            code_of = self._code_of
            return [code_of.get(answer, NO_DECISION) for answer in primary]
        return [0 if self.names else NO_DECISION] * len(primary)

    def codes_of(self, primary: NDArray[Any]) -> NDArray[np.uint8]:
        """`codes` for many rows at once; uint8 (n,)."""
        if self._edges:
            return np.searchsorted(self._edges, primary, side="right").astype(np.uint8)
        return np.asarray(self.codes(primary.tolist()), np.uint8)

    def near_edge(self, spec: OutputSpec, primary: NDArray[Any]) -> NDArray[np.bool_]:
        """Rows of the primary output within its tolerance of a threshold; bool (n,)."""
        if not self._edges:
            return np.zeros(len(primary), np.bool_)
        distance = np.abs(primary[:, None].astype(np.float64) - np.asarray(self._edges))
        return _any_per_row(distance <= allowed(spec, primary)[:, None])

    def named(self, codes: Sequence[int]) -> list[str | None]:
        """The texts of codes; None for no decision."""
        if len(codes) == 1:
            return [self._texts[codes[0]]]
        return [self._texts[code] for code in codes]


def class_text(name: Any) -> str:
    """A class as a decision's name: `true` rather than Python's `True`."""
    return str(name).lower() if isinstance(name, bool) else str(name)


def allowed(spec: OutputSpec, expected: NDArray[Any]) -> NDArray[np.float64]:
    """How far each value of a numeric output may be from `expected`; the same shape."""
    tolerance = spec.tolerance
    if not tolerance.ulps:
        return np.full(expected.shape, tolerance.absolute)
    with np.errstate(invalid="ignore", over="ignore"):
        ulp = np.spacing(np.abs(expected.astype(np.float32))).astype(np.float64)
    return np.maximum(tolerance.absolute, tolerance.ulps * ulp)


def differing_rows(
    spec: OutputSpec, expected: NDArray[Any], got: NDArray[Any]
) -> NDArray[np.bool_]:
    """Rows of an output that differ by more than its tolerance; NaN equals NaN; bool (n,)."""
    if spec.kind == "label" or spec.dtype in ("string", "bool"):
        return np.asarray(expected != got, np.bool_).reshape(len(expected))
    if expected.shape != got.shape:
        return np.ones(len(expected), np.bool_)
    wanted, answered = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        close = np.abs(wanted - answered) <= allowed(spec, expected)
    same = (wanted == answered) | (np.isnan(wanted) & np.isnan(answered))
    return _any_per_row(~(close | same))


def _any_per_row(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.reduce(cells.reshape(len(cells), -1), axis=1)
