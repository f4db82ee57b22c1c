"""The data port from outside: every answer, error, limit and header, through real sockets."""

import contextlib
import dataclasses
import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.health import Phase
from server.watches import StateWatch, is_before_headers
from tests.in_thread import Client, Connection, Response, get, post, server_over
from tests.tiny import GOOD, NAME, SECRET, pack_tiny

BAD = {**GOOD, "age": None}
LIMITS = {"max_body_bytes": 20_000, "max_rows": 40, "max_keys": 50}
PATH = f"/predict/{NAME}"
SHARED = ("model", "version", "request_id", "prediction_id")


LANES = ("httptools", "asgi")


@pytest.fixture(scope="module", params=LANES)
def server(
    store: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("state")
    with server_over(store, state, lane=request.param, **LIMITS) as client:
        yield client


def alone(answer: dict[str, Any]) -> dict[str, Any]:
    """A single answer without what a list says once."""
    return {key: value for key, value in answer.items() if key not in SHARED}


# answers


def test_a_record_is_answered_by_the_model(server: Client):
    response = server.predict(GOOD)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["keelmark-model"] == NAME
    assert response.headers["keelmark-version"] == "1"
    assert response.headers["keelmark-served-by"] == "model"
    answer = response.json
    assert list(answer) == ["prediction", "decision", "served_by", *SHARED]
    assert 0 <= answer["prediction"] <= 1
    assert answer["decision"] == ("yes" if answer["prediction"] >= 0.5 else "no")
    assert (answer["model"], answer["version"]) == (NAME, "1")


def test_nothing_about_the_software_is_told_to_strangers(server: Client):
    assert not {"server", "date", "x-powered-by"} & server.predict(GOOD).headers.keys()


def test_a_repaired_record_says_what_was_repaired(server: Client):
    answer = server.predict({**GOOD, "height": 1048.36}).json
    assert answer["served_by"] == "model"
    assert answer["repaired"] == {"height": "out_of_bounds"}
    assert answer["prediction"] == server.predict({**GOOD, "height": None}).json["prediction"]


def test_what_the_rules_answer_says_why(server: Client):
    response = server.predict({**GOOD, "member": "yes"})
    assert response.headers["keelmark-served-by"] == "rules"
    assert alone(response.json) == {
        "prediction": 0.25,
        "decision": "no",
        "served_by": "rules",
        "rule": "default",
        "reasons": ["member:invalid"],
    }


def test_a_list_has_an_item_a_record_in_order(server: Client):
    records = [{**GOOD, "age": age} for age in (10, 60, 90)]
    response = server.predict(records)
    assert response.status == 200
    assert list(response.json) == [*SHARED, "predictions"]
    assert response.json["predictions"] == [alone(server.predict(r).json) for r in records]


def test_an_empty_list_is_answered_with_no_items(server: Client):
    response = server.predict([])
    assert (response.status, response.json["predictions"]) == (200, [])


def test_one_bad_row_leaves_the_others_as_they_are_alone(server: Client):
    records = [{**GOOD, "age": 3 * row} for row in range(30)]
    expected = server.predict(records).json["predictions"]
    records[7] = BAD
    response = server.predict(records)
    got = response.json["predictions"]
    assert response.status == 200
    assert got[:7] + got[8:] == expected[:7] + expected[8:]
    assert got[7]["error"]["code"] == "rejected_record"
    assert got[7]["error"]["fields"][0]["row"] == 7


@pytest.mark.parametrize("item", [17, "x", None, [], [GOOD], True])
def test_an_item_that_is_no_object_is_its_rows_error(server: Client, item: Any):
    response = server.predict([GOOD, item, GOOD])
    first, stray, last = response.json["predictions"]
    assert response.status == 200
    assert first == last == alone(server.predict(GOOD).json)
    assert stray["error"]["code"] == "rejected_record"
    assert stray["error"]["fields"][0]["expected"] == "object"


def test_an_item_that_is_no_object_is_counted_as_rejected_and_as_no_value(server: Client):
    rejected = f'keelmark_predictions_total{{model="{NAME}",version="1",outcome="rejected"}}'
    missing = (
        f'keelmark_field_quality_total{{model="{NAME}",version="1",field="age",trouble="missing"}}'
    )
    before = server.metric(rejected), server.metric(missing)
    server.predict([GOOD, 17])
    assert (server.metric(rejected), server.metric(missing)) == (before[0] + 1, before[1])


def test_a_list_of_which_no_row_is_answered_has_the_status_of_its_rows(server: Client):
    response = server.predict([BAD, 5])
    assert response.status == 422
    assert [item["error"]["code"] for item in response.json["predictions"]] == [
        "rejected_record"
    ] * 2


def test_a_list_is_served_by_its_lowest_rung(server: Client):
    response = server.predict([GOOD, {**GOOD, "member": 5}])
    assert response.headers["keelmark-served-by"] == "rules"


def test_extra_keys_are_ignored_and_counted_once_a_request(server: Client):
    series = f'keelmark_extra_keys_total{{model="{NAME}",version="1"}}'
    before = server.metric(series)
    response = server.predict([{**GOOD, "shoe": 44, "hat": 3}, {**GOOD, "shoe": 1}])
    assert response.json["predictions"][0] == alone(server.predict(GOOD).json)
    assert server.metric(series) == before + 1


def test_the_last_of_duplicate_keys_wins(server: Client):
    body = json.dumps(GOOD).encode()[:-1] + b', "age": 5}'
    assert (
        server.send(post(PATH, body)).json["prediction"]
        == (server.predict({**GOOD, "age": 5}).json["prediction"])
    )


def test_a_longer_list_than_the_ring_is_counted_whole(store: Path, tmp_path: Path):
    with server_over(store, tmp_path, max_rows=20_000) as server:
        assert len(server.predict([GOOD] * 9_000).json["predictions"]) == 9_000
        model = f'model="{NAME}",version="1"'
        assert server.metric(f'keelmark_predictions_total{{{model},outcome="model"}}') == 9_000
        assert server.metric(f"keelmark_request_duration_seconds_count{{{model}}}") == 1


# errors: one test a code, and its ways


def assert_error(response: Response, status: int, code: str) -> None:
    assert (response.status, response.error["code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", response.error["request_id"])
    assert response.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nothing",
        b'{"age": NaN}',
        b'{"age": Infinity}',
        b'{"age": 1e999}',
        b'{"age": ' + b"9" * 6000 + b"}",
        b'"text"',
        b"17",
        b"null",
        b'{"city": "\xff"}',
        b'{"city": "\\ud800"}',
        b'{"age": 1} {"age": 2}',
        b"[1,]",
        b"\xef\xbb\xbf{}",
        b"[" * 9_000 + b"]" * 9_000,
        b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}",
        json.dumps({str(key): 0 for key in range(51)}).encode(),
    ],
)
def test_a_body_that_cannot_be_read_is_undecodable(server: Client, body: bytes):
    assert_error(server.send(post(PATH, body)), 400, "undecodable")


