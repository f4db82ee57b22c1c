"""Lines of the metrics page: as templates whose text is written once, and filled with numbers."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

from server.catalogue import Metric

Page = dict[str, str]
"""The lines of each metric, by the metric's name."""


class Template:
    """The lines of a metric: their text, with a place for each number.

    Most numbers of most bundles are between two scrapes what they were, and text that is kept costs
    a tenth of text that is written.

    Args:
        text: with a `%` conversion in each place.
    """

    __slots__ = ("_last", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._last: tuple[tuple[float, ...], str] | None = None

    def filled(self, numbers: Iterable[float]) -> str:
        """The lines with these numbers."""
        now = tuple(numbers)
        if self._last is None or self._last[0] != now:
            self._last = now, self._text % now
        return self._last[1]


def single(metric: Metric, value: float) -> Page:
    """A metric of one series without labels."""
    return {metric.name: f"{metric.name} {value!r}\n"}


def lines_template(
    metric: Metric, series: Iterable[Sequence[object]], *, number: str = "%d"
) -> Template:
    """A line for each series, which is given by the values of the metric's labels."""
    return Template(
        "".join(
            f"{metric.name}{_braced(zip(metric.labels, values, strict=True))} {number}\n"
            for values in series
        )
    )


def observed(buckets: Iterable[int], *total: float) -> tuple[float, ...]:
    """What `histogram_template` takes of one histogram.

    Args:
        buckets: its counts, one by one.
        total: its sum, as the template writes it.
    """
    counts = tuple(accumulate(buckets))
    return (*counts, *total, counts[-1])


def histogram_template(
    metric: Metric,
    series: Iterable[Sequence[object]],
    bounds: Sequence[float],
    *,
    total: str = "%d.%09d",
) -> Template:
    """The lines of histograms: each takes its counts up to every bound and in all, sum, and count.

    Args:
        metric: a histogram.
        series: the values of the metric's labels, of each.
        bounds: upper ones of all buckets but the last.
        total: how the sum is written; by default of whole seconds and nanoseconds.
    """
    lines: list[str] = []
    for values in series:
        labels = list(zip(metric.labels, values, strict=True))
        lines += [
            f"{metric.name}_bucket{_braced([*labels, ('le', bound)])} %d\n"
            for bound in (*map(repr, bounds), "+Inf")
        ]
        lines.append(f"{metric.name}_sum{_braced(labels)} {total}\n")
        lines.append(f"{metric.name}_count{_braced(labels)} %d\n")
    return Template("".join(lines))


def _braced(labels: Iterable[tuple[str, object]]) -> str:
    """Labels as both formats write them, for a template: `{model="flights",version="7"}`."""
    pairs = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels)
    return "{" + pairs.replace("%", "%%") + "}" if pairs else ""


def _escaped(value: str) -> str:
    # Half of a surrogate pair, which JSON can bring into a vocabulary, has no UTF-8.
    text = value.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
