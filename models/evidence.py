"""What a deploy has seen so far, as counts that only grow, of the candidate and of live.

The counts are those that `/metrics` exports, or, of a shadow, those of the compared rows. They may
begin anywhere: only what is added is looked at. Where one is smaller than before (a server was
started again), what is added since is not known and is left out.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.manifest import Strict
from models.vocabulary import OUTCOMES

FloatArray = NDArray[np.float64]
_NORMAL: Final = NormalDist()
FAULT_REASONS: Final = ("model_error", "output_invalid", "breaker")
"""Why a lower rung answers when it is the model's own fault, and not the record's or the load's."""


class Arm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts of one of the two bundles.

    Attributes:
        requests: that it answered; a list is one.
        squares: sum of the squares of the rows of each request; 0 where it was not counted.
        outcomes: rows by `vocabulary.OUTCOMES`.
        faults: rows that a lower rung answered for one of `FAULT_REASONS`.
        bounds: upper bounds of the latency buckets, seconds, ascending.
        latency: requests in each, and one more for those above the last bound; measured alike for
            both bundles, of a shadow the runs of both.
        outputs: per output the rows in each bin of this bundle's own training.
    """

    requests: int = 0
    squares: int = 0
    outcomes: tuple[int, ...] = (0,) * len(OUTCOMES)
    faults: int = 0
    bounds: tuple[float, ...] = ()
    latency: tuple[int, ...] = ()
    outputs: dict[str, tuple[int, ...]] = {}

    @property
    def rows(self) -> int:
        """All of them, whatever became of them."""
        return sum(self.outcomes)

    @property
    def failing(self) -> int:
        """Rows that failed, or that the model should have answered and could not."""
        return self.outcomes[OUTCOMES.index("failed")] + self.faults

    @property
    def degraded(self) -> int:
        """Rows that the model did not answer, for any reason."""
        return self.rows - self.outcomes[OUTCOMES.index("model")]

    @property
    def together(self) -> float:
        """What a row counts for, since those of a list are good or bad together: 1 without lists.

        Kish's effective size (*Survey Sampling*, 1965): the rows over the sum of their squares.
        Without the squares the requests for each row, as if all lists were of one length.
        """
        rows = self.rows
        if not rows:
            return 1.0
        return min(rows / self.squares if self.squares else self.requests / rows, 1.0)


class Evidence(Strict, frozen=True, kw_only=True):
    """All that is known at one moment.

    Attributes:
        candidate, live: what each answered; of a shadow, of the rows that both saw.
        compared: rows that both answered, and `changed` those with another decision, or without
            decisions another answer.
        selftest: what a golden row of the candidate found wrong on this machine; None while none.
        lost: why the candidate cannot answer any more, as a worker says it; None while it can.
    """

    candidate: Arm = Arm()
    live: Arm = Arm()
    compared: int = 0
    changed: int = 0
    selftest: str | None = None
    lost: str | None = None


def added(now: Evidence, before: Evidence) -> Evidence | None:
    """What `now` has more than `before`; None where something is less, or has other bins."""
    candidate = _more(now.candidate, before.candidate)
    live = _more(now.live, before.live)
    compared, changed = now.compared - before.compared, now.changed - before.changed
    if candidate is None or live is None or min(compared, changed) < 0:
        return None
    return Evidence(candidate=candidate, live=live, compared=compared, changed=changed)


def _more(now: Arm, before: Arm) -> Arm | None:
    if before == Arm():  # nothing was counted yet
        return now
    if now.bounds != before.bounds or set(now.outputs) != set(before.outputs):
        return None
    outcomes = _less(now.outcomes, before.outcomes)
    latency = _less(now.latency, before.latency)
    outputs = {name: _less(now.outputs[name], before.outputs[name]) for name in now.outputs}
    requests, faults = now.requests - before.requests, now.faults - before.faults
    squares = now.squares - before.squares
    parts = [outcomes, latency, *outputs.values()]
    if None in parts or min(requests, squares, faults) < 0:
        return None
    return Arm(
        requests=requests,
        squares=squares,
        outcomes=outcomes or (),
        faults=faults,
        bounds=now.bounds,
        latency=latency or (),
        outputs={name: counts or () for name, counts in outputs.items()},
    )


def _less(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...] | None:
    if len(now) != len(before):
        return None
    counts = tuple(a - b for a, b in zip(now, before, strict=True))
    return None if min(counts, default=0) < 0 else counts


# latency


def common_bounds(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    """Bounds that both histograms have: each bundle's objective is a bound of its own alone."""
    return tuple(sorted(set(one) & set(other)))


