"""The counters of one bundle in shared memory: a ring of rows, and totals that no kill can spoil.

A row is written into the ring and *committed* by one store, of the HEAD word: that store counts it
in every family at once. Folding adds rows of the ring to the totals. Totals exist twice: folding
writes the copy that is not current, and one store, of the STATE word, makes that copy current and
moves the ring's tail. Killed before that store nothing has changed, after it everything has.
Reading adds the rows that are not folded yet, and writes nothing.

    words     HEAD = rows committed            STATE = rows folded << 1 | current copy
    totals    counts int64 (2, n_counts)       moments float64 (2, n_moments, 4)
    ring      a column for each thing known of a row; row h lies at h % ring_rows

Every word is 8-byte aligned and has one writer: the worker, or after its death whoever buries it.
After a death memory is a prefix of the writer's stores on any machine, and x86-64 shows a living
writer's stores in their order. arm64 may show HEAD or STATE before the rows they speak of: there a
living region is read in its own process only, until reading across processes takes a lock.
"""

import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import STAGES
from server.layout import HEADER_BYTES, NO_CODE, Bytes, Floats, Ints, Layout
from server.tallies import EXTRA_KEYS, FIRST, LATE, NAMED, NOTED, Ring, Totals, tally

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "FOLD_ROWS",
    "NO_CODE",
    "Codes",
    "Counter",
    "Layout",
    "Region",
    "Ring",
    "Totals",
    "fold",
    "read_totals",
    "tally",
]

Codes = bytes | bytearray | Bytes | list[int]

FOLD_ROWS: Final = 1024
"""Rows folded at a time: at 24 fields 0.5 µs each, 0.5 ms of the event loop (512: 0.7 and 0.35)."""

_MAGIC: Final = int.from_bytes(b"keelring", "little")
_MAGIC_AT, _FINGERPRINT_AT, _HEAD, _STATE = 0, 1, 8, 16  # HEAD, STATE: a cache line each

NO_NOTES: Final[Mapping[int, int]] = {}
"""What a group has whose rows have no notes, as almost all."""

_FIRST_WITH_EXTRA_KEYS: Final = FIRST | EXTRA_KEYS

_REQUEST: Final = struct.Struct(f"{len(STAGES) + 2}q")
_pack_request = _REQUEST.pack_into


class Region:
    """One writer's part of a bundle's counters: the only holder of views into its memory.

    Args:
        layout: of the bundle.
        buffer: writable memory, zero or as a predecessor with the same layout left it.
        offset: where the part begins in `buffer`, a multiple of 8.

    Raises:
        ValueError: the memory is too small, or was laid out for something else.
    """

    def __init__(self, layout: Layout, buffer: "WriteableBuffer", *, offset: int = 0) -> None:
        memory = memoryview(buffer).cast("B")[offset : offset + layout.n_bytes]
        if len(memory) < layout.n_bytes:
            raise ValueError(
                f"counters of '{layout.model}/{layout.version}' have {len(memory)} bytes from "
                f"{offset} on, expected {layout.n_bytes}: make that many bytes for each worker"
            )
        self.layout = layout
        self.memory = memory
        self.words = memory[:HEADER_BYTES].cast("q")
        self.counts: Ints = self._array("counts")
        self.moments: Floats = self._array("moments")
        self.ring = Ring._make(map(self._array, Ring._fields))
        self.shadow: Ints = self._array("shadow")
        self.shadow_difference: Floats = self._array("shadow_difference")
        self._mapping: mmap.mmap | None = None
        self._claim()

    @classmethod
    def anonymous(cls, layout: Layout) -> "Region":
        """A region in memory of this process, shared with the children that it forks."""
        mapping = mmap.mmap(-1, layout.n_bytes)
        region = cls(layout, mapping)
        region._mapping = mapping
        return region

    def close(self) -> None:
        """Lets the memory go; nothing can be read or written through this region afterwards.

        Raises:
            BufferError: somebody else holds a view into it.
        """
        mapping, words, memory = self._mapping, self.words, self.memory
        self.__dict__.clear()  # the arrays: memory cannot be released under one
        words.release()
        memory.release()
        if mapping is not None:
            mapping.close()

    def touch(self) -> None:
        """Has the machine give every page now, not at the first rows; changes nothing."""
        memory = self.memory
        for at in range(0, len(memory), mmap.PAGESIZE):
            memory[at] = memory[at]

    @property
    def head(self) -> int:
        """Rows committed."""
        return self.words[_HEAD]

    @property
    def tail(self) -> int:
        """Rows folded into the totals."""
        return self.words[_STATE] >> 1

    def stretches(self, start: int, stop: int) -> Iterator[Ring]:
        """Views of the rows `start` to `stop`: one stretch, or two around the ring's end."""
        size = self.layout.ring_rows
        while start < stop:
            at = start % size
            n = min(stop - start, size - at)
            yield self.ring.stretch(at, at + n)
            start += n

    def _array(self, name: str) -> NDArray[Any]:
        offset, shape, dtype = self.layout.places[name]
        # Not np.ndarray(buffer=...): that does not hold the memory, which could go under its views.
        array = np.frombuffer(self.memory, dtype, count=math.prod(shape), offset=offset)
        return array.reshape(shape)

    def _claim(self) -> None:
        """Marks fresh memory as this layout's, and refuses any other's."""
        layout, words = self.layout, self.words
        if words[_MAGIC_AT] == 0:
            words[_FINGERPRINT_AT] = layout.fingerprint
            words[_MAGIC_AT] = _MAGIC
        if (words[_MAGIC_AT], words[_FINGERPRINT_AT]) != (_MAGIC, layout.fingerprint):
            raise ValueError(
                f"memory for the counters of '{layout.model}/{layout.version}' holds counters of "
                f"another bundle or release (mark {words[_FINGERPRINT_AT]:016x}, expected "
                f"{layout.fingerprint:016x}). Start with fresh memory"
            )


