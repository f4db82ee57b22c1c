"""The benchmarks' own tools: what they leave out of the server, and how they time and write."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests import readme
from tests.serving import Server, free_port, serving

ROOT = readme.ROOT
BENCHMARKS = ROOT / "benchmarks"
RECORD = readme.curl_command().partition("-d '")[2].partition("'")[0].encode()
PREDICTIONS, VALUES = "keelmark_predictions_total", "keelmark_field_values_total"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def counted(server: Server, metric: str) -> float:
    return sum(value for (name, _), value in server.samples().items() if name == metric)


def serve_without(duties: str, folder: Path) -> Any:
    program = (str(BENCHMARKS / "_duties.py"), duties)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return serving(readme.SHIPPED, folder, program=program, environment=environment)


def test_a_server_without_its_duties_answers_the_same_and_counts_nothing(tmp_path: Path):
    everything = "counters,distributions,ladder,deadlines,ids,events"
    with serve_without(everything, tmp_path) as server:
        answer = server.post("/predict/flights", RECORD)
        assert answer.status == 200
        assert answer.body["prediction"] == readme.stated_answer()["prediction"]
        assert "decision" not in answer.body
        again = server.post("/predict/flights", RECORD).body
        assert again["prediction_id"] == answer.body["prediction_id"]
        assert counted(server, PREDICTIONS) == counted(server, VALUES) == 0


def test_a_server_without_distributions_counts_rows_but_no_values(tmp_path: Path):
    with serve_without("distributions", tmp_path) as server:
        assert server.post("/predict/flights", RECORD).body["decision"] == "late"
        assert counted(server, PREDICTIONS) == 1
        assert counted(server, VALUES) == 0


def stalling(listener: socket.socket, connections: int, seconds: float) -> None:
    """Answers on so many connections, the first requests after a stall; ends with its clients."""
    accepted = [listener.accept()[0] for _ in range(connections)]
    ready_at = time.monotonic() + seconds

    def answer(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                time.sleep(max(0.0, ready_at - time.monotonic()))
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    threads = [threading.Thread(target=answer, args=(one,)) for one in accepted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_open_loop_counts_from_when_a_request_was_due():
    """Who comes while a server stalls has waited, although nobody could send its request yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=stalling, args=(listener, 2, 0.5))
        server.start()
        asked = {"port": listener.getsockname()[1], "requests": [["/", "{}"]], "rate": 100}
        printed = subprocess.run(
            [sys.executable, str(BENCHMARKS / "_open_loop.py")],
            input=json.dumps({**asked, "connections": 2, "seconds": 0.6}).encode(),
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        server.join()
    found = json.loads(printed)
    assert found["failed"] == 0
    assert found["max_ms"] > 300
    assert found["p50_ms"] > 100  # of about 50 requests two were under way; the others were due
    assert found["late_sends"] > 0.5


def test_a_measurement_ends_every_process_that_its_server_has_started(tools: Any, tmp_path: Path):
    servers = tools("_servers")
    port = free_port()
    code = (
        "import http.server, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), http.server.BaseHTTPRequestHandler)"
        ".serve_forever()\n"
    )
    log = tmp_path / "log.txt"
    with servers.started([sys.executable, "-c", code], port, log=log) as server:
        child = int(log.read_text())
        assert servers.family(server.pid) == [server.pid, child]
        assert server.used().processes == 2
    assert servers.runs_since(child) is None


def test_results_are_written_between_their_marks(tools: Any):
    report = tools("_report")
    page = f"before\n{report.MARK.format('rows')}\nold\n{report.END}\nafter\n"
    written = report.written(page, {"rows": "new \\1"})
    assert written == page.replace("old", "new \\1")
    assert report.written(written, {"rows": "new \\1"}) == written
    with pytest.raises(ValueError, match="no mark"):
        report.written(page, {"workers": "new"})


def test_every_section_has_its_place_in_the_docs(tools: Any):
    report, sections = tools("_report"), tools("all").SECTIONS
    assert sections.keys() == report.TEXTS.keys()
    page = report.DOCS.read_text()
    assert [name for name in sections if report.MARK.format(name) not in page] == []
    assert report.MARK.format("speed") in report.README.read_text()


def test_the_docs_say_what_was_measured(tools: Any):
    report, kept = tools("_report"), tools("all").RESULTS
    results = json.loads(kept.read_text())
    said = "run: make bench ARGS=--write"
    page = report.DOCS.read_text()
    assert report.written(page, report.docs_texts(results)) == page, said
    page = report.README.read_text()
    assert report.written(page, {"speed": report.readme_text(results)}) == page, said


def test_the_chart_has_a_bar_for_every_contender(tools: Any):
    chart = tools("_chart")
    bars = [("echo", "A & B", 3.0), ("keelmark", "ours", 2.5), ("slow", "slow", 0.004)]
    drawn = ET.fromstring(chart.chart(bars))
    found = drawn.findall("{http://www.w3.org/2000/svg}rect")
    assert [bar.get("class") for bar in found] == ["bar", "ours", "bar"]
    widths = [float(bar.attrib["width"]) for bar in found]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] >= 2


@pytest.mark.parametrize(
    ("frames", "place"),
    [
        (["run_until_complete", "write (libc.so.6)"], "writing to sockets, the kernel"),
        (["uv__io_poll (linux.c:1452)", "epoll_pwait (libc.so.6)"], "waiting"),
        (
            ["Core.finish (server/core.py:2)", "commit (server/counting.py:1)", "pack (x.so)"],
            "counters and distributions",
        ),
        (
            ["settle (server/core.py:1)", "decode (server/protocols/predict.py:9)"],
            "decoding the JSON",
        ),
        (["main (runpy)"], "elsewhere"),
    ],
)
def test_a_sample_belongs_to_its_innermost_frame_that_says_where(
    tools: Any, frames: list[str], place: str
):
    assert tools("_stages").place_of(frames) == place
