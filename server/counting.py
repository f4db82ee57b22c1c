"""Counting what was answered: rows into the ring together, then committed request by request."""

from collections.abc import Iterator, Mapping
from time import perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from features.fields import OK
from models.outputs import NO_DECISION, ModelOutputs
from server.asked import Asked, Results
from server.layout import NO_CODE
from server.refusals import FAILED
from server.routes import Route

NO_STAGES: Final = (0, 0, 0, 0)


def write_rows(route: Route, group: list[Asked], results: Results) -> None:
    """Puts the group's rows into the counters' ring, uncommitted.

    A request with more rows than the ring holds is left to `commit`.
    """
    answers, counter = results.answers, route.counter
    if len(answers.outcome) <= counter.capacity:
        rows, flags = countable(group, results.encoded)
        counter.write(
            rows,
            flags,
            results.measured,
            group[0].arrived if len(group) == 1 else arrival_times(group),
            answers.outcome,
            answers.reason,
            answers.decision_code,
            route.notes.of(answers),
        )


def commit(asked: Asked, results: Results) -> None:
    """Counts a request with all its rows; the next thing is that its answer is handed over."""
    counter, count = asked.route.counter, len(asked.records)
    if not count:
        return  # an empty list is a request without rows: the lane counts it
    now = perf_counter_ns()
    stages = (
        asked.decode_ns,
        asked.encode_ns,
        results.began_ns - asked.waits_since_ns,
        results.run_ns,
        results.ladder_ns,
        now - results.done_ns,
    )
    total = now - asked.request.began_ns
    extra, is_late = asked.encoded.extra_keys, now > asked.deadline_ns
    is_named = asked.request.version is not None
    if count <= counter.capacity:
        counter.commit(count, stages, total, extra_keys=extra, is_late=is_late, is_named=is_named)
        return
    notes = asked.route.notes.of(results.answers)
    for part in parts(count, counter.capacity):
        write_part(asked, results, part, notes)
        first = part.start == 0
        counter.commit(
            part.stop - part.start,
            stages if first else None,
            total,
            extra_keys=extra,
            is_late=is_late,
            is_named=is_named,
        )


def commit_failed(asked: Asked, reason: int = NO_CODE) -> None:
    """Counts a request that nobody answers: its rows, if they are known.

    Args:
        asked: the request.
        reason: position in `vocabulary.REASONS`; none for a defect of ours.
    """
    if not asked.is_read:
        return
    counter = asked.route.counter
    now = perf_counter_ns()
    total, is_late = now - asked.request.began_ns, now > asked.deadline_ns
    is_named = asked.request.version is not None
    stages = (asked.decode_ns, asked.encode_ns, *NO_STAGES)
    for part in parts(len(asked.records), counter.capacity):
        count = part.stop - part.start
        counter.write(
            asked.encoded.rows[part],
            asked.encoded.flags[part],
            measured(asked.route, None, count),
            asked.arrived,
            [FAILED] * count,
            [reason] * count,
            [NO_DECISION] * count,
        )
        first = stages if part.start == 0 else None
        counter.commit(count, first, total, is_late=is_late, is_named=is_named)


def write_part(
    asked: Asked, results: Results, part: slice, notes: Mapping[int, int], first: int = 0
) -> None:
    """Puts some of the rows of a request into the ring, uncommitted.

    Args:
        asked: the request.
        results: of its run.
        part: of its rows.
        notes: of all rows of the run.
        first: place of its first row in the run.
    """
    answers = results.answers
    rows, flags = countable([asked], asked.encoded)
    there = slice(first + part.start, first + part.stop)
    asked.route.counter.write(
        rows[part],
        flags[part],
        results.measured[there],
        asked.arrived,
        answers.outcome[there],
        answers.reason[there],
        answers.decision_code[there],
        {row - there.start: bits for row, bits in notes.items() if there.start <= row < there.stop},
    )


def parts(count: int, size: int) -> Iterator[slice]:
    """`count` rows in slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def countable(
    group: list[Asked], encoded: Encoded
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Rows and flags to count: what was no record is in no distribution, under no trouble."""
    strays: list[int] = []
    first = 0
    for asked in group:
        if asked.strays:
            strays += [first + row for row in asked.strays]
        first += len(asked.records)
    if not strays:
        return encoded.rows, encoded.flags
    rows, flags = encoded.rows.copy(), encoded.flags.copy()
    rows[strays], flags[strays] = np.nan, OK
    return rows, flags


def arrival_times(group: list[Asked]) -> NDArray[np.float64]:
    """Epoch seconds, one a row."""
    times = [asked.arrived for asked in group]
    return np.repeat(times, [len(asked.records) for asked in group])


def measured(route: Route, outputs: ModelOutputs | None, count: int) -> NDArray[Any]:
    """Outputs as they are counted, numbers (n, measured outputs); zeros if there are none."""
    measures = route.bundle.measures
    if outputs is None:
        return np.zeros((count, measures.n_outputs))
    if route.has_one_number:  # what `output_columns` would give, at a third of its cost
        return outputs.values[0].reshape(-1, 1)
    return measures.output_columns(outputs.values)
