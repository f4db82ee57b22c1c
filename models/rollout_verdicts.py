"""What the evidence of a deploy says against a candidate: each test, its error, and its sentence.

There are nine tests: failing, degraded and late rows while live answers beside the candidate, the
same three after it was promoted, slower answers, shifted outputs, and changed decisions. Each has a
ninth of the error that a whole deploy may have (Bonferroni).

- A candidate **fails**, is **degraded** or **late** if its bad rows are more than it promises (its
  own objectives, `sequential.against_promise`) *and* more than live's at the same time
  (`sequential.against_live`). Both must be told, so each with the whole error of the test: what
  makes both bad is not the candidate's fault. Once it is promoted there is no live beside it; its
  promise is then what it declares, or twice what live did, whichever is more.
- Its answers are **slower** if, at some bound of the latency buckets, more of its requests are
  above than of live's above that bound divided by the allowed factor. All bounds are bet on
  together.
- Its outputs are **shifted** if their PSI from the candidate's own training is larger than the
  distance that live's have from live's training explains. The square root of a PSI is a distance,
  so the two are compared there: allowed is the square of sqrt(live's PSI) +
  sqrt(`TOLERATED_SHIFT`), and chance is allowed for by `drift.psi_threshold`. A better model may
  react to what live does not see, such as the weather, so it must also be farther than any window
  of its own training with about as many rows; farther than 95 % of them is a doubt. It is looked at
  when a stage has 200 rows and whenever they are half as many again; the k-th look of a deploy
  spends 1 / (k (k + 1)) of the test's error, which sums to 1 (K. K. G. Lan and D. L. DeMets,
  "Discrete sequential boundaries for clinical trials", Biometrika 70, 1983).
- Its decisions are **changed** too often only where the owner gave a bound.
"""

import math
from statistics import NormalDist
from typing import Final

import numpy as np
from msgspec import structs

from models.drift import MIN_ROWS, Z_1_PERCENT, noise, psi, psi_threshold
from models.evidence import Evidence, above_scaled, quantile
from models.manifest import Strict
from models.rollout_tests import (
    LATE_RATIO,
    NOWHERE,
    TESTS,
    Excursion,
    Looks,
    Promises,
    Slowness,
    Tally,
    Tests,
    allowed_ratio,
)
from models.sequential import log_stake

TOLERATED_SHIFT: Final = 0.1
"""PSI that the candidate's outputs may have beyond what live's have."""
DOUBT: Final = math.log(10)
"""A stake that chance alone reaches once in ten deploys: no reason to roll back, nor to go on."""
NEXT_LOOK: Final = 1.5


class Reason(Strict, frozen=True, kw_only=True):
    """Why a deploy does what it does; `kind` is one of `vocabulary.ROLLOUT_REASONS`."""

    kind: str
    sentence: str


class Verdict(Strict, frozen=True, kw_only=True):
    """What the tests say now.

    Attributes:
        against: why the candidate is to be rolled back; nothing while no test has spoken.
        doubts: what is suspicious, and needs more rows.
        tests: as they stand.
    """

    against: tuple[Reason, ...]
    doubts: tuple[Reason, ...]
    tests: Tests


def judged(tests: Tests, stage: Evidence, promises: Promises, *, alone: bool) -> Verdict:
    """What the tests say.

    Args:
        tests: as they stand.
        stage: all evidence of the stage.
        promises: of the candidate.
        alone: no live answers beside it any more.
    """
    found = [
        *_bad_rows(tests, promises, alone=alone),
        *([] if alone else _slow(tests.slowness, promises)),
        *_changed(tests.changed, promises),
    ]
    shifted, looks = ([], tests.looks) if alone else _shifted(stage, promises, tests.looks)
    found += shifted
    return Verdict(
        against=tuple(reason for is_proven, reason in found if is_proven),
        doubts=tuple(reason for is_proven, reason in found if not is_proven),
        tests=structs.replace(tests, looks=looks),
    )


Found = list[tuple[bool, Reason]]
"""Whether it is proven, or a doubt, and what it is."""


def _bad_rows(tests: Tests, promises: Promises, *, alone: bool) -> Found:
    said = (
        (
            "failing",
            tests.failing,
            promises.failing_ratio,
            "rows failed, or its model could not answer them",
        ),
        (
            "degraded",
            tests.degraded,
            promises.degraded_ratio,
            "rows were answered by a lower rung, or by nobody",
        ),
        ("late", tests.late, LATE_RATIO, f"requests took over {_time(promises.latency_seconds)}"),
    )
    found: Found = []
    for kind, tally, promised, words in said:
        stake = tally.against_promise()
        if not alone:
            stake = min(stake, tally.against_live())
        if stake < DOUBT:
            continue
        allowed = allowed_ratio(promised, tally, alone=alone)
        sentence = (
            f"{_of(tally.bad, tally.rows)} of the candidate's {words}; it promises at most "
            f"{_percent(allowed)}, and of live's it were {_of(tally.live_bad, tally.live_rows)}; "
            f"{_chance(stake)}"
        )
        found.append((stake >= promises.enough, Reason(kind=kind, sentence=sentence)))
    return found