def test_a_body_as_deep_as_is_allowed_is_read(server: Client):
    deepest = b'{"age": 5, "x": ' + b"[" * 31 + b"]" * 31 + b"}"
    assert server.send(post(PATH, deepest)).status == 200


def test_brackets_in_texts_are_no_depth(server: Client):
    assert server.predict({**GOOD, "city": "[" * 100}).status == 200


def test_an_unknown_model_is_told_what_there_is(server: Client):
    response = server.predict(GOOD, model="other")
    assert_error(response, 404, "unknown_model")
    assert NAME in response.error["message"]


@pytest.mark.parametrize("path", ["/nothing", "/predict", "/predict/", "/predict/tiny/7", "/"])
def test_an_unknown_path_is_answered_in_our_shape(server: Client, path: str):
    assert_error(server.send(post(path, b"{}")), 404, "unknown_model")


def test_a_version_that_is_loaded_can_be_named(server: Client):
    assert server.send(post(f"{PATH}?version=1", json.dumps(GOOD).encode())).status == 200


def test_an_unknown_version_is_told_what_is_loaded(server: Client):
    response = server.send(post(f"{PATH}?version=9", json.dumps(GOOD).encode()))
    assert_error(response, 404, "unknown_version")
    assert "loaded: 1 (live)" in response.error["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_another_method_is_not_allowed_and_told_which_is(server: Client, method: str):
    response = server.send(get(PATH, method))
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_another_method_elsewhere_is_not_allowed(server: Client):
    response = server.send(get("/models", "POST"))
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(server: Client):
    assert_error(server.send(post(PATH, b"", "Content-Length: 20001")), 413, "too_large")


def test_a_body_of_unknown_length_is_refused_where_it_gets_too_large(server: Client):
    piece = b"%x\r\n" % 5000 + b" " * 5000 + b"\r\n"
    request = post(PATH, piece * 5, "Transfer-Encoding: chunked", "Content-Length: 0")
    request = request.replace(b"Content-Length: 0\r\n", b"")
    assert_error(server.send(request), 413, "too_large")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(PATH, b"", "Content-Length: 20001"), 413),
        (post(PATH, b"", "Content-Type: text/plain", "Content-Length: 9"), 415),
        (post(PATH, b"", "Content-Length: 9").replace(b"POST", b"PUT"), 405),
        (post("/models", b"", "Content-Length: 9").replace(b"POST", b"GET"), 200),
    ],
)
def test_an_answer_before_the_body_ends_the_connection(
    server: Client, request_: bytes, status: int
):
    with server.connect() as connection:
        answer = connection.ask(request_)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert connection.is_closed()


