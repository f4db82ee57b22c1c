"""Where the counters of one bundle lie in memory, the same in every process that has the bundle."""

import hashlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.measures import Measures
from models.vocabulary import OUTCOMES, REASONS, RUNGS, STAGES, TROUBLES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

STAGE_BOUNDS: Final = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 0.01, 0.05, 0.25)
"""Upper bounds of the stage histograms, in seconds: a request takes 20–80 µs."""

TOTAL_BOUNDS: Final = (*STAGE_BOUNDS, 1.0, 2.5)
"""Upper bounds of the request histogram, in seconds; the bundle's objective joins them."""

NO_CODE: Final = 255
"""The code of a row that has no reason, or no decision."""

Note = tuple[str, ...]
"""Something that few rows have: what it is, and the values of its metric's labels."""

LINE_BYTES: Final = 64
PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = 6 * LINE_BYTES
STANDING_AT: Final = 3 * LINE_BYTES // 8
"""The first word of the header's last lines: how breaker and runner stand (`server.standing`)."""

SHADOW_WORDS: Final = 6 + len(OUTCOMES)
"""What is counted of a shadow beside its histograms and bins, see `server.shadow_counters`."""

BATCH_BOUNDS: Final = tuple(1 << power for power in range(9))
"""Upper bounds of the histogram of rows a run: 1, 2, 4, ... 256."""

DIFFERENCE_BOUNDS: Final = (0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histogram of how far a shadow's answers are from live's."""


class Family(NamedTuple):
    """Where the counts of a family lie within a copy of the totals."""

    at: slice
    shape: tuple[int, ...]


class Place(NamedTuple):
    """Where an array lies in a region: bytes from its start."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class Layout:
    """Where everything of one bundle's region lies.

    Args:
        model: name of the bundle, as its series carry it.
        version: version of the bundle.
        field_names: its fields, in row order.
        measures: what is counted of its rows.
        decisions: its decisions; a decision's index is its code in the ring.
        notes: what few of its rows have; a note's index is its bit in the ring.
        objective_seconds: its promise on latency, which becomes a bound of the request histogram.
        ring_rows: rows that the ring holds, a power of two.

    Raises:
        ValueError: more decisions than codes, or a ring of another size.

    A file may hold a part for each worker slot: slot i begins at `layout.part(i)`.
    """

    def __init__(
        self,
        model: str,
        version: str,
        *,
        field_names: Sequence[str],
        measures: Measures,
        decisions: Sequence[str] = (),
        notes: Sequence[Note] = (),
        objective_seconds: float | None = None,
        ring_rows: int = 4096,
    ) -> None:
        if ring_rows < 2 or ring_rows & (ring_rows - 1):
            raise ValueError(f"ring_rows is {ring_rows}, expected a power of two such as 4096")
        if len(decisions) >= NO_CODE:
            raise ValueError(
                f"bundle '{model}/{version}' has {len(decisions)} decisions, expected at most 254: "
                "a decision is one byte of the ring. Leave decisions out and publish the score"
            )
        self.model = model
        self.version = version
        self.field_names = tuple(field_names)
        self.measures = measures
        self.decisions = tuple(decisions)
        self.notes = tuple(notes)
        self.ring_rows = ring_rows
        self.stage_bounds = STAGE_BOUNDS
        self.total_bounds = _with_objective(TOTAL_BOUNDS, objective_seconds)
        self.bounds_ns: Ints = np.array([round(b * 1e9) for b in self.total_bounds], np.int64)
        self.stage_bucket_starts = _bucket_starts(self.stage_bounds, self.total_bounds)
        self.families, self.n_counts = _families(self._family_shapes())
        self.nobody_named = self._nobody_named()
        fields = [m for m in measures.measures if m.subject == "field"]
        self.first_output_bin = int(measures.offsets[len(fields)])
        self.places, self.n_bytes = _places(self._array_shapes())
        self.fingerprint = self._fingerprint()

    def part(self, slot: int) -> int:
        """Where the part of worker slot `slot` begins in a file of `n_bytes` a slot."""
        return slot * self.n_bytes

    def _family_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "outcomes": (len(OUTCOMES),),
            "fallbacks": (len(RUNGS), len(REASONS)),
            "decisions": (len(self.decisions),),
            "extra_keys": (1,),
            "total_buckets": (len(self.total_bounds) + 1,),
            "stage_buckets": (len(STAGES), len(self.stage_bounds) + 1),
            "durations_ns": (len(STAGES) + 1,),
            "quality": (len(self.field_names), len(TROUBLES)),
            "bins": (self.measures.n_bins,),
            "notes": (len(self.notes),),
            "deadline_missed": (1,),
            "late_requests": (1,),
            "squares": (1,),
            "last_request": (2,),
            "named_outcomes": (len(OUTCOMES),),
            "named_fallbacks": (len(RUNGS), len(REASONS)),
            "named_buckets": (len(self.total_bounds) + 1,),
            "named_bins": (self.measures.n_bins,),
            "named_squares": (1,),
        }

    def _nobody_named(self) -> dict[str, Ints]:
        """Counts of rows of which no request named the version, as almost always."""
        families = self.families.items()
        named = {name: shape for name, (_, shape) in families if name.startswith("named")}
        return {name: np.zeros(shape, np.int64) for name, shape in named.items()}

    def _array_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        ring, n_fields = self.ring_rows, len(self.field_names)
        return {
            "counts": ((2, self.n_counts), "i8"),
            "moments": ((2, len(self.measures.with_moments), 4), "f8"),
            "rows": ((ring, n_fields), "f8"),
            "outputs": ((ring, self.measures.n_outputs), "f8"),
            "arrived": ((ring,), "f8"),
            "request": ((ring, len(STAGES) + 2), "i8"),
            "flags": ((ring, n_fields), "u1"),
            "outcome": ((ring,), "u1"),
            "reason": ((ring,), "u1"),
            "decision": ((ring,), "u1"),
            "notes": ((ring, note_bytes(len(self.notes))), "u1"),
            "shadow": ((self._shadow_words(),), "i8"),
            "shadow_difference": ((1,), "f8"),
        }

    def _shadow_words(self) -> int:
        """What `server.shadow_counters` needs: some words, two histograms, the bins of outputs."""
        histograms = len(self.total_bounds) + 1 + len(DIFFERENCE_BOUNDS) + 1
        return SHADOW_WORDS + histograms + self.measures.n_bins - self.first_output_bin

    def _fingerprint(self) -> int:
        """What two layouts must have in common to share memory: 63 bits of a digest."""
        names = (self.model, self.version, self.field_names, self.decisions, self.total_bounds)
        measured = [(m.subject, m.name, m.labels, m.has_moments) for m in self.measures.measures]
        whole = (names, measured, self.notes, self.places)
        digest = hashlib.sha256(repr(whole).encode("utf-8", "replace"))
        return int.from_bytes(digest.digest()[:8], "little") >> 1


