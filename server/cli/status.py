"""`keelmark status`: what a running server does, and what operators have told it."""

from typing import Any

from server.cli.ops_client import call
from server.cli.options import AsJson, OpsUrl, StateDir
from server.cli.shares import shares_shown
from server.cli.show import out, say_json, table


def status(*, server: OpsUrl = None, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Shows what a running server serves: versions, breakers, forced rungs, workers, events.

    Ends with 1 if the server refuses, 4 if none answers.
    """
    found = call("/status", server=server, state_dir=state_dir)
    if as_json:
        say_json(found)
        return
    head = f"keelmark {found['keelmark']}, {found['phase']}, generation {found['generation']}"
    rows = [_row(model) for model in found["models"]]
    columns = ("model", "version", "state", "breaker", "who answers", "beside it", "why")
    out().print(table(head, columns, rows))
    if found["workers"]:
        rows = [_worker(worker) for worker in found["workers"]]
        columns = ("slot", "pid", "state", "connections", "memory", "CPU")
        out().print(table("Workers", columns, rows))
    if found["wishes"]:
        rows = [_wish(wish) for wish in found["wishes"]]
        columns = ("model", "version", "revision", "by", "at", "state", "why")
        out().print(table("Wishes of the store", columns, rows))
    if found["selftests"]:
        rows = [_selftest(failing) for failing in found["selftests"]]
        columns = ("model", "version", "slots", "what follows", "golden row", "got", "expected")
        out().print(table("Self-tests that fail", columns, rows))
    for deploy in found["deploys"]:
        head = f"deploy of {deploy['model']} {deploy['version']}: {deploy['stage']}"
        waits = [reason["sentence"] for reason in deploy["reasons"]]
        out().print("; ".join([head, *waits]), markup=False)
    events = found["events"]
    out().print(f"events: {events['n']}, the last one's sha256 {events['sha256']}")


def _worker(worker: dict[str, Any]) -> tuple[Any, ...]:
    memory, used = f"{worker['memory_bytes'] / 1e6:.0f} MB", f"{worker['cpu_seconds']:.1f} s"
    return worker["slot"], worker["pid"], worker["state"], worker["connections"], memory, used


def _wish(wish: dict[str, Any]) -> tuple[Any, ...]:
    made = wish["model"], wish["version"], wish["revision"], wish["by"], wish["at"]
    return *made, wish["state"], wish["why"]


def _selftest(failing: dict[str, Any]) -> tuple[Any, ...]:
    finding, slots = failing["finding"], ", ".join(map(str, failing["slots"]))
    found = finding["row"], finding["got"], finding["expected"]
    return failing["model"], failing["version"], slots, failing["action"], *found


def _row(model: dict[str, Any]) -> tuple[Any, ...]:
    said = model["forced_by"] or {}
    why = model["why"]
    if said:
        until = f" until {said['expires']}" if said["expires"] else ""
        why = f"{said['by']} at {said['at']}{until}: {said['reason']}"
    if override := model["override"]:
        parts = ", ".join(
            part for part, said in override["changes"].items() if said not in (None, {})
        )
        line = (
            f"{override['by']} overrides {parts} until {override['expires']}: {override['reason']}"
        )
        why = f"{why}; {line}" if why else line
    answers = model["forced"] or ("model" if model["state"] == "live" else None)
    second = model["second"]
    beside = None if second is None else f"{second['version']} ({second['slot']})"
    if second is not None and (second["canary"] or second["shadow"]):
        beside = f"{beside}, {shares_shown(second)}"
    shown = model["model"], model["version"], model["state"], model["breaker"]
    return *shown, answers, beside, why
