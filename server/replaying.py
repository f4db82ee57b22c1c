"""Kept rows that are put to a candidate and to live, beside the traffic and without touching it.

The rows are the sample rows of both bundles' golden rows, which came from training, and those of a
table. Both bundles are opened in a process of its own, with limits and without network, and counted
as serving counts; each row is a request, and one bundle answers it right after the other.
"""

import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

import msgspec
import numpy as np

from features.encoding import Encoded
from models.bundle import Bundle
from models.child import ChildLimits, NoAnswer, ask_child
from models.errors import FormatUnknown, ServingError
from models.evidence import Evidence
from models.gate import Limits
from models.ladder import MODEL, Answers
from models.manifest import Strict
from server.deploy_evidence import arm_of
from server.opening import layout_of
from server.regions import Counter, Region, read_totals
from server.tables import SUFFIXES, Chunk, open_source

MOST_ROWS: Final = 20_000
"""Of a table; more would tell no more."""
CHUNK_ROWS: Final = 500
ARROW_BYTES: Final = 4 << 30
"""Address space that pyarrow sets aside; it uses little of it."""
CPU_SECONDS: Final = 600
WALL_SECONDS: Final = 900.0
NO_STAGES: Final = (0,) * 6


class CannotReplay(ServingError):
    """Rows that cannot be put to the bundles; the message says why."""


class _Verdict(Strict, frozen=True, kw_only=True):
    evidence: Evidence | None = None
    error: str = ""


def check_rows(path: Path) -> None:
    """Refuses a table that clearly cannot be read.

    Raises:
        CannotReplay: it is not there, or of no kind that is known.
    """
    if path.suffix not in SUFFIXES:
        raise CannotReplay(f"{path} is none of {', '.join(SUFFIXES)}, which rows are read from")
    if not path.is_file():
        raise CannotReplay(f"there is no file {path} where the server runs; name one that it has")


def replayed(
    candidate: Path, live: Path, rows: Path | None, cancelled: threading.Event
) -> Evidence:
    """What both bundles answer to kept rows. Blocks; for a thread.

    Args:
        candidate: folder of the bundle.
        live: folder of the other.
        rows: a table beside their golden rows.
        cancelled: ends it early.

    Raises:
        CannotReplay: a bundle or the table cannot be read, or no answer came.
    """
    space = sum(_space(folder) for folder in (candidate, live))
    space += ARROW_BYTES if rows is not None and rows.suffix == ".parquet" else 0
    limits = ChildLimits(
        address_space_bytes=space, cpu_seconds=CPU_SECONDS, wall_seconds=WALL_SECONDS
    )
    task = {"candidate": str(candidate.resolve()), "live": str(live.resolve())}
    task["rows"] = "" if rows is None else str(rows.resolve())
    try:
        answer = ask_child("server.replaying:verdict_of", task, limits, cancelled)
        verdict = msgspec.json.decode(answer, type=_Verdict)
    except NoAnswer as error:
        said = f" Its last words: {error.said}" if error.said else ""
        raise CannotReplay(
            f"the process that replays rows gave no answer: {error.why}.{said}"
        ) from error
    except msgspec.MsgspecError as error:
        raise CannotReplay(f"the process that replays rows said something else: {error}") from error
    if verdict.evidence is None:
        raise CannotReplay(verdict.error)
    return verdict.evidence


def _space(folder: Path) -> int:
    found = Limits().for_bundle(folder).address_space_bytes
    assert found is not None
    return found


# in the child


def verdict_of(task: dict[str, Any]) -> bytes:
    """What the child answers; see `models.child.ask_child`."""
    try:
        candidate, live = (Bundle.open(Path(task[name])) for name in ("candidate", "live"))
        found = replay(candidate, live, Path(task["rows"]) if task["rows"] else None)
        verdict = _Verdict(evidence=found)
    except ServingError as error:
        verdict = _Verdict(error=str(error))
    except Exception as error:  # noqa: BLE001  (onnxruntime's, or no memory: an answer all the same)
        verdict = _Verdict(error=f"{type(error).__name__}: {error}")
    return msgspec.json.encode(verdict)


