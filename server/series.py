"""The text of series: built once for a bundle, filled with numbers for each page.

Everything but the numbers is known when a bundle is loaded. Its text is built then, a `%` template
for each metric, and a page only fills in numbers: that costs a hundredth of a registry of metrics.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.drift import shares
from models.measures import Measure
from models.vocabulary import (
    BREAKER_STATES,
    GOLDEN_RESULTS,
    OUTCOMES,
    OVERRIDE_PARTS,
    REASONS,
    RUNGS,
    SLOTS,
    STAGES,
    TROUBLES,
)
from server import catalogue, notes
from server.catalogue import Metric
from server.http_counters import HttpCounters
from server.layout import BATCH_BOUNDS, Layout
from server.lines import Page, Template, histogram_template, lines_template, observed
from server.regions import Totals
from server.shadow_series import series_of
from server.standing import AT_REST, Standing

SIGNS: Final = ("positive", "negative")

NOTED: Final = {
    notes.REPAIRED: catalogue.FIELD_REPAIRED,
    notes.CHECK: catalogue.CHECKS_FAILED,
    notes.OUTPUT: catalogue.OUTPUT_INVALID,
    notes.RULE: catalogue.RULE_ANSWERS,
    notes.RULE_ERROR: catalogue.RULE_ERRORS,
}
"""The metric of each kind of note; the rest of a note are the values of its own labels."""

_NS: Final = 1_000_000_000


class Facts(NamedTuple):
    """What a page says of a loaded bundle beside its counts.

    Attributes:
        digest: sha256 of its manifest.
        features: the full identity of its features, `flights@1+0123456789ab`.
        onnxruntime: the version that runs it.
        owner: who answers for it.
        loaded: when it was loaded, epoch seconds.
        trained: when it was trained, epoch seconds; None where nobody knows.
    """

    digest: str
    features: str
    onnxruntime: str
    owner: str
    loaded: float
    trained: float | None = None


class _Block(NamedTuple):
    """Lines of one metric, as a template, and how its numbers are found."""

    metric: Metric
    template: Template
    numbers: Callable[[Totals], Iterable[float]]


class ModelSeries:
    """The series of one loaded bundle, whose totals never shrink.

    Attributes:
        n_series: how many they are.
    """

    def __init__(self, layout: Layout, facts: Facts) -> None:
        self._constant = _facts(layout, facts) | _references(layout)
        self._blocks = [
            *_row_counts(layout),
            *_notes(layout),
            *_histograms(layout),
            *_distributions(layout),
        ]
        self._standing = _standing_templates(layout)
        nothing = Totals.nothing(layout)
        self._moments = nothing.moments
        empty = self.render(nothing)
        self.n_series = sum(lines.count("\n") for lines in empty.values()) + series_of(layout)

    def render(
        self,
        totals: Totals,
        standing: Standing = AT_REST,
        forced: str | None = None,
        slot: str | None = "live",
        overridden: Collection[str] = (),
    ) -> Page:
        """Fills in the numbers.

        Args:
            totals: of the same layout.
            standing: of its breakers and runners.
            forced: the rung that its rows are forced to, if any.
            slot: what it is to its model; None when it is not loaded any more.
            overridden: what an operator has changed, of `vocabulary.OVERRIDE_PARTS`.
        """
        # Sums of fractions: folding adds the same rows in another order, and a last digit that went
        # down would be a restart to Prometheus, which then adds the whole sum again.
        self._moments = np.maximum(self._moments, totals.moments)
        totals = Totals(totals.layout, totals.counts, self._moments)
        page = {
            metric.name: template.filled(numbers(totals))
            for metric, template, numbers in self._blocks
        }
        for name, numbers in _standing_numbers(standing, forced, slot, overridden):
            page[name] = self._standing[name].filled(numbers)
        return self._constant | page


class HttpSeries:
    """The series of workers' own counters, all with the same paths as `counters`.

    Attributes:
        n_series: how many they are.
    """

    def __init__(self, counters: HttpCounters) -> None:
        self._requests = lines_template(catalogue.REQUESTS, counters.requests)
        self._errors = lines_template(catalogue.ERRORS, counters.errors)
        self._n_requests = len(counters.requests)
        self.n_series = len(counters.requests) + len(counters.errors)

    def render(self, counts: Sequence[int]) -> Page:
        """Fills in counts in the order of `HttpCounters.read`."""
        n = self._n_requests
        return {
            catalogue.REQUESTS.name: self._requests.filled(counts[:n]),
            catalogue.ERRORS.name: self._errors.filled(counts[n:]),
        }


# What does not change while a bundle is loaded


def _facts(layout: Layout, facts: Facts) -> Page:
    own = layout.model, layout.version
    info = *own, facts.digest, facts.features, facts.onnxruntime, facts.owner
    page = _constant(catalogue.MODEL_INFO, [info], [1])
    page |= _constant(catalogue.MODEL_LOADED, [own], [facts.loaded])
    if facts.trained is not None:
        page |= _constant(catalogue.MODEL_TRAINED, [own], [facts.trained])
    return page


def _references(layout: Layout) -> Page:
    own = layout.model, layout.version
    page: Page = {}
    for subject, ratio, rows in (
        ("field", catalogue.FIELD_REFERENCE, catalogue.FIELD_REFERENCE_ROWS),
        ("output", catalogue.OUTPUT_REFERENCE, catalogue.OUTPUT_REFERENCE_ROWS),
    ):
        measures = _measures(layout, subject)
        page |= _constant(
            ratio,
            _binned(layout, measures),
            chain.from_iterable(shares(m.counts).tolist() for m in measures),
        )
        names = [(*own, measure.name) for measure in measures]
        page |= _constant(rows, names, [int(measure.counts.sum()) for measure in measures])
    return page


def _constant(metric: Metric, series: Iterable[Sequence[object]], numbers: Iterable[float]) -> Page:
    return {metric.name: lines_template(metric, series, number="%r").filled(numbers)}


# What is counted


def _row_counts(layout: Layout) -> Iterator[_Block]:
    for metric, family, values in (
        (catalogue.PREDICTIONS, "outcomes", (OUTCOMES,)),
        (catalogue.FALLBACKS, "fallbacks", (RUNGS, REASONS)),
        (catalogue.DECISIONS, "decisions", (layout.decisions,)),
        (catalogue.EXTRA_KEYS, "extra_keys", ()),
        (catalogue.DEADLINE_MISSED, "deadline_missed", ()),
        (catalogue.LATE_REQUESTS, "late_requests", ()),
        (catalogue.FIELD_QUALITY, "quality", (layout.field_names, TROUBLES)),
    ):
        series = product([layout.model], [layout.version], *values)
        at = layout.families[family].at
        yield _Block(metric, lines_template(metric, series), partial(_counts, at))


def _notes(layout: Layout) -> Iterator[_Block]:
    """What few rows have: the notes of a kind are the series of its metric."""
    start = layout.families["notes"].at.start
    for kind, metric in NOTED.items():
        own = [(at, labels) for at, (word, *labels) in enumerate(layout.notes) if word == kind]
        series = [(layout.model, layout.version, *labels) for _, labels in own]
        places = np.asarray([start + at for at, _ in own], np.intp)
        yield _Block(metric, lines_template(metric, series), partial(_picked, places))


def _distributions(layout: Layout) -> Iterator[_Block]:
    """Bins and moments of fields, then of outputs: the order in which they are counted."""
    bins, moments = layout.families["bins"].at.start, 0
    for subject, values, sums, squares in (
        (
            "field",
            catalogue.FIELD_VALUES,
            catalogue.FIELD_STANDARDIZED,
            catalogue.FIELD_SQUARES,
        ),
        (
            "output",
            catalogue.OUTPUT_VALUES,
            catalogue.OUTPUT_STANDARDIZED,
            catalogue.OUTPUT_SQUARES,
        ),
    ):
        measures = _measures(layout, subject)
        binned = _binned(layout, measures)
        at = slice(bins, bins + len(binned))
        yield _Block(values, lines_template(values, binned), partial(_counts, at))
        names = [measure.name for measure in measures if measure.has_moments]
        rows = slice(moments, moments + len(names))
        for metric, columns in (sums, slice(0, 2)), (squares, slice(2, 4)):
            series = product([layout.model], [layout.version], names, SIGNS)
            template = lines_template(metric, series, number="%r")
            yield _Block(metric, template, partial(_sums, rows, columns))
        bins, moments = at.stop, rows.stop


def _histograms(layout: Layout) -> Iterator[_Block]:
    own = layout.model, layout.version
    yield _Block(
        catalogue.REQUEST_DURATION,
        histogram_template(catalogue.REQUEST_DURATION, [own], layout.total_bounds),
        partial(_observations, "total_buckets", slice(len(STAGES), None)),
    )
    yield _Block(
        catalogue.STAGE_DURATION,
        histogram_template(
            catalogue.STAGE_DURATION, [(*own, stage) for stage in STAGES], layout.stage_bounds
        ),
        partial(_observations, "stage_buckets", slice(0, len(STAGES))),
    )


def _counts(at: slice, totals: Totals) -> list[int]:
    return totals.counts[at].tolist()


def _picked(places: NDArray[np.intp], totals: Totals) -> list[int]:
    return totals.counts[places].tolist()


def _sums(rows: slice, columns: slice, totals: Totals) -> list[float]:
    return totals.moments[rows, columns].ravel().tolist()


def _observations(family: str, columns: slice, totals: Totals) -> Iterator[float]:
    """Of each histogram: cumulative buckets, the sum in seconds and nanoseconds, the count."""
    durations = totals.of("durations_ns")[columns].tolist()
    buckets = totals.of(family).reshape(len(durations), -1).tolist()
    for each, duration in zip(buckets, durations, strict=True):
        yield from observed(each, *divmod(duration, _NS))


# How breaker and runner stand


def _standing_templates(layout: Layout) -> dict[str, Template]:
    own = layout.model, layout.version
    templates = {
        metric.name: lines_template(metric, product(*([word] for word in own), *values))
        for metric, values in (
            (catalogue.QUEUE_DEPTH, ()),
            (catalogue.QUEUE_ROWS, ()),
            (catalogue.BATCH_LIMIT, ()),
            (catalogue.ABANDONED_ACTIVE, ()),
            (catalogue.ABANDONED, ()),
            (catalogue.BREAKER_STATE, (BREAKER_STATES,)),
            (catalogue.BREAKER_OPENINGS, ()),
            (catalogue.FORCED_RUNG, (RUNGS,)),
            (catalogue.OVERRIDDEN, (OVERRIDE_PARTS,)),
            (catalogue.GOLDEN_ROWS, (GOLDEN_RESULTS,)),
            (catalogue.GOLDEN_FAILING, ()),
            (catalogue.GOLDEN_PASSED, ()),
            (catalogue.MODEL_SLOT, (SLOTS,)),
        )
    }
    bounds = [float(bound) for bound in BATCH_BOUNDS]
    batches = histogram_template(catalogue.BATCH_ROWS, [own], bounds, total="%d")
    return {**templates, catalogue.BATCH_ROWS.name: batches}


def _standing_numbers(
    standing: Standing, forced: str | None, slot: str | None, overridden: Collection[str]
) -> Iterator[tuple[str, tuple[float, ...]]]:
    yield catalogue.QUEUE_DEPTH.name, (standing.queued,)
    yield catalogue.QUEUE_ROWS.name, (standing.queued_rows,)
    yield catalogue.BATCH_LIMIT.name, (standing.batch_limit,)
    yield catalogue.BATCH_ROWS.name, observed(standing.batches, standing.batch_rows)
    yield catalogue.ABANDONED_ACTIVE.name, (standing.abandoned_active,)
    yield catalogue.ABANDONED.name, (standing.abandoned,)
    yield catalogue.BREAKER_STATE.name, standing.breakers
    yield catalogue.BREAKER_OPENINGS.name, (standing.openings,)
    yield catalogue.FORCED_RUNG.name, tuple(int(rung == forced) for rung in RUNGS)
    yield catalogue.OVERRIDDEN.name, tuple(int(part in overridden) for part in OVERRIDE_PARTS)
    yield catalogue.GOLDEN_ROWS.name, (standing.golden_same, standing.golden_different)
    yield catalogue.GOLDEN_FAILING.name, (standing.golden_failing,)
    yield catalogue.GOLDEN_PASSED.name, (standing.golden_passed,)
    yield catalogue.MODEL_SLOT.name, tuple(int(each == slot) for each in SLOTS)


# Series


def _measures(layout: Layout, subject: str) -> list[Measure]:
    return [measure for measure in layout.measures.measures if measure.subject == subject]


def _binned(layout: Layout, measures: Iterable[Measure]) -> list[tuple[str, ...]]:
    return [
        (layout.model, layout.version, measure.name, label)
        for measure in measures
        for label in measure.labels
    ]
