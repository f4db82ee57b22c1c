"""What a server is to open when it starts: facts win over wishes, and wishes over what is there."""

from typing import Final

from models.errors import NothingLive, ServingError, StoreError
from models.store import Store
from server.facts import StateFacts
from server.logs import logger
from server.routes import Unavailable
from server.series_budget import TooManySeries
from server.settings import Settings, SettingsError

OPENING: Final = "it is being opened"
WHY_NOT: Final = "it did not pass its checks"
TOO_MANY_SERIES: Final = "its metrics have more series than there is room for"
NO_VERSION: Final = "the store does not say, or not readably, which version of it is live"

_log = logger("wanted")


def why_not(error: Exception) -> str:
    """What callers are told of a model that was not loaded."""
    return TOO_MANY_SERIES if isinstance(error, TooManySeries) else WHY_NOT


def wanted_versions(settings: Settings, facts: StateFacts) -> list[Unavailable]:
    """What is to be opened, see `live_versions`, if the settings fit it.

    Raises:
        NothingLive, StoreError: see `live_versions`.
        SettingsError: a rung is forced of a model that is not there.
    """
    found = live_versions(Store(settings.store), facts, follows=settings.follow)
    names = sorted({each.model for each in found} | set(facts.slots))
    for name in settings.forced_rungs:
        if name not in names:
            raise SettingsError(
                f"--force names the model {name!r}, which the store has not; it has "
                f"{', '.join(names)}"
            )
    for name in set(settings.required_models or ()) - set(names):
        _log.warning("required_model_not_in_store", model=name)
    return found


def live_versions(store: Store, facts: StateFacts, *, follows: bool = False) -> list[Unavailable]:
    """What is to be opened, of each model one version, that comes first of these.

    What operators have made live on this server; the version that the store wishes; the only one.
    A model for which that cannot be found out has no version, and a reason. A model of which an
    operator has loaded a candidate, and made nothing live, is not opened. A server that follows
    its store waits for what is not said yet: for models, and which version of several is live.

    Raises:
        NothingLive: a model has several versions and nobody has said which is live.
        StoreError: there is no store, or no model in it.
    """
    names = store.names()
    if not names and not follows:
        raise StoreError(
            f"the store {store.root} has no model in it; pack one into it, or name another store "
            "with --store"
        )
    models = sorted({*names, *facts.slots})
    found = [_live_version(store, name, facts, follows=follows) for name in models]
    return [each for each in found if each is not None]


def _live_version(
    store: Store, name: str, facts: StateFacts, *, follows: bool
) -> Unavailable | None:
    fact = facts.slots.get(name)
    if fact is not None:
        if not follows:
            _say_what_is_wished(store, name, fact.live)
        return None if fact.live is None else Unavailable(name, fact.live, OPENING)
    try:
        return Unavailable(name, store.resolve(name), OPENING)
    except NothingLive:
        if follows:
            return None
        raise
    except (ServingError, OSError) as error:
        _log.error("model_not_loaded", model=name, version=None, reason=str(error))
        return Unavailable(name, None, NO_VERSION)


def _say_what_is_wished(store: Store, name: str, live: str | None) -> None:
    """A wish that is not followed is told: whoever made it may expect it to hold by now."""
    try:
        wish = store.live(name)
    except (ServingError, OSError):
        return
    if wish is not None and wish.live != live:
        _log.warning(
            "wish_not_followed",
            model=name,
            live=live,
            wished=wish.live,
            advice=f"operators have promoted on this server; `keelmark load {name} {wish.live}` "
            f"and `keelmark promote {name} {wish.live}` follow the wish",
        )
