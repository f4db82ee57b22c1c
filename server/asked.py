"""What is known of a request at each step of its way through the core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.encoding import Encoded
from models.ladder import Answers
from server.protocols.predict import Answer
from server.routes import Route


@dataclass(slots=True)
class Request:
    """What a lane knows once a body is whole.

    `began_ns` is `perf_counter_ns` at the complete headers.
    """

    model: str
    body: bytes
    began_ns: int
    version: str | None = None
    request_id: bytes | None = None
    traceparent: bytes | None = None
    is_strict: bool = False


@dataclass(slots=True)
class Asked:
    """A request that has picked its route and been encoded, with the clock of the way so far.

    Attributes:
        hand_over: takes the answer, on the loop.
        records: an object a row.
        strays: by row, the items of a list that were no objects; `{}` stands in their place.
        arrived: epoch seconds.
        waits_since_ns: when it was ready to be settled.
    """

    request: Request
    hand_over: Callable[[Answer], None]
    route: Route
    records: list[dict[str, Any]]
    is_single: bool
    strays: dict[int, Any]
    encoded: Encoded
    arrived: float
    decode_ns: int
    encode_ns: int
    waits_since_ns: int
    is_answered: bool = False


@dataclass(slots=True)
class Results:
    """What a group's run came to: rows of all its requests, one request after the other.

    `measured` is numbers (n, measured outputs), for the counters.
    """

    encoded: Encoded
    measured: NDArray[Any]
    answers: Answers
    began_ns: int
    run_ns: int
    ladder_ns: int
    done_ns: int


def together(group: list[Asked]) -> Encoded:
    """The rows of all requests, one after the other."""
    if len(group) == 1:
        return group[0].encoded
    troubles: list[tuple[int, int, int]] = []
    first = 0
    for asked in group:
        troubles += [(first + row, place, flag) for row, place, flag in asked.encoded.troubles]
        first += len(asked.records)
    return Encoded(
        np.concatenate([asked.encoded.rows for asked in group]),
        np.concatenate([asked.encoded.flags for asked in group]),
        troubles,
    )