@pytest.mark.parametrize("others", [b",0" * 38, b",{}" * 38])
def test_many_items_do_not_hide_a_deep_one(server: Client, others: bytes):
    body = b'[{"x":' + b"[" * 35 + b"]" * 35 + b"}" + others + b"]"
    assert_error(server.send(post(PATH, body)), 400, "undecodable")


@pytest.mark.parametrize(("item", "kind"), [([SECRET], "array"), (f"{SECRET}", "string")])
def test_of_an_item_that_is_no_object_only_its_type_is_told(server: Client, item: Any, kind: str):
    (got,) = server.predict([item]).json["predictions"]
    assert got["error"]["fields"][0]["got"] == kind


def test_identity_is_no_encoding_however_it_is_written(server: Client):
    assert server.predict(GOOD, "Content-Encoding: Identity").status == 200


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("cut", [0, 20, 90, -10])
def test_who_asks_to_upgrade_is_answered_over_http_1_1(server: Client, protocol: str, cut: int):
    body = json.dumps(GOOD).encode()
    asked = post(PATH, body, "Connection: Upgrade", f"Upgrade: {protocol}")
    with server.connect() as connection:
        if cut:
            connection.send(asked[:cut])
            time.sleep(0.05)
        connection.send(asked[cut:] + asked)
        assert [connection.receive().status for _ in range(2)] == [200, 200]


def test_what_is_no_http_behind_a_request_does_not_overtake_its_answer(server: Client):
    with server.connect() as connection:
        connection.send(post(PATH, json.dumps(GOOD).encode()) + b"hello\r\n\r\n")
        assert connection.receive().status == 200
        assert_error(connection.receive(), 400, "undecodable")
        assert connection.is_closed()


def test_a_body_that_turns_into_no_http_waits_for_the_answer_before_it(server: Client):
    chunked = b"POST /predict/tiny HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nhello"
    with server.connect() as connection:
        connection.send(post(PATH, json.dumps(GOOD).encode()) + chunked)
        assert connection.receive().status == 200
        assert_error(connection.receive(), 400, "undecodable")
        assert connection.is_closed()


def test_a_proxy_is_asked_for_in_vain(server: Client):
    with server.connect() as connection:
        connection.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert connection.receive().status in (400, 404, 405)
        assert connection.is_closed()


