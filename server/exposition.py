"""The page that Prometheus scrapes, in its text format 0.0.4 or in OpenMetrics 1.0."""

from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from operator import add
from time import perf_counter
from typing import Any, Final, NamedTuple

from server import catalogue
from server.catalogue import METRICS, Metric
from server.http_counters import HttpCounters, read_http
from server.lines import Page, single
from server.own_process import OwnProcess
from server.regions import Region, Totals, read_totals
from server.series import HttpSeries, ModelSeries
from server.shadow_counters import Shadow, read_shadow
from server.shadow_series import shadow_page
from server.shares import Shares
from server.standing import Standing, read_standing
from server.vitals import read_vitals
from server.vitals_series import vitals_page

NOW: Final = frozenset(
    {
        "queued",
        "queued_rows",
        "batch_limit",
        "abandoned_active",
        "golden_failing",
        "golden_passed",
    }
)
"""What of a bundle's standing is no count of the past."""

_OPENMETRICS_TYPE: Final = "application/openmetrics-text"


class Format(NamedTuple):
    """A text format that Prometheus reads."""

    content_type: str
    is_openmetrics: bool


TEXT: Final = Format("text/plain; version=0.0.4; charset=utf-8", is_openmetrics=False)
OPENMETRICS: Final = Format(
    f"{_OPENMETRICS_TYPE}; version=1.0.0; charset=utf-8", is_openmetrics=True
)


def negotiated(accept: str) -> Format:
    """The format that an `Accept` header asks for: OpenMetrics where it is preferred, else text.

    >>> negotiated("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3").content_type
    'application/openmetrics-text; version=1.0.0; charset=utf-8'
    >>> negotiated("*/*").content_type
    'text/plain; version=0.0.4; charset=utf-8'
    """
    wishes = dict(sorted(map(_wish, accept.lower().split(","))))  # of one type the highest weight
    wish = wishes.get(_OPENMETRICS_TYPE, 0.0)
    others = [wishes[kind] for kind in ("text/plain", "text/*", "*/*") if kind in wishes]
    return OPENMETRICS if wish > 0 and wish >= max(others[:1], default=0.0) else TEXT


def _wish(text: str) -> tuple[str, float]:
    """Media type and weight of one part of an `Accept` header."""
    kind, *parameters = (part.strip() for part in text.split(";"))
    weights = [part[2:] for part in parameters if part.startswith("q=")]
    try:
        return kind, float(weights[0]) if weights else 1.0
    except ValueError:
        return kind, 0.0


class Past(NamedTuple):
    """What a bundle had counted before; `a + b` sums."""

    totals: Totals
    standing: Standing
    shadow: Shadow

    @classmethod
    def of(cls, regions: Sequence[Region]) -> "Past":
        """Of regions that nobody counts in any more: nothing waits, and no breaker has a state."""
        standing = read_standing(regions)
        nobody = (0,) * len(standing.breakers)
        nothing = dict.fromkeys(NOW & set(standing._fields), 0)
        standing = standing._replace(breakers=nobody, **nothing)
        return cls(read_totals(*regions), standing, read_shadow(regions))

    def __add__(self, other: "Past") -> "Past":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Not a longer tuple: both together."""
        standing = _together_standing(self.standing, other.standing)
        return Past(self.totals + other.totals, standing, self.shadow + other.shadow)


def _sum(one: Any, other: Any) -> Any:
    return tuple(map(add, one, other)) if isinstance(one, tuple) else one + other


def _together_standing(one: Standing, other: Standing) -> Standing:
    return Standing(*map(_sum, one, other))


class Exposed(NamedTuple):
    """A bundle on the page: its series, and the region of every worker that counts for it.

    Attributes:
        series: of the bundle.
        regions: in which its rows are counted; none when it is not loaded any more.
        forced: the rung that its rows are forced to, if any.
        slot: what it is to its model, see `vocabulary.SLOTS`; None when it is not loaded any more.
        past: what was counted when it was loaded before.
        overridden: what an operator has changed, of `vocabulary.OVERRIDE_PARTS`.
        shares: what it gets of its model's requests while it is not live.
    """

    series: ModelSeries
    regions: Sequence[Region]
    forced: str | None = None
    slot: str | None = "live"
    past: Past | None = None
    overridden: Collection[str] = ()
    shares: Shares = Shares()

    def page(self) -> Page:
        """What has been counted for it up to now."""
        standing = read_standing(self.regions)
        totals: list[Totals] = []
        shadows: list[Shadow] = []
        if self.past is not None:
            totals.append(self.past.totals)
            shadows.append(self.past.shadow)
            standing = _together_standing(standing, self.past.standing)
        if self.regions:
            totals.append(read_totals(*self.regions))
            shadows.append(read_shadow(self.regions))
        page = self.series.render(
            reduce(add, totals), standing, self.forced, self.slot, self.overridden
        )
        return page | shadow_page(reduce(add, shadows), self.shares)


class Exposition:
    """Writes pages.

    Args:
        http: the own counters of every worker; at least one.
    """

    def __init__(self, http: Sequence[HttpCounters]) -> None:
        self._http = http
        self._http_series = HttpSeries(http[0])
        self._own = OwnProcess()

    def page(self, models: Iterable[Exposed], form: Format = TEXT, *more: Page) -> bytes:
        """What has been counted up to now. Blocks for about a millisecond; writes no counter.

        Args:
            models: that are loaded.
            form: of the page.
            more: what else is to stand on it.
        """
        began = perf_counter()
        exposed = list(models)
        pages = [each.page() for each in exposed]
        pages.append(self._http_series.render(read_http(self._http).tolist()))
        more = (vitals_page(read_vitals(each.vitals for each in self._http)), *more)
        pages += more
        rest = self._own.lines(is_openmetrics=form.is_openmetrics)
        n_series = sum(each.series.n_series for each in exposed) + self._http_series.n_series
        n_series += sum(lines.count("\n") for each in more for lines in each.values())
        pages.append(single(catalogue.SERIES, n_series + 2))  # with this one and the next
        pages.append(single(catalogue.RENDER_SECONDS, perf_counter() - began))
        return (_together(pages, form) + rest).encode()


def _together(pages: Sequence[Page], form: Format) -> str:
    """Metric by metric: the formats want all lines of one together, of whatever bundle they are."""
    text: list[str] = []
    for name, head in _HEADS[form.is_openmetrics]:
        lines = [page[name] for page in pages if page.get(name)]
        if lines:
            text.append(head)
            text += lines
    return "".join(text)


def _head(metric: Metric, *, is_openmetrics: bool) -> str:
    """The lines that say what a metric is."""
    if not is_openmetrics:
        kind = "gauge" if metric.kind == "info" else metric.kind
        return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {kind}\n"
    unit = f"# UNIT {metric.family} {metric.unit}\n" if metric.unit else ""
    return f"# TYPE {metric.family} {metric.kind}\n{unit}# HELP {metric.family} {metric.help}\n"


_HEADS: Final = {
    is_openmetrics: [(each.name, _head(each, is_openmetrics=is_openmetrics)) for each in METRICS]
    for is_openmetrics in (False, True)
}
