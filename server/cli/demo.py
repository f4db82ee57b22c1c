"""`keelmark demo`: real flights of later months in their order, with a live summary."""

import contextlib
import importlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from server.cli.ops_client import NotRunning
from server.cli.options import AsJson
from server.cli.show import say_json, table
from server.settings import load
from server.state_folder import Ports, running_server

MODEL: Final = "flights"
START_SECONDS: Final = 60.0
REDRAWN_PER_SECOND: Final = 4
LATENCIES_KEPT: Final = 2_000

Rate = Annotated[float, typer.Option(help="Flights a second.", min=0.1, max=5000)]
Rows = Annotated[int, typer.Option(help="Flights to ask about.", min=1)]
Since = Annotated[
    datetime, typer.Option(help="First day; the model was trained on January to April.")
]
Url = Annotated[
    str | None,
    typer.Option(help="Data port of a server; else the one that runs here, else one of its own."),
]


def demo(
    *,
    rate: Rate = 50,
    rows: Rows = 3_000,
    since: Since = datetime(2013, 6, 1),  # noqa: DTZ001  (a day in New York, as the table has them)
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Replays real flights of 2013, one request each, with a live summary of what came back.

    Needs the extra `examples`. Ctrl-C ends it. Ends with 0, or 4 if no server answers.
    """
    flights = later_flights(since, rows)
    summary = Summary()
    with server_at(url) as address, contextlib.suppress(KeyboardInterrupt):
        replay(flights, address, rate, summary, shown=not as_json)
    if as_json:
        say_json(summary.as_dict())


@dataclass(frozen=True, slots=True)
class Flight:
    """A record to send, and what became of the flight: None if it never arrived."""

    record: dict[str, Any]
    late: bool | None


@dataclass(slots=True)
class Summary:
    """What has come back so far."""

    sent: int = 0
    until: str = ""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_KEPT))
    statuses: Counter[int] = field(default_factory=Counter)
    served_by: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    came_late: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)

    def add(self, flight: Flight, status: int, answer: dict[str, Any], seconds: float) -> None:
        """Takes in one answer."""
        self.sent += 1
        self.until = flight.record["sched_dep"]
        self.latencies.append(seconds)
        self.statuses[status] += 1
        decision = answer.get("decision", "none")
        self.served_by[answer.get("served_by", answer.get("error", {}).get("code", "?"))] += 1
        self.repaired.update(f"{name}: {what}" for name, what in answer.get("repaired", {}).items())
        self.reasons.update(answer.get("reasons", []))
        self.decisions[decision] += 1
        if flight.late is not None:
            self.came[decision] += 1
            self.came_late[decision] += flight.late

    def quantile(self, share: float) -> float:
        """Seconds within which that share of the last answers came."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan

    def late_share(self, decision: str) -> float:
        """Share of flights with that decision that did come late, of those that came."""
        return self.came_late[decision] / self.came[decision] if self.came[decision] else math.nan

    @property
    def per_second(self) -> float:
        return self.sent / max(1e-9, time.perf_counter() - self.began)

    def as_dict(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "sent": self.sent,
            "until": self.until,
            "per_second": round(self.per_second, 1),
            "p50_ms": round(self.quantile(0.5) * 1e3, 3),
            "p99_ms": round(self.quantile(0.99) * 1e3, 3),
            "statuses": dict(self.statuses),
            "served_by": dict(self.served_by),
            "repaired": dict(self.repaired),
            "reasons": dict(self.reasons),
            "decisions": {
                name: {"flights": count, "really_late_ratio": self.late_share(name)}
                for name, count in self.decisions.items()
            },
        }

    def page(self) -> Group:
        """What the terminal shows."""
        head = Text.assemble(
            (f"{self.until[:16].replace('T', ' ')}", "bold"),
            f"   {self.sent} flights   {self.per_second:.0f}/s   p50 "
            f"{self.quantile(0.5) * 1e3:.2f} ms   "
            f"p99 {self.quantile(0.99) * 1e3:.2f} ms",
        )
        decisions = [
            (name, count, f"{self.late_share(name):.0%}")
            for name, count in self.decisions.most_common()
        ]
        return Group(
            head,
            table("", ("answered by", "flights"), self.served_by.most_common()),
            table("", ("said", "flights", "really late"), decisions),
            table("", ("repaired or fallen back for", "flights"), self._marks()),
        )

    def _marks(self) -> list[tuple[str, int]]:
        return (self.repaired + self.reasons).most_common(8)


def replay(
    flights: Iterator[Flight], address: str, rate: float, summary: Summary, *, shown: bool
) -> None:
    """Asks about each flight when it is due; a late answer delays no due time."""
    with (
        contextlib.closing(HTTPConnection(urlsplit(address).netloc, timeout=30)) as connection,
        Live(console=Console(quiet=not shown), auto_refresh=False) as live,
    ):
        began = redrawn = summary.began = time.perf_counter()
        for number, flight in enumerate(flights):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            ask(connection, flight, summary)
            if time.perf_counter() - redrawn > 1 / REDRAWN_PER_SECOND:
                redrawn = time.perf_counter()
                live.update(summary.page(), refresh=True)
        live.update(summary.page(), refresh=True)


def ask(connection: HTTPConnection, flight: Flight, summary: Summary) -> None:
    """One request over the kept connection.

    Raises:
        NotRunning: the server does not answer.
    """
    began = time.perf_counter()
    try:
        connection.request(
            "POST",
            f"/predict/{MODEL}",
            json.dumps(flight.record),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        body = json.loads(response.read())
    except (OSError, HTTPException, ValueError) as error:
        raise NotRunning(f"the server does not answer ({error}); start it and try again") from error
    summary.add(flight, response.status, body, time.perf_counter() - began)


def later_flights(since: datetime, rows: int) -> Iterator[Flight]:
    """Flights in order of their scheduled departure.

    Raises:
        ModuleNotFoundError: the extra `examples` is not installed; the message says how.
    """
    # By name: the data set belongs to the public face, which no package imports.
    data = importlib.import_module("keelmark.datasets")
    table = data.flights()
    times = table["sched_dep"]
    chosen = table[times >= since.replace(tzinfo=times.dt.tz)].head(rows)
    plain = chosen.astype(object).where(chosen.notna(), None)
    for row in plain.to_dict("records"):
        late = row.pop("late")
        yield Flight(
            row | {"sched_dep": row["sched_dep"].isoformat()}, None if late is None else bool(late)
        )


@contextlib.contextmanager
def server_at(url: str | None) -> Generator[str]:
    """The address of a server: the named one, else the one that runs here, else our own."""
    running = running_server(load().settings.state_dir)
    if url or running:
        yield url or running.data  # pyright: ignore[reportOptionalMemberAccess]
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "keelmark", "serve", "--port", "0", "--ops-port", "0"]
        process = subprocess.Popen(  # noqa: S603  (ourselves)
            [
                *command,
                "--state-dir",
                folder,
                "--log-level",
                "warning",
                "--drain-delay-seconds",
                "0",
            ]
        )
        try:
            yield _when_ready(process, Path(folder)).data
        finally:
            process.terminate()
            process.wait()


def _when_ready(process: subprocess.Popen[bytes], folder: Path) -> Ports:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if (ports := running_server(folder)) and is_ready(ports.data):
            return ports
        time.sleep(0.05)
    raise NotRunning("the demo's own server did not start; `keelmark serve` shows why")


def is_ready(address: str) -> bool:
    """Whether a server answers and is ready."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