def _slow(slowness: Slowness, promises: Promises) -> Found:
    if not slowness.bounds:
        return []
    gained, best = np.array(slowness.versus), np.array(slowness.best)
    stake = log_stake(gained, best)
    if stake < DOUBT:
        return []
    place = int((gained - best).max(axis=1).argmax())
    bound = slowness.bounds[place]
    live = np.array(slowness.live)
    scaled = float(above_scaled(slowness.bounds, live, promises.slower, live)[place])
    p99, live_p99 = (
        quantile(slowness.bounds, counts, 0.99) for counts in (slowness.candidate, slowness.live)
    )
    sentence = (
        f"{_of(sum(slowness.candidate[place + 1 :]), sum(slowness.candidate))} of the candidate's "
        f"requests took over {_time(bound)}, and {_of(scaled, sum(slowness.live))} of live's over "
        f"{_time(bound / promises.slower)}, {promises.slower:g} times less, as far as buckets tell "
        f"(p99 {_time(p99)} and {_time(live_p99)}); {_chance(stake)}"
    )
    return [(stake >= promises.enough, Reason(kind="slower", sentence=sentence))]


def _changed(tally: Tally, promises: Promises) -> Found:
    allowed = promises.max_changed_decisions
    if allowed is None:
        return []
    stake = tally.against_promise()
    if stake < DOUBT and tally.ratio <= allowed:
        return []
    sentence = (
        f"{_of(tally.bad, tally.rows)} compared rows were decided otherwise than by live, allowed "
        f"are {_percent(allowed)}; {_chance(stake)}"
    )
    return [(stake >= promises.enough, Reason(kind="changed_decisions", sentence=sentence))]


def _shifted(stage: Evidence, promises: Promises, looks: Looks) -> tuple[Found, Looks]:
    candidate, live = stage.candidate, stage.live
    shared = [
        name
        for name in promises.trained
        if {name} <= promises.live_trained.keys() & candidate.outputs.keys() & live.outputs.keys()
    ]
    rows = [sum(arm.outputs[name]) for arm in (candidate, live) for name in shared]
    if not shared or min(rows) < MIN_ROWS:
        return [], looks
    is_look = max(rows[: len(shared)]) >= looks.at
    if is_look:
        looks = Looks(done=looks.done + 1, at=max(rows[: len(shared)]) * NEXT_LOOK)
    spent = promises.alpha / TESTS / len(shared) / (looks.done * (looks.done + 1))
    found: Found = []
    for name in shared:
        found += _shift_of(name, stage, promises, spent if is_look else 0.0)
    return found, looks


def _excursion(promises: Promises, name: str, rows: int) -> Excursion:
    """How far windows of so many rows were in training; of fewer, where all had more."""
    known = promises.usual.get(name, ())
    fitting = [one for one in known if one.rows <= rows] or known[:1]
    return fitting[-1] if fitting else NOWHERE


def _shift_of(name: str, stage: Evidence, promises: Promises, spent: float) -> Found:
    """One output; `spent` is the error of this look, 0 for none: then there are doubts only."""
    arms = (stage.candidate, promises.trained), (stage.live, promises.live_trained)
    scores: list[float] = []
    for arm, trained in arms:
        reference, counts = np.array(trained[name]), np.array(arm.outputs[name])
        if len(reference) != len(counts):
            return []
        scores.append(psi(reference, counts))
    own, of_live = scores
    explained = (math.sqrt(of_live) + math.sqrt(TOLERATED_SHIFT)) ** 2
    rows, trained_rows = sum(stage.candidate.outputs[name]), sum(promises.trained[name])
    h = noise(rows, trained_rows, 1 / stage.candidate.together)
    bins = len(promises.trained[name])
    usual = _excursion(promises, name, rows)
    allowed = max(explained, usual.max)
    doubtful = psi_threshold(bins, h, tolerance=max(explained, usual.p95), z=Z_1_PERCENT)
    proven = math.inf
    if spent:
        z = NormalDist().inv_cdf(1 - spent)
        proven = psi_threshold(bins, h, tolerance=allowed, z=z)
    if own <= doubtful:
        return []
    sentence = (
        f"output {name!r} is a PSI of {own:.3f} from the candidate's own training over {rows:,} "
        f"rows; live's, a PSI of {of_live:.3f} from its training, explains up to {explained:.3f}"
        + (f", and so far was the candidate in training: {usual.max:.3f}" if usual.max else "")
        + (f", and chance up to {proven:.3f}" if spent else "")
    )
    return [(own > proven, Reason(kind="shifted", sentence=sentence))]


# words


def _of(bad: float, rows: float) -> str:
    return f"{bad:,.0f} of {rows:,.0f} ({_percent(bad / rows if rows else 0.0)})"


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.3g} %"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "any time"
    scale, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1.0, "s")
    return f"{seconds * scale:.3g} {unit}"


def _chance(stake: float) -> str:
    return f"by chance at most once in {_rounded(math.exp(min(stake, 50.0)))} deploys"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else "a million"
