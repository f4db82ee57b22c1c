"""Rows as they lie in a ring, and what is counted of them in every family."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.measures import Counted
from models.vocabulary import OUTCOMES, REASONS, RUNGS
from server.layout import Bytes, Floats, Ints, Layout

NOTED: Final = 0x80
"""Bit of a row's outcome: it has notes."""
FIRST, EXTRA_KEYS, LATE, NAMED = 1, 2, 4, 8
"""Bits of a row's mark, see `Ring`."""

_MODEL: Final = OUTCOMES.index("model")
_DEADLINE: Final = REASONS.index("deadline")


class Ring(NamedTuple):
    """Columns of rows: the whole ring, or a stretch of it; n is the number of rows.

    `request` stands on a request's first row: nanoseconds of each stage, of the whole, and a mark
    whose bits say that a request begins here, that it had extra keys, that its answer came after
    its deadline and that it named the version which answers. The mark of a request's other rows is
    0, and the rest there means nothing.

    `notes` means something where the highest bit of `outcome` is set: few rows have notes, and the
    others need not pay for them.
    """

    rows: Floats  # (n, n_fields)
    outputs: Floats  # (n, n_outputs)
    arrived: Floats  # (n,), epoch seconds
    request: Ints  # (n, 8)
    flags: Bytes  # (n, n_fields)
    outcome: Bytes  # (n,), index in OUTCOMES; 128 more where the row has notes
    reason: Bytes  # (n,), index in REASONS, or NO_CODE
    decision: Bytes  # (n,), index in the bundle's decisions, or NO_CODE
    notes: Bytes  # (n, n_bytes), bit i of byte j is note 8 * j + i of the layout

    def stretch(self, start: int, stop: int) -> "Ring":
        """Views of the rows from `start` to `stop`."""
        return Ring._make(column[start:stop] for column in self)

    def of(self, which: NDArray[np.bool_]) -> "Ring":
        """Copies of some of the rows; `which` is true for them."""
        return Ring._make(column[which] for column in self)

    def copy(self) -> "Ring":
        """The same rows in memory of their own."""
        return Ring._make(column.copy() for column in self)


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """What was counted of a bundle, in one region or in several: `a + b` sums them.

    Of its families `squares` are the squares of the rows of each request, summed, and those that
    begin with `named` are of requests that named the version, which are in the others too.
    `last_request` is how many rows of a region's last request were counted, and whether it named
    the version; of several regions it means nothing.
    """

    layout: Layout
    counts: Ints  # (n_counts,)
    moments: Floats  # (n_moments, 4), as `models.measures.Counted` has them

    @classmethod
    def nothing(cls, layout: Layout) -> "Totals":
        """No rows."""
        moments = np.zeros((len(layout.measures.with_moments), 4))
        return cls(layout, np.zeros(layout.n_counts, np.int64), moments)

    def of(self, family: str) -> Ints:
        """The counts of one of `layout.families`, in its shape."""
        at, shape = self.layout.families[family]
        return self.counts[at].reshape(shape)

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self.of("outcomes").sum())

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.layout, self.counts + other.counts, self.moments + other.moments)


def tally(layout: Layout, ring: Ring, last: Ints) -> Totals:
    """Counts rows in every family.

    Args:
        layout: of the bundle.
        ring: the rows.
        last: `last_request` of what is before them, int64 (2,).
    """
    reasons, counted = _by_row(layout, ring)
    requests = _requests(ring)
    total_buckets, stage_buckets = _buckets(layout, requests[:-1])
    counts = {
        "outcomes": reasons.sum(axis=1),
        "fallbacks": reasons[1 : 1 + len(RUNGS), : len(REASONS)],
        "decisions": np.bincount(ring.decision, minlength=256)[: len(layout.decisions)],
        "extra_keys": np.count_nonzero(requests[-1:] & EXTRA_KEYS, axis=1),
        "late_requests": np.count_nonzero(requests[-1:] & LATE, axis=1),
        "deadline_missed": reasons[:, _DEADLINE].sum(),
        "notes": _notes(ring, len(layout.notes)),
        "total_buckets": total_buckets,
        "stage_buckets": stage_buckets,
        "durations_ns": requests[:-1].sum(axis=1),
        "quality": counted.quality,
        "bins": counted.bins,
    }
    counts |= _by_request(layout, ring, last)
    flat = np.concatenate([counts[name] for name in layout.families], axis=None)
    return Totals(layout, flat, counted.moments)


