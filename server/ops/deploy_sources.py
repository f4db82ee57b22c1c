"""Where a deploy gets its evidence from: what callers did, what shadows did, and kept rows."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from msgspec import structs

from models.evidence import Evidence
from models.rollout import Stage
from models.store import Store
from server.deploy_evidence import of_callers, of_shadow
from server.deploy_records import DeployRecord
from server.regions import read_totals
from server.replaying import replayed
from server.routes import AnyRoutes
from server.runtime import Runtime
from server.shadow_counters import read_shadow


class Sources:
    """The sources of one deploy, on the loop that serves.

    Args:
        store: that has the bundles.
        record: of the deploy.
    """

    def __init__(self, store: Store, record: DeployRecord) -> None:
        self._store = store
        self._record = record
        self._replay: asyncio.Task[Evidence] | None = None
        self._cancelled = threading.Event()

    def close(self) -> None:
        """Ends what goes on in a process of its own."""
        self._cancelled.set()

    def evidence(self, runtime: Runtime, stage: Stage) -> Evidence | None:
        """All that is known now, of the stage's kind; the counts only grow.

        None where that is still to come: kept rows are known all at once.

        Raises:
            CannotReplay: kept rows cannot be put to the bundles.
        """
        candidate = _loaded(runtime.routes, self._record, self._record.version)
        live = _loaded(runtime.routes, self._record, self._record.live)
        if candidate is None:
            return Evidence(lost="it is not loaded any more")
        if stage.kind == "replay":
            found = self._replayed()
            if found is None:
                return None
        elif stage.kind == "shadow":
            shadow = None if live is None else read_shadow(live.regions)
            found = of_shadow(read_shadow(candidate.regions), shadow)
        else:
            totals = None if live is None else read_totals(*live.regions)
            found = of_callers(read_totals(*candidate.regions), totals)
        finding = runtime.golden.of(candidate.bundle.digest)
        return found if finding is None else structs.replace(found, selftest=finding.sentence)

    def _replayed(self) -> Evidence | None:
        """What both have answered, when they have."""
        if self._replay is None:
            self._replay = asyncio.create_task(self._put_rows())
        return self._replay.result() if self._replay.done() else None

    async def _put_rows(self) -> Evidence:
        record = self._record
        candidate = self._store.folder(record.model, record.version)
        live = self._store.folder(record.model, record.live)
        rows = None if record.rows is None else Path(record.rows)
        return await asyncio.to_thread(replayed, candidate, live, rows, self._cancelled)


def _loaded(routes: AnyRoutes, record: DeployRecord, version: str) -> Any:
    """The route of a version; None where it is not loaded."""
    second = routes.second.get(record.model)
    loaded = (routes.live.get(record.model), None if second is None else second.route)
    found = (route for route in loaded if route is not None and route.bundle.version == version)
    return next(found, None)
