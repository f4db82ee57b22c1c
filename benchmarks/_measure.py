"""Timing that can be trusted on a shared machine: interleaved, medians, ratios."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def microseconds(call: Callable[[], object], *, seconds: float = 0.2) -> float:
    """Median of seven rounds of the mean time of `call`."""
    calls = max(1, int(seconds / 7 / max(_once(call), 1e-7)))
    return statistics.median(_mean(call, calls) for _ in range(7)) * 1e6


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 75, seconds: float = 0.01
) -> dict[str, list[float]]:
    """Microseconds of each, measured in turn A B A B ..., one value a round.

    Many short rounds: the machine's speed drifts within tenths of a second.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(microseconds(call, seconds=seconds))
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios pair by pair: the machine's drift cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _once(call: Callable[[], object]) -> float:
    for _ in range(20):
        call()
    return _mean(call, 20)


def _mean(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