def replay(candidate: Bundle, live: Bundle, rows: Path | None) -> Evidence:
    """What both bundles answer to the rows that are kept; see this module."""
    for bundle in (candidate, live):
        if bundle.fitted is None:
            raise FormatUnknown(
                f"bundle '{bundle.name}/{bundle.version}' takes tensors, and rows are records; "
                "deploy it on what callers send (--evidence live)"
            )
    one, other = sides = Side(candidate), Side(live)
    compared = changed = 0
    for chunk in _chunks(candidate, live, rows):
        for place, rows_of_both in enumerate(zip(one.rows(chunk), other.rows(chunk), strict=True)):
            # Now one of them is the first, and now the other: it has what both need to fetch.
            turns = list(zip(sides, rows_of_both, strict=True))
            answers = [side.answer(row) for side, row in (turns if place % 2 else turns[::-1])]
            if all(each.outcome == [MODEL] for each in answers):
                compared += 1
                changed += _differ(*answers)
    arms = [arm_of(read_totals(side.region)) for side in sides]
    return Evidence(candidate=arms[0], live=arms[1], compared=compared, changed=changed)


Row = tuple[dict[str, Any] | None, Encoded | None]
"""A row to answer: a record, or one of a table, which is encoded as a whole."""


class Side:
    """One of both bundles, and what is counted of it."""

    def __init__(self, bundle: Bundle) -> None:
        self.region = Region.anonymous(layout_of(bundle))
        self._bundle = bundle
        self._counter = Counter(self.region)

    def rows(self, chunk: Chunk) -> list[Row]:
        """The rows of a chunk, as this bundle takes them."""
        if chunk.table is None:
            return [(record, None) for record in chunk.records]
        assert self._bundle.fitted is not None
        whole = self._bundle.fitted.encode_table(chunk.table)
        return [
            (None, Encoded(whole.rows[row : row + 1], whole.flags[row : row + 1]))
            for row in range(len(whole.rows))
        ]

    def answer(self, row: Row) -> Answers:
        """Answers a row as serving would answer a request of one, and counts it."""
        bundle, ladder = self._bundle, self._bundle.ladder
        record, encoded = row
        began = perf_counter_ns()
        if record is not None:
            encoded = bundle.encoder.encode([record])
            plan = ladder.plan(encoded, [record])
        else:
            assert encoded is not None
            plan = ladder.plan_table(encoded)
        try:
            outputs = bundle.run(plan.rows) if plan.asks_model else None
        except Exception:  # noqa: BLE001  (onnxruntime raises many kinds; a lower rung answers)
            outputs = None
        answers = ladder.judge(plan, outputs)
        took = perf_counter_ns() - began
        columns = np.zeros((1, bundle.measures.n_outputs))
        if outputs is not None:
            columns = bundle.measures.output_columns(outputs.values)
        self._counter.write(
            *(encoded.rows, encoded.flags, columns, time.time()),
            *(answers.outcome, answers.reason, answers.decision_code),
        )
        self._counter.commit(1, NO_STAGES, took)
        return answers


def _chunks(candidate: Bundle, live: Bundle, rows: Path | None) -> Iterator[Chunk]:
    yield Chunk({}, [*_samples(candidate), *_samples(live)])
    if rows is not None:
        chunks = open_source(rows, candidate.fields).chunks(CHUNK_ROWS)
        yield from islice(chunks, MOST_ROWS // CHUNK_ROWS)


def _samples(bundle: Bundle) -> list[dict[str, Any]]:
    """Golden rows that are as training was; the others are edges, which callers seldom send."""
    return [row.record for row in bundle.golden.rows if row.name.startswith("sample")]


def _differ(one: Answers, other: Answers) -> bool:
    """Whether a row is decided otherwise; without decisions, answered otherwise."""
    if one.decision != [None] or other.decision != [None]:
        return one.decision != other.decision
    return one.values[0] != other.values[0]
