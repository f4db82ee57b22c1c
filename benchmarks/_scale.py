"""What grows with what: rows in a request, features, models, workers."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from _compare import all_running
from _contenders import ask, bare, echo, keelmark, running
from _growth import many_models, wide_bundle, wide_records
from _load import Target, closed_loop, interleaved, median, paired
from _options import Found, Options, say
from _quotas import NoQuota, put, quota
from _servers import ROOT

ROWS: Final = (1, 10, 100, 1000)
WIDTHS: Final = (10, 100, 1000)
MODELS: Final = (1, 10, 50)
WORKER_SHARE: Final = 0.6
FEW: Final = 3
"""Rounds where the reference hardly matters."""


def rows(options: Options) -> Found:
    """Lists of records over one connection: the cost of a row falls."""
    found: list[Found] = []
    with all_running((bare(), keelmark()), options) as running_ones:
        for count in ROWS:
            records = _repeated(options.prepared.records, count)
            bodies = [json.dumps(records)] if count > 1 else options.prepared.bodies
            targets = {
                name: Target(target.server, [(target.requests[0][0], body) for body in bodies])
                for name, target in running_ones.items()
            }
            found.append({"rows": count, **_pair(targets, options)})
            say(f"{count} rows: {found[-1]['rate'] * count:,.0f} rows/s")
    return {"rows": found}


def features(options: Options) -> Found:
    """Bundles with more and more features, one record over one connection."""
    store, found = options.growth / "wide", []
    for width in WIDTHS:
        folder = wide_bundle(store, width)
        records = wide_records(width)
        path = f"/predict/{folder.parent.name}"
        ours = keelmark(store=_only(store, folder.parent.name), path=path)
        with (
            running(ours, options.prepared) as target,
            running(bare(folder), options.prepared) as floor,
        ):
            requests = [(path, json.dumps(record)) for record in records]
            for request in requests:
                _same(target, floor, request)
            targets = {
                "keelmark": Target(target.server, requests),
                "bare": Target(floor.server, requests),
            }
            found.append({"features": width, "fields": len(records[0]), **_pair(targets, options)})
            say(f"{width} features: {found[-1]['cpu_us']:.0f} µs CPU")
    return {"rows": found}


def models(options: Options) -> Found:
    """More and more models in one worker, asked in turn, against one."""
    store, found = options.growth / "many", []
    names = many_models(store, MODELS[-1])
    with running(keelmark(), options.prepared) as one:
        for count in MODELS:
            few = _only(store, *names[:count])
            paths = [f"/predict/{name}" for name in names[:count]]
            began = time.perf_counter()
            with running(keelmark(store=few, path=paths[0]), options.prepared) as target:
                _until_all_answer(target, paths)
                ready = time.perf_counter() - began
                bodies = options.prepared.bodies
                asked = [
                    (paths[place % count], bodies[place % len(bodies)])
                    for place in range(max(count, len(bodies)))
                ]
                targets = {"keelmark": Target(target.server, asked), "bare": one}
                used = target.server.used()
                pair = _pair(targets, options, connections=32)
                found.append(
                    {"models": count, "mib": used.resident_mib, "ready_seconds": ready, **pair}
                )
                say(f"{count} models: {pair['rate_ratio']:.2f} of one, {used.resident_mib:.0f} MiB")
    return {"rows": found}


def workers(options: Options) -> Found:
    """One and two workers, each held to a share of a CPU, in turn."""
    try:
        with contextlib.ExitStack() as stack:
            folders = [stack.enter_context(quota(str(n), WORKER_SHARE)) for n in range(3)]
            return _workers(options, folders, stack)
    except NoQuota as error:
        say(f"skipped: {error}")
        return {"skipped": str(error)}


def _workers(options: Options, folders: Sequence[Path], stack: contextlib.ExitStack) -> Found:
    # One that runs now and is stopped later: the other's turn is not disturbed by an idle server.
    single = stack.enter_context(running(keelmark("1"), options.prepared, core=None))
    state = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
    both = keelmark("2", arguments=("--workers", "2", "--state-dir", state))
    double = stack.enter_context(running(both, options.prepared, core=None))
    constant = stack.enter_context(running(echo(), options.prepared))
    put(single.server.pid, folders[0])
    for pid, folder in zip(_worker_pids(state), folders[1:], strict=True):
        put(pid, folder)
    targets = {"1": single, "2": double}
    taken = interleaved(targets, connections=64, seconds=options.seconds, rounds=options.rounds)
    generator = closed_loop(constant, 64, options.seconds)
    found = {
        "share": WORKER_SHARE,
        "rate": {name: median(samples, "rate") for name, samples in taken.items()},
        "cpu_us": {name: median(samples, "cpu_us") for name, samples in taken.items()},
        "rate_ratio": paired(taken["2"], taken["1"], "rate"),
        "cpu_ratio": paired(taken["2"], taken["1"], "cpu_us"),
        "load_cpu": max(median(samples, "load_cpu") for samples in taken.values()),
        "generator_most": generator.rate,
        "mib": {name: target.server.used().resident_mib for name, target in targets.items()},
    }
    say(f"two workers: {found['rate_ratio']:.2f} of one, CPU {found['cpu_ratio']:.2f}")
    return found


def _worker_pids(state: str) -> list[int]:
    """Of the workers that are ready, as the server's own status has them."""
    command = [sys.executable, "-m", "keelmark", "status", "--json", "--state-dir", state]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [worker["pid"] for worker in json.loads(said)["workers"] if worker["state"] == "ready"]


def _pair(targets: dict[str, Target], options: Options, connections: int = 1) -> Found:
    taken = interleaved(
        targets, connections=connections, seconds=options.seconds, rounds=min(FEW, options.rounds)
    )
    ours, floor = taken["keelmark"], taken["bare"]
    return {
        "rate": median(ours, "rate"),
        "cpu_us": median(ours, "cpu_us"),
        "p50_ms": median(ours, "p50_ms"),
        "p99_ms": median(ours, "p99_ms"),
        "rate_ratio": paired(ours, floor, "rate"),
        "cpu_ratio": paired(ours, floor, "cpu_us"),
    }


def _repeated(records: list[Found], count: int) -> list[Found]:
    return (records * (1 + count // len(records)))[:count]


def _only(store: Path, *names: str) -> Path:
    """A store of some of the models."""
    part = store.parent / f"{store.name}-{len(names)}-{names[0]}"
    part.mkdir(exist_ok=True)
    for name in names:
        if not (part / name).exists():
            (part / name).symlink_to(store / name)
    return part


def _same(ours: Target, floor: Target, request: tuple[str, str]) -> None:
    one, other = (ask(t.server.port, *request)["prediction"] for t in (ours, floor))
    if abs(one - other) > 1e-5:
        raise RuntimeError(f"Keelmark says {one}, the bare server {other}, for {request[1]:.200}")


def _until_all_answer(target: Target, paths: Sequence[str]) -> None:
    for path in paths:
        while True:
            try:
                ask(target.server.port, path, target.requests[0][1])
            except OSError:
                time.sleep(0.1)
            else:
                break
