"""What is counted is counted once, in every family, whoever dies when."""

import itertools
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import regions
from server.layout import LINE_BYTES, TOTAL_BOUNDS
from server.regions import Counter, Region, fold, read_totals
from tests.counters import (
    Asked,
    SlowCount,
    assert_counted,
    bucket,
    commit,
    count,
    small_layout,
    some_request,
    some_requests,
    summable,
    write,
)


@pytest.fixture
def region() -> Iterator[Region]:
    region = Region.anonymous(small_layout())
    yield region
    region.close()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Counting


def test_committed_rows_are_in_every_family(region):
    requests = some_requests(rng(), 12)
    count(Counter(region), requests)
    assert_counted(read_totals(region), SlowCount(region.layout).add(requests))


def test_rows_that_were_written_and_not_committed_count_nowhere(region):
    counter = Counter(region)
    lost, kept = some_requests(rng(), 2)
    write(counter, [lost])
    assert read_totals(region).rows == 0
    count(counter, [kept])
    assert_counted(read_totals(region), SlowCount(region.layout).add([kept]))


def test_a_request_is_counted_by_one_store(region):
    """Everything else is in place before: putting HEAD back takes it out of every family."""
    counter = Counter(region)
    first, second = some_requests(rng(), 2)
    write(counter, [first, second])
    commit(counter, first)
    head = region.head
    commit(counter, second)
    region.words[8] = head
    assert_counted(read_totals(region), SlowCount(region.layout).add([first]))


def test_notes_of_a_row_are_its_own_and_gone_with_it(region):
    """A row without notes lies where one with notes lay before."""
    counter = Counter(region)
    with_notes, without = some_request(rng(), 64), some_request(rng(1), 64)
    with_notes.notes = dict.fromkeys(range(64), 0b11_0000_0101)
    without.notes = {}
    for asked in (with_notes, without, without):
        count(counter, [asked])
        counter.fold()
    assert read_totals(region).of("notes").tolist() == [64, 0, 64, 0, 0, 0, 0, 0, 64, 64]


def test_folding_changes_nothing_that_is_read(region):
    counter = Counter(region)
    requests = some_requests(rng(), 12)
    count(counter, requests)
    before = read_totals(region)
    assert counter.fold() == region.head == region.tail
    assert counter.fold() == 0
    after = read_totals(region)
    np.testing.assert_array_equal(before.counts, after.counts)
    np.testing.assert_array_equal(before.moments, after.moments)


def test_folding_is_due_from_half_a_small_ring_on(region):
    counter = Counter(region)
    count(counter, [some_request(rng(), 31)])
    assert not counter.due()
    count(counter, [some_request(rng(), 1)])
    assert counter.due()
    assert counter.pending == 32


def test_a_fold_takes_the_oldest_1024_rows():
    region = Region.anonymous(small_layout(ring_rows=4096))
    counter = Counter(region)
    count(counter, [some_request(rng(), 1100)])
    assert counter.due()
    assert counter.fold() == 1024
    assert (region.tail, counter.pending) == (1024, 76)
    assert not counter.due()


def test_a_request_that_is_folded_in_parts_is_one(region):
    """Its rows are together whatever a fold, a reader, or the end of the ring makes of them."""
    first, named, last = some_request(rng(), 30), some_request(rng(1), 50), some_request(rng(2), 7)
    first.is_named, named.is_named, last.is_named = False, True, False
    seen = SlowCount(region.layout)
    for asked in (first, named, last):
        count(Counter(region), [asked])  # each counts on where folds have left it
        seen.add([asked])
        for rows in (3, 1, 20, 64):
            fold(region, max_rows=rows)
            assert_counted(read_totals(region), seen)
    assert read_totals(region).of("squares").tolist() == [900 + 2_500 + 49]
    assert read_totals(region).of("named_squares").tolist() == [2_500]
    assert read_totals(region).of("named_outcomes").sum() == 50


def test_a_full_ring_makes_room_by_folding(region):
    counter = Counter(region)
    requests = [some_request(rng(i), n) for i, n in enumerate([40, 24, 1, 63, 64, 64])]
    for asked in requests:
        count(counter, [asked])
    assert_counted(read_totals(region), SlowCount(region.layout).add(requests))