def folded(bounds: Sequence[float], counts: Sequence[int], into: Sequence[float]) -> FloatArray:
    """Counts in coarser buckets; `into` are some of the bounds, and one bucket more is open."""
    if not counts:
        return np.zeros(len(into) + 1)
    edges = [0, *(bounds.index(bound) + 1 for bound in into)]
    return np.add.reduceat(np.asarray(counts, np.float64), edges)


def above(bounds: Sequence[float], counts: Sequence[int], seconds: float) -> tuple[int, float]:
    """Requests above the first bound that is at least `seconds`, and that bound.

    None are where all bounds are below.
    """
    for place, bound in enumerate(bounds):
        if bound >= seconds:
            return sum(counts[place + 1 :]), bound
    return 0, seconds


@lru_cache(maxsize=64)
def _scaled_places(bounds: tuple[float, ...], times: float) -> tuple[int, ...]:
    """The bucket in which each bound lies when it is divided by `times`."""
    return tuple(
        next(place for place, edge in enumerate(bounds) if edge >= bound / times)
        for bound in bounds
    )


def above_scaled(
    bounds: tuple[float, ...], counts: FloatArray, times: float, history: FloatArray
) -> FloatArray:
    """Requests above each bound divided by `times`; float64 (n_bounds,).

    Where that lies within a bucket, the bucket's requests are divided as a log-normal distribution
    through the two ends of the bucket would be: latencies mostly are like that, and wide buckets
    would otherwise hide as much as they are wide. Of the first bucket, which begins at 0, all
    requests are above.

    Args:
        bounds: ascending.
        counts: requests by bucket, float64 (n_bounds + 1,).
        times: 1 or more.
        history: counts from before these, which say how a bucket is divided.
    """
    beyond = counts[::-1].cumsum()[::-1]
    scores = _scores(history)
    found = np.empty(len(bounds))
    for row, place in enumerate(_scaled_places(bounds, times)):
        at, high = bounds[row] / times, bounds[place]
        part = 0.0 if at >= high else 1.0
        if part and place:
            part = _part_above(at, (bounds[place - 1], high), scores[place - 1 : place + 1])
        found[row] = beyond[place + 1] + part * counts[place]
    return found


def _scores(history: FloatArray) -> list[float]:
    """Normal quantile of the share below each bound; none is infinite."""
    total = float(history.sum())
    shares = (history.cumsum()[:-1] + 0.5) / (total + 1.0)
    return [_NORMAL.inv_cdf(share) for share in shares.tolist()]


def _part_above(at: float, ends: tuple[float, float], scores: Sequence[float]) -> float:
    """Share of a bucket's requests above a time within it."""
    low, high = scores
    middle = low + (high - low) * math.log(at / ends[0]) / math.log(ends[1] / ends[0])
    whole = _NORMAL.cdf(high) - _NORMAL.cdf(low)
    if whole <= 0:  # nobody was ever here
        return math.log(ends[1] / at) / math.log(ends[1] / ends[0])
    return min(max((_NORMAL.cdf(high) - _NORMAL.cdf(middle)) / whole, 0.0), 1.0)


def quantile(bounds: Sequence[float], counts: Sequence[float], q: float) -> float:
    """The latency that a share `q` of requests stays below, interpolated; the last bound at most.

    0 without requests.
    """
    total, sought = sum(counts), 0.0
    if not total or not bounds:
        return 0.0
    for place, bound in enumerate(bounds):
        share = counts[place] / total
        if sought + share >= q and share:
            low = bounds[place - 1] if place else bound / 2
            return low * (bound / low) ** ((q - sought) / share)
        sought += share
    return bounds[-1]
