"""Shadows: a candidate answers copies of requests that live has answered, and nobody hears of it.

A copy is spare work (`server.spare_work`), a row at a time. Of each row the candidate does what it
would do with a request of one row: encode, policies, model, checks, lower rungs. What comes of it
is compared with live's answer and counted where only shadows count (`server.shadow_counters`): its
breaker, its pace and its counters hear nothing, and live's do not either.

Runs are compared with runs like them: of one row, alone. Where live's was shared, live's model is
asked once more, right beside the candidate's.
"""

import math
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.evidence import FAULT_REASONS
from models.outputs import allowed
from models.vocabulary import OUTCOMES, REASONS, SERVED_BY
from server.asked import Asked, Request, Results
from server.cost import LOOP_NS
from server.refusing import find_errors
from server.routes import Route
from server.spare_work import SpareWork
from server.work import run_rows, work

if TYPE_CHECKING:
    from server.core import Core

KIND: Final = "shadow"
RECORD_BYTES: Final = 4
"""A decoded record takes about so many times the bytes of its text."""
_FAULTS: Final = frozenset(REASONS.index(reason) for reason in FAULT_REASONS)
_MODEL: Final = OUTCOMES.index("model")
_FAILED: Final = OUTCOMES.index("failed")


class Said(NamedTuple):
    """What became of one row on one side.

    Attributes:
        outcome: code of `OUTCOMES`.
        is_fault: a lower rung answered because of the model.
        value: the primary output; None where nobody answered.
        decision: its name; None for none.
        outputs: as they are counted; None where the model itself has not answered.
        run_ns: of the model asked about this row alone; None where it was not.
    """

    outcome: int
    is_fault: bool
    value: Any
    decision: str | None
    outputs: list[float] | None
    run_ns: int | None

    @classmethod
    def of(cls, results: Results, row: int) -> "Said":
        """Of a row of a run."""
        answers = results.answers
        outcome = answers.outcome[row]
        is_alone = results.has_run and len(answers.outcome) == 1
        return cls(
            outcome,
            answers.reason[row] in _FAULTS,
            answers.values[0][row],
            answers.decision[row],
            results.measured[row].tolist() if outcome == _MODEL else None,
            results.run_ns if is_alone and results.error is None else None,
        )


def offer_copy(core: "Core", spare: SpareWork, asked: Asked, results: Results, first: int) -> None:
    """Offers a request that live has answered, of which a candidate is to get a copy.

    Args:
        core: whose route table says whether the candidate still has a shadow.
        spare: takes the copy, or drops it.
        asked: the request, with `copy_to`.
        results: of its run.
        first: place of its first row in the run.
    """
    rows = len(asked.records)
    if not rows:
        return  # an empty list is a request without rows
    if spare.has_room(rows, RECORD_BYTES * len(asked.request.body)):
        spare.offer(Copy(core, asked, results, first))
    else:  # under load most are: then not even the copy is made
        spare.drop(KIND, rows)


