"""What swaps cost callers: promoting and rolling back, and loading and unloading large models.

Two workers are asked at 60 % of what they can answer, by callers in a process of their own who look
at every answer (`tests.swap_callers`). Runs with swaps and without take turns; how much later the
latest hundredth is answered is the median over the pairs, because machines are not the same from
one minute to the next.

python -m tests.swap_trials [small | trees | network]... [--pairs 5] [--seconds 8]

A table at the end says what came of it. On a quiet machine it takes some 20 minutes, and longer the
first time, when the large models are packed.
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from server.cli.ops_client import call
from tests.large import Kind, large_store
from tests.serving import serving
from tests.swap_callers import Had, call_while
from tests.three import NAME, pack_versions
from tests.workers import children_of, wait_until, workers_of

ARGUMENTS: Final = ("--workers", "2", "--drain-delay-seconds", "0", "--log-level", "warning")
SHARE: Final = 0.6
"""Of what can be answered, which is asked."""
CONNECTIONS: Final = 32
SWAP_SECONDS: Final = 600.0
PATIENCE_SECONDS: Final = 900.0
"""The longest that a run with swaps may take."""
FLIPS: Final = 40
"""Cycles of promote and rollback in a run: two hundred in five."""
MOST_RATIO: Final = 1.5
MOST_GROWTH: Final = 0.05


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of what is live: when it was asked for, when that returned, what is live then."""

    began: float
    returned: float
    version: int


class Operator:
    """Swaps, and notes when; on the machine's clock.

    Args:
        folder: of the server.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.live = 1
        self.flips: list[Flip] = []
        self.took: dict[str, list[float]] = {}

    def swap(self, name: str, **body: Any) -> dict[str, Any]:
        """A call that has to change something."""
        path, began = f"/models/{NAME}/{name}", time.perf_counter()
        state = self._folder / "state"
        done = call(path, body, server=None, state_dir=state, timeout_seconds=SWAP_SECONDS)
        ended = time.perf_counter()
        assert done["changed"], done
        self.took.setdefault(name, []).append(ended - began)
        live = int(done["after"]["live"])
        if live != self.live:
            self.flips.append(Flip(began, ended, live))
            self.live = live
        return done

    def flip(self, cycles: int, seconds: float) -> None:
        """Promotes 2 and rolls back to 1, so many times in so many seconds."""
        began = time.monotonic()
        for n in range(2 * cycles):
            time.sleep(max(0.0, began + n * seconds / (2 * cycles) - time.monotonic()))
            if n % 2 == 0:
                self.swap("promote", version="2")
            else:
                self.swap("rollback")

    def cycle(self) -> None:
        """Loads the other version, promotes it, and unloads the one that was live."""
        old, new = self.live, 3 - self.live
        self.swap("load", version=str(new))
        self.swap("promote", version=str(new), breaking=True)
        unloaded = self.swap("unload", version=str(old))
        assert unloaded["released"], unloaded


def old_answers(had: Had, flips: Sequence[Flip], first: int) -> int:
    """Answers of a version that was no longer live when their request was sent.

    Args:
        had: by callers.
        flips: in order, each to another version than the one before.
        first: the version that was live before them.
    """
    versions = np.array([first, *(flip.version for flip in flips)])
    began = np.array([*(flip.began for flip in flips), np.inf])
    done = np.searchsorted([flip.returned for flip in flips], had.sent, side="right")
    next_one = np.minimum(done + 1, len(flips))
    is_ours = had.version == versions[done]
    may_be_next = (began[done] < had.came) & (had.version == versions[next_one])
    return int(((had.version > 0) & ~is_ours & ~may_be_next).sum())


def private_bytes(pid: int) -> int:
    """What a process has in memory for itself alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = [line.split() for line in lines if line.startswith("Private")]
    return sum(int(words[1]) for words in found) * 1024


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds."""

    private_bytes: int
    descriptors: int
    mappings: int
    shared: int
    """Of the mappings, those that others may have too: of counters, and of libraries."""


def holdings_of(pid: int) -> dict[str, Holding]:
    """Of each process of a server, by what it is; `pid` is the one that was started."""
    pids = {"supervisor": pid}
    for module in ("dealer", "worker"):
        for n, child in enumerate(sorted(children_of(pid, f"server.{module}"))):
            pids[f"{module} {n}"] = child
    return {name: _holding(pid) for name, pid in pids.items()}


def _holding(pid: int) -> Holding:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Holding(private_bytes(pid), descriptors, len(maps), sum("/" in line for line in maps))


@dataclass(slots=True)
class Result:
    """What came of a trial.

    Attributes:
        capacity: requests a second, as many as are answered.
        rate: that was asked.
        calm, swapping: the runs without swaps and with them, in pairs.
        old: answers by a version that was no longer live.
        took: seconds of each swap, by its name.
        base, after: what the server's processes held before the first swap and after the last.
        stalls: how often a process stood still to let go of a bundle, and seconds of all together.
        successors: of workers that were replaced instead.
    """

    name: str
    capacity: Had
    rate: float
    calm: list[Had] = field(default_factory=list[Had])
    swapping: list[Had] = field(default_factory=list[Had])
    old: int = 0
    took: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    base: dict[str, Holding] = field(default_factory=dict[str, Holding])
    after: dict[str, Holding] = field(default_factory=dict[str, Holding])
    stalls: tuple[float, float] = (0.0, 0.0)
    successors: float = 0.0

    @property
    def runs(self) -> list[Had]:
        return [*self.calm, *self.swapping]

    def total(self, what: str) -> int:
        """Of all runs."""
        return sum(getattr(had, what) for had in self.runs)

    @property
    def ratios(self) -> list[float]:
        """The 99th percentile with swaps to that without, pair by pair."""
        pairs = zip(self.swapping, self.calm, strict=True)
        return [one.percentile_ms(99) / other.percentile_ms(99) for one, other in pairs]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    @property
    def growth(self) -> float:
        """By how much the private memory of all processes has grown, as a share of what it was."""
        before, after = (
            sum(h.private_bytes for h in all_.values()) for all_ in (self.base, self.after)
        )
        return after / before - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How a trial is done.

    Attributes:
        pairs: of runs without and with swaps.
        seconds: of a run without; of one with swaps, where these do not say it themselves.
        cycles: of promote and rollback in a run with swaps, or of load, promote and unload.
    """

    pairs: int = 5
    seconds: float = 8.0
    cycles: int = 2
    arguments: Sequence[str] = ARGUMENTS