def test_more_rows_than_the_ring_holds_are_refused(region):
    with pytest.raises(
        ValueError, match="65 rows at once, expected at most 64: write and commit in"
    ):
        write(Counter(region), [some_request(rng(), 65)])


def test_a_request_committed_in_parts_has_its_time_once(region):
    counter = Counter(region)
    one, other = some_request(rng(), 64), some_request(rng(1), 40)
    count(counter, [one])
    write(counter, [other])
    counter.commit(len(other), None)
    totals = read_totals(region)
    assert totals.rows == 104
    assert totals.of("total_buckets").sum() == 1
    assert totals.of("durations_ns")[-1] == one.total_ns


def test_committing_more_than_was_written_is_refused(region):
    counter = Counter(region)
    write(counter, [some_request(rng(), 2)])
    with pytest.raises(ValueError, match="3 rows to commit, but 2 are written and uncommitted"):
        counter.commit(3, [0] * 6, 0)
    assert read_totals(region).rows == 0


def test_columns_of_different_lengths_are_refused(region):
    with pytest.raises(ValueError, match="different structures"):
        Counter(region).write(
            np.zeros((2, 4)), np.zeros((2, 4), np.uint8), np.zeros((2, 1)), 0.0, [0, 0], [0], [0, 0]
        )


def test_each_row_keeps_its_own_time_of_arrival(region):
    counter = Counter(region)
    count(counter, [some_request(rng(), 60)])
    write(counter, [some_request(rng(), 8)], arrived=np.arange(8.0))  # around the ring's end
    around = [ring.arrived.tolist() for ring in region.stretches(60, 68)]
    assert around == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=40)
)
def test_any_way_of_grouping_and_folding_counts_the_same(seed, groups):
    region = Region.anonymous(small_layout(ring_rows=64))
    counter, numbers, all_asked = Counter(region), rng(seed), []
    for size, folds in groups:
        group = some_requests(numbers, size)
        count(counter, group)
        all_asked += group
        if folds or counter.due():
            counter.fold()
    assert_counted(read_totals(region), SlowCount(region.layout).add(all_asked))
    region.close()


@pytest.mark.parametrize("objective", [None, 0.02, 0.05, 1e-6, 3.0])
def test_a_duration_is_in_the_bucket_whose_bound_it_does_not_exceed(objective):
    layout = small_layout(ring_rows=256, objective_seconds=objective)
    region = Region.anonymous(layout)
    counter = Counter(region)
    asked = some_request(rng(), 1)
    expected = np.zeros(len(layout.total_bounds) + 1, np.int64)
    for bound in layout.total_bounds:
        for duration in (round(bound * 1e9) - 1, round(bound * 1e9), round(bound * 1e9) + 1):
            write(counter, [asked])
            counter.commit(1, [duration] * 6, duration)
            expected[bucket(duration, layout.total_bounds)] += 1
    totals = read_totals(region)
    np.testing.assert_array_equal(totals.of("total_buckets"), expected)
    in_order = list(layout.stage_bounds)
    slow = [bucket(round(b * 1e9) + d, in_order) for b in layout.total_bounds for d in (-1, 0, 1)]
    np.testing.assert_array_equal(
        totals.of("stage_buckets"), [np.bincount(slow, minlength=len(in_order) + 1)] * 6
    )


def test_the_objective_is_a_bound_once():
    assert small_layout(objective_seconds=0.02).total_bounds.count(0.02) == 1
    assert small_layout(objective_seconds=0.05).total_bounds == TOTAL_BOUNDS
    assert small_layout(objective_seconds=None).total_bounds == TOTAL_BOUNDS


# Memory


def test_every_word_is_aligned():
    layout = small_layout(ring_rows=256)
    offsets = [place.offset for place in layout.places.values()]
    assert all(offset % LINE_BYTES == 0 for offset in offsets)
    assert offsets == sorted(offsets)
    assert layout.n_bytes % mmap.PAGESIZE == 0


