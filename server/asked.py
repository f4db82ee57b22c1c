"""What is known of a request at each step of its way through the core."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from models.ladder import NONE, Answers
from server.protocols.predict import Answer
from server.routes import Route


@dataclass(slots=True)
class Request:
    """What a lane knows once a body is whole.

    Attributes:
        began_ns: `perf_counter_ns` at the complete headers.
        deadline_ns: how long its caller waits from then on; None where the caller does not say.
        key: by which its caller stays on one side of a canary, if it says one.
    """

    model: str
    body: bytes
    began_ns: int
    version: str | None = None
    request_id: bytes | None = None
    traceparent: bytes | None = None
    is_strict: bool = False
    deadline_ns: int | None = None
    key: bytes | None = None


UNREAD: Final = Encoded(np.empty((0, 0)), np.empty((0, 0), np.uint8))
"""What a request has before it has been encoded."""


@dataclass(slots=True, eq=False)
class Asked:
    """A request that has picked its route, with the clock of the way so far.

    Decoding and encoding may be left to the runner's thread; `is_read` is set after all that they
    find, so that the loop sees either all of it or nothing.

    Attributes:
        hand_over: takes the answer, on the loop.
        deadline_ns: `perf_counter_ns` at which its caller stops waiting.
        arrived: epoch seconds.
        waits_since_ns: since when it has waited; the time of reading is taken out.
        records: an object a row.
        strays: by row, the items of a list that were no objects; `{}` stands in their place.
        reading_ns: what decoding and encoding are expected to take.
        is_decoded: `records`, `is_single` and `strays` are known.
        is_read: `encoded` is known too.
        copy_to: of a candidate, whose shadow gets a copy when it has been answered.
    """

    request: Request
    hand_over: Callable[[Answer], None]
    route: Route
    deadline_ns: int
    arrived: float
    waits_since_ns: int
    records: Sequence[dict[str, Any]] = ()
    is_single: bool = True
    strays: Mapping[int, Any] = NONE
    encoded: Encoded = UNREAD
    reading_ns: float = 0.0
    decode_ns: int = 0
    encode_ns: int = 0
    is_decoded: bool = False
    is_read: bool = False
    is_answered: bool = False
    copy_to: Route | None = None


@dataclass(slots=True)
class Results:
    """What a group's run came to: rows of all its requests, one request after the other.

    Attributes:
        measured: numbers (n, measured outputs), for the counters.
        error: what the model raised, without the frames that it came through: they would hold
            each other, and the bundle, when nobody else does any more.
        has_run: whether the model was asked.
        raised_at: these frames, as the log has them.
    """

    encoded: Encoded
    measured: NDArray[Any]
    answers: Answers
    began_ns: int
    run_ns: int
    ladder_ns: int
    done_ns: int
    error: Exception | None = None
    has_run: bool = False
    raised_at: Sequence[str] = ()


def together(group: list[Asked]) -> tuple[Encoded, Sequence[dict[str, Any]]]:
    """The rows and records of all requests, one after the other."""
    if len(group) == 1:
        return group[0].encoded, group[0].records
    troubles: list[tuple[int, int, int]] = []
    first = 0
    for asked in group:
        troubles += [(first + row, place, flag) for row, place, flag in asked.encoded.troubles]
        first += len(asked.records)
    encoded = Encoded(
        np.concatenate([asked.encoded.rows for asked in group]),
        np.concatenate([asked.encoded.flags for asked in group]),
        troubles,
    )
    return encoded, [record for asked in group for record in asked.records]
