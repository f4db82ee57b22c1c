"""Who is compared, how each is started, and how each wants to be asked about a flight."""

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from _load import Target
from _peers import QUIET, REQUIREMENTS, environment_of, python_of
from _prepared import BUNDLE, SHIPPED, Prepared
from _servers import READY_SECONDS, ROOT, SERVER_CORE, NotReady, keep_on_core, started

HERE: Final = Path(__file__).parent
DEADLINE_MS: Final = "10000"
"""So long that on any machine the model itself answers every request, as it has to elsewhere."""
TOLERANCE: Final = 1e-5
"""What probabilities may differ by; most servers compute in another order."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a contender is started with.

    Attributes:
        python: of its environment.
        scratch: a folder that is thrown away after it.
    """

    python: str
    port: int
    scratch: Path


def same(record: Any) -> Any:
    return record


@dataclass(frozen=True, slots=True)
class Contender:
    """One server.

    Attributes:
        name: in results; `title` in tables.
        command: that starts it.
        path: of predictions.
        asked: a record as its callers send it.
        said: the probability in its answer.
        peer: whose environment it needs; None for this one.
        checked: whether it gives probabilities at all.
        is_pinned_late: only when it is ready: on one core alone it would take minutes to start.
        needs_parts: it serves parts of the shipped model, not the bundle.
    """

    name: str
    title: str
    command: Callable[[Start], list[str]]
    path: str = "/predict"
    asked: Callable[[Any], Any] = same
    said: Callable[[Any], float] = lambda answer: answer["probability"]
    peer: str | None = None
    checked: bool = True
    is_pinned_late: bool = False
    needs_parts: bool = False

    def requests(self, records: Sequence[Any]) -> list[tuple[str, str]]:
        return [(self.path, json.dumps(self.asked(record))) for record in records]


def keelmark(
    name: str = "keelmark",
    title: str = "Keelmark, everything on",
    *,
    without: Sequence[str] = (),
    store: Path = SHIPPED,
    arguments: Sequence[str] = (),
    path: str = "/predict/flights",
) -> Contender:
    """`keelmark serve` as it is shipped; or `without` some of its duties."""
    program = [str(HERE / "_duties.py"), ",".join(without)] if without else ["-m", "keelmark"]

    def command(start: Start) -> list[str]:
        return [
            *(start.python, *program, "serve", "--store", str(store)),
            *("--port", str(start.port), "--ops-port", str(start.port + 1)),
            *("--state-dir", str(start.scratch / "state"), "--drain-delay-seconds", "0"),
            *("--log-level", "warning", "--deadline-ms", DEADLINE_MS, *arguments),
        ]

    return Contender(name, title, command, path, said=lambda answer: answer["prediction"])


def bare(bundle: Path = BUNDLE) -> Contender:
    """The floor under a server that decodes JSON and runs this graph."""
    program = [str(HERE / "_bare.py"), str(bundle), "--port"]
    return Contender(
        "bare",
        "bare uvicorn, the same graph",
        lambda start: [start.python, *program, str(start.port)],
        "/predict/flights",
        said=lambda answer: answer["prediction"],
    )


def echo() -> Contender:
    """The floor under any application of uvicorn."""
    program = [str(HERE / "_bare.py"), str(BUNDLE), "--echo", "--port"]
    return Contender(
        "echo",
        "uvicorn, a constant answer",
        lambda start: [start.python, *program, str(start.port)],
        "/predict/flights",
        checked=False,
    )


def _program(name: str, *more: str) -> Callable[[Start], list[str]]:
    def command(start: Start) -> list[str]:
        scratch = [str(start.scratch) if word == "SCRATCH" else word for word in more]
        program = str(HERE / "peers" / name)
        return [start.python, program, "--port", str(start.port), *scratch]

    return command


def _bentoml(start: Start) -> list[str]:
    service = ["-m", "bentoml", "serve", "bentoml_service:Flights"]
    where = ["--working-dir", str(HERE / "peers"), "--host", "127.0.0.1", "--port", str(start.port)]
    return [start.python, *service, *where]


def tensors(record: dict[str, Any]) -> dict[str, Any]:
    """A record in the Open Inference Protocol, a tensor a field."""
    return {
        "inputs": [
            {
                "name": name,
                "shape": [1],
                "datatype": "BYTES" if isinstance(value, str) else "FP64",
                "data": [value],
            }
            for name, value in record.items()
        ]
    }


def titled(name: str, peer: str) -> str:
    """The name with the version that is installed."""
    return f"{name} {REQUIREMENTS[peer][0].partition('==')[2]}"