class Copy:
    """The rows of one request, for a candidate. A task of spare work.

    Args:
        core, asked, results, first: see `offer_copy`.
    """

    __slots__ = (
        "_at",
        "_candidate",
        "_core",
        "_is_strict",
        "_live",
        "_n_bytes",
        "_records",
        "_rows",
        "_said",
        "_strays",
        "_taken",
    )

    def __init__(self, core: "Core", asked: Asked, results: Results, first: int) -> None:
        assert asked.copy_to is not None
        rows = range(first, first + len(asked.records))
        self._core = core
        self._live = asked.route
        self._candidate = asked.copy_to
        self._records: Sequence[dict[str, Any]] = asked.records
        self._strays: Mapping[int, Any] = asked.strays
        self._is_strict = asked.request.is_strict
        self._n_bytes = len(asked.request.body)
        self._said = [Said.of(results, row) for row in rows]
        self._rows: NDArray[np.float64] = results.encoded.rows[first : rows.stop].copy()
        self._at = self._taken = 0

    @property
    def kind(self) -> str:
        """A shadow's."""
        return KIND

    @property
    def units(self) -> int:
        """A row each."""
        return len(self._records)

    @property
    def n_bytes(self) -> int:
        """What its records take, about."""
        return RECORD_BYTES * self._n_bytes

    def is_wanted(self) -> bool:
        """Whether the candidate still has a shadow."""
        second = self._core.routes.trials.get(self._candidate.bundle.name)
        return second is not None and second.route is self._candidate and second.shadow > 0

    def is_long(self) -> bool:
        """Whether a row would hold up the loop, as what live does in a thread."""
        candidate, live = self._candidate, self._live
        ns = candidate.reading.row_ns + max(
            candidate.cost.predict_ns(1) * candidate.shadow.pace.ratio,
            candidate.below.predict_ns(1),
        )
        if self._said[self._at].run_ns is None:
            ns += live.cost.predict_ns(1) * live.pace.ratio
        return ns >= LOOP_NS

    def do(self) -> tuple[int, Said, int | None]:
        """The next row: its place, what the candidate says of it, and how long live's run took."""
        row, self._at = self._at, self._at + 1
        candidate = self._candidate
        copy = self._copy_of(row)
        results = work(candidate, [copy])
        assert results is not None, "only a run that was shared has no results"
        find_errors([copy], results.answers)
        said = Said.of(results, 0)
        live_ns = None if said.run_ns is None else self._live_run_ns(row)
        return row, said, live_ns

    def take(self, outcome: tuple[int, Said, int | None]) -> None:
        """Counts a row on both sides."""
        row, said, live_ns = outcome
        live = self._said[row]
        self._taken += 1
        for route, each in ((self._candidate, said), (self._live, live)):
            route.shadow.row(each.outcome, is_fault=each.is_fault, outputs=each.outputs)
        if said.run_ns is not None:
            measured_ns = self._candidate.cost.predict_ns(1)
            self._candidate.shadow.pace.took(said.run_ns, measured_ns, is_trial=False)
        if said.run_ns is not None and live_ns is not None:
            self._candidate.shadow.run(said.run_ns)
            self._live.shadow.run(live_ns)
        if max(said.outcome, live.outcome) < len(SERVED_BY):
            self._candidate.shadow.compared(
                is_changed=is_changed(self._live, live, said),
                difference=difference(self._candidate, live, said),
            )

    def end(self) -> None:
        """Counts the request, if any of its rows was."""
        if self._taken:
            self._candidate.shadow.request(self._taken)
            self._live.shadow.request(self._taken)

    def _copy_of(self, row: int) -> Asked:
        """A request of this row alone, for the candidate."""
        candidate, records = self._candidate, self._records[row : row + 1]
        request = Request(candidate.bundle.name, b"", 0, is_strict=self._is_strict)
        strays = {0: self._strays[row]} if row in self._strays else {}
        copy = Asked(request, _to_nobody, candidate, 0, 0.0, 0, records, strays=strays)
        copy.encoded = candidate.bundle.encoder.encode(records)
        return copy

    def _live_run_ns(self, row: int) -> int | None:
        """What live's model took for the row alone; None where it was not asked, or fails now."""
        said = self._said[row]
        if said.run_ns is not None or said.outcome != _MODEL:
            return said.run_ns
        began_ns = perf_counter_ns()
        run_rows(self._live.bundle, self._rows[row : row + 1])
        return perf_counter_ns() - began_ns


def _to_nobody(_: Any) -> None:
    """Takes the answer to a copy."""


def is_changed(live: Route, was: Said, now: Said) -> bool:
    """Whether a row is decided otherwise; without decisions, whether it is answered otherwise.

    Args:
        live: whose tolerance says what is the same answer.
        was: live's answer.
        now: the candidate's.
    """
    if was.decision is not None and now.decision is not None:
        return was.decision != now.decision
    spec = live.bundle.outputs[0]
    if spec.kind == "label" or was.value is None or now.value is None:
        return was.value != now.value
    expected, got = (np.asarray(each, np.float64) for each in (was.value, now.value))
    if expected.shape != got.shape:
        return True
    return not bool((np.abs(got - expected) <= allowed(spec, expected)).all())


def difference(candidate: Route, was: Said, now: Said) -> float | None:
    """How far two answers are apart, the farthest of a list; None where they are no numbers.

    Of probabilities as they are, of values in standard deviations of the candidate's training.
    """
    primary = candidate.bundle.outputs[0]
    if primary.kind == "label" or was.value is None or now.value is None:
        return None
    try:
        apart = np.abs(np.asarray(now.value, np.float64) - np.asarray(was.value, np.float64))
    except ValueError:  # texts, or lists of another length
        return None
    scale = candidate.shadow.scale if primary.kind == "value" else 1.0
    farthest = float(apart.max()) / scale if apart.size else 0.0
    return farthest if math.isfinite(farthest) else None
