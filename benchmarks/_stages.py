"""Where a request's time goes: the server's own clocks, and samples of what its loop is at."""

import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from _compare import all_running
from _contenders import bare, keelmark
from _costs import get
from _load import Target, closed_loop
from _options import Found, Options, say
from _peers import NotInstalled, python_of

CLOCKS: Final = ("decode", "encode", "queue", "run", "ladder", "answer")
SAMPLES_A_SECOND: Final = 400

WAITING: Final = "waiting"
PLACES: Final = (
    (WAITING, r"^epoll_"),
    ("writing to sockets, the kernel", r"^(writev?|send|__libc_(write|send))\b"),
    ("reading from sockets, the kernel", r"^(read|recv|__libc_(read|recv))\b"),
    ("garbage collection", r"^(gc_collect|collect_|subtract_refs|visit_)"),
    ("decoding the JSON", r"^decode \(server/protocols"),
    ("encoding and checking fields", r"\(features/enco"),
    ("features and model, onnxruntime", r"\(features/runtime"),
    ("ladder: policies, checks, validity, decision", r"\(models/(ladder|planning|outputs|rules)"),
    (
        "counters and distributions",
        r"\((server/(counting|regions|http_counters|layout|notes)|models/)",
    ),
    ("writing the answer", r"\(server/(protocols|prediction_ids)|^Core.written"),
    ("deadlines, routing, pace", r"\(server/(placing|pace|breaker|routes|cost)"),
    (
        "HTTP: parser, headers, lane",
        r"httptools|\(server/(connections|asgi_lane|asking|slow_)|llhttp|parser\.c",
    ),
    ("passing requests on", r"\(server/"),
    ("event loop", r"uvloop|loop\.c|uv_|asyncio|uvicorn"),
)
"""Where a sample belongs: the first that its innermost frame matches, else the next frame."""

_PATTERNS = [(place, re.compile(pattern)) for place, pattern in PLACES]
_SUM = re.compile(r'^keelmark_stage_duration_seconds_sum\{.*stage="(\w+)".*\} (\S+)$', re.MULTILINE)
_COUNT = re.compile(r"^keelmark_request_duration_seconds_count\{.*\} (\S+)$", re.MULTILINE)


def stages(options: Options) -> Found:
    """A request's CPU at one connection by the server's clocks, and by samples at one and many.

    The clocks are wall time on a loop that has a core of its own; at many connections they would
    count a run once for each request that shares it, so there only samples tell.
    """
    with all_running((bare(), keelmark()), options) as targets:
        clocks = _clocks(targets, options)
        found: Found = {"clocks": clocks, "samples": {}}
        try:
            spy = python_of("py-spy", options.peers).parent / "py-spy"
        except NotInstalled as error:
            return {**found, "skipped": str(error)}
        for connections in (1, options.connections[-1]):
            sampled = _sampled(spy, targets["keelmark"], connections, options)
            found["samples"][str(connections)] = sampled
            say(f"connections {connections}: {sampled['cpu_us']:.0f} µs CPU a request")
    return found


def _clocks(targets: dict[str, Target], options: Options) -> Found:
    ours = targets["keelmark"]
    floor = closed_loop(targets["bare"], 1, options.seconds)
    closed_loop(ours, 1, 1)
    before, counted = _read(ours)
    sample = closed_loop(ours, 1, options.seconds)
    after, count = _read(ours)
    return {
        "stages_us": {s: (after[s] - before[s]) / (count - counted) * 1e6 for s in CLOCKS},
        "cpu_us": sample.cpu_us,
        "system_us": sample.system_us,
        "bare_cpu_us": floor.cpu_us,
        "bare_system_us": floor.system_us,
    }


def _read(target: Target) -> tuple[dict[str, float], float]:
    """Seconds in each stage, and requests, up to now."""
    page = get(target.server.port + 1, "/metrics")
    found = {stage: float(text) for stage, text in _SUM.findall(page)}
    return found, sum(map(float, _COUNT.findall(page)))


def _sampled(spy: Path, target: Target, connections: int, options: Options) -> Found:
    """Shares of the loop's time by place, under load. Sampling stops the server each time."""
    seconds = 2 * options.seconds
    cost = closed_loop(target, connections, options.seconds).cpu_us
    load = threading.Thread(target=closed_loop, args=(target, connections, seconds + 2))
    load.start()
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        command = [str(spy), "record", "--native", "--format", "raw", "--output", file.name]
        command += ["--rate", str(SAMPLES_A_SECOND), "--duration", str(seconds)]
        try:
            subprocess.run(
                [*command, "--pid", str(target.server.pid)], capture_output=True, check=True
            )
        finally:
            load.join()
        counts = Counter(dict(_placed(Path(file.name).read_text())))
    total = counts.total()
    return {"cpu_us": cost, "samples": total, "shares": {p: n / total for p, n in counts.items()}}


def _placed(stacks: str) -> Iterator[tuple[str, int]]:
    """Each place with its samples, of the thread of the loop."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        place = place_of(stack.split(";")) if "run_until_complete" in stack else WAITING
        if place != WAITING:
            counts[place] += int(count)
    yield from counts.items()


def place_of(frames: list[str]) -> str:
    """Where a sample belongs, by its innermost frame that says it."""
    for frame in reversed(frames):
        for place, pattern in _PATTERNS:
            if pattern.search(frame):
                return place
    return "elsewhere"
