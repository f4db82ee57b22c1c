"""What one process counts itself, on its loop: counts and histograms, as lines of the page."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from server.catalogue import Metric
from server.lines import Page, histogram_template, lines_template, observed


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
        return {self._name: self._template % tuple(self._counts.values())}


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
        return self._template % observed(self._buckets, self._sum)


def states(metric: Metric, now: dict[str, str | None], every: Sequence[str]) -> Page:
    """The state of each model: 1 in the series of that state, 0 in those of the others.

    Args:
        metric: a gauge with the labels of a model and its state.
        now: the state of each model; None for none of them.
        every: all that there are.
    """
    series = [(model, state) for model in sorted(now) for state in every]
    told = lines_template(metric, series) % tuple(int(state == now[it]) for it, state in series)
    return {metric.name: told}