def test_equal_bundles_have_equal_layouts():
    one, other = small_layout(), small_layout()
    assert (one.places, one.families) == (other.places, other.families)
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != small_layout("8").fingerprint
    assert one.fingerprint != small_layout(decisions=("on_time", "delayed")).fingerprint


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="anonymous files are Linux only")
def test_workers_count_in_their_parts_of_one_file_and_readers_sum_them():
    layout = small_layout()
    file = os.memfd_create("flights/7")
    os.ftruncate(file, 3 * layout.n_bytes)
    memory = mmap.mmap(file, 3 * layout.n_bytes)
    regions = [Region(layout, memory, offset=layout.part(slot)) for slot in range(3)]
    requests = [some_requests(rng(slot), 5) for slot in range(3)]
    for region, asked in zip(regions, requests, strict=True):
        count(Counter(region), asked)
    seen = mmap.mmap(file, 0, access=mmap.ACCESS_WRITE)  # as the supervisor maps it
    readers = [Region(layout, seen, offset=layout.part(slot)) for slot in range(3)]
    everything = SlowCount(layout).add(asked for group in requests for asked in group)
    assert_counted(read_totals(*readers), everything)
    for region in (*regions, *readers):
        region.close()
    memory.close()
    seen.close()
    os.close(file)


def test_a_successor_goes_on_where_its_predecessor_ended(region):
    requests = some_requests(rng(), 30)
    for asked in requests:
        count(Counter(region), [asked])  # a new counter each time
    assert_counted(read_totals(region), SlowCount(region.layout).add(requests))


def test_memory_of_another_bundle_is_refused():
    memory = bytearray(1 << 20)
    Region(small_layout("7"), memory)
    with pytest.raises(
        ValueError, match=r"'flights/8' holds counters of another bundle or release"
    ):
        Region(small_layout("8"), memory)


def test_too_little_memory_is_refused():
    layout = small_layout()
    with pytest.raises(ValueError, match=f"have {layout.n_bytes - 1} bytes from 0 on, expected"):
        Region(layout, bytearray(layout.n_bytes - 1))


@pytest.mark.parametrize("ring_rows", [0, 1, 3, 4095])
def test_a_ring_that_is_no_power_of_two_is_refused(ring_rows):
    with pytest.raises(ValueError, match="expected a power of two"):
        small_layout(ring_rows=ring_rows)


def test_more_decisions_than_codes_are_refused():
    with pytest.raises(ValueError, match="255 decisions, expected at most 254"):
        small_layout(decisions=[f"d{i}" for i in range(255)])
    assert len(small_layout(decisions=[f"d{i}" for i in range(254)]).decisions) == 254


def test_closing_lets_the_mapping_go():
    layout = small_layout()
    mapping = mmap.mmap(-1, layout.n_bytes)
    region = Region(layout, mapping)
    counter = Counter(region)
    count(counter, some_requests(rng(), 3))
    counter.fold()
    totals = read_totals(region)
    region.close()
    mapping.close()  # raises BufferError while there is a view
    assert totals.rows  # copies


def test_closing_is_refused_while_somebody_holds_a_view():
    region = Region.anonymous(small_layout())
    held = region.ring.rows
    with pytest.raises(BufferError):
        region.close()
    held[:] = 0  # its memory is still there


def test_a_counter_of_a_closed_region_raises():
    region = Region.anonymous(small_layout())
    counter = Counter(region)
    asked = some_request(rng(), 1)
    write(counter, [asked])
    region.close()
    with pytest.raises(TypeError, match="memoryview"):
        commit(counter, asked)
    with pytest.raises(AttributeError, match="ring"):
        write(counter, [asked])


# Dying


class Stopped(BaseException):
    """Death, in a test that wants to look at the memory afterwards."""


def stop() -> NoReturn:
    raise Stopped


@contextmanager
def before_line(n: int, function: Callable[..., Any], act: Callable[[], None]) -> Generator[None]:
    """Acts before the n-th line of a function runs."""
    left = [n]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not function.__code__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                act()
        return trace

    outside = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(outside)


def test_a_fold_stopped_before_any_of_its_lines_changes_nothing_or_everything():
    requests = some_requests(rng(), 12)
    stops = 0
    while True:
        region = Region.anonymous(small_layout())
        expected = SlowCount(region.layout).add(requests)
        count(Counter(region), requests)
        try:
            with before_line(stops + 1, fold, stop):
                fold(region)
        except Stopped:
            stops += 1
        else:
            break
        assert region.tail in (0, region.head)
        assert_counted(read_totals(region), expected)
        fold(region)
        assert_counted(read_totals(region), expected)
        region.close()
    assert stops >= 8