def try_flips(store: Path, folder: Path, plan: Plan) -> Result:
    """Promotes and rolls back between two loaded versions under load."""

    def swap(operator: Operator) -> None:
        operator.flip(plan.cycles, plan.seconds)

    def before(operator: Operator) -> None:
        operator.swap("load", version="2")

    def after(operator: Operator) -> None:
        assert operator.swap("unload", version="2")["released"]

    return _try("promote and rollback", store, folder, plan, swap, before, after)


def try_cycles(name: str, store: Path, folder: Path, plan: Plan) -> Result:
    """Loads, promotes and unloads under load; ends with the version with which it begins."""

    def swap(operator: Operator) -> None:
        for _ in range(plan.cycles):
            operator.cycle()

    def after(operator: Operator) -> None:
        if operator.live != 1:
            operator.cycle()

    return _try(name, store, folder, plan, swap, _nothing, after)


def _nothing(_: Operator) -> None:
    """Before the first run."""


Step = Callable[[Operator], None]


def _try(
    name: str, store: Path, folder: Path, plan: Plan, swap: Step, before: Step, after: Step
) -> Result:
    with serving(store, folder, *plan.arguments) as server:
        wait_until(lambda: [w["state"] for w in workers_of(folder)] == ["ready"] * 2)
        operator = Operator(folder)

        def calls(
            rate: float | None, seconds: float, during: Callable[[], None] | None = None
        ) -> Had:
            return call_while(
                server.port, during, folder, seconds=seconds, rate=rate, connections=CONNECTIONS
            )

        calls(None, plan.seconds / 4)
        capacity = calls(None, plan.seconds / 2)
        result = Result(name, capacity, SHARE * capacity.rate)
        calls(result.rate, plan.seconds / 4)
        settle(folder)
        result.base = holdings_of(server.process.pid)
        before(operator)
        for n in range(plan.pairs):
            # In turns, so that a machine that gets slower favours neither.
            for is_swapping in ((False, True), (True, False))[n % 2]:
                first, done = operator.live, len(operator.flips)
                if is_swapping:
                    had = calls(result.rate, PATIENCE_SECONDS, lambda: swap(operator))
                else:
                    had = calls(result.rate, plan.seconds)
                result.old += old_answers(had, operator.flips[done:], first)
                (result.swapping if is_swapping else result.calm).append(had)
        after(operator)
        settle(folder)
        result.after, result.took = holdings_of(server.process.pid), operator.took
        found = {
            key: value for (key, _), value in server.samples().items() if "release_stall" in key
        }
        prefix = "keelmark_release_stall_seconds_"
        result.stalls = found[prefix + "count"], found[prefix + "sum"]
        result.successors = sum(
            value
            for (key, labels), value in server.samples().items()
            if key == "keelmark_workers_replaced_total" and ("why", "release") in labels
        )
    return result


def settle(folder: Path) -> None:
    """Waits until nobody has a connection, and all workers are ready."""
    wait_until(
        lambda: [(w["state"], w["connections"]) for w in workers_of(folder)] == [("ready", 0)] * 2
    )


