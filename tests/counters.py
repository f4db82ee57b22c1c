"""A small bundle to count for, rows to count, and a slow count of them that anybody can check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from features.fields import Field
from models.bins import BOOLEAN_BINS, Bins, CodeBins, NumberBins
from models.measures import Measure, Measures
from models.vocabulary import OUTCOMES, REASONS, RUNGS, STAGES
from server.layout import NO_CODE, Layout
from server.regions import Counter, Totals


@dataclass(frozen=True)
class Output:
    """What counting needs to know of an output."""

    name: str
    kind: str
    classes: None = None


FIELDS = (
    Field(name="distance", kind="number"),
    Field(name="is_weekend", kind="boolean"),
    Field(name="carrier", kind="category"),
    Field(name="notes", kind="category"),  # not measured: its quality is counted all the same
)
CARRIERS = CodeBins(labels=("UA", "100%", "#other", "#unknown"), bin_of_code=(0, 1, 2, 2, 3, -1))
OUTPUT = Output(name="probability", kind="probability")
DECISIONS = ("on_time", "late")
NOTES = (
    ("repaired", "distance", "missing"),
    ("repaired", "distance", "out_of_bounds"),
    ("repaired", "is_weekend", "invalid"),
    ("check", "short_enough"),
    ("check", "in_order"),
    ("rule", "evening"),
    ("rule", "default"),
    ("rule_error", "evening"),
    ("output", "probability", "not_finite"),
    ("output", "probability", "out_of_range"),
)
"""Ten, so that they need two bytes."""

N_FLAGS = 5


def measure(subject: str, name: str, bins: Bins, *, has_moments: bool = False) -> Measure:
    """A measure with mean 0 and sd 1: sums of quarters are exact in any order."""
    return Measure(
        subject=subject,  # pyright: ignore[reportArgumentType]  (a word of two)
        name=name,
        of=name,
        part="value",
        bins=bins,
        labels=bins.labels,
        counts=np.arange(len(bins.labels), dtype=np.int64) * 10,
        mean=0.0,
        sd=1.0,
        has_moments=has_moments,
    )


def small_measures() -> Measures:
    measures = [
        measure("field", "distance", NumberBins(edges=(-1.0, 0.0, 2.0)), has_moments=True),
        measure("field", "is_weekend", BOOLEAN_BINS),
        measure("field", "carrier", CARRIERS),
        measure("output", "probability", NumberBins(edges=(0.25, 0.5)), has_moments=True),
    ]
    return Measures(measures, fields=FIELDS, zones={}, outputs=[OUTPUT])


def small_layout(version: str = "7", *, ring_rows: int = 64, **settings: Any) -> Layout:
    settings = {"decisions": DECISIONS, "notes": NOTES, "objective_seconds": 0.02, **settings}
    return Layout(
        "flights",
        version,
        field_names=[f.name for f in FIELDS],
        measures=small_measures(),
        ring_rows=ring_rows,
        **settings,
    )


@dataclass
class Asked:
    """A request: its rows, what became of them, and how long it took."""

    rows: np.ndarray
    flags: np.ndarray
    outputs: np.ndarray
    outcome: list[int]
    reason: list[int]
    decision: list[int]
    stages_ns: list[int]
    total_ns: int
    extra_keys: bool
    notes: dict[int, int] = field(default_factory=dict)
    is_late: bool = False
    is_named: bool = False

    def __len__(self) -> int:
        return len(self.rows)


def some_requests(rng: np.random.Generator, how_many: int, *, max_rows: int = 5) -> list[Asked]:
    return [some_request(rng, int(rng.integers(1, max_rows + 1))) for _ in range(how_many)]


def some_request(rng: np.random.Generator, n: int) -> Asked:
    outcome = rng.choice(len(OUTCOMES), n, p=[0.6, 0.1, 0.1, 0.1, 0.1]).tolist()
    flags = rng.choice(N_FLAGS, (n, len(FIELDS)), p=[0.8, 0.05, 0.05, 0.05, 0.05]).astype(np.uint8)
    rows = np.column_stack(
        [
            rng.integers(-12, 13, n) / 4,
            rng.integers(0, 2, n),
            rng.integers(0, 6, n),
            rng.integers(0, 6, n),
        ]
    ).astype(np.float64)
    stages = rng.choice([0, 4_999, 5_000, 5_001, 40_000, 250_000_000, 300_000_000], 6).tolist()
    return Asked(
        rows=rows,
        flags=flags,
        outputs=rng.integers(0, 5, (n, 1)) / 4,
        outcome=outcome,
        reason=[int(rng.integers(len(REASONS))) if code in (1, 2) else NO_CODE for code in outcome],
        decision=[int(rng.integers(2)) if code < 3 else NO_CODE for code in outcome],
        stages_ns=stages,
        total_ns=sum(stages),
        extra_keys=bool(rng.integers(2)),
        notes={
            row: int(rng.integers(1, 1 << len(NOTES))) for row in range(n) if rng.random() < 0.3
        },
        is_late=bool(rng.integers(2)),
        is_named=bool(rng.integers(4) == 0),
    )


def write(counter: Counter, group: Sequence[Asked], *, arrived: Any = 0.0) -> int:
    """Writes the rows of a group of requests as the core does."""
    notes: dict[int, int] = {}
    first = 0
    for asked in group:
        notes |= {first + row: bits for row, bits in asked.notes.items()}
        first += len(asked)
    return counter.write(
        np.concatenate([asked.rows for asked in group]),
        np.concatenate([asked.flags for asked in group]),
        np.concatenate([asked.outputs for asked in group]),
        arrived,
        [code for asked in group for code in asked.outcome],
        bytes(code for asked in group for code in asked.reason),
        np.array([code for asked in group for code in asked.decision], np.uint8),
        notes,
    )


def commit(counter: Counter, asked: Asked) -> None:
    counter.commit(
        len(asked),
        asked.stages_ns,
        asked.total_ns,
        extra_keys=asked.extra_keys,
        is_late=asked.is_late,
        is_named=asked.is_named,
    )


def count(counter: Counter, group: Sequence[Asked]) -> None:
    write(counter, group)
    for asked in group:
        commit(counter, asked)


@dataclass
class SlowCount:
    """Counts one request after the other with loops and comparisons."""

    layout: Layout
    families: dict[str, np.ndarray] = field(default_factory=dict)
    moments: np.ndarray = field(default_factory=lambda: np.zeros((2, 4)))

    def __post_init__(self) -> None:
        self.families = {
            name: np.zeros(shape, np.int64) for name, (_, shape) in self.layout.families.items()
        }

    def add(self, requests: Iterable[Asked]) -> "SlowCount":
        for asked in requests:
            self._request(asked)
            for i in range(len(asked)):
                self._row(asked, i)
        return self

    def flat(self) -> np.ndarray:
        return np.concatenate([counts.ravel() for counts in self.families.values()])

    def _request(self, asked: Asked) -> None:
        families = self.families
        families["extra_keys"][0] += asked.extra_keys
        families["late_requests"][0] += asked.is_late
        families["durations_ns"] += [*asked.stages_ns, asked.total_ns]
        families["total_buckets"][bucket(asked.total_ns, self.layout.total_bounds)] += 1
        families["squares"] += len(asked) ** 2
        if asked.is_named:
            families["named_squares"] += len(asked) ** 2
            at = bucket(asked.total_ns, self.layout.total_bounds)
            families["named_buckets"][at] += 1
        for stage in range(len(STAGES)):
            at = bucket(asked.stages_ns[stage], self.layout.stage_bounds)
            families["stage_buckets"][stage, at] += 1

    def _row(self, asked: Asked, i: int) -> None:
        outcome, families = OUTCOMES[asked.outcome[i]], self.families
        families["outcomes"][asked.outcome[i]] += 1
        if outcome in RUNGS:
            families["fallbacks"][RUNGS.index(outcome), asked.reason[i]] += 1
            if asked.is_named:
                families["named_fallbacks"][RUNGS.index(outcome), asked.reason[i]] += 1
        if asked.is_named:
            families["named_outcomes"][asked.outcome[i]] += 1
        families["deadline_missed"][0] += asked.reason[i] == REASONS.index("deadline")
        for note in range(len(NOTES)):
            families["notes"][note] += asked.notes.get(i, 0) >> note & 1
        if asked.decision[i] != NO_CODE:
            families["decisions"][asked.decision[i]] += 1
        for j in range(len(FIELDS)):
            if asked.flags[i, j]:
                families["quality"][j, asked.flags[i, j] - 1] += 1
        before = self.families["bins"].copy()
        self._shapes(asked, i)
        if asked.is_named:
            self.families["named_bins"] += self.families["bins"] - before

    def _shapes(self, asked: Asked, i: int) -> None:
        bins = self.families["bins"]
        distance, is_weekend, carrier, _ = asked.rows[i]
        enters = [flag in (0, 4) for flag in asked.flags[i]]
        if enters[0]:
            bins[sum(distance > edge for edge in (-1, 0, 2))] += 1
            self._moment(0, distance)
        if enters[1]:
            bins[4 + int(is_weekend)] += 1
        if enters[2] and carrier < 5:
            bins[6 + (0, 1, 2, 2, 3)[int(carrier)]] += 1
        if asked.outcome[i] == 0:
            bins[10 + sum(asked.outputs[i, 0] > edge for edge in (0.25, 0.5))] += 1
            self._moment(1, asked.outputs[i, 0])

    def _moment(self, row: int, value: float) -> None:
        self.moments[row, 0 if value > 0 else 1] += abs(value)
        self.moments[row, 2 if value > 0 else 3] += value**2


def bucket(nanoseconds: int, bounds: Sequence[float]) -> int:
    return sum(nanoseconds > round(bound * 1e9) for bound in bounds)


def summable(totals: Totals) -> np.ndarray:
    """The counts that are sums: all but those of the last request."""
    counts = totals.counts.copy()
    counts[totals.layout.families["last_request"].at] = 0
    return counts


def assert_counted(totals: Totals, expected: SlowCount) -> None:
    for name, counts in expected.families.items():
        if name == "last_request":  # of one region, and between folds alone
            continue
        np.testing.assert_array_equal(totals.of(name), counts, err_msg=name)
    np.testing.assert_array_equal(totals.moments, expected.moments)
