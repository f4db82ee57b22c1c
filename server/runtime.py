"""What runs behind the ports: models opened through the gate, counted, and let go at the end.

`Runtime` is what the apps and the ops plane may ask for; `InProcessRuntime` is all of it in one
process. Workers under a supervisor will be the second implementation, held to the same tests.
"""

import asyncio
import time
from datetime import datetime
from typing import Final, Protocol

from features.runtime import version as onnxruntime_version
from models.bundle import Bundle
from models.errors import FormatUnknown, ServingError
from models.gate import run_gate
from models.store import Store
from server.core import Core
from server.cost import RunCost, curve
from server.exposition import Exposed, Exposition, negotiated
from server.health import Health, Phase, Question, liveness, readiness, startup
from server.http_counters import HttpCounters
from server.layout import Layout
from server.logs import logger
from server.protocols.predict import AnswerWriter
from server.regions import Counter, Region
from server.routes import Route, RouteTable, Unavailable
from server.series import Facts, ModelSeries
from server.settings import Settings

FOLD_SECONDS: Final = 0.05
"""How often it is looked whether counted rows should be folded; a full ring folds itself."""

WHY_NOT: Final = "it did not pass its checks"

_log = logger("runtime")


class Runtime(Protocol):
    """What a plane may ask of whatever serves."""

    @property
    def routes(self) -> RouteTable:
        """The current table."""
        ...

    @property
    def phase(self) -> Phase:
        """Where the server is in its life."""
        ...

    def health(self, question: Question) -> Health:
        """The answer to one of the three questions."""
        ...

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        ...

    async def start(self) -> None:
        """Opens what is to be served; returns when it is, or cannot be."""
        ...

    async def stop(self) -> None:
        """Lets everything go, when no request is under way any more."""
        ...


class InProcessRuntime:
    """One process, one event loop: serves, counts and answers for itself.

    Attributes:
        core: the path of requests; it holds the route table.
        http: counters of requests, also of those that reach no bundle.
        phase: where the server is in its life.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.core = Core(settings)
        self.http = HttpCounters()
        self.phase = Phase.STARTING
        self._exposition = Exposition([self.http])
        self._timer: asyncio.TimerHandle | None = None

    @property
    def routes(self) -> RouteTable:
        """The current table."""
        return self.core.routes

    def health(self, question: Question) -> Health:
        """The answer to one of the three questions."""
        if question == "live":
            return liveness()
        if question == "startup":
            return startup(self.phase)
        return readiness(self.phase, self.routes, self.settings.required_models)

    def metrics(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of a scrape."""
        form = negotiated(accept)
        routes = self.routes.live.values()
        exposed = [Exposed(route.series, [route.counter.region]) for route in routes]
        return form.content_type, self._exposition.page(exposed, form)

    async def start(self) -> None:
        """Opens the live version of every model of the store, and begins to fold.

        One that cannot be opened does not take down the others: its requests are answered 503.

        Raises:
            NothingLive: a model has several versions and nobody has said which is live.
            StoreError: there is no store.
        """
        wanted = await asyncio.to_thread(live_versions, Store(self.settings.store))
        self.core.routes = RouteTable(
            unavailable={n: Unavailable(n, v, "it is being opened") for n, v in wanted.items()}
        )
        for name in set(self.settings.required_models or ()) - set(wanted):
            _log.warning("required_model_not_in_store", model=name)
        for name, version in wanted.items():
            await self._open(name, version)
        self.phase = Phase.SERVING
        self._fold_later(asyncio.get_running_loop())

    def drain(self) -> None:
        """Not ready any more; requests are still answered."""
        self.phase = Phase.DRAINING

    def refuse_new(self) -> None:
        """From now on requests get 503; those under way end."""
        self.core.is_draining = True

    async def stop(self) -> None:
        """Folds what was counted and lets the bundles go."""
        self.phase = Phase.STOPPED
        if self._timer is not None:
            self._timer.cancel()
        for route in self.routes.live.values():
            while route.counter.pending:
                route.counter.fold()

    async def _open(self, name: str, version: str) -> None:
        """Puts a model into the table, as a route or with the reason why there is none."""
        try:
            route = await asyncio.to_thread(open_route, Store(self.settings.store), name, version)
        except ServingError as error:
            _log.error("model_not_loaded", model=name, version=version, reason=str(error))
            self.core.routes = self.routes.without(Unavailable(name, version, WHY_NOT))
        else:
            _log.info("model_loaded", model=name, version=version, digest=route.bundle.digest[:12])
            self.core.routes = self.routes.with_route(route)

    def _fold_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(FOLD_SECONDS, self._fold, loop)

    def _fold(self, loop: asyncio.AbstractEventLoop) -> None:
        """One fold a model and turn of the loop, until none is due; then a rest."""
        due = [route.counter for route in self.routes.live.values() if route.counter.due()]
        for counter in due:
            counter.fold()
        if due:
            loop.call_soon(self._fold, loop)
        else:
            self._fold_later(loop)


def live_versions(store: Store) -> dict[str, str]:
    """The version of each model to serve: the wish of the store, or the only one."""
    return {name: store.resolve(name) for name in store.names()}


def open_route(store: Store, name: str, version: str) -> Route:
    """A bundle that has passed its gate in another process, opened here, with fresh counters.

    Raises:
        BundleError: it cannot be served; the message says why and what to do.
    """
    report = run_gate(store.folder(name, version))
    bundle = store.open(name, version, batch_exact=report.batch_exact, digest=report.digest)
    if bundle.fitted is None:
        raise FormatUnknown(
            f"bundle '{name}/{version}' takes tensors, which this version of keelmark does not "
            "serve; pack the model with the features that it was trained on"
        )
    return make_route(bundle, curve(report.run_seconds))


def make_route(bundle: Bundle, cost: RunCost) -> Route:
    """A bundle with fresh counters."""
    layout = layout_of(bundle)
    return Route(
        bundle,
        AnswerWriter(bundle),
        Counter(Region.anonymous(layout)),
        cost,
        ModelSeries(layout, facts_of(bundle)),
        [output.kind in ("probability", "value") for output in bundle.outputs] == [True],
    )


def layout_of(bundle: Bundle) -> Layout:
    """Where the counters of a bundle lie."""
    return Layout(
        bundle.name,
        bundle.version,
        field_names=[field.name for field in bundle.fields],
        measures=bundle.measures,
        decisions=bundle.ladder.decisions.names,
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
