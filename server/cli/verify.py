"""`keelmark verify`: what the server does before it lets a bundle answer, and what that proves."""

from pathlib import Path

import msgspec
import typer

from models.bundle import Bundle
from models.gate import GateReport, run_gate
from models.golden import Coverage, coverage
from server.cli.bundles import AsJson, BundleName, StoreOption, bundle_folder
from server.cli.exits import REFUSED
from server.cli.show import out, say_json, table


def verify(bundle: BundleName, *, store: StoreOption = None, as_json: AsJson = False) -> None:
    """Checks every file, replays the golden rows, and tells what they exercise.

    Ends with 0 if the bundle may serve here, 1 if it may not or its golden rows leave something
    out, 4 if there is no such bundle.
    """
    folder = bundle_folder(bundle, store)
    report = run_gate(folder)
    covered = coverage(Bundle.open(folder))
    if as_json:
        say_json({"folder": str(folder), "gate": report, "coverage": covered})
    else:
        _show(folder, report, covered)
    if covered.missing:
        raise typer.Exit(REFUSED)


def _show(folder: Path, report: GateReport, covered: Coverage) -> None:
    facts = msgspec.structs.asdict(report) | {"run_seconds": _runs(report)}
    out().print(table(f"{folder} may serve here", ("what", "found"), facts.items()))
    rows = [
        (kind, name, count or "0: no golden row exercises it")
        for kind, counts in (
            ("rung", covered.rungs),
            ("policy", covered.policies),
            ("rule", covered.rules),
            ("check", covered.checks),
        )
        for name, count in counts.items()
    ]
    out().print(table("Golden rows that exercise", ("kind", "name", "rows"), rows))


def _runs(report: GateReport) -> str:
    return ", ".join(
        f"{rows} rows {seconds * 1e6:.0f} µs"
        for rows, seconds in sorted(report.run_seconds.items())
    )
