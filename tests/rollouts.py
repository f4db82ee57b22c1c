"""Made-up traffic for deploys: two bundles that answer, with faults that can be given to one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evidence import Arm, Evidence
from models.rollout import Action, Plan, Promises, Stage, State, Stepped, begun, step

BOUNDS = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 0.01, 0.025, 0.05, 0.25)
BINS = 10
TRAINED = (5_000,) * BINS
PROMISES = Promises(
    failing_ratio=0.001,
    degraded_ratio=0.01,
    latency_seconds=0.025,
    trained={"probability": TRAINED},
    live_trained={"probability": TRAINED},
)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one bundle answers.

    Attributes:
        failing, faults, degraded: shares of rows that fail, that the model could not answer, and
            that policies send below.
        slower: factor on every latency.
        shift: of the outputs, in standard deviations of training.
        median: latency of half of the requests, seconds; `spread` is the sigma of its logarithm.
    """

    failing: float = 0.0
    faults: float = 0.0
    degraded: float = 0.002
    slower: float = 1.0
    shift: float = 0.0
    median: float = 4e-5
    spread: float = 0.5


def buckets(how: Behaviour) -> NDArray[np.float64]:
    """Chance of each latency bucket."""
    normal = NormalDist(np.log(how.median * how.slower), how.spread)
    below = np.array([0.0, *(normal.cdf(float(np.log(bound))) for bound in BOUNDS), 1.0])
    return np.diff(below)


@lru_cache(maxsize=256)
def bins(shift: float) -> NDArray[np.float64]:
    """Chance of each of the deciles of training, of outputs that are shifted."""
    normal = NormalDist()
    edges = [normal.inv_cdf(k / BINS) for k in range(1, BINS)]
    below = np.array([0.0, *(normal.cdf(edge - shift) for edge in edges), 1.0])
    return np.diff(below)


@dataclass
class Counter:
    """What one bundle has counted."""

    how: Behaviour
    requests: int = 0
    outcomes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(5, np.int64))
    faults: int = 0
    latency: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(BOUNDS) + 1, np.int64))
    outputs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def answer(self, rng: np.random.Generator, n: int, *, weather: float, trouble: float) -> None:
        """`n` requests of one row; `weather` shifts outputs, `trouble` is a share that fails."""
        how = self.how
        failing = min(how.failing + trouble, 1.0)
        shares = [failing, how.faults, how.degraded]
        failed, faults, degraded, model = rng.multinomial(n, [*shares, 1 - sum(shares)])
        self.requests += n
        self.outcomes += [model, 0, degraded + faults, 0, failed]
        self.faults += int(faults)
        self.latency += rng.multinomial(n, self._buckets)
        self.outputs += rng.multinomial(model, bins(how.shift + weather))

    def __post_init__(self) -> None:
        self._buckets = buckets(self.how)

    def arm(self) -> Arm:
        return Arm(
            requests=self.requests,
            outcomes=tuple(self.outcomes.tolist()),
            faults=self.faults,
            bounds=BOUNDS,
            latency=tuple(self.latency.tolist()),
            outputs={"probability": tuple(self.outputs.tolist())},
        )


@dataclass
class World:
    """Callers, at `rate` requests a second, and what both bundles do for them.

    Attributes:
        changed: share of compared rows that are decided otherwise.
        trouble: share that fails whoever answers, at every moment.
        weather: shift of everybody's outputs at a moment.
    """

    candidate: Behaviour = Behaviour()
    live: Behaviour = Behaviour()
    rate: float = 100.0
    seed: int = 0
    changed: float = 0.05
    trouble: float = 0.0
    weather: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.counters = Counter(self.candidate), Counter(self.live)
        self.compared = self.differ = 0

    def pass_by(self, stage: Stage, seconds: float) -> None:
        """Some seconds of callers, routed as the stage says."""
        n = int(self.rng.poisson(self.rate * seconds))
        first = n if stage.kind == "shadow" else int(self.rng.binomial(n, stage.share))
        second = n if stage.kind == "shadow" else n - first
        for counter, count in zip(self.counters, (first, second), strict=True):
            counter.answer(self.rng, count, weather=self.weather, trouble=self.trouble)
        if stage.kind == "shadow":
            self.compared += n
            self.differ += int(self.rng.binomial(n, self.changed))

    def evidence(self, **more: Any) -> Evidence:
        candidate, live = (counter.arm() for counter in self.counters)
        return Evidence(
            candidate=candidate, live=live, compared=self.compared, changed=self.differ, **more
        )


@dataclass(frozen=True)
class Ended:
    """How a deploy went.

    Attributes:
        canary: requests that the candidate had answered for callers.
        seconds: since the canary began.
    """

    action: Action
    seconds: float
    canary: int
    state: State


def deploys(plan: Plan, world: World, tick: float = 1.0) -> Iterator[tuple[Stepped, float]]:
    """A deploy step by step, until it ends; with the time."""
    now, stepped = 0.0, step(plan, begun(0.0), world.evidence(), 0.0)
    while stepped.action.kind not in ("rollback", "hold", "finish"):
        yield stepped, now
        now += tick
        world.pass_by(stepped.action.stage, tick)
        stepped = step(plan, stepped.state, world.evidence(), now)
    yield stepped, now


def deployed(plan: Plan, world: World, tick: float = 1.0) -> Ended:
    """How a whole deploy goes."""
    begun_at, before, now, stepped = None, 0, 0.0, None
    for stepped, now in deploys(plan, world, tick):
        if begun_at is None and stepped.action.stage.kind in ("canary", "bake"):
            begun_at, before = now, world.counters[0].requests
    assert stepped is not None
    seconds = now - begun_at if begun_at is not None else 0.0
    canary = world.counters[0].requests - before if begun_at is not None else 0
    return Ended(stepped.action, seconds, canary, stepped.state)
