"""`keelmark verify`: what the server does before it lets a bundle answer, and what that proves."""

from pathlib import Path
from typing import Final

import msgspec
import typer

from models.bundle import Bundle
from models.gate import GateReport, run_gate
from models.golden import Coverage, coverage
from server.cli.bundles import BundleName, StoreOption, bundle_folder
from server.cli.exits import REFUSED
from server.cli.options import AsJson
from server.cli.show import out, say_json, table

_CALLED: Final = {
    "digest": "digest of the bundle",
    "rows": "golden rows replayed",
    "features_off_by_one": "features off by one float32 unit",
    "batch_exact": "rows alone and in a batch",
    "open_seconds": "time to open it",
    "resident_bytes": "memory it takes",
    "peak_bytes": "memory while replaying, the whole process",
    "run_seconds": "time of a run",
    "max_batch": "rows from which more make no row cheaper",
    "network": "network while it was loaded",
}
"""Names of `GateReport` in words; --json has the names."""


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
    facts = msgspec.structs.asdict(report) | _in_units(report)
    shown = [(_CALLED.get(name, name.replace("_", " ")), value) for name, value in facts.items()]
    out().print(table(f"{folder} may serve here", ("what", "found"), shown))
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


def _in_units(report: GateReport) -> dict[str, str]:
    """What people cannot read as it is."""
    runs = sorted(report.run_seconds.items())
    return {
        "batch_exact": "equal bits" if report.batch_exact else "other last bits",
        "open_seconds": f"{report.open_seconds * 1e3:.0f} ms",
        "resident_bytes": f"{report.resident_bytes / 1e6:.0f} MB",
        "peak_bytes": f"{report.peak_bytes / 1e6:.0f} MB",
        "run_seconds": ", ".join(f"{rows} rows {seconds * 1e6:.0f} µs" for rows, seconds in runs),
    }
