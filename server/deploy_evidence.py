"""What a deploy is judged by, out of what is counted in shared memory.

Requests that name a version are left out: whoever asks for the candidate by name, to try it, is not
among the callers that it is to win.
"""

import numpy as np

from models.evidence import FAULT_REASONS, Arm, Evidence
from models.vocabulary import REASONS
from server.shadow_counters import Shadow
from server.tallies import Ints, Totals

_FAULTS = [REASONS.index(reason) for reason in FAULT_REASONS]


def arm_of(totals: Totals) -> Arm:
    """What a bundle has answered to requests that named no version."""
    outcomes = totals.of("outcomes") - totals.of("named_outcomes")
    fallbacks = totals.of("fallbacks") - totals.of("named_fallbacks")
    buckets = totals.of("total_buckets") - totals.of("named_buckets")
    bins = totals.of("bins") - totals.of("named_bins")
    return Arm(
        requests=int(buckets.sum()),
        squares=int((totals.of("squares") - totals.of("named_squares")).sum()),
        outcomes=_tuple(outcomes),
        faults=int(fallbacks[:, _FAULTS].sum()),
        bounds=totals.layout.total_bounds,
        latency=_tuple(buckets),
        outputs=_outputs(totals, bins),
    )


def _outputs(totals: Totals, bins: Ints) -> dict[str, tuple[int, ...]]:
    measures = totals.layout.measures
    parts = np.split(bins, measures.offsets[1:-1])
    return {
        measure.of: _tuple(part)
        for measure, part in zip(measures.measures, parts, strict=True)
        if measure.subject == "output"
    }


def _tuple(counts: Ints) -> tuple[int, ...]:
    return tuple(counts.tolist())


def of_callers(candidate: Totals | None, live: Totals | None) -> Evidence:
    """Of requests that one of both bundles answered; one that is not loaded has answered none."""
    arms = (Arm() if totals is None else arm_of(totals) for totals in (candidate, live))
    return Evidence(candidate=next(arms), live=next(arms))


def of_shadow(candidate: Shadow, live: Shadow | None) -> Evidence:
    """Of rows that both answered."""
    return Evidence(
        candidate=candidate.arm,
        live=Arm() if live is None else live.arm,
        compared=candidate.compared,
        changed=candidate.changed,
    )
