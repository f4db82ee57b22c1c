"""Opening a bundle for serving: through its gate, with its counters, warmed up."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from features.runtime import version as onnxruntime_version
from models.bundle import Bundle
from models.gate import GateReport, run_gate
from models.machine_copy import Copies
from models.planning import Forced
from models.store import Store
from models.trimming import trim
from server.breaker import Breaker
from server.control import Hold
from server.cost import RunCost, curve, one_by_one
from server.facts import StateFacts
from server.layout import Layout
from server.notes import NoteWriter, notes_of
from server.protocols.predict import AnswerWriter
from server.regions import Counter, Region
from server.routes import Named, Route, said
from server.series import Facts, ModelSeries
from server.settings import MOST_DEADLINE_MS, SelftestAction, Settings, SettingsError
from server.shadow_counters import ShadowCounter
from server.standing import Notice
from server.warm_up import warm_up

PATIENCE: Final = 4
"""A deadline is so many times the latency that the owner promises for 99 of 100 requests."""
DEFAULT_DEADLINE_MS: Final = 1_000.0
COPIES: Final = "opened"
"""Folder, in the state folder, of this machine's own copies of models."""


class Opened(NamedTuple):
    """A route, and what its bundle's gate found."""

    route: Route
    report: GateReport


Accept = Callable[[GateReport], None]
"""Raises where a bundle has no place here, for what its gate found."""


def accept_any(_: GateReport) -> None:
    """Whatever its gate found."""


def copies_folder(settings: Settings) -> Path | None:
    """Where this machine's own copies of models lie; None where there is no state folder."""
    if not settings.state_dir.is_dir():
        return None
    folder = settings.state_dir / COPIES
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def open_route(
    store: Store,
    name: str,
    version: str,
    cancelled: threading.Event,
    copies: Path | None = None,
    accept: Accept = accept_any,
) -> Opened:
    """A bundle that has passed its gate in another process, opened and warmed up here.

    Args:
        store: that has it.
        name: of the model.
        version: of the model.
        cancelled: ends its gate early when it is set.
        copies: folder of this machine's own copies; None for none.
        accept: raises where it is not to be opened here, for what its gate found.

    Raises:
        BundleError: it cannot be served; the message says why and what to do.
    """
    bundle, report = open_examined(store, name, version, cancelled, copies, accept)
    route = warm_up(make_route(bundle, curve(report.run_seconds)))
    trim()  # opening needs more than what is kept
    return Opened(replace(route, release_seconds=report.release_seconds), report)


def open_examined(
    store: Store,
    name: str,
    version: str,
    cancelled: threading.Event,
    copies: Path | None,
    accept: Accept = accept_any,
    *,
    with_models: bool = True,
) -> tuple[Bundle, GateReport]:
    """The very bundle that has passed its gate, opened here; see `open_route`, `Bundle.open`."""
    report = run_gate(store.folder(name, version), cancelled=cancelled, copies=copies)
    accept(report)
    bundle = store.open(
        name,
        version,
        batch_exact=report.batch_exact,
        digest=report.digest,
        copies=None if copies is None else Copies(copies, report.copies),
        with_models=with_models,
    )
    return bundle, report


def open_held(settings: Settings, held: Hold) -> Bundle:
    """A bundle that has passed its gate before, opened once more.

    Raises:
        BundleError, OSError: the store has it no more, or not as it was.
    """
    copies = copies_folder(settings)
    return Store(settings.store).open(
        held.model,
        held.version,
        batch_exact=held.batch_exact,
        digest=held.digest,
        copies=None if copies is None else Copies(copies, held.copies),
    )


def make_route(bundle: Bundle, cost: RunCost, region: Region | None = None) -> Route:
    """A bundle with its counters.

    Args:
        bundle: that is to serve.
        cost: of its runs, by their rows, as its gate measured them.
        region: where its rows are counted; None for fresh memory of this process.
    """
    region = region or Region.anonymous(layout_of(bundle))
    notice = Notice(region)
    return Route(
        bundle,
        AnswerWriter(bundle),
        Counter(region),
        cost if bundle.batch_exact else one_by_one(cost),
        ModelSeries(region.layout, facts_of(bundle)),
        [output.kind in ("probability", "value") for output in bundle.outputs] == [True],
        NoteWriter(bundle),
        notice,
        ShadowCounter(region),
        bundle,
        breaker=Breaker(notice.breaker),
    )


def configured(route: Route, settings: Settings, facts: StateFacts) -> Route:
    """The route as the settings want it: deadline, forced rung, and what a self-test does.

    Raises:
        SettingsError: the bundle has no such rung.
    """
    route = said(route, forced_rung(route.bundle, settings, facts))
    return replace(
        route,
        deadline_ns=deadline_ns_of(route.bundle, settings),
        on_selftest=selftest_action(route.bundle, settings, facts),
    )


def selftest_action(bundle: Named, settings: Settings, facts: StateFacts) -> SelftestAction:
    """What follows where a bundle's self-test fails: an operator's word, else the setting."""
    return facts.selftest_action(bundle.name, bundle.version) or settings.selftest_action


def forced_rung(bundle: Named, settings: Settings, facts: StateFacts) -> Forced | None:
    """The rung that a setting forces; where none does, what an operator said before a restart.

    Raises:
        SettingsError: the bundle has no such rung.
    """
    forced = settings.forced_rungs.get(bundle.name)
    forced = forced or facts.forced_rung(bundle.name, bundle.version, time.time())
    if forced == "baseline" and bundle.manifest.baseline is None:
        raise SettingsError(
            f"--force {bundle.name}=baseline: version {bundle.version} of {bundle.name!r} has no "
            "baseline; it has rules. Force them, or pack the model with a baseline"
        )
    return forced


def deadline_ns_of(bundle: Bundle, settings: Settings) -> int:
    """How long callers of a bundle wait, who do not say it themselves."""
    objective = bundle.manifest.objectives.latency_seconds
    ms = settings.deadline_ms or DEFAULT_DEADLINE_MS
    if settings.deadline_ms is None and objective is not None:
        ms = min(max(1.0, PATIENCE * objective * 1e3), MOST_DEADLINE_MS)
    return round(ms * 1e6)


def layout_of(bundle: Bundle) -> Layout:
    """Where the counters of a bundle lie."""
    return Layout(
        bundle.name,
        bundle.version,
        field_names=[field.name for field in bundle.fields],
        measures=bundle.measures,
        decisions=bundle.ladder.decisions.names,
        notes=notes_of(bundle),
        objective_seconds=bundle.manifest.objectives.latency_seconds,
    )


def facts_of(bundle: Bundle) -> Facts:
    """What the metrics say of a bundle that was loaded just now."""
    packed_at = bundle.manifest.training.packed_at
    return Facts(
        digest=bundle.digest,
        features=bundle.manifest.features.identity,
        onnxruntime=onnxruntime_version,
        owner=bundle.manifest.owner,
        loaded=time.time(),
        trained=datetime.fromisoformat(packed_at).timestamp() if packed_at else None,
    )
