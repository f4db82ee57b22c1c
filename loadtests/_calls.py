"""What callers send, and what has to come back: computed by the bundles, before anybody is asked.

Flights and hours come in the order of time, as they would; a part of them is spoilt as real records
are: nulls, airports nobody knows, values out of bounds and of other types. A few calls are no
request for a prediction at all.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from models.bundle import Bundle
from models.store import Store
from server.cli.answers import answer_records

Record = dict[str, Any]
Caller = Literal["board", "desk", "station", "stray"]

SPOILT: Final = 0.25
"""Share of the records in which something is wrong."""
LONGEST_LIST: Final = 40


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request and its answer.

    Attributes:
        caller: who sends it.
        path, body, headers: of the request.
        status: of the answer.
        code: of its error; None for an answer.
        rows: what is said of each row, without ids; one for a record, in order for a list.
        is_list: whether the rows are those of a list.
        model, version: that answer; of a request that reaches no bundle None.
    """

    caller: Caller
    path: str
    body: str
    headers: dict[str, str] = {}
    status: int = 200
    code: str | None = None
    rows: list[Record] = []
    is_list: bool = False
    model: str | None = None
    version: str | None = None


def calls(store: Path, flights: list[Record], hours: list[Record], seed: int) -> Iterator[Call]:
    """The calls of all callers, those of each in the order of time.

    Args:
        store: that has the models `flights` and `bike`.
        flights: in the order of departure.
        hours: for the bike model, in order.
        seed: decides what is spoilt, and how long lists are.
    """
    rng = random.Random(seed)
    by_flight, by_hour = _live(store, "flights"), _live(store, "bike")
    half = len(flights) // 2
    for record in flights[:half]:
        yield _single("board", by_flight, _spoilt(rng, record, FLIGHT_TROUBLES))
    rest = flights[half:]
    while rest:
        n = rng.randint(2, LONGEST_LIST)
        taken, rest = rest[:n], rest[n:]
        yield _list("desk", by_flight, [_spoilt(rng, each, FLIGHT_TROUBLES) for each in taken])
    for record in hours:
        yield _single("station", by_hour, _spoilt(rng, record, HOUR_TROUBLES))
    yield from _strays(flights[0])


def rows_text(table: Any, instant: str) -> list[Record]:
    """A table's rows as JSON records; the column `instant` as ISO 8601 with its offset."""
    texts = table.assign(**{instant: [value.isoformat() for value in table[instant]]})
    return json.loads(texts.to_json(orient="records"))


def _without(field: str) -> Callable[[Record], Record]:
    return lambda record: {name: value for name, value in record.items() if name != field}


def _with(**values: Any) -> Callable[[Record], Record]:
    return lambda record: {**record, **values}


FLIGHT_TROUBLES: Final = (
    _with(temp=None),
    _with(wind_gust=None, pressure=None),
    _with(dest="ACK"),
    _with(carrier=17),
    _with(carrier=None),
    _with(humid="wet"),
    _with(humid=400),
    _with(distance=None),
    _with(distance=-5),
    _with(distance=True),
    _with(sched_dep="yesterday"),
    _with(seat="12A", gate=None),
    _with(temp=80.6, dewp=68.0, humid=93.33),
    _without("visib"),
    _without("distance"),
)
HOUR_TROUBLES: Final = (
    _with(temp=None),
    _with(weather="hail"),
    _with(weather=3),
    _with(humidity=0),
    _with(feels_like=-40),
    _with(hour=None),
    _with(holiday=1),
    _with(wind="strong"),
    _without("holiday"),
)


def _spoilt(rng: random.Random, record: Record, troubles: Any) -> Record:
    return rng.choice(troubles)(record) if rng.random() < SPOILT else record


def _live(store: Path, model: str) -> Bundle:
    opened = Store(store)
    return opened.open(model, opened.resolve(model))


def _single(caller: Caller, bundle: Bundle, record: Record) -> Call:
    (row,) = answer_records(bundle, [record]).as_dicts()
    error = row.get("error")
    return Call(
        caller=caller,
        path=f"/predict/{bundle.name}",
        body=json.dumps(record),
        status=200 if error is None else 422,
        code=None if error is None else error["code"],
        rows=[_known(row)],
        model=bundle.name,
        version=bundle.version,
    )


def _list(caller: Caller, bundle: Bundle, records: list[Record]) -> Call:
    rows = answer_records(bundle, records).as_dicts()
    return Call(
        caller=caller,
        path=f"/predict/{bundle.name}",
        body=json.dumps(records),
        status=422 if all("error" in row for row in rows) else 200,
        rows=[_known(row) for row in rows],
        is_list=True,
        model=bundle.name,
        version=bundle.version,
    )


def _known(row: Record) -> Record:
    """A row's answer as it can be compared: of an error which fields, and what is wrong there."""
    return msgspec.to_builtins(row | ({"error": errors(row["error"])} if "error" in row else {}))


def errors(error: Any) -> list[Any]:
    """Of an error over HTTP or from the bundle: its code, and what is wrong with which field."""
    fields = [msgspec.to_builtins(field) for field in error.get("fields", ())]
    return [error["code"], *sorted([field["field"], field["trouble"]] for field in fields)]


def _strays(record: Record) -> Iterator[Call]:
    """Requests that are none, and paths that are nowhere."""
    body = json.dumps(record)
    json_type = {"Content-Type": "application/json"}
    for path, sent, headers, status, code in (
        ("/predict/flights", body[:-1], json_type, 400, "undecodable"),
        ("/predict/flights", '{"distance": NaN}', json_type, 400, "undecodable"),
        ("/predict/flights", "", json_type, 400, "undecodable"),
        ("/predict/flights", '"EWR"', json_type, 400, "undecodable"),
        ("/predict/bike", "[" * 100 + "]" * 100, json_type, 400, "undecodable"),
        ("/predict/flights", body, {"Content-Type": "text/csv"}, 415, "unsupported_media_type"),
        ("/predict/trains", body, json_type, 404, "unknown_model"),
        ("/predict/flights?version=99", body, json_type, 404, "unknown_version"),
        ("/predict/flights", body, {"Keelmark-Deadline-Ms": "soon"}, 400, "undecodable"),
    ):
        yield Call(caller="stray", path=path, body=sent, headers=headers, status=status, code=code)