def _by_row(layout: Layout, ring: Ring) -> tuple[Ints, Counted]:
    """Rows by outcome and code of reason, int64 (n_outcomes, 256), and their distributions."""
    outcome = ring.outcome & ~np.uint8(NOTED)
    by_model = outcome == _MODEL
    counted = layout.measures.count(ring.rows, ring.flags, ring.outputs, by_model, ring.arrived)
    return _by_outcome_and_reason(outcome, ring.reason), counted


def _by_request(layout: Layout, ring: Ring, last: Ints) -> dict[str, Ints]:
    """What hangs on which rows are of one request; see `Totals`."""
    marks = ring.request[:, -1]
    begins = np.flatnonzero(marks)
    # Rows of each request, that of the first rows before it: its other rows were counted before.
    lengths = np.diff(begins, prepend=0, append=len(marks))
    before = np.zeros_like(lengths)
    before[0] = last[0]
    squares = (before + lengths) ** 2 - before**2
    is_named = np.concatenate([last[1:], marks[begins] & NAMED]) != 0
    now = np.array([before[-1] + lengths[-1], is_named[-1]], np.int64)
    found = {"squares": squares.sum(), "last_request": now - last}
    if not is_named[lengths > 0].any():
        return found | layout.nobody_named
    named = ring.of(np.repeat(is_named, lengths))
    reasons, counted = _by_row(layout, named)
    return found | {
        "named_outcomes": reasons.sum(axis=1),
        "named_fallbacks": reasons[1 : 1 + len(RUNGS), : len(REASONS)],
        "named_buckets": _buckets(layout, _requests(named)[:-1])[0],
        "named_bins": counted.bins,
        "named_squares": squares[is_named].sum(),
    }


def _notes(ring: Ring, n_notes: int) -> Ints:
    """Rows that have each note, int64 (n_notes,)."""
    bits = np.unpackbits(ring.notes[ring.outcome >= NOTED], axis=1, bitorder="little")
    return bits[:, :n_notes].sum(axis=0, dtype=np.int64)


def _by_outcome_and_reason(outcome: Bytes, reason: Bytes) -> Ints:
    """Rows by outcome and code of reason, int64 (n_outcomes, 256)."""
    size = len(OUTCOMES) << 8
    pairs = outcome.astype(np.intp) << 8 | reason
    return np.bincount(pairs, minlength=size)[:size].reshape(len(OUTCOMES), 256)


def _requests(ring: Ring) -> Ints:
    """What stands on the first rows of requests, a row for each column of `request`."""
    columns = np.ascontiguousarray(ring.request.T)
    begins = columns[-1] != 0
    return columns if begins.all() else columns[:, begins]


def _buckets(layout: Layout, durations: Ints) -> tuple[Ints, Ints]:
    """Requests in each bucket of the request histogram (14 or 15,), and of the stages' (6, 13).

    Args:
        layout: of the bundle.
        durations: nanoseconds of each stage and of the whole, int64 (7, n).

    Bucket i holds bounds[i-1] < duration <= bounds[i], as `le` means it; the last one is open. The
    bounds of the stages are among those of the whole, so that theirs are sums of finer buckets.
    """
    n, size = len(durations), len(layout.bounds_ns) + 1
    buckets = np.searchsorted(layout.bounds_ns, durations, side="left")
    buckets += np.arange(0, n * size, size)[:, None]
    fine = np.bincount(buckets.ravel(), minlength=n * size).reshape(n, size)
    return fine[-1], np.add.reduceat(fine[:-1], layout.stage_bucket_starts, axis=1)