class Counter:
    """Counts the rows of one bundle in one region. For one thread: the region's only writer.

    The rows of a group of requests are written at once, then committed request by request, each
    immediately before its answer is handed over. Rows that were written and never committed are
    overwritten by the next `write`, and counted nowhere.
    """

    __slots__ = (
        "_decision_at",
        "_due_rows",
        "_head",
        "_mask",
        "_memory",
        "_outcome_at",
        "_reason_at",
        "_request_at",
        "_tail",
        "_words",
        "_written",
        "capacity",
        "region",
    )

    def __init__(self, region: Region) -> None:
        places = region.layout.places
        self.region = region
        self.capacity = region.layout.ring_rows
        self._mask = self.capacity - 1
        self._due_rows = min(FOLD_ROWS, self.capacity // 2)
        self._head = self._written = region.head
        self._tail = region.tail
        self._memory = region.memory
        self._words = region.words
        self._outcome_at = places["outcome"].offset
        self._reason_at = places["reason"].offset
        self._decision_at = places["decision"].offset
        self._request_at = places["request"].offset

    @property
    def pending(self) -> int:
        """Rows committed and not folded yet."""
        return self._head - self._tail

    def write(
        self,
        rows: Floats,
        flags: Bytes,
        outputs: Floats,
        arrived: Floats | float,
        outcome: Codes,
        reason: Codes,
        decision: Codes,
        notes: Mapping[int, int] = NO_NOTES,
    ) -> int:
        """Puts n rows behind the committed ones, uncommitted; folds first if there is no room.

        Args:
            rows: as encoded, float64 (n, n_fields).
            flags: of each value, uint8 (n, n_fields).
            outputs: from `Measures.output_columns`, float64 (n, n_outputs); any value in rows that
                the model did not answer.
            arrived: epoch seconds, float64 (n,), or one for all.
            outcome: n codes of `OUTCOMES`.
            reason: n codes of `REASONS`; `NO_CODE` where there is none.
            decision: n codes of the layout's decisions; `NO_CODE` where there is none.
            notes: by row, where it has any, the bits of its notes.

        Returns:
            How many rows had been committed before.

        Raises:
            ValueError: n is above `capacity` (write and commit such a request in parts), or the
                columns have different lengths.
        """
        n = len(outcome)
        head = self._head
        if head + n - self._tail > self.capacity:
            self._make_room(n)
        start = head & self._mask
        k = self.capacity - start
        if n <= k:
            self._put(start, n, rows, flags, outputs, arrived, outcome, reason, decision)
        else:
            columns: list[Any] = [rows, flags, outputs, np.broadcast_to(arrived, n)]
            columns += [outcome, reason, decision]
            self._put(start, k, *(column[:k] for column in columns))
            self._put(0, n - k, *(column[k:] for column in columns))
        if notes:
            self._put_notes(head, notes)
        self._written = head + n
        return head

    def commit(
        self,
        n_rows: int,
        stages_ns: Sequence[int] | None,
        total_ns: int = 0,
        *,
        extra_keys: bool = False,
        is_late: bool = False,
        is_named: bool = False,
    ) -> None:
        """Counts the next `n_rows` written rows, those of one request, by one store.

        Args:
            n_rows: at least one; a request without rows is in `HttpCounters` alone.
            stages_ns: nanoseconds in each of `STAGES`; None for the later parts of a request that
                is committed in parts.
            total_ns: nanoseconds from its arrival to now.
            extra_keys: whether a record of it had a key that is no field.
            is_late: whether its deadline is over.
            is_named: whether it named the version that answers it.

        Raises:
            ValueError: fewer rows are written.
        """
        head = self._head
        after = head + n_rows
        if after > self._written:
            raise ValueError(
                f"{n_rows} rows to commit, but {self._written - head} are written and uncommitted: "
                "write a group's rows before committing its requests"
            )
        at = head & self._mask
        if stages_ns is not None:
            mark = _FIRST_WITH_EXTRA_KEYS if extra_keys else FIRST
            if is_late:
                mark |= LATE
            if is_named:
                mark |= NAMED
            request_at = self._request_at + at * _REQUEST.size
            _pack_request(self._memory, request_at, *stages_ns, total_ns, mark)
            if n_rows > 1:
                self._clear_marks(head + 1, after)
        else:
            self._clear_marks(head, after)
        self._words[_HEAD] = self._head = after

    def due(self) -> bool:
        """Whether enough rows are pending for a fold to be worth its while."""
        return self._head - self._tail >= self._due_rows

    def fold(self) -> int:
        """Folds the oldest pending rows, at most `FOLD_ROWS`; gives their number."""
        n = fold(self.region)
        self._tail += n
        return n

    def _make_room(self, n: int) -> None:
        if n > self.capacity:
            raise ValueError(
                f"{n} rows at once, expected at most {self.capacity}: write and commit in parts"
            )
        while self._head + n - self._tail > self.capacity:
            self.fold()

    def _put(
        self,
        start: int,
        n: int,
        rows: Floats,
        flags: Bytes,
        outputs: Floats,
        arrived: Floats | float,
        outcome: Codes,
        reason: Codes,
        decision: Codes,
    ) -> None:
        ring, memory = self.region.ring, self._memory
        at = slice(start, start + n)
        ring.rows[at] = rows
        ring.flags[at] = flags
        ring.outputs[at] = outputs
        ring.arrived[at] = arrived
        # Bytes into bytes: a third of what numpy takes for so few.
        outcome_at = self._outcome_at + start
        memory[outcome_at : outcome_at + n] = bytes(outcome)
        reason_at = self._reason_at + start
        memory[reason_at : reason_at + n] = bytes(reason)
        decision_at = self._decision_at + start
        memory[decision_at : decision_at + n] = bytes(decision)

    def _put_notes(self, head: int, notes: Mapping[int, int]) -> None:
        """Notes of rows behind `head`, and the bits that say there are some."""
        ring, memory, size = self.region.ring, self._memory, self.region.ring.notes.shape[1]
        for row, bits in notes.items():
            at = (head + row) & self._mask
            ring.notes[at] = np.frombuffer(bits.to_bytes(size, "little"), np.uint8)
            memory[self._outcome_at + at] |= NOTED

    def _clear_marks(self, start: int, stop: int) -> None:
        """Says of rows that no request begins there."""
        for stretch in self.region.stretches(start, stop):
            stretch.request[:, -1] = 0


def fold(region: Region, *, max_rows: int = FOLD_ROWS) -> int:
    """Adds the oldest committed rows to the totals, at most `max_rows`; gives their number.

    For the region's one writer: its worker, or after the worker's death whoever waited for it.
    """
    state = region.words[_STATE]
    current, tail = state & 1, state >> 1
    head = min(region.words[_HEAD], tail + max_rows)
    if head == tail:
        return 0
    folded = Totals(region.layout, region.counts[current], region.moments[current])
    added = _tallied(folded, region.stretches(tail, head))
    np.add(region.counts[current], added.counts, out=region.counts[1 - current])
    np.add(region.moments[current], added.moments, out=region.moments[1 - current])
    region.words[_STATE] = head << 1 | (1 - current)  # before this store nothing has begun
    return head - tail


def read_totals(*regions: Region) -> Totals:
    """What the regions of one bundle have counted up to now, rows not folded yet included."""
    return reduce(add, map(_read, regions))


def _read(region: Region) -> Totals:
    """Copies the current totals and the pending rows; again if a fold committed meanwhile.

    The writer may go on: it touches neither the current copy nor a pending row until STATE has
    changed, and STATE never has a value twice. What was copied is counted after the check.
    """
    while True:
        state = region.words[_STATE]
        current, tail = state & 1, state >> 1
        counts, moments = region.counts[current].copy(), region.moments[current].copy()
        pending = [ring.copy() for ring in region.stretches(tail, region.words[_HEAD])]
        if region.words[_STATE] == state:
            break
    folded = Totals(region.layout, counts, moments)
    return folded + _tallied(folded, pending)


def _tallied(folded: Totals, stretches: Iterable[Ring]) -> Totals:
    """What stretches add that follow each other and what is folded."""
    added, last = Totals.nothing(folded.layout), folded.of("last_request")
    for ring in stretches:
        added += tally(folded.layout, ring, last + added.of("last_request"))
    return added