HAND: Final = (
    Contender(
        "hand-numpy",
        "FastAPI + pydantic + numpy + onnxruntime + a histogram a feature",
        _program("hand_numpy.py"),
        needs_parts=True,
    ),
    Contender(
        "hand-pandas",
        "FastAPI + pydantic + pandas + scikit-learn",
        _program("hand_pandas.py"),
        needs_parts=True,
    ),
)
PEERS: Final = (
    Contender(
        "mlserver",
        titled("MLServer", "mlserver"),
        _program("mlserver_model.py"),
        "/v2/models/flights/infer",
        tensors,
        lambda answer: answer["outputs"][0]["data"][0],
        peer="mlserver",
        needs_parts=True,
    ),
    Contender(
        "bentoml",
        titled("BentoML", "bentoml"),
        _bentoml,
        asked=lambda record: {"record": record},
        peer="bentoml",
        needs_parts=True,
    ),
    Contender(
        "litserve",
        titled("LitServe", "litserve"),
        _program("litserve_server.py"),
        peer="litserve",
        needs_parts=True,
    ),
    Contender(
        "ray",
        titled("Ray Serve", "ray"),
        _program("ray_app.py", "--scratch", "SCRATCH"),
        peer="ray",
        needs_parts=True,
        is_pinned_late=True,
    ),
    Contender(
        "mlflow",
        titled("MLflow", "mlflow"),
        _program("mlflow_model.py", "--scratch", "SCRATCH"),
        "/invocations",
        lambda record: {"dataframe_records": [record]},
        lambda answer: answer["predictions"][0],
        peer="mlflow",
        needs_parts=True,
    ),
)


@contextlib.contextmanager
def running(
    contender: Contender,
    prepared: Prepared,
    *,
    peers: Path = Path("build/bench/peers"),
    core: int | None = SERVER_CORE,
    log: Path | None = None,
) -> Generator[Target]:
    """A contender that answers, as a target of load; ended when the block ends.

    Raises:
        NotInstalled, NotReady: it cannot be compared here.
    """
    if contender.needs_parts:
        prepared.make_parts()
    python = sys.executable if contender.peer is None else str(python_of(contender.peer, peers))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        start = Start(python, free_port(), Path(folder))
        if contender.peer is None:
            environment = own_environment(prepared)
        else:
            environment = environment_of(Path(python), start.scratch, prepared.folder)
        log = log or start.scratch / "log.txt"
        first = None if contender.is_pinned_late else core
        try:
            with started(
                contender.command(start), start.port, environment=environment, core=first, log=log
            ) as server:
                target = Target(server, contender.requests(prepared.records))
                _until_it_answers(start.port, target.requests[0])
                if core is not None and contender.is_pinned_late:
                    keep_on_core(server.pid, core)
                yield target
        except NotReady as error:
            last = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise NotReady(f"{error}; it said last: {' / '.join(last) or 'nothing'}") from error


def own_environment(prepared: Prepared) -> dict[str, str]:
    """For what runs in this environment: without settings of the caller's own server."""
    mine = {name: text for name, text in os.environ.items() if not name.startswith("KEELMARK_")}
    paths = os.pathsep.join([str(ROOT), str(HERE / "peers")])
    return {**mine, **QUIET, "PREPARED": str(prepared.folder), "PYTHONPATH": paths}


def check(contender: Contender, target: Target, prepared: Prepared) -> float:
    """The largest difference of its probabilities from the bundle's.

    Raises:
        NotReady: one is above 1e-5: it does not serve the same model.
    """
    worst = 0.0
    for request, expected in zip(target.requests, prepared.probabilities, strict=True):
        said = contender.said(ask(target.server.port, *request))
        worst = max(worst, abs(said - expected))
        if not worst <= TOLERANCE:
            raise NotReady(f"{contender.title} says {said}, not {expected}, for {request[1]}")
    return worst


def ask(port: int, path: str, body: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", body.encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def free_port() -> int:
    """A port that is free, and so are the two behind it."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in (first + 1, first + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def named(contenders: Iterable[Contender]) -> dict[str, Contender]:
    return {contender.name: contender for contender in contenders}


def _until_it_answers(port: int, request: tuple[str, str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            ask(port, *request)
        except (OSError, ValueError, urllib.error.URLError) as error:
            if time.monotonic() > deadline:
                raise NotReady(f"it accepts connections but does not answer: {error}") from error
            time.sleep(0.2)
        else:
            return