def _with_objective(bounds: tuple[float, ...], objective: float | None) -> tuple[float, ...]:
    return bounds if objective is None else tuple(sorted({*bounds, objective}))


def _bucket_starts(bounds: tuple[float, ...], finer: tuple[float, ...]) -> list[int]:
    """Which finer bucket each bucket begins with; the last one is open."""
    return [0, *(finer.index(bound) + 1 for bound in bounds)]


def _families(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Family], int]:
    """Lays families out one after the other; with the number of counts."""
    families: dict[str, Family] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape)
        families[name] = Family(slice(start, end), shape)
    return families, end


def _places(shapes: dict[str, tuple[tuple[int, ...], str]]) -> tuple[dict[str, Place], int]:
    """Lays arrays out behind the header, each from a cache line on; with the bytes of the whole.

    The whole is full pages: parts of several workers share none.
    """
    places: dict[str, Place] = {}
    end = HEADER_BYTES
    for name, (shape, dtype) in shapes.items():
        places[name] = Place(end, shape, dtype)
        end = _rounded_up(end + math.prod(shape) * int(dtype[1:]), LINE_BYTES)
    return places, _rounded_up(end, PAGE_BYTES)


def note_bytes(n_notes: int) -> int:
    """Bytes that hold a bit for each note; at least one, because an array of none has no memory."""
    return max(1, -(-n_notes // 8))


def _rounded_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
