"""Everything that is measured, in one run: a table here, JSON, a chart, and what the docs quote.

    python benchmarks/all.py [--only SECTION ...] [--contenders NAME ...] [--quick] [--write]

One worker on one core, the load on another; every comparison measured in turn, A B A B, against
the same reference, so that ratios hold although the machine's speed drifts. What a run finds is
kept in the JSON section by section: a run that was stopped goes on with `--only`.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

from _compare import closed, duties, opened, peers
from _contenders import PEERS
from _costs import programs, scrape
from _growth import many_models, wide_bundle
from _machine import conditions
from _options import Found, Options, say
from _peers import REQUIREMENTS, NotInstalled, python_of
from _prepared import ROOT, prepared
from _report import render, write_docs
from _scale import MODELS, WIDTHS, features, models, rows, workers
from _servers import NotReady
from _stages import stages

RESULTS: Final = ROOT / "docs" / "benchmarks.json"
CONNECTIONS: Final = (1, 8, 32, 64)

Section = Callable[[Options, Found], Generator[Found]]


def whole(measure: Callable[[Options], Found]) -> Section:
    """A section that is measured in one piece."""

    def section(options: Options, _before: Found) -> Generator[Found]:
        yield measure(options)

    return section


SECTIONS: Final[dict[str, Section]] = {
    "closed": whole(closed),
    "duties": whole(duties),
    "stages": whole(stages),
    "open": whole(opened),
    "scrape": whole(scrape),
    "rows": whole(rows),
    "features": whole(features),
    "models": whole(models),
    "workers": whole(workers),
    "peers": peers,
    "programs": whole(programs),
}


def main() -> int:
    """Gives 1 if a section failed."""
    arguments = parsed()
    # Ended from outside, it ends the servers that it has started.
    signal.signal(signal.SIGTERM, end)
    options = options_of(arguments)
    if arguments.prepare:
        prepare(options)
        return 0
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    failed: list[str] = []
    for name in arguments.only:
        began, before = time.monotonic(), results.get(name, {}).get("found", {})
        print(f"{name} ...", flush=True)
        said = conditions()
        try:
            for found in SECTIONS[name](options, before):
                took = round(time.monotonic() - began, 1)
                settings = {"seconds": options.seconds, "rounds": options.rounds}
                results[name] = {"conditions": said, "took": took, **settings, "found": found}
                save(arguments.json, results)
        except (RuntimeError, NotReady) as error:  # the other sections are worth having
            failed.append(name)
            say(f"failed: {error}")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    print(render({name: results[name] for name in arguments.only if name in results}))
    print(f"kept in {arguments.json}")
    if arguments.write:
        write_docs(results)
        print("written: README.md, docs/benchmarks.md, docs/benchmarks.svg")
    if failed:
        print(f"failed: {', '.join(failed)}; measure them again with --only")
    return 1 if failed else 0


def end(*_: object) -> None:
    sys.exit("ended")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument(
        "--contenders", nargs="+", default=[], help="of the section peers: only these"
    )
    parser.add_argument("--quick", action="store_true", help="one round of one second each")
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--peers", type=Path, help="environments of the others; FOLDER/peers")
    parser.add_argument("--json", type=Path, help="results; FOLDER/results.json")
    parser.add_argument("--prepare", action="store_true", help="install and train, measure nothing")
    parser.add_argument(
        "--write", action="store_true", help="put the results into README.md and docs/"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds = arguments.rounds = 1
    if arguments.json is None:
        arguments.json = RESULTS if arguments.write else arguments.folder / "results.json"
    return arguments


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        connections=tuple(arguments.connections),
        folder=arguments.folder.resolve(),
        peers=(arguments.peers or arguments.folder / "peers").resolve(),
        prepared=prepared(arguments.folder / "prepared"),
        contenders=tuple(arguments.contenders),
    )


def prepare(options: Options) -> None:
    """Makes and installs all that a run needs, so that the run itself only measures."""
    options.prepared.make_parts()
    for name in REQUIREMENTS:
        try:
            say(f"{name}: {python_of(name, options.peers)}")
        except NotInstalled as error:
            say(f"{name}: {error}")
    for width in WIDTHS:
        say(str(wide_bundle(options.growth / "wide", width)))
    many_models(options.growth / "many", MODELS[-1])
    assert {contender.peer for contender in PEERS} <= REQUIREMENTS.keys()


def save(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.rename(path)


if __name__ == "__main__":
    sys.exit(main())
