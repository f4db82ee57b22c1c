"""The series of how workers do as processes, summed over them."""

from itertools import accumulate

from server import catalogue
from server.series import Page
from server.vitals import LAG_BOUNDS, Read

_NS = 1_000_000_000


def vitals_page(read: Read) -> Page:
    """What is said of loops and threads."""
    lag, busy, deaths = catalogue.LOOP_LAG.name, catalogue.RUNNER_BUSY.name, catalogue.RUNNER_DEATHS
    counts = list(accumulate(read.lags))
    lines = [
        f'{lag}_bucket{{le="{bound}"}} {count}\n'
        for bound, count in zip((*LAG_BOUNDS, "+Inf"), counts, strict=True)
    ]
    lines += [f"{lag}_sum {read.lag_ns / _NS!r}\n", f"{lag}_count {counts[-1]}\n"]
    return {
        lag: "".join(lines),
        busy: f"{busy} {read.busy_ns / _NS!r}\n",
        deaths.name: f"{deaths.name} {read.deaths}\n",
    }
