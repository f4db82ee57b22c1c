"""From a body to rows: decoding and encoding, on the loop or in the runner's thread."""

import math
from time import perf_counter_ns
from typing import Any

from server.asked import Asked
from server.protocols.predict import decode
from server.settings import Settings


def read(asked: Asked, settings: Settings, began_ns: int, most_ns: float = math.inf) -> None:
    """Decodes and encodes what is not read yet, as long as neither is expected to take too long.

    Args:
        asked: the request.
        settings: with the limits of bodies.
        began_ns: `perf_counter_ns` just now.
        most_ns: what decoding and encoding together may take.

    Raises:
        RequestError: the body as a whole cannot be answered.
    """
    reading = asked.route.reading
    decoding_ns = len(asked.request.body) * reading.byte_ns
    decoded_ns = began_ns
    if not asked.is_decoded:
        if decoding_ns > most_ns:
            return
        records, asked.is_single = decode(asked.request.body, settings)
        if not asked.is_single:
            asked.strays = objects_only(records)
        asked.records = records
        asked.reading_ns = decoding_ns + len(records) * reading.row_ns
        decoded_ns = perf_counter_ns()
        asked.decode_ns = decoded_ns - began_ns
        asked.is_decoded = True
    done_ns = decoded_ns
    if asked.reading_ns <= most_ns:
        asked.encoded = asked.route.bundle.encoder.encode(asked.records)
        done_ns = perf_counter_ns()
        asked.encode_ns = done_ns - decoded_ns
        asked.is_read = True
    asked.waits_since_ns += done_ns - began_ns


def objects_only(records: list[Any]) -> dict[int, Any]:
    """Takes out, by row, what is no object, and leaves an empty record in its place."""
    strays = {row: item for row, item in enumerate(records) if type(item) is not dict}
    for row in strays:
        records[row] = {}
    return strays
