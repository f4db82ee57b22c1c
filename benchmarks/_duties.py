"""`keelmark serve` without some of its duties, to learn what each of them costs.

    python benchmarks/_duties.py counters,ladder --store build/store ...

The product has no switches for these, and shall have none: this program takes their places from
outside, in its own process, before it serves.
"""

import sys
from typing import Any, Final

import numpy as np

from keelmark.__main__ import main
from models.ladder import MODEL, NO_REASON, Answers, Ladder
from models.measures import Counted, Measures
from models.outputs import NO_DECISION
from models.planning import Plan
from server import core
from server.asked import Asked
from server.events import EventLog
from server.http_counters import HttpCounters
from server.prediction_ids import PredictionIds
from server.selftest import SelfTest


def replace(owner: Any, name: str, stand_in: Any) -> Any:
    """Puts something into the place of what is there, and gives that.

    Raises:
        AttributeError: nothing is there: the program and the server have grown apart.
    """
    there = getattr(owner, name)
    setattr(owner, name, stand_in)
    return there


def nothing(*_: Any, **__: Any) -> None:
    """Does not do it."""


def without_counters() -> None:
    """No row and no request is counted: no ring, no clocks into histograms, no distributions."""
    replace(core, "write_rows", nothing)
    replace(core, "commit", nothing)
    replace(HttpCounters, "count", nothing)


def without_distributions() -> None:
    """Rows are counted by who answered and how fast, their values are not."""
    kept: dict[Measures, Counted] = {}

    def count(self: Measures, *_: Any) -> Counted:
        found = kept.get(self)
        if found is None:
            bins, moments = np.zeros(self.n_bins, np.int64), np.zeros((len(self.with_moments), 4))
            found = kept[self] = Counted(bins, moments, np.zeros((self.n_fields, 4), np.int64))
        return found

    replace(Measures, "count", count)


def without_ladder() -> None:
    """The model answers every row, whatever it says: no policies, checks, validity, decisions."""

    def plan(self: Ladder, encoded: Any, records: Any = (), **_: Any) -> Plan:
        return Plan(encoded.rows, encoded, records)

    def judge(self: Ladder, plan: Plan, outputs: Any, **settings: Any) -> Answers:
        if outputs is None:
            return judged(self, plan, outputs, **settings)
        count, values = len(plan.rows), [column.tolist() for column in outputs.values]
        names, codes = [None] * count, [NO_DECISION] * count
        return Answers([MODEL] * count, values, [*names], codes, [NO_REASON] * count)

    replace(Ladder, "plan", plan)
    judged = replace(Ladder, "judge", judge)
    # It would find golden rows that no baseline answers, and take the model out of service.
    replace(SelfTest, "start", nothing)


def without_deadlines() -> None:
    """Every request that has been read is run here: no deadline, breaker, pace or cost."""

    def is_read(asked: Asked, _now_ns: int) -> bool:
        return asked.is_read

    def always(*_: Any) -> bool:
        return True

    replace(core, "fits_here", is_read)
    replace(core, "is_usual", always)


def without_ids() -> None:
    """Every answer has the same id."""
    same = PredictionIds().next()

    def next_id(_ids: PredictionIds) -> bytes:
        return same

    replace(PredictionIds, "next", next_id)


def without_events() -> None:
    """Nothing is written to the event log."""
    replace(EventLog, "append", nothing)


DUTIES: Final = {
    "counters": without_counters,
    "distributions": without_distributions,
    "ladder": without_ladder,
    "deadlines": without_deadlines,
    "ids": without_ids,
    "events": without_events,
}

if __name__ == "__main__":
    for duty in sys.argv.pop(1).split(","):
        DUTIES[duty]()
    main()