def test_whatever_a_killed_fold_left_in_the_other_copy_is_overwritten(region):
    counter = Counter(region)
    requests = some_requests(rng(), 24)
    for asked in requests:
        count(counter, [asked])
        other = 1 - (region.words[16] & 1)
        region.counts[other] = -7
        region.moments[other] = np.nan
        counter.fold()
    assert_counted(read_totals(region), SlowCount(region.layout).add(requests))


PERIOD = some_requests(rng(7), 40)
"""Counted over and over by processes that are killed: what the totals must be follows from HEAD."""


class Expected:
    """Totals of the first h rows of endless repetitions of `PERIOD`, where a request ends at h."""

    def __init__(self, region: Region) -> None:
        slow = SlowCount(region.layout)
        self.after = {0: (slow.flat(), slow.moments.copy())}
        rows = 0
        for asked in PERIOD:
            rows += len(asked)
            slow.add([asked])
            self.after[rows] = slow.flat(), slow.moments.copy()
        self.rows = rows

    def __call__(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        rounds, rest = divmod(rows, self.rows)
        counts, moments = self.after[rest]
        return counts + rounds * self.after[self.rows][0], moments + rounds * self.after[self.rows][
            1
        ]


def count_for_ever(region: Region) -> NoReturn:
    """What a forked worker does: counts groups of one to five requests, from where HEAD is."""
    counter, ends, rows = Counter(region), {}, 0
    for i, asked in enumerate(PERIOD):
        ends[rows] = i
        rows += len(asked)
    at = ends[region.head % rows]
    while True:
        group: list[Asked] = [PERIOD[(at + i) % len(PERIOD)] for i in range(1 + at % 5)]
        count(counter, group)
        at = (at + len(group)) % len(PERIOD)
        if counter.due():
            counter.fold()


@contextmanager
def forked(work: Callable[[Region], NoReturn], region: Region) -> Generator[None]:
    """A child at work in the same memory; killed when the block ends."""
    child = os.fork()
    if child == 0:
        try:
            work(region)
        finally:
            os._exit(1)  # never back into pytest
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "the worker ended by itself"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


may_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@may_fork
def test_after_kill_9_at_any_moment_every_family_agrees_to_the_row(region):
    expected, when = Expected(region), random.Random(3)
    heads = [0]
    for kill in range(200):
        with forked(count_for_ever, region):
            wait_for(lambda: region.head > heads[-1])
            time.sleep(when.uniform(0, 0.008))
        heads.append(region.head)
        if kill % 2:  # as whoever buries the worker does; else the successor finds the rows
            while fold(region):
                pass
        totals = read_totals(region)
        counts, moments = expected(region.head)
        np.testing.assert_array_equal(summable(totals), counts)
        np.testing.assert_array_equal(totals.moments, moments)
    assert region.tail > 2_000
    assert heads == sorted(heads)


def test_a_reading_that_a_fold_overtakes_is_read_again():
    """Before each line of the reader in turn, the writer goes more than once around the ring."""

    def go_on() -> None:
        for asked in PERIOD[12:] + PERIOD * 2:
            count(counter, [asked])
        counter.fold()

    for line in itertools.count(1):
        region = Region.anonymous(small_layout())
        counter, expected = Counter(region), Expected(region)
        count(counter, PERIOD[:12])
        with before_line(line, regions._read, go_on):
            totals = read_totals(region)
        counts, moments = expected(totals.rows)
        np.testing.assert_array_equal(summable(totals), counts)
        np.testing.assert_array_equal(totals.moments, moments)
        if counter.pending:  # past its last line
            assert line > 8
            break


@may_fork
def test_a_living_region_is_never_read_torn(region):
    expected = Expected(region)
    before = read_totals(region)
    with forked(count_for_ever, region):
        wait_for(lambda: region.tail > 0)
        for _ in range(400):
            totals = read_totals(region)
            counts, moments = expected(totals.rows)  # KeyError: a part of a request
            np.testing.assert_array_equal(summable(totals), counts)
            np.testing.assert_array_equal(totals.moments, moments)
            assert (summable(totals) >= summable(before)).all()
            assert (totals.moments >= before.moments).all()
            before = totals
    assert before.rows > 1_000