# the table


def rows_of(result: Result) -> list[tuple[str, str]]:
    """What is told of a trial."""
    calm, swapping, stalls = result.calm, result.swapping, result.stalls
    p99 = [had.percentile_ms(99) for had in calm]
    p99_swapping = [had.percentile_ms(99) for had in swapping]
    flips = sum(map(len, result.took.values()))
    rows = [
        ("capacity, requests/s", f"{result.capacity.rate:,.0f}"),
        ("asked, requests/s", f"{result.rate:,.0f}"),
        ("callers: CPU / late", _callers(result)),
        ("requests in all runs", f"{result.total('asked'):,}"),
        ("swaps", f"{flips}"),
        ("failed", f"{result.total('failed')}"),
        ("mixed", f"{result.total('mixed')}"),
        ("old", f"{result.old}"),
        ("connections closed", f"{result.total('closed')}"),
        ("p50 / p99 ms, calm", f"{_median(calm, 50):.2f} / {_median(calm, 99):.2f}"),
        ("p50 / p99 ms, swapping", f"{_median(swapping, 50):.2f} / {_median(swapping, 99):.2f}"),
        ("longest ms, calm / swapping", f"{_median(calm, 100):.0f} / {_median(swapping, 100):.0f}"),
        ("p99 of each run, calm", _list(p99)),
        ("p99 of each run, swapping", _list(p99_swapping)),
        ("p99 ratio of each pair", _list(result.ratios)),
        (f"p99 ratio, median (≤ {MOST_RATIO})", f"{result.ratio:.2f}"),
        ("memory MB, base → after", _memory(result)),
        (f"memory growth (≤ {MOST_GROWTH:.0%})", f"{result.growth:+.1%}"),
        ("descriptors, base → after", _sums(result, "descriptors")),
        ("mappings, base → after", _sums(result, "mappings")),
        ("stood still: times / ms in all", f"{stalls[0]:.0f} / {1e3 * stalls[1]:.1f}"),
        ("workers replaced for release", f"{result.successors:.0f}"),
    ]  # fmt: skip
    rows += [
        (f"{name}: median / longest s", f"{statistics.median(took):.3f} / {max(took):.3f}")
        for name, took in result.took.items()
    ]
    return rows


def _callers(result: Result) -> str:
    """How near their process was to being what is measured."""
    return f"{max(h.cpu for h in result.runs):.2f} / {max(h.late for h in result.runs):.2%}"


def _median(runs: Sequence[Had], percent: float) -> float:
    return statistics.median(had.percentile_ms(percent) for had in runs)


def _list(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.2f}" for number in numbers)


def _memory(result: Result) -> str:
    parts = [
        f"{name} {held.private_bytes / 1e6:.1f}→{result.after[name].private_bytes / 1e6:.1f}"
        for name, held in result.base.items()
        if name in result.after
    ]
    return ", ".join(parts)


def _sums(result: Result, what: str) -> str:
    before, after = (
        sum(getattr(held, what) for held in all_.values()) for all_ in (result.base, result.after)
    )
    return f"{before} → {after}"


def show(results: Sequence[Result]) -> str:
    """All of it, as text."""
    lines: list[str] = []
    for result in results:
        lines += ["", result.name, "-" * len(result.name)]
        lines += [f"{name:34} {value}" for name, value in rows_of(result)]
        lines += [f"! {text}" for had in result.runs for text in had.wrong]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.swap_trials")
    parser.add_argument("trials", nargs="*", help="small, trees, network; by default all")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--cycles", type=int, default=2, help="in each run with large models")
    parser.add_argument("--megabytes", type=int, default=100, help="of the large models")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore", UserWarning)  # packing has something to say of fields
    results: list[Result] = []
    for trial in given.trials or ("small", "trees", "network"):
        with tempfile.TemporaryDirectory(prefix="keelmark-trial-") as name:
            results.append(_trial(trial, Path(name), given))
        sys.stdout.write(show(results[-1:]) + "\n")
        sys.stdout.flush()


def _trial(trial: str, folder: Path, given: argparse.Namespace) -> Result:
    if trial == "small":
        plan = Plan(given.pairs, given.seconds, FLIPS)
        return try_flips(pack_versions(folder / "store", 2), folder, plan)
    kinds: dict[str, Kind] = {"trees": "trees", "network": "network"}
    name = f"load, promote, unload: {given.megabytes} MB of {trial}"
    plan = Plan(given.pairs, 2 * given.seconds, given.cycles)
    return try_cycles(name, large_store(kinds[trial], given.megabytes), folder, plan)


if __name__ == "__main__":
    main(sys.argv[1:])
