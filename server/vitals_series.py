"""The series of how workers do as processes, summed over them."""

from typing import Final

from server import catalogue
from server.lines import Page, histogram_template, lines_template, observed, single
from server.vitals import LAG_BOUNDS, SPARE, Read

_NS: Final = 1_000_000_000
_LAGS: Final = histogram_template(catalogue.LOOP_LAG, [()], LAG_BOUNDS)
_SPARE: Final = lines_template(catalogue.SPARE_WORK, SPARE)


def vitals_page(read: Read) -> Page:
    """What is said of loops and threads."""
    lags = _LAGS.filled(observed(read.lags, *divmod(read.lag_ns, _NS)))
    busy = single(catalogue.RUNNER_BUSY, read.busy_ns / _NS)
    spare = {catalogue.SPARE_WORK.name: _SPARE.filled(read.spare)}
    deaths = single(catalogue.RUNNER_DEATHS, read.deaths)
    return {catalogue.LOOP_LAG.name: lags, **busy, **deaths, **spare}
