"""What one process counts itself, on its loop: counts and histograms, as lines of the page."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from server.catalogue import Metric
from server.lines import Page, Template, histogram_template, lines_template, observed


class Counts:
    """How often, by the values of a metric's labels.

    Args:
        metric: a counter.
        series: the values of its labels, of each.
    """

    def __init__(self, metric: Metric, series: Iterable[tuple[str, ...]]) -> None:
        self._name: Final = metric.name
        self._counts: Final = dict.fromkeys(series, 0)
        self._template: Final = lines_template(metric, self._counts)

    def add(self, *values: str) -> None:
        """Once more with these values of the labels."""
        self._counts[values] += 1

    @property
    def page(self) -> Page:
        """Its lines."""
        return {self._name: self._template.filled(self._counts.values())}


class Histogram:
    """How many values there were up to each bound.

    Args:
        metric: a histogram.
        bounds: upper ones of all buckets but the last, rising.
        labels: the values of the metric's labels.

    Attributes:
        count: of all values.
    """

    def __init__(self, metric: Metric, bounds: tuple[float, ...], *labels: str) -> None:
        self.count = 0
        self._bounds: Final = bounds
        self._buckets: Final = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._template: Final = histogram_template(metric, [labels], bounds, total="%r")

    def observe(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def lines(self) -> str:
        """Its lines."""
        return self._template.filled(observed(self._buckets, self._sum))


class States:
    """The state of each model: 1 in the series of that state, 0 in those of the others.

    Args:
        metric: a gauge with the labels of a model and its state.
        every: all states that there are.
    """

    def __init__(self, metric: Metric, every: Sequence[str]) -> None:
        self._metric: Final = metric
        self._every: Final = every
        self._now: Final[dict[str, str | None]] = {}
        self._templates: Final[dict[str, Template]] = {}

    def put(self, model: str, state: str | None) -> None:
        """From now on a model is in this one; None for none of them."""
        if model not in self._now:
            self._templates[model] = lines_template(self._metric, product([model], self._every))
        self._now[model] = state

    def forget(self, model: str) -> None:
        """It has no series any more."""
        self._now.pop(model, None)
        self._templates.pop(model, None)

    @property
    def page(self) -> Page:
        """Its lines."""
        told = (
            self._templates[model].filled(int(state == now) for state in self._every)
            for model, now in sorted(self._now.items())
        )
        return {self._metric.name: "".join(told)}