def test_health_is_answered_to_head_on_both_ports(server: Client):
    for port in (server.port, server.ops_port):
        connection = Connection(port)
        connection.send(get("/health/live", "HEAD"))
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_the_openapi_page_is_written_once_a_route_table(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    first = server.send(get("/openapi.json")).body

    def never(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("server.apps.document", never)
    assert server.send(get("/openapi.json")).body == first
    assert server.send(get("/models/")).status == 404
    assert server.send(get("/docs/oauth2-redirect")).status == 404


def test_too_many_rows(server: Client):
    assert_error(server.predict([{}] * 41), 413, "too_many_rows")
    assert server.predict([GOOD] * 40).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: text/plain",
        "Content-Type: application/json; charset=latin-1",
        "Content-Encoding: gzip",
    ],
)
def test_other_media_types_are_not_read(server: Client, header: str):
    assert_error(server.predict(GOOD, header), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
def test_ways_to_say_json(server: Client, kind: str):
    assert server.predict(GOOD, f"Content-Type: {kind}").status == 200


def test_json_without_a_content_type_is_read(server: Client):
    request = post(PATH, json.dumps(GOOD).encode()).replace(
        b"Content-Type: application/json\r\n", b""
    )
    assert server.send(request).status == 200


def test_a_rejected_record_names_every_bad_field(server: Client):
    response = server.predict({**GOOD, "age": "old", "height": "tall"})
    assert_error(response, 422, "rejected_record")
    assert response.error["fields"] == [
        {
            "row": 0,
            "field": "age",
            "trouble": "invalid",
            "expected": "number from 0 to 120 y",
            "got": '"old"',
        },
        {
            "row": 0,
            "field": "height",
            "trouble": "invalid",
            "expected": "number from 0 to 3 m",
            "got": '"tall"',
        },
    ]
    assert response.headers["keelmark-model"] == NAME


def test_what_came_is_shown_to_64_characters(server: Client):
    (field,) = server.predict({**GOOD, "age": "x" * 500}).error["fields"]
    assert len(field["got"]) == 64


def test_a_missing_field_has_nothing_that_came(server: Client):
    record = {key: value for key, value in GOOD.items() if key != "age"}
    (field,) = server.predict(record).error["fields"]
    assert "got" not in field


def test_values_of_sensitive_fields_are_never_repeated(server: Client, capfd: Any):
    bad = {**BAD, "salary": f"{SECRET} a month"}
    for value in (bad, [bad], {**GOOD, "salary": SECRET * 100}):
        for strict in ("0", "1"):
            response = server.predict(value, f"Keelmark-Strict: {strict}")
            assert str(SECRET) not in response.body.decode()
            assert str(SECRET * 100) not in response.body.decode()
    assert str(SECRET) not in server.ops("/metrics").body.decode()
    assert str(SECRET) not in "".join(capfd.readouterr())


STRICT = "Keelmark-Strict: 1"


def test_strict_takes_a_clean_record(server: Client):
    assert server.predict(GOOD, STRICT).json["served_by"] == "model"


@pytest.mark.parametrize("change", [{"height": 99}, {"member": 5}])
def test_strict_refuses_what_was_repaired_or_fell_back(server: Client, change: dict[str, Any]):
    response = server.predict({**GOOD, **change}, STRICT)
    assert_error(response, 422, "strict")
    assert response.error["fields"][0]["field"] == next(iter(change))


def test_strict_is_per_row_in_a_list(server: Client):
    response = server.predict([GOOD, {**GOOD, "height": 99}], STRICT)
    good, bad = response.json["predictions"]
    assert (response.status, good["served_by"]) == (200, "model")
    assert bad["error"]["code"] == "strict"


def test_strict_switched_off_is_off(server: Client):
    assert server.predict({**GOOD, "height": 99}, "Keelmark-Strict: 0").status == 200


# errors that are ours


class Raising:
    """A session whose every run fails, as a model may."""

    def run(self, rows: Any) -> Any:
        raise RuntimeError("no")


@pytest.fixture
def broken(server: Client) -> Iterator[Client]:
    """The server while its model raises."""
    core = server.core
    route = core.routes.live[NAME]
    bundle = dataclasses.replace(route.bundle, session=Raising())
    server.call(
        setattr, core, "routes", core.routes.with_route(dataclasses.replace(route, bundle=bundle))
    )
    yield server
    server.call(setattr, core, "routes", core.routes.with_route(route))


def test_a_model_that_raises_is_answered_by_the_rules(broken: Client):
    answer = broken.predict(GOOD).json
    assert (answer["served_by"], answer["reasons"]) == ("rules", ["model_error"])


def test_strict_blames_us_when_the_model_raises(broken: Client):
    response = broken.predict(GOOD, STRICT)
    assert_error(response, 503, "strict")
    assert response.headers["retry-after"] == "1"


def test_a_defect_is_an_internal_error_that_tells_nothing(server: Client, monkeypatch: Any):
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError("inner secret")

    monkeypatch.setattr("server.core.write_rows", defect)
    response = server.predict([GOOD])
    assert_error(response, 500, "internal")
    assert b"secret" not in response.body
    assert b"Zero" not in response.body
    monkeypatch.undo()
    assert server.predict([GOOD]).status == 200


def test_a_defect_before_the_run_is_an_internal_error_too(
    server: Client, monkeypatch: pytest.MonkeyPatch
):
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError("inner secret")

    monkeypatch.setattr("server.reading.objects_only", defect)
    response = server.predict([GOOD])
    assert_error(response, 500, "internal")
    assert b"secret" not in response.body


def test_the_log_of_a_defect_has_its_id_and_place_and_no_value(
    server: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def defect(_route: Any, group: Any, _results: Any) -> Any:
        raise ValueError(f"cannot use {group[0].records}")

    monkeypatch.setattr("server.core.write_rows", defect)
    server.predict({**GOOD, "salary": SECRET}, "X-Request-Id: find-me")
    lines: list[Any] = [r.msg for r in caplog.records if r.name == "keelmark.core"]
    (line,) = lines
    assert line["request_id"] == "find-me"
    assert line["kind"] == "ValueError"
    assert line["where"][-1].endswith(" defect")
    assert str(SECRET) not in str(line)


def test_while_draining_new_requests_are_refused(server: Client):
    core = server.core
    server.call(setattr, core, "is_draining", True)
    response = server.predict(GOOD)
    server.call(setattr, core, "is_draining", False)
    assert_error(response, 503, "draining")
    assert response.headers["retry-after"] == "1"


def test_a_model_that_fails_its_gate_is_not_loaded_and_the_others_are(store: Path, tmp_path: Path):
    both = tmp_path / "store"
    shutil.copytree(store, both)
    (pack_tiny(both, name="spoilt") / "model.onnx").write_bytes(b"not a model")
    with server_over(both, tmp_path / "state") as server:
        response = server.predict(GOOD, model="spoilt")
        assert_error(response, 503, "not_loaded")
        assert server.predict(GOOD).status == 200
        ready = server.send(get("/health/ready"))
        assert ready.status == server.ops("/health/ready").status == 503
        assert ready.json["models"]["spoilt"]["state"] == "not_loaded"
        assert server.send(get("/models/spoilt")).json["live"] is None
    with server_over(both, tmp_path / "state", required_models=(NAME,)) as server:
        assert server.send(get("/health/ready")).status == 200


def test_connections_beyond_the_cap_are_told_so(store: Path, tmp_path: Path):
    request = post(PATH, json.dumps(GOOD).encode())
    with server_over(store, tmp_path, max_connections=2) as server:
        with server.connect() as first, server.connect() as second:
            assert first.ask(request).status == second.ask(request).status == 200
            with server.connect() as third:
                refused = third.ask(request)
                assert_error(refused, 503, "overloaded")
                assert refused.headers["connection"] == "close"
                assert third.is_closed()
            assert server.metric('keelmark_errors_total{path="other",code="overloaded"}') == 1
            assert first.ask(request).status == 200
        assert until(lambda: server.send(request).status == 200)


def until(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


class Counting:
    """A session that remembers how many rows each run had."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.rows: list[int] = []

    def run(self, rows: Any) -> Any:
        self.rows.append(len(rows))
        return self.session.run(rows)


def test_requests_that_arrive_together_share_a_run(server: Client):
    core = server.core
    route = core.routes.live[NAME]
    counting = Counting(route.bundle.session)
    bundle = dataclasses.replace(route.bundle, session=counting)
    records = [{**GOOD, "age": age} for age in range(20, 40)]
    alone = [server.predict(record).json["prediction"] for record in records]
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in records]
        for connection in connections:
            assert connection.ask(get("/health/live")).status == 200  # all are accepted
        server.call(
            setattr,
            core,
            "routes",
            core.routes.with_route(dataclasses.replace(route, bundle=bundle)),
        )
        server.loop.call_soon_threadsafe(time.sleep, 0.5)  # the loop looks away
        for connection, record in zip(connections, records, strict=True):
            connection.send(post(PATH, json.dumps(record).encode()))
        together = [connection.receive().json["prediction"] for connection in connections]
        server.call(setattr, core, "routes", core.routes.with_route(route))
    assert together == alone
    assert sum(counting.rows) == len(records)
    assert len(counting.rows) < len(records) / 2


# ids and headers


def test_the_callers_request_id_comes_back(server: Client):
    answer = server.predict(GOOD, "X-Request-Id: abc.DEF_1:2-3").json
    assert answer["request_id"] == "abc.DEF_1:2-3"
    assert answer["prediction_id"] != answer["request_id"]
    assert server.predict(BAD, "X-Request-Id: e1").error["request_id"] == "e1"


@pytest.mark.parametrize("bad", ["with space", "x" * 129, 'a"b', ""])
def test_a_request_id_that_is_none_is_replaced(server: Client, bad: str):
    answer = server.predict(GOOD, f"X-Request-Id: {bad}").json
    assert answer["request_id"] == answer["prediction_id"]


def test_prediction_ids_rise(server: Client):
    ids = [server.predict(GOOD).json["prediction_id"] for _ in range(20)]
    assert ids == sorted(set(ids))


def test_traceparent_is_echoed(server: Client):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert server.predict(GOOD, f"traceparent: {trace}").headers["traceparent"] == trace
    assert "traceparent" not in server.predict(GOOD, "traceparent: x").headers


# HTTP itself


def test_a_connection_is_kept(server: Client):
    with server.connect() as connection:
        answers = [connection.ask(post(PATH, json.dumps(GOOD).encode())) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3


def test_pipelined_requests_are_answered_in_order(server: Client):
    records = [{**GOOD, "age": age} for age in (20, 70, None, 90)]
    requests = b"".join(
        post(PATH, json.dumps(r).encode(), f"X-Request-Id: r{i}") for i, r in enumerate(records)
    )
    with server.connect() as connection:
        connection.send(requests + get("/models"))
        answers = [connection.receive() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 422, 200, 200]
    assert [a.json["request_id"] for a in answers[:2]] == ["r0", "r1"]
    assert answers[2].error["request_id"] == "r2"


def test_http_1_0_is_answered_and_closed(server: Client):
    with server.connect() as connection:
        answer = connection.ask(post(PATH, json.dumps(GOOD).encode(), version="1.0"))
        assert answer.status == 200
        assert answer.headers.get("connection", "close") == "close"
        assert connection.is_closed()


def test_connection_close_is_kept_to(server: Client):
    with server.connect() as connection:
        assert (
            connection.ask(post(PATH, json.dumps(GOOD).encode(), "Connection: close")).status == 200
        )
        assert connection.is_closed()


def test_a_body_in_chunks_and_in_single_bytes(server: Client):
    body = json.dumps(GOOD).encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = post(PATH, b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with server.connect() as connection:
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head + chunked:
            connection.send(bytes([byte]))
        assert connection.receive().status == 200


def test_expect_continue_is_invited(server: Client):
    body = json.dumps(GOOD).encode()
    with server.connect() as connection:
        connection.send(post(PATH, body, "Expect: 100-continue")[: -len(body)])
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")
        assert connection.ask(body).status == 200


def test_expect_continue_is_refused_for_a_too_large_body(server: Client):
    with server.connect() as connection:
        answer = connection.ask(post(PATH, b"", "Expect: 100-continue", "Content-Length: 99999"))
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert connection.is_closed()


@pytest.mark.parametrize(
    "bytes_", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", b"GET\r\n\r\n"]
)
def test_what_is_no_http_is_told_so_and_closed(server: Client, bytes_: bytes):
    with server.connect() as connection:
        answer = connection.ask(bytes_)
        assert_error(answer, 400, "undecodable")
        assert connection.is_closed()


HEAD_LIMIT = 64 * 1024


@pytest.mark.parametrize("behind", [b"", b"X-Other: y\r\n\r\n"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /models HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (HEAD_LIMIT + 1) + b"\r\n",
        b"GET /models HTTP/1.1\r\nHost: x\r\n" + b"X-Many: b\r\n" * HEAD_LIMIT,
        b"GET /models?" + b"c" * (HEAD_LIMIT + 1) + b" HTTP/1.1\r\nHost: x\r\n",
    ],
    ids=["a long header", "many headers", "a long address"],
)
def test_headers_beyond_the_limit_are_refused_before_they_end_and_after(
    server: Client, head: bytes, behind: bytes
):
    with server.connect() as connection:
        with contextlib.suppress(ConnectionError):  # it may close before all of it was sent
            connection.send(head)
            connection.send(behind)
        refused = connection.receive()
        assert_error(refused, 431, "too_large")
        assert refused.headers["connection"] == "close"
        assert connection.is_closed()


def test_headers_within_the_limit_are_read_however_they_come(server: Client):
    long = b"X-Long: " + b"a" * (HEAD_LIMIT - 100) + b"\r\n"
    request = get("/models").replace(b"\r\n\r\n", b"\r\n" + long + b"\r\n")
    with server.connect() as connection:
        for cut in (0, 30, HEAD_LIMIT // 2):
            connection.send(request[:cut])
            time.sleep(0.02)
            assert connection.ask(request[cut:]).status == 200
        connection.send(post(PATH, json.dumps(GOOD).encode()) + request)
        assert [connection.receive().status for _ in range(2)] == [200, 200]


def test_headers_behind_a_body_are_not_those_of_the_next_request(server: Client):
    long = b"X-Long: " + b"a" * (HEAD_LIMIT // 2) + b"\r\n"
    body = json.dumps(GOOD).encode()
    chunked = b"Host: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    with server.connect() as connection:
        connection.send(b"POST /predict/tiny HTTP/1.1\r\n" + chunked)
        time.sleep(0.02)
        assert connection.ask(long + b"\r\n").status == 200
        connection.send(b"GET /models HTTP/1.1\r\nHost: x\r\n" + long)
        time.sleep(0.02)
        assert connection.ask(b"\r\n").status == 200


def test_an_endless_header_is_never_kept_whole(server: Client):
    """Not before a request's headers, and not behind its body."""
    started = b"POST /predict/tiny HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for begun in (get("/models") + get("/models")[:-2], started + b"1\r\n{\r\n0\r\n"):
        with server.connect() as connection:
            connection.send(begun + b"X-Endless: ")
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 1 << 26:
                    sent += connection.sock.send(b"a" * HEAD_LIMIT)
            assert sent < 1 << 26, "it took 64 MB of one header"
    assert server.predict(GOOD).status == 200


def test_headers_beyond_the_limit_do_not_overtake_the_answer_before_them(server: Client):
    long = b"GET /models HTTP/1.1\r\nX-Long: " + b"a" * (HEAD_LIMIT + 1) + b"\r\n\r\n"
    with server.connect() as connection:
        connection.send(post(PATH, json.dumps([GOOD] * 40).encode()) + long)
        assert connection.receive().status == 200
        assert_error(connection.receive(), 431, "too_large")
        assert connection.is_closed()


@pytest.fixture(scope="module", params=LANES)
def hasty(
    store: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Client]:
    """A server with little patience."""
    limits: dict[str, Any] = {"header_timeout_seconds": 0.4, "body_timeout_seconds": 0.4}
    limits |= {"keep_alive_seconds": 1, "lane": request.param}
    with server_over(store, tmp_path_factory.mktemp("state"), **limits) as client:
        yield client


@pytest.mark.parametrize(
    "sent", [b"", b"POST /predict/tiny HTT", b"POST /predict/tiny HTTP/1.1\r\nHost: x\r\n"]
)
def test_a_connection_that_does_not_get_its_headers_together_is_closed(hasty: Client, sent: bytes):
    with hasty.connect() as connection:
        connection.send(sent)
        began = time.monotonic()
        assert connection.is_closed()
        assert 0.2 < time.monotonic() - began < 5


def test_slow_headers_of_a_later_request_are_closed_too(hasty: Client):
    with hasty.connect() as connection:
        assert connection.ask(get("/health/live")).status == 200
        connection.send(b"GET /health/live HT")
        assert connection.is_closed()


def test_bytes_behind_an_answer_that_are_no_request_do_not_hold_the_connection(hasty: Client):
    with hasty.connect() as connection:
        assert connection.ask(get("/health/live")).status == 200
        connection.send(b"\r\n")
        assert connection.is_closed()


def test_a_body_is_not_counted_as_headers(hasty: Client):
    body = json.dumps([GOOD] * 5_000).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with hasty.connect() as connection:
        assert connection.ask(post(PATH, body) + get("/models")).status == 200
        assert connection.receive().status == 200
        head = post(PATH, b"", "Transfer-Encoding: chunked", "Content-Length: 0")
        assert connection.ask(head.replace(b"Content-Length: 0\r\n", b"") + chunks).status == 200


class Between:
    """A connection as the watch on headers sees it: before the end of a request's headers."""

    def __init__(self) -> None:
        self.headers: list[Any] = []
        self.headed = None
        self.transport = self
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_each_request_has_the_time_for_its_headers_anew():
    watch, quick, slow = StateWatch(5, is_before_headers), Between(), Between()
    for now in range(0, 20, 2):
        quick.headers = []
        watch.look([quick, slow], now)
        assert slow.is_closed == (now > 5)
    assert not quick.is_closed


def test_an_idle_connection_is_closed_after_the_keep_alive(hasty: Client):
    with hasty.connect() as connection:
        assert connection.ask(get("/health/live")).status == 200
        assert connection.is_closed()


@pytest.mark.parametrize("sent", [b"", b'{"age"'])
def test_a_body_that_does_not_come_is_undecodable_and_closed(hasty: Client, sent: bytes):
    with hasty.connect() as connection:
        connection.send(post(PATH, sent, "Content-Length: 100"))
        answer = connection.receive()
        assert_error(answer, 400, "undecodable")
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()


def ask_much(server: Client, connection: Connection, ending: str) -> None:
    """Asks for 700 kB over a connection of which the kernel holds a part."""
    (there,) = server.connections
    sock = there.transport.get_extra_info("socket")
    server.call(sock.setsockopt, socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.send(post(PATH, json.dumps([GOOD] * 10_000).encode(), ending))


@pytest.mark.parametrize("ending", ["Connection: close", "X-Connection: is kept"])
def test_a_caller_that_never_reads_is_cut(hasty: Client, ending: str):
    connections = hasty.connections
    assert until(lambda: not connections)
    with hasty.connect() as connection:
        assert until(lambda: len(connections) == 1)
        ask_much(hasty, connection, ending)
        assert until(lambda: any(c.transport.get_write_buffer_size() for c in connections))
        assert until(lambda: not connections)


def test_a_caller_that_reads_slowly_gets_its_answer(hasty: Client):
    connections = hasty.connections
    assert until(lambda: not connections)
    with hasty.connect() as connection:
        assert until(lambda: len(connections) == 1)
        ask_much(hasty, connection, "Connection: close")
        came = bytearray()
        while piece := connection.sock.recv(16_384):
            came += piece
            time.sleep(0.02)
    head, _, body = bytes(came).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head


def test_a_caller_that_leaves_in_its_body_harms_nobody(server: Client):
    for _ in range(5):
        with server.connect() as connection:
            connection.send(post(PATH, b"{", "Content-Length: 100"))
    assert server.predict(GOOD).status == 200


def test_a_caller_that_does_not_wait_for_its_answer_is_counted(server: Client):
    series = f'keelmark_predictions_total{{model="{NAME}",version="1",outcome="model"}}'
    before = server.metric(series)
    with server.connect() as connection:
        connection.send(post(PATH, json.dumps([GOOD] * 40).encode()))
    assert until(lambda: server.metric(series) == before + 40)


# pages


def test_the_list_of_models(server: Client):
    (model,) = server.send(get("/models")).json["models"]
    assert model["model"] == NAME
    assert (model["live"], model["loaded"], model["ready"]) == ("1", ["1"], True)


def test_the_page_of_a_model_is_enough_to_ask_it(server: Client):
    page = server.send(get(f"/models/{NAME}")).json
    age = next(field for field in page["fields"] if field["name"] == "age")
    assert (age["unit"], age["low"], age["high"], age["nullable"]) == ("y", 0, 120, False)
    assert page["outputs"][0]["kind"] == "probability"
    assert page["decisions"] == ["no", "yes"]
    assert server.predict(page["example"]).json["served_by"] == "model"


def test_health_follows_the_phase(server: Client):
    assert server.send(get("/health/live")).json == {"live": True}
    assert server.ops("/health/startup").status == 200
    assert server.ops("/health/live").status == 200
    server.call(setattr, server.serving.runtime, "phase", Phase.DRAINING)
    assert server.send(get("/health/ready")).status == server.ops("/health/ready").status == 503
    server.call(setattr, server.serving.runtime, "phase", Phase.SERVING)
    assert server.send(get("/health/ready")).status == server.ops("/health/ready").status == 200


def test_requests_and_errors_are_counted_by_path(server: Client):
    series = 'keelmark_requests_total{path="/predict/{model}",status="404"}'
    codes = 'keelmark_errors_total{path="/predict/{model}",code="unknown_model"}'
    before = server.metric(series), server.metric(codes)
    server.predict(GOOD, model="nobody")
    assert (server.metric(series), server.metric(codes)) == (before[0] + 1, before[1] + 1)


def test_the_ops_port_predicts_nothing(server: Client):
    connection = Connection(server.ops_port)
    assert connection.ask(post(PATH, json.dumps(GOOD).encode())).status == 404
    connection.close()
